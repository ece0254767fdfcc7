"""The records of a run: training sets, texts for a new tokenizer, held-out questions."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from models.errors import InputError
from perl_jax import permute, symbols
from perl_jax.curation.build import build
from perl_jax.records.prompts import Prompts
from perl_jax.records.question import Question
from perl_jax.records.stream import Part, first_of, open_parts, sources
from perl_jax.runtime import processes
from perl_jax.training import held_out
from perl_jax.training.schedule import taught_response


def data_sources(config: ConfigDict, workdir: Path) -> dict[str, float]:
    """{records directory: weight} of the config; a built-in source is first written to the workdir."""
    c = config.data
    if not c.directory and not c.source:
        raise InputError("config.data.directory must name a set of records, or config.data.source an embedded source")
    if c.directory:
        return sources(c.directory)
    directory = workdir / "data"

    def make() -> None:
        made = {"source": c.source, "seed": config.seed, "options": c.options.to_dict()}
        said = workdir / "data.json"  # written first, so that it describes any existing records
        if directory.exists() and not said.exists():
            raise InputError(
                f"{directory} is there without {said}, which would say what it was made from; move {directory} away, "
                "or give a new --workdir"
            )
        if directory.exists() and json.loads(said.read_text()) != json.loads(json.dumps(made)):
            raise InputError(
                f"{directory} was made with other settings ({said}) than config.data and config.seed say; "
                "give those, or a new --workdir"
            )
        if not directory.exists():
            said.write_text(json.dumps(made))
            build(c.source, str(directory), seed=config.seed, **c.options)

    processes.after_first(make)
    return {str(directory): 1.0}


def texts(config: ConfigDict, directories: Sequence[str]) -> Iterator[str]:
    """Training texts for a new model's tokenizer: whole conversations, as used in training."""
    for record in first_of(open_parts(directories, config.data.split), 2000):
        sample = permute.render(record)
        question = sample["question"].replace(symbols.MARKER, "")
        yield f"system\n{config.prompt.system}user\n{question}\n{config.prompt.instruction}assistant\n"
        yield taught_response(config, sample)


def held_out_questions(config: ConfigDict, parts: Sequence[Part], prompts: Prompts) -> list[Question]:
    """The first `config.eval.limit` records, taken from the parts in turn, in their evaluation orders."""
    chosen = first_of(parts, config.eval.limit)
    return held_out.questions(chosen, prompts, config.eval.permute, config.seed)

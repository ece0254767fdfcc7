"""The records of a run: training sets, texts for a new tokenizer, held-out questions."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from models.errors import InputError, one_line
from perl_jax import permute, symbols
from perl_jax.curation.build import build
from perl_jax.records.prompts import Prompts
from perl_jax.records.question import Question
from perl_jax.records.stream import Subset, first_records, open_subsets, sources
from perl_jax.runtime import files, processes
from perl_jax.training import held_out
from perl_jax.training.schedule import target_response


def data_sources(config: ConfigDict, workdir: Path) -> dict[str, float]:
    """{records directory: weight} of the config; a built-in source is first written to the workdir."""
    c = config.data
    if not c.directory and not c.source:
        raise InputError("config.data.directory must name a set of records, or config.data.source an embedded source")
    if c.directory:
        return sources(c.directory)
    directory = workdir / "data"

    def make() -> None:
        settings = {"source": c.source, "seed": config.seed, "options": c.options.to_dict()}
        settings_file = workdir / "data.json"  # written first, so that it describes any existing records
        if directory.exists() and not settings_file.exists():
            raise InputError(
                f"{directory} exists, but not {settings_file}, which records how it was made; move {directory} away, "
                "or give a new --workdir"
            )
        if directory.exists() and made_with(settings_file) != json.loads(json.dumps(settings)):
            raise InputError(
                f"{directory} was made with other settings ({settings_file}) than config.data and config.seed; "
                "give those settings, or a new --workdir"
            )
        if not directory.exists():
            files.write(settings_file, json.dumps(settings))
            build(c.source, str(directory), seed=config.seed, **c.options)

    processes.after_first(make)
    return {str(directory): 1.0}


def made_with(file: Path) -> dict:
    """The settings with which a run has made its records. Raises InputError for a damaged file."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} is damaged ({one_line(error)}): restore it, or move it and the folder data beside it away: the "
            "same config and seed make the same records again"
        ) from error


def texts(config: ConfigDict, directories: Sequence[str]) -> Iterator[str]:
    """Training texts for a new model's tokenizer: whole conversations, as used in training."""
    for record in first_records(open_subsets(directories, config.data.split), 2000):
        sample = permute.render(record)
        question = sample["question"].replace(symbols.MARKER, "")
        yield f"system\n{config.prompt.system}user\n{question}\n{config.prompt.instruction}assistant\n"
        yield target_response(config, sample)


def held_out_questions(config: ConfigDict, parts: Sequence[Subset], prompts: Prompts) -> list[Question]:
    """The first `config.eval.limit` records, taken from the parts in turn, in their evaluation orders."""
    selected = first_records(parts, config.eval.limit)
    return held_out.questions(selected, prompts, config.eval.permute, config.seed)

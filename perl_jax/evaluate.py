"""Evaluates a model on a benchmark: `python -m perl_jax.evaluate --model=DIR --benchmark=blink --data=DIR --out=DIR`.

MODEL is a Hugging Face directory, such as an exported one, or a hub id. The benchmarks are in `perl_jax/benchmarks/`,
each with the hub's files in --data; `records` evaluates a record set of your own. Written to
OUT/<benchmark>-<protocol>/:

    predictions.jsonl   the settings, then one line per prompt with its responses; a restarted command resumes there
    scores.jsonl        the scores of each response, and the answer extracted from it
    results.json, .md   accuracies with confidence intervals, by category; with --permute the consistency of answers
                        over image orders; with --against a significance test against another result
    judge.jsonl         with --judge: its replies

`python -m perl_jax.report --results NAME=OUT ...` compares several results.
"""

import dataclasses
import functools
import itertools
import json
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
from absl import flags

import models
from models.errors import InputError
from perl_jax import benchmarks, mesh, policy
from perl_jax.data import Rejected
from perl_jax.evaluation import consistency, figures, orders, responses, scoring
from perl_jax.evaluation.results import JUDGE, PAGE, PREDICTIONS, RESULTS, SCORES, folder_name
from perl_jax.records import hub_files
from perl_jax.records.prompts import FILE, Prompts
from perl_jax.runtime import cli, files, processes
from perl_jax.runtime.chat_endpoint import Endpoint

FLAGS = flags.FLAGS
SYSTEM = "You are a helpful assistant."  # for `boxed`, if the model was not trained here: as in
INSTRUCTION = "Reason inside <think> </think>, then give the final answer in \\boxed{}."  # configs/base.py


class Options(NamedTuple):
    """The command's flags."""

    model: str
    benchmark: str
    data: str
    out: str
    protocol: str = "boxed"
    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 2048
    seed: int = 0
    permute: int = 0
    limit: int = 0
    allow_partial: bool = False
    download: bool = False
    max_pixels: int = 0
    max_prompt_tokens: int = 32768
    batch: int = 32
    tensor_parallel: int = 1
    dtype: str = "bfloat16"
    judge: str = ""
    judge_model: str = ""
    against: str = ""


class Questions(NamedTuple):
    """The questions of a benchmark snapshot."""

    items: list[benchmarks.Item]
    rows: int  # including rejected ones
    rejected: dict[str, int]  # by reason


def evaluate(options: Options) -> dict:
    """Generates, scores and writes the files listed in the module docstring; returns the content of results.json.

    All processes of a run make the same call. Raises InputError for invalid flags and data.
    """
    benchmark = benchmarks.find(options.benchmark)
    check(options, benchmark)
    processes.agree([*options], "flags")
    folder = Path(options.out) / folder_name(options.benchmark, options.protocol)
    if options.download:
        processes.after_first(functools.partial(download, options, benchmark))
    questions = read(options, benchmark)
    with jax.set_mesh(mesh.make(tensor=options.tensor_parallel)):
        path = policy.directory(options.model)
        setup = prepared(options, benchmark, path)
        asked = [each for item in questions.items for each in orders.in_orders(item, options.permute, options.seed)]
        about = settings(options, setup, policy.fingerprint(path))
        folder.mkdir(parents=True, exist_ok=True)
        answered = responses.collect(setup, asked, folder / PREDICTIONS, about)
    found = scoring.score_responses(options.benchmark, options.protocol, answered, processes.cores())
    results = {}
    if processes.first():
        results = written(options, benchmark, questions, setup, about, answered, found, folder)
    return processes.exchange(results)[0]


def check(options: Options, benchmark: ModuleType) -> None:
    """Raises InputError for invalid combinations of flags."""
    if options.protocol not in benchmark.PROTOCOLS:
        raise InputError(f"--protocol={options.protocol}: {options.benchmark} knows {', '.join(benchmark.PROTOCOLS)}")
    if options.permute and options.protocol != "boxed":
        raise InputError(
            "--permute rewrites the question, and a benchmark's own prompt must stay as it is: give --protocol=boxed"
        )
    if options.samples > 1 and not options.temperature:
        raise InputError("--samples above 1 are all alike at temperature 0: give --temperature, such as 0.7")
    if bool(options.judge) != bool(options.judge_model):
        raise InputError("--judge and --judge_model go together: where the judge is, and its name there")
    if options.judge and (options.protocol != "official" or not hasattr(benchmark, "judged")):
        known = ", ".join(name for name in benchmarks.names() if hasattr(benchmarks.find(name), "judged"))
        raise InputError(
            f"--judge: {options.benchmark} by {options.protocol} has none; it is for --protocol=official of {known}"
        )
    if options.download and not benchmark.REPOSITORY:
        raise InputError(f"--download: {options.benchmark} is in no repository of the hub")
    if options.against:
        scores_of_another(options)


def scores_of_another(options: Options) -> Path:
    """The scores.jsonl named by --against: the file, its folder, or its OUT. InputError without one."""
    place = Path(options.against)
    names = (place, place / SCORES, place / folder_name(options.benchmark, options.protocol) / SCORES)
    file = next((name for name in names if name.is_file()), None)
    if file is None:
        raise InputError(
            f"--against={options.against}: no scores.jsonl there, and none in a folder "
            f"{folder_name(options.benchmark, options.protocol)}"
        )
    return file


def download(options: Options, benchmark: ModuleType) -> None:
    if processes.first():
        hub_files.download(benchmark.REPOSITORY, options.data, benchmark.PATTERNS)


def read(options: Options, benchmark: ModuleType) -> Questions:
    """The questions of the snapshot, of its first `limit` rows if there is a limit.

    Raises InputError where there are none, or fewer than published.
    """
    loaded = benchmark.load(options.data, allow_partial=options.allow_partial)
    rows = list(itertools.islice(loaded, options.limit or None))
    items = [row for row in rows if not isinstance(row, Rejected)]
    if not items:
        why = "; ".join(f"{row.id}: {row.reason} ({row.detail})" for row in rows[:3])
        raise InputError(f"{options.data} holds no question of {options.benchmark}" + (f": {why}" if why else ""))
    return Questions(items, len(rows), dict(Counter(row.reason for row in rows if isinstance(row, Rejected))))


def prepared(options: Options, benchmark: ModuleType, path: Path) -> responses.Setup:
    """Prompt, sampling and model settings; the model is loaded on first use."""
    prompts = Prompts.of_directory(path)
    if options.protocol == "boxed" and not (path / FILE).exists():
        prompts = dataclasses.replace(prompts, system=SYSTEM, instruction=INSTRUCTION)
    most = min(prompts.max_pixels, options.max_pixels or prompts.max_pixels)
    if most < prompts.min_pixels:
        raise InputError(f"--max_pixels={options.max_pixels}: the model's pictures have {prompts.min_pixels} at least")
    prompts = dataclasses.replace(prompts, max_pixels=most, max_tokens=options.max_prompt_tokens)
    load = functools.cache(lambda: models.load(path, dtype=options.dtype, sharding=mesh.sharding))
    sampling = responses.Sampling(options.samples, options.temperature, options.max_new_tokens, options.seed)
    return responses.Setup(benchmark, options.protocol, load, prompts, sampling, options.batch)


def settings(options: Options, setup: responses.Setup, fingerprint: str) -> dict:
    """All settings that a response depends on, besides the question."""
    prompt = json.loads(setup.prompts.to_json())
    if options.protocol != "boxed":
        prompt |= {"system": "", "instruction": ""}
    return {
        "benchmark": options.benchmark,
        "protocol": options.protocol,
        "model": fingerprint,
        "dtype": options.dtype,
        "prompt": prompt,
        **setup.sampling._asdict(),
        "permute": options.permute,
    }


def written(
    options: Options,
    benchmark: ModuleType,
    questions: Questions,
    setup: responses.Setup,
    about: dict,
    answered: list[responses.Responses],
    found: list[list[scoring.ScoredResponse]],
    folder: Path,
) -> dict:
    """Runs the judge, if any, and writes scores.jsonl, results.json and results.md; returns the results."""
    judge = None
    if options.judge:
        with Endpoint(options.judge, options.judge_model, str(folder / JUDGE)) as endpoint:
            found, asked = scoring.judge(benchmark, endpoint, answered, found)
        judge = {"model": options.judge_model, "url": options.judge, **asked._asdict()}
    rows = [row(setup, each, marks) for each, marks in zip(answered, found)]
    results = {
        "benchmark": options.benchmark,
        "protocol": options.protocol,
        "judge": judge,
        "model": {"name": options.model, "fingerprint": about["model"]},
        "data": options.data,
        "settings": about,
        "rows": questions.rows,
        "rejected": questions.rejected,
        "partial": bool(options.limit or options.allow_partial),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "figures": figures.figures(rows, options.samples, benchmark.MACRO),
        "consistency": consistency.consistency(rows, options.samples),
        "against": compared(options, rows) if options.against else None,
    }
    files.write(folder / SCORES, files.lines(rows))
    files.write(folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False))
    files.write(folder / PAGE, figures.markdown(results))
    return results


def row(setup: responses.Setup, answered: responses.Responses, found: list[scoring.ScoredResponse]) -> dict:
    """A line of scores.jsonl: a question in one order and role, its responses, and their scores."""
    asked = answered.question
    question = asked.item.row
    return {
        "id": question.id,
        "category": asked.item.category,
        "source": question.source,
        "role": answered.role,
        "images": len(asked.order),
        "order": list(asked.order),
        "shown": asked.shown,
        "question": responses.messages(setup, asked)[-1]["content"],
        "answer": question.answer,
        "texts": list(answered.texts),
        "lengths": list(answered.lengths),
        "truncated": list(answered.truncated),
        "correct": [one.correct for one in found],
        "extracted": [one.extracted for one in found],
        "meaning": [one.meaning for one in found],
        "place": asked.place,
        "fixed": asked.fixed,
        "fault": answered.fault,
    }


def compared(options: Options, rows: list[dict]) -> dict:
    """Compares these rows with those of another result."""
    other = list(files.json_lines(scores_of_another(options)))
    return {"name": options.against, **figures.compare_with(rows, other)}


def main(_) -> None:
    processes.join(FLAGS.coordinator, FLAGS.process_count, FLAGS.process_index)
    options = Options(*(FLAGS[name].value for name in Options._fields))
    evaluate(options)
    if processes.first():
        folder = Path(options.out) / folder_name(options.benchmark, options.protocol)
        print((folder / PAGE).read_text(encoding="utf-8").rstrip())
        print(f"\nwrote {folder}")


if __name__ == "__main__":
    default = Options("", "", "", "")
    flags.DEFINE_string(
        "model", None, "A model's directory, or its hub id (owner/name or owner/name@revision).", required=True
    )
    flags.DEFINE_string("benchmark", None, f"One of: {', '.join(benchmarks.names())}.", required=True)
    flags.DEFINE_string(
        "data", None, "The benchmark's files, as the hub has them; of records DIR or DIR:SPLIT.", required=True
    )
    flags.DEFINE_string(
        "out", None, "Where the model's results go, a folder for each benchmark and protocol.", required=True
    )
    flags.DEFINE_string("protocol", default.protocol, "boxed: ours, reason then box; official: the benchmark's own.")
    flags.DEFINE_integer("samples", default.samples, "Responses to each question: pass@k and majority.", lower_bound=1)
    flags.DEFINE_float("temperature", default.temperature, "0 takes the most probable token.", lower_bound=0.0)
    flags.DEFINE_integer("max_new_tokens", default.max_new_tokens, "Longest response.", lower_bound=1)
    flags.DEFINE_integer("seed", default.seed, "Of the draws and the orders.", lower_bound=0)
    flags.DEFINE_integer("permute", default.permute, "Ask also in so many other orders of the pictures.", lower_bound=0)
    flags.DEFINE_integer("limit", default.limit, "The first rows alone; 0: all.", lower_bound=0)
    flags.DEFINE_bool("allow_partial", False, "Take a snapshot that has not as many rows as are published.")
    flags.DEFINE_bool("download", False, "Fetch the benchmark's files from the hub to --data first.")
    flags.DEFINE_integer(
        "max_pixels", default.max_pixels, "Show larger pictures smaller; 0: as the model's processor.", lower_bound=0
    )
    flags.DEFINE_integer(
        "max_prompt_tokens", default.max_prompt_tokens, "A longer one is not asked: wrong.", lower_bound=1
    )
    flags.DEFINE_integer("batch", default.batch, "Prompts at a time: memory bounds it.", lower_bound=1)
    flags.DEFINE_integer("tensor_parallel", default.tensor_parallel, "Devices that a layer is cut over.", lower_bound=1)
    flags.DEFINE_enum("dtype", default.dtype, ("float32", "bfloat16"), "Of weights and activations.")
    flags.DEFINE_string("judge", default.judge, "An OpenAI-compatible URL, asked where the rules cannot decide.")
    flags.DEFINE_string("judge_model", default.judge_model, "The judge's name there.")
    flags.DEFINE_string("against", default.against, "Another result of this benchmark (its --out): McNemar's test.")
    cli.define_process_flags()
    cli.run(main)

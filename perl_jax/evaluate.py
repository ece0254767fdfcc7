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
    processes.check_equal([*options], "flags")
    folder = Path(options.out) / folder_name(options.benchmark, options.protocol)
    if options.download:
        processes.after_first(functools.partial(download, options, benchmark))
    questions = read(options, benchmark)
    with jax.set_mesh(mesh.make(tensor=options.tensor_parallel)):
        path = policy.directory(options.model)
        setup = make_setup(options, benchmark, path)
        ordered = [each for item in questions.items for each in orders.in_orders(item, options.permute, options.seed)]
        response_settings = settings(options, setup, policy.fingerprint(path))
        folder.mkdir(parents=True, exist_ok=True)
        collected = responses.collect(setup, ordered, folder / PREDICTIONS, response_settings)
    scores = scoring.score_responses(options.benchmark, options.protocol, collected, processes.cores())
    results = {}
    if processes.first():
        results = write_results(options, benchmark, questions, setup, response_settings, collected, scores, folder)
    return processes.exchange(results)[0]


def check(options: Options, benchmark: ModuleType) -> None:
    """Raises InputError for invalid combinations of flags."""
    if options.protocol not in benchmark.PROTOCOLS:
        raise InputError(
            f"--protocol={options.protocol}: {options.benchmark} has the protocols {', '.join(benchmark.PROTOCOLS)}"
        )
    if options.permute and options.protocol != "boxed":
        raise InputError(
            "--permute rewrites the question, which the official prompt does not allow: give --protocol=boxed"
        )
    if options.samples > 1 and not options.temperature:
        raise InputError("at temperature 0 all --samples are the same: give --temperature, such as 0.7")
    if bool(options.judge) != bool(options.judge_model):
        raise InputError("--judge and --judge_model go together: the URL of the judge, and its model name there")
    if options.judge and (options.protocol != "official" or not hasattr(benchmark, "judged")):
        known = ", ".join(name for name in benchmarks.names() if hasattr(benchmarks.find(name), "judged"))
        raise InputError(
            f"--judge: {options.benchmark} has no judge by {options.protocol}; it is for --protocol=official of {known}"
        )
    if options.download and not benchmark.REPOSITORY:
        raise InputError(f"--download: {options.benchmark} is not on the hub")
    if options.against:
        scores_of_another(options)


def scores_of_another(options: Options) -> Path:
    """The scores.jsonl named by --against: the file, its folder, or its OUT. InputError without one."""
    place = Path(options.against)
    names = (place, place / SCORES, place / folder_name(options.benchmark, options.protocol) / SCORES)
    file = next((name for name in names if name.is_file()), None)
    if file is None:
        raise InputError(
            f"--against={options.against}: no scores.jsonl there or in its folder "
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


def make_setup(options: Options, benchmark: ModuleType, path: Path) -> responses.Setup:
    """Prompt, sampling and model settings; the model is loaded on first use."""
    prompts = Prompts.of_directory(path)
    if options.protocol == "boxed" and not (path / FILE).exists():
        prompts = dataclasses.replace(prompts, system=SYSTEM, instruction=INSTRUCTION)
    most = min(prompts.max_pixels, options.max_pixels or prompts.max_pixels)
    if most < prompts.min_pixels:
        raise InputError(f"--max_pixels={options.max_pixels}: the model's images have at least {prompts.min_pixels}")
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


def write_results(
    options: Options,
    benchmark: ModuleType,
    questions: Questions,
    setup: responses.Setup,
    response_settings: dict,
    collected: list[responses.Responses],
    scores: list[list[scoring.ScoredResponse]],
    folder: Path,
) -> dict:
    """Runs the judge, if any, and writes scores.jsonl, results.json and results.md; returns the results."""
    judge = None
    if options.judge:
        with Endpoint(options.judge, options.judge_model, str(folder / JUDGE)) as endpoint:
            scores, judge_counts = scoring.judge(benchmark, endpoint, collected, scores)
        judge = {"model": options.judge_model, "url": options.judge, **judge_counts._asdict()}
    rows = [row(setup, each, marks) for each, marks in zip(collected, scores)]
    results = {
        "benchmark": options.benchmark,
        "protocol": options.protocol,
        "judge": judge,
        "model": {"name": options.model, "fingerprint": response_settings["model"]},
        "data": options.data,
        "settings": response_settings,
        "rows": questions.rows,
        "limit": options.limit,
        "rejected": questions.rejected,
        "partial": bool(options.limit or options.allow_partial),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "figures": figures.figures(rows, options.samples, benchmark.MACRO),
        "consistency": consistency.consistency(rows, options.samples),
        "against": compare(options, rows) if options.against else None,
    }
    files.write(folder / SCORES, files.lines(rows))
    files.write(folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False))
    files.write(folder / PAGE, figures.markdown(results))
    return results


def row(setup: responses.Setup, collected: responses.Responses, scores: list[scoring.ScoredResponse]) -> dict:
    """A line of scores.jsonl: a question in one order and role, its responses, and their scores."""
    ordered = collected.question
    question = ordered.item.row
    return {
        "id": question.id,
        "category": ordered.item.category,
        "source": question.source,
        "role": collected.role,
        "images": len(ordered.order),
        "order": list(ordered.order),
        "shown": ordered.shown,
        "question": responses.messages(setup, ordered)[-1]["content"],
        "answer": question.answer,
        "texts": list(collected.texts),
        "lengths": list(collected.lengths),
        "truncated": list(collected.truncated),
        "correct": [one.correct for one in scores],
        "extracted": [one.extracted for one in scores],
        "meaning": [one.meaning for one in scores],
        "undecided": [one.judge is not None for one in scores],
        "place": ordered.place,
        "fixed": ordered.fixed,
        "fault": collected.fault,
    }


def compare(options: Options, rows: list[dict]) -> dict:
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
        "data", None, "The folder of the benchmark's files, as on the hub; for records DIR or DIR:SPLIT.", required=True
    )
    flags.DEFINE_string(
        "out", None, "Folder for the results; each benchmark and protocol gets a folder in it.", required=True
    )
    flags.DEFINE_string(
        "protocol",
        default.protocol,
        "boxed: our prompt, reason, then \\boxed{}; official: the benchmark's prompt and rules.",
    )
    flags.DEFINE_integer(
        "samples", default.samples, "Responses to each question, for pass@k and majority vote.", lower_bound=1
    )
    flags.DEFINE_float("temperature", default.temperature, "0 always takes the most probable token.", lower_bound=0.0)
    flags.DEFINE_integer("max_new_tokens", default.max_new_tokens, "Most tokens of a response.", lower_bound=1)
    flags.DEFINE_integer(
        "seed", default.seed, "Seed of sampling and of the orders.", lower_bound=0, upper_bound=2**32 - 1
    )
    flags.DEFINE_integer(
        "permute", default.permute, "Also ask each question in this many other orders of its images.", lower_bound=0
    )
    flags.DEFINE_integer("limit", default.limit, "Evaluate only the first rows; 0: all.", lower_bound=0)
    flags.DEFINE_bool("allow_partial", False, "Accept a snapshot with fewer rows than published.")
    flags.DEFINE_bool("download", False, "First download the benchmark's files from the hub to --data.")
    flags.DEFINE_integer(
        "max_pixels",
        default.max_pixels,
        "Resize larger images to this many pixels; 0: the limit of the model's processor.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "max_prompt_tokens",
        default.max_prompt_tokens,
        "A question with a longer prompt is not asked and counts as wrong.",
        lower_bound=1,
    )
    flags.DEFINE_integer("batch", default.batch, "Prompts decoded at a time; limited by memory.", lower_bound=1)
    flags.DEFINE_integer("tensor_parallel", default.tensor_parallel, "Devices that share each layer.", lower_bound=1)
    flags.DEFINE_enum("dtype", default.dtype, ("float32", "bfloat16"), "Dtype of weights and activations.")
    flags.DEFINE_string(
        "judge", default.judge, "OpenAI-compatible URL of a judge for answers that the rules cannot decide."
    )
    flags.DEFINE_string("judge_model", default.judge_model, "The judge's model name at that URL.")
    flags.DEFINE_string(
        "against", default.against, "Another result of this benchmark (its --out) to compare with by McNemar's test."
    )
    cli.define_process_flags()
    cli.run(main)

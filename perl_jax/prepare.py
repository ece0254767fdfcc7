"""Converts a data source to records: `python -m perl_jax.prepare --source=jsonl --input=FILE --out=DIR`.

Each row passes the rule filter, is rewritten to a verifiable question, and gets symbols and a label
(`perl_jax.curation`); the reward must accept its own answer. Besides the records it writes rejected.jsonl (one line per
rejected row: split, id, reason, detail) and decisions.jsonl (one line per record: its label, by whom, evidence and
confidence, and what was rephrased). Prints what was kept, why the rest was not,
and what made records `fixed`. The directory appears only when
complete; a restarted command gives the same result, without repeating requests to a language model.
"""

import ast
import collections
import contextlib
import functools
import inspect
import json
import logging
import os
import time

from absl import flags

from models.errors import InputError
from perl_jax import data
from perl_jax.curation import agreement, annotator, review
from perl_jax.curation.build import DECISIONS, build
from perl_jax.evaluation import statistics
from perl_jax.runtime import cli
from perl_jax.runtime.chat_endpoint import Endpoint, line

logger = logging.getLogger("perl_jax.prepare")  # not __name__, which is __main__ for the command
FLAGS = flags.FLAGS


def table(summary: dict) -> str:
    """The summary of `build` as text: a line for each split and each value of source, kind and order_effect."""
    rows = []
    for split, counts in summary["splits"].items():
        rows.append((split, "records", "", counts["records"]))
        parts = {key: counts[key] for key in ("source", "kind", "order_effect")}
        parts["rejected"] = summary.get("rejected", {}).get(split, {})
        rows += [(split, key, value, number) for key, values in parts.items() for value, number in values.items()]
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    lines = [[str(cell).ljust(width) for cell, width in zip(row, widths)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def agreement_table(directory: str) -> str:
    """The agreement of rules and a language model, for a set that was prepared with one; "" without."""
    with open(os.path.join(directory, DECISIONS), encoding="utf-8") as file:
        decisions = [decision for decision in map(json.loads, file) if decision["model"]]
    labels = [
        (decision["rules"]["order_effect"], decision["model"]["order_effect"], decision["id"]) for decision in decisions
    ]
    return agreement.markdown(labels) if labels else ""


def doubtful_table(directory: str, most: int = 20) -> str:
    """The `fixed` labels that rules gave by doubt, counted by their evidence, with one id each; "" without any.

    Such records are trained on in one order only.
    """
    with open(os.path.join(directory, DECISIONS), encoding="utf-8") as file:
        decisions = list(map(json.loads, file))
    doubtful = [row for row in decisions if row["by"] == "rules" and row["order_effect"] == "fixed"]
    examples = collections.defaultdict(list)
    for row in doubtful:
        examples[row["evidence"].casefold().partition(": ")[0]].append(row["id"])
    if not doubtful:
        return ""
    counts = sorted(examples.items(), key=lambda item: -len(item[1]))
    rows = [[line(evidence)[:60], str(len(ids)), ids[0]] for evidence, ids in counts[:most]]
    if len(counts) > most:
        rows.append([f"{len(counts) - most} more", str(sum(len(ids) for _, ids in counts[most:])), ""])
    shown = statistics.Table(["evidence", "records", "such as"], rows).markdown()
    return f"{len(doubtful)} of {len(decisions)} records are fixed, never permuted, by a doubt of the rules:\n\n{shown}"


class Progress:
    """Logs the number of rows and the rate every ten seconds."""

    def __init__(self):
        self._start = self._logged = time.monotonic()

    def __call__(self, kept: int, left_out: int) -> None:
        now = time.monotonic()
        if now - self._logged >= 10:
            self._logged = now
            rate = (kept + left_out) / (now - self._start)
            logger.info("%s kept, %s left out, %.0f rows/s", f"{kept:,}", f"{left_out:,}", rate)


def parse_options(pairs: list[str]) -> dict:
    """`["bias=0.9", "questions=which,what"]` as keyword arguments; a value is a Python literal or else a string.

    Raises:
        InputError: a pair without `=`, a key twice.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--option={pair}: give it as key=value")
        if key in options:
            raise InputError(f"--option={pair}: {key} is given twice: give it once")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def parse_columns(texts: list[str]) -> dict[str, str | list[str]]:
    """`["question=problem,answer=solution", "id=key"]` as {ours: theirs}, or {ours: several} for images and choices.

    Raises:
        InputError: no pair, a name twice.
    """
    columns: dict[str, list[str]] = {}
    for pair in (pair.strip() for text in texts for pair in text.split(",")):
        ours, equals, theirs = pair.partition("=")
        again = theirs in columns[ours] if ours in ("images", "choices") and ours in columns else ours in columns
        if not (equals and ours and theirs) or again:
            raise InputError(f"--map={pair}: give each of our columns once, as ours=theirs")
        columns.setdefault(ours, []).append(theirs)
    return {ours: theirs if len(theirs) > 1 else theirs[0] for ours, theirs in columns.items()}


def unused_columns(columns: dict[str, bool]) -> str:
    """A line with the columns that were not read; "" if there are none."""
    names = ", ".join(name for name, was_read in columns.items() if not was_read)
    return names and f"columns not used: {names} (--map=OURS=THEIRS reads one)"


def main(argv: list[str]) -> None:
    del argv  # everything is a flag
    options = parse_options(FLAGS.option)
    if FLAGS.map:
        options["map"] = parse_columns(FLAGS.map)
    if FLAGS.images:
        options["images"] = FLAGS.images
    columns: dict[str, bool] = {}
    if "columns" in inspect.signature(data.find(FLAGS.source).records).parameters:
        options["columns"] = columns
    if FLAGS.download:
        options["download"] = True
    if bool(FLAGS.annotator) != bool(FLAGS.annotator_model):
        raise InputError(
            "--annotator and --annotator_model go together: the URL of the language model, and its name there"
        )
    with contextlib.ExitStack() as stack:
        annotate = None
        if FLAGS.annotator:
            answers = f"{os.path.abspath(FLAGS.out)}.answers.jsonl"
            endpoint = Endpoint(FLAGS.annotator, FLAGS.annotator_model, answers, concurrency=FLAGS.concurrency)
            model = stack.enter_context(endpoint)
            annotate = functools.partial(annotator.annotate, model)
        summary = build(
            FLAGS.source,
            FLAGS.out,
            FLAGS.input,
            limit=FLAGS.limit,
            seed=FLAGS.seed,
            holdout=FLAGS.holdout,
            decontaminate=FLAGS.decontaminate,
            annotate=annotate,
            show=Progress(),
            **options,
        )
        requests = ", ".join(f"{number:,} {what}" for what, number in model.counts.items()) if annotate else ""
    parts = [table(summary), doubtful_table(FLAGS.out), agreement_table(FLAGS.out)]
    parts.append(requests and f"endpoint: {requests}")
    print("\n\n".join(filter(None, parts)))
    if unused := unused_columns(columns):
        print(f"\n{unused}\n")
    print(f"wrote {FLAGS.out}")
    if FLAGS.review:
        page = os.path.join(FLAGS.out, "review.html")
        review.write(FLAGS.out, page, FLAGS.review, FLAGS.seed)
        print(f"wrote {page}")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, f"Data source, one of: {', '.join(data.names())}.", required=True)
    flags.DEFINE_string("out", None, "Directory to write; must be new or empty.", required=True)
    flags.DEFINE_string(
        "input", None, "The source's files; jsonl takes a file, folder, pattern or hub id, with @split or not."
    )
    flags.DEFINE_multi_string("map", [], "Columns with other names, as ours=theirs: question=problem,answer=solution.")
    flags.DEFINE_string("images", None, "A folder in which relative image paths may begin, beside the file's.")
    flags.DEFINE_bool("download", False, "First download the source's files from the hub to --input.")
    flags.DEFINE_integer("limit", None, "Most records of a split.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of all random draws.", lower_bound=0)
    flags.DEFINE_float("holdout", 0.0, "Share of the images whose records go to a split 'eval'.")
    flags.DEFINE_multi_string(
        "decontaminate", [], "An evaluation set; records with its images or questions are left out."
    )
    flags.DEFINE_string(
        "annotator", "", "OpenAI-compatible URL of a language model that rephrases and labels questions."
    )
    flags.DEFINE_string(
        "annotator_model", "", "The annotator's model name at that URL; its answers are cached in OUT.answers.jsonl."
    )
    flags.DEFINE_integer("concurrency", 8, "Requests at a time.", lower_bound=1)
    flags.DEFINE_integer("review", 0, "Write this many records to OUT/review.html, to check by eye.", lower_bound=0)
    flags.DEFINE_multi_string("option", [], "An option of the source, as key=value; may be given several times.")
    cli.run(main, elsewhere={"endpoint": "annotator", "model": "annotator_model"})

"""Brings a data source to records: `python -m perl_jax.prepare --source=jsonl --input=FILE --out=DIR`.

Each row goes through the rule filter, is brought to a question that can be checked, and gets symbols and a label
(`perl_jax.curation`); the reward must accept its own answer. Beside the records lie rejected.jsonl (one line a row left
out: split, id, reason, detail) and decisions.jsonl (one line a record: its label, by whom, evidence and confidence, and
what was rephrased). Prints what was kept and why the rest was not. The directory appears only when all of it is
written; run again after a stop, it gives the same, and a language model that was asked is not asked twice.
"""

import ast
import collections
import contextlib
import functools
import hashlib
import inspect
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator

from absl import flags

from models.errors import InputError
from perl_jax import cli, data, files, grading, permute, records
from perl_jax.curation import agreement, annotator, picture_rules, review
from perl_jax.curation.curate import Curated, curate
from perl_jax.endpoint import Endpoint

logger = logging.getLogger("perl_jax.prepare")  # not __name__, which is __main__ for the command
FLAGS = flags.FLAGS
REJECTED, DECISIONS = "rejected.jsonl", "decisions.jsonl"
HELD_OUT = "eval"
GRADED = 256  # records whose answers are graded at a time


def build(
    source: str, out: str, input: str | None = None, *, limit: int | None = None, seed: int = 0, holdout: float = 0.0,
    decontaminate: Iterable[str] = (), annotate: Callable | None = None, show: Callable[[int, int], None] | None = None,
    **options,
) -> dict:  # fmt: skip
    """Writes the splits of a source to `out`, and returns the summary that `records.write` gives, with
    `"rejected": {split: {reason: rows}}` added.

    Args:
        source: a module name in `perl_jax.data`.
        out: a directory that does not exist yet, or is empty.
        input: path of the source's files; None for one that brings its data along.
        limit: most records of a split.
        seed: of whatever the source draws.
        holdout: share of the pictures whose records go to a split "eval" of their own.
        decontaminate: evaluation sets, none of whose pictures or questions may be kept.
        annotate: from an iterator of rows to one of (row, what a language model says of it), in the same order.
        show: called after each row with (kept, left out), so far.
        options: keyword arguments of the source's `records`.

    Raises:
        InputError: an unknown source or option, bad input, no record in some split.
    """
    module = data.find(source)
    _check_options(source, module, options)
    if holdout and (not 0 < holdout < 1 or HELD_OUT in module.SPLITS):
        raise InputError(f"--holdout={holdout}: give a share below 1, of a source without a split {HELD_OUT!r}")
    filters, ledger = picture_rules.Filters(decontaminate), Ledger(holdout, show)

    def kept(split: str) -> Iterator[records.Record]:
        rows = module.records(input, split, seed=seed, **options)
        return itertools.islice(ledger.entered(split, _graded(_curated(rows, annotate, filters))), limit)

    splits = {split: kept(split) for split in module.SPLITS}
    if holdout:
        splits[HELD_OUT] = ledger.held_out()  # read after all others, when it is full
    try:
        summary = records.write(splits, out, name=source, reject=ledger.reject, finish=ledger.write)
    except InputError as error:
        if ledger.rejected:
            raise InputError(f"{error}; {len(ledger.rejected)} rows were rejected, the last: "
                             f"{ledger.rejected[-1]}") from error  # fmt: skip
        raise
    return {**summary, "rejected": {split: ledger.reasons(split) for split in splits}}


Item = records.Record | Curated | data.Rejected


class Ledger:
    """What became of each row: held out, rejected, or accepted with a decision; told to `show` as (kept, left out)."""

    def __init__(self, holdout: float, show: Callable[[int, int], None] | None):
        self.rejected, self._decisions, self._held_out = [], [], []
        self._holdout, self._show, self._seen = holdout, show, 0

    def entered(self, split: str, items: Iterable[Item]) -> Iterator[records.Record]:
        """The records of a split's items; the others are noted."""
        for item in items:
            self._seen += 1
            if isinstance(item, data.Rejected):
                self.rejected.append({"split": split, **item._asdict()})
            elif isinstance(item, Curated) and self._holdout and _share(item.record) < self._holdout:
                self._held_out.append(item)
            else:
                yield self._accepted(split, item)
            if self._show:
                self._show(self._seen - len(self.rejected), len(self.rejected))

    def held_out(self) -> Iterator[records.Record]:
        """The records kept for evaluation."""
        for item in self._held_out:
            yield self._accepted(HELD_OUT, item)

    def _accepted(self, split: str, item: records.Record | Curated) -> records.Record:
        if not isinstance(item, Curated):
            return item
        self._decisions.append({"split": split, **item.decision._asdict()})
        return item.record

    def reject(self, split: str, record: records.Record, error: InputError) -> None:
        """Notes a record that cannot be written."""
        row = {"split": split, "id": record.get("id"), "reason": "not a whole record", "detail": str(error)}
        self.rejected.append(row)

    def reasons(self, split: str) -> dict[str, int]:
        """How many rows of a split were left out, by reason, the most frequent first."""
        return dict(collections.Counter(row["reason"] for row in self.rejected if row["split"] == split).most_common())

    def write(self, directory: str) -> None:
        """Writes rejected.jsonl and decisions.jsonl."""
        for name, rows in ((REJECTED, self.rejected), (DECISIONS, self._decisions)):
            with open(os.path.join(directory, name), "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(files.lines(rows))


def _curated(rows: Iterable, annotate, filters: picture_rules.Filters) -> Iterator[Item]:
    """Rows as curated records with their pictures, or rejected; what a source has finished itself stays as it is."""
    for row, annotation in annotate(rows) if annotate else ((row, None) for row in rows):
        item = curate(row, annotation) if isinstance(row, data.Row) else row
        yield filters(item, row.images) if isinstance(item, Curated) else item


def _graded(items: Iterable[Item]) -> Iterator[Item]:
    """Leaves out what could never be learned: a record whose own answer the paper's reward does not accept."""
    items = iter(items)
    with contextlib.ExitStack() as stack:
        grader = None
        while chunk := list(itertools.islice(items, GRADED)):
            curated = [item for item in chunk if isinstance(item, Curated)]
            if curated and grader is None:  # it starts processes: only for rows in plain words
                grader = stack.enter_context(grading.Grader("boxed"))
            shown = [permute.render(item.record) for item in curated]
            pairs = [(sample, f"<think></think>\\boxed{{{sample['answer']}}}") for sample in shown]
            scores = grader.grade(pairs) if curated else []
            refused = {id(item): sample for item, sample, score in zip(curated, shown, scores) if score["reward"] < 1}
            for item in chunk:
                if sample := refused.get(id(item)):
                    item = data.Rejected(sample["id"], "the reward does not accept the answer", sample["answer"])
                yield item


def _share(record: records.Record) -> float:
    """Where a record's pictures lie between 0 and 1, whatever else there is: those of one conversation together."""
    parts = sorted(hashlib.blake2b(data).digest() for data in record["images"]) or [record["question"].encode()]
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "big") / 2**64


def table(summary: dict) -> str:
    """What `build` wrote, for a person: a line for each split and each value of source, kind and order_effect."""
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
    """How far rules and a language model agree, of a set that was prepared with one; "" without."""
    with open(os.path.join(directory, DECISIONS), encoding="utf-8") as file:
        decisions = [decision for decision in map(json.loads, file) if decision["model"]]
    labels = [(decision["rules"]["order_effect"], decision["model"]["order_effect"], decision["id"])
              for decision in decisions]  # fmt: skip
    return agreement.markdown(labels) if labels else ""


class Progress:
    """Says every ten seconds how many rows went by, and how fast."""

    def __init__(self):
        self._start = self._said = time.monotonic()

    def __call__(self, kept: int, left_out: int) -> None:
        now = time.monotonic()
        if now - self._said >= 10:
            self._said = now
            rate = (kept + left_out) / (now - self._start)
            logger.info("%s kept, %s left out, %.0f rows/s", f"{kept:,}", f"{left_out:,}", rate)


def parse_options(pairs: list[str]) -> dict:
    """`["bias=0.9", "questions=which,what"]` as keyword arguments; a value is a Python literal or else a text.

    Raises:
        InputError: a pair without `=`.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--option={pair}: give it as key=value")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def _check_options(source, module, options):
    parameters = inspect.signature(module.records).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"the source {source} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")


def main(argv: list[str]) -> None:
    del argv  # everything is a flag
    options = parse_options(FLAGS.option)
    if FLAGS.map:
        options["map"] = dict(pair.partition("=")[::2] for pair in FLAGS.map)
    if FLAGS.download:
        options["download"] = True
    if bool(FLAGS.endpoint) != bool(FLAGS.model):
        raise InputError("--endpoint and --model go together: where the language model is, and its name there")
    with contextlib.ExitStack() as stack:
        annotate = None
        if FLAGS.endpoint:
            answers = f"{os.path.abspath(FLAGS.out)}.answers.jsonl"
            model = stack.enter_context(Endpoint(FLAGS.endpoint, FLAGS.model, answers, concurrency=FLAGS.concurrency))
            annotate = functools.partial(annotator.annotate, model)
        summary = build(FLAGS.source, FLAGS.out, FLAGS.input, limit=FLAGS.limit, seed=FLAGS.seed,
                        holdout=FLAGS.holdout, decontaminate=FLAGS.decontaminate, annotate=annotate, show=Progress(),
                        **options)  # fmt: skip
        asked = ", ".join(f"{number:,} {what}" for what, number in model.counts.items()) if annotate else ""
    print("\n\n".join(filter(None, (table(summary), agreement_table(FLAGS.out), asked and f"endpoint: {asked}"))))
    print(f"wrote {FLAGS.out}")
    if FLAGS.review:
        page = os.path.join(FLAGS.out, "review.html")
        review.write(FLAGS.out, page, FLAGS.review, FLAGS.seed)
        print(f"wrote {page}")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, f"Data source, one of: {', '.join(data.names())}.", required=True)
    flags.DEFINE_string("out", None, "Directory to write; must not exist yet, or be empty.", required=True)
    flags.DEFINE_string("input", None, "Where the source's files are, for a source that has some.")
    flags.DEFINE_list("map", [], "Columns by other names, ours=theirs: question=problem,answer=solution.")
    flags.DEFINE_bool("download", False, "Fetch the source's files from the hub to --input first.")
    flags.DEFINE_integer("limit", None, "Most records of a split.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of whatever is drawn at random.", lower_bound=0)
    flags.DEFINE_float("holdout", 0.0, "Share of the pictures whose records go to a split 'eval'.")
    flags.DEFINE_multi_string("decontaminate", [], "An evaluation set, none of whose pictures or questions are kept.")
    flags.DEFINE_string("endpoint", "", "An OpenAI-compatible URL, whose --model rephrases and labels.")
    flags.DEFINE_string("model", "", "The model's name at the endpoint; its answers are kept in OUT.answers.jsonl.")
    flags.DEFINE_integer("concurrency", 8, "Requests at a time.", lower_bound=1)
    flags.DEFINE_integer("review", 0, "Write so many records to OUT/review.html, to check by eye.", lower_bound=0)
    flags.DEFINE_multi_string("option", [], "An option of the source, as key=value; may be given several times.")
    cli.run(main)

"""Brings a data source to records: `python -m perl_jax.prepare --source=digits --out=DIR`.

Writes every split of the source as one set of records, and what could not be used to rejected.jsonl beside the records
(one line a row: split, id, reason, detail). Prints what was kept and why the rest was not. The directory appears only
when all of it is written.
"""

import ast
import collections
import inspect
import itertools
import json
import os
from collections.abc import Iterator

from absl import flags

from models.errors import InputError
from perl_jax import cli, data, records

FLAGS = flags.FLAGS
REJECTED = "rejected.jsonl"


def build(
    source: str, out: str, input: str | None = None, *, limit: int | None = None, seed: int = 0, **options
) -> dict:
    """Writes the splits of a source to `out`, and returns the summary that `records.write` gives, with
    `"rejected": {split: {reason: rows}}` added.

    Args:
        source: a module name in `perl_jax.data`.
        out: a directory that does not exist yet, or is empty.
        input: path of the source's files; None for one that brings its data along.
        limit: most records of a split.
        seed: of whatever the source draws.
        options: keyword arguments of the source's `records`.

    Raises:
        InputError: an unknown source or option, bad input, no record in some split.
    """
    module = data.find(source)
    _check_options(source, module, options)
    rejected = []
    splits = {
        split: itertools.islice(_kept(split, module.records(input, split, seed=seed, **options), rejected), limit)
        for split in module.SPLITS
    }

    def reject(split, record, error):
        rejected.append({"split": split, "id": record.get("id"), "reason": "not a whole record", "detail": str(error)})

    def finish(directory):
        with open(os.path.join(directory, REJECTED), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)

    try:
        summary = records.write(splits, out, name=source, reject=reject, finish=finish)
    except InputError as error:
        if rejected:
            raise InputError(f"{error}; {len(rejected)} rows were rejected, the last: {rejected[-1]}") from error
        raise
    reasons = {split: collections.Counter() for split in splits}
    for row in rejected:
        reasons[row["split"]][row["reason"]] += 1
    return {**summary, "rejected": {split: dict(counter.most_common()) for split, counter in reasons.items()}}


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


def _kept(split: str, rows: Iterator, rejected: list[dict]) -> Iterator[records.Record]:
    for row in rows:
        if isinstance(row, data.Rejected):
            rejected.append({"split": split, **row._asdict()})
        else:
            yield row


def _check_options(source, module, options):
    parameters = inspect.signature(module.records).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"the source {source} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")


def main(argv: list[str]) -> None:
    del argv  # everything is a flag
    options = parse_options(FLAGS.option)
    summary = build(FLAGS.source, FLAGS.out, FLAGS.input, limit=FLAGS.limit, seed=FLAGS.seed, **options)
    print(table(summary))
    print(f"wrote {FLAGS.out}")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, f"Data source, one of: {', '.join(data.names())}.", required=True)
    flags.DEFINE_string("out", None, "Directory to write; must not exist yet, or be empty.", required=True)
    flags.DEFINE_string("input", None, "Where the source's files are, for a source that has some.")
    flags.DEFINE_integer("limit", None, "Most records of a split.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of whatever the source draws at random.", lower_bound=0)
    flags.DEFINE_multi_string("option", [], "An option of the source, as key=value; may be given several times.")
    cli.run(main)

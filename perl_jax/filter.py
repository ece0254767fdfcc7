"""Filters records by rollout accuracy: `python -m perl_jax.filter --config=configs/perl_7b.py --workdir=DIR`.

The model that the config would train answers every record of `config.data.split` several times. Records with an
accuracy in the band are kept, and thinned until each source's mean accuracy is near the target. Written to the workdir:

    rollouts.jsonl   one line per record with the scores of its rollouts; a restarted filter resumes there
    blind.jsonl      with --blind: the same with grey images, for the records in the band
    records/         the set to train on (--config.data.directory=DIR/records), each record with its `accuracy`; other
                     splits are unchanged
    filter.md, accuracy.png   what was kept, dropped and why, by source; accuracies before and after

Other bands and targets need no new rollouts.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from models import attention
from models.errors import InputError
from perl_jax import mesh, policy, records
from perl_jax.filtering import difficulty, filter_report, selection
from perl_jax.filtering.selection import Candidate
from perl_jax.grading import Grader
from perl_jax.planning import roofline
from perl_jax.records import prompt_lengths
from perl_jax.runtime import cli, files, lock, processes
from perl_jax.training import check_config, run_data

FLAGS = flags.FLAGS
MARK_FILE = "filter.json"  # in the written records: what they were made from
NAMED = 20  # skipped records listed by name in filter.md


class Options(NamedTuple):
    """The command's flags."""

    rollouts: int = roofline.FILTERED[1]
    low: float = 0.1
    high: float = 0.9
    target: float = 0.38
    batch: int = 0  # records per decoding batch; 0: as in training
    limit: int = 0  # the first records of the split; 0: all
    blind: bool = False


class Measured(NamedTuple):
    """The rows of `difficulty.measure`, by record index in the split."""

    rows: dict[int, dict]
    blind: dict[int, dict]  # of the records that were also measured with grey images

    def accuracy(self, number: int) -> float | None:
        """The share of a record's rollouts that are correct; None if it was skipped."""
        return _share(self.rows[number])

    def candidate(self, number: int) -> Candidate:
        row, grey = self.rows[number], self.blind.get(number, {})
        blind = "scores" in grey and selection.answered_blind(
            _share(row), _share(grey), len(row["scores"]), row["guess"]
        )
        return Candidate(row["id"], row["source"], _share(row), blind)


def apply(config: ConfigDict, workdir: Path, options: Options) -> str:
    """Filters the records of `config` into `workdir`, resuming if started before; returns filter.md.

    All processes of a run make the same call. Raises InputError for invalid configs, flags and data, and where no
    record lies in the band (filter.md and accuracy.png then show the accuracies).
    """
    check_config.check(config)
    attention.choose(config.attention)
    check(options)
    processes.check_equal([json.loads(config.to_json_best_effort()), options], "a config or flags")
    workdir.mkdir(parents=True, exist_ok=True)
    with jax.set_mesh(mesh.make(**config.mesh)), lock.Lock(workdir):
        data, *others = run_data.data_sources(config, workdir)
        if others:
            raise InputError(
                f"config.data.directory={config.data.directory}: the filter takes one record set at a time"
            )
        numbers = record_indices(config, data, options)
        base = policy.base(config, workdir, run_data.texts(config, [data]))
        settings = cache_key(config, data, base, options)
        measured = measure(config, workdir, options, data, base, settings, numbers)
    candidates = [measured.candidate(number) for number in numbers]
    outcomes = selection.select(candidates, options.low, options.high, options.target, config.seed)
    page = report(measured, candidates, outcomes, options, len(records.open_split(data, config.data.split)))
    kept_indices = [number for number, candidate in zip(numbers, candidates) if outcomes[candidate.id] == "kept"]
    scores = repr([(number, measured.accuracy(number)) for number in kept_indices])
    settings |= {key: value for key, value in options._asdict().items() if key != "batch"}
    settings |= {"kept": len(kept_indices), "sha256": hashlib.sha256(scores.encode()).hexdigest()}

    def write():
        if processes.first():
            files.write(workdir / "filter.md", page)
            filter_report.histogram(
                candidates,
                outcomes,
                workdir / "accuracy.png",
                low=options.low,
                high=options.high,
                target=options.target,
                rollouts=options.rollouts,
            )
            if kept_indices:
                write_records(config.data.split, data, workdir / "records", measured, kept_indices, settings)

    processes.after_first(write)
    if not kept_indices:
        raise InputError(
            f"no record has an accuracy between {options.low:g} and {options.high:g}: see "
            f"{workdir}/filter.md and accuracy.png; choose another band, or a model for which the records are "
            "neither too hard nor too easy"
        )
    return page


def check(options: Options) -> None:
    """Raises InputError unless 0 <= low <= target <= high <= 1."""
    if not 0 <= options.low <= options.target <= options.high <= 1:
        raise InputError(
            f"--low={options.low:g} --target={options.target:g} --high={options.high:g}: expected "
            "0 <= low <= target <= high <= 1"
        )


def record_indices(config: ConfigDict, data: str, options: Options) -> range:
    """The indices of the records to measure. Raises InputError where the config's split is only a part of a split."""
    if config.data.split not in (known := records.summary(data)["splits"]):
        raise InputError(
            f"config.data.split is {config.data.split!r}; the filter takes a full split, one of "
            f"{', '.join(known)}; --limit takes its first records"
        )
    count = len(records.open_split(data, config.data.split))
    return range(min(count, options.limit or count))


def cache_key(config: ConfigDict, data: str, base: policy.Base, options: Options) -> dict:
    """Everything that the scores of rollouts depend on."""
    sampling = {key: config.sampling[key] for key in ("temperature", "top_p", "top_k", "max_new_tokens")}
    return {
        "records": records.fingerprint(data),
        "split": config.data.split,
        "model": base.fingerprint,
        "compute_dtype": config.compute_dtype,
        "prompt": json.loads(base.prompts.to_json()),
        "sampling": sampling,
        "reward": config.reward,
        **({"reward_rounding": True} if config.reward_rounding else {}),
        "seed": config.seed,
        "rollouts": options.rollouts,
    }


def measure(
    config, workdir: Path, options: Options, data: str, base: policy.Base, key: Mapping, numbers: Sequence[int]
) -> Measured:
    """Runs the missing rollouts; with grey images only for records in the band, since the rest is dropped."""
    batch, load = options.batch or roofline.decode_batch(config), functools.cache(lambda: policy.frozen(config, base))
    config = config.copy_and_resolve_references()
    config.n_s, config.rollouts = 0, options.rollouts
    with Grader(
        config.reward, weights=config.reward_weights, rounding=config.reward_rounding, **config.grading
    ) as grader:
        split = records.open_split(data, config.data.split)
        lengths = prompt_lengths.load_or_measure(data, config.data.split, base.prompts, workdir)
        setup = difficulty.Setup(config, split, load, base.prompts, grader, batch, lengths)
        measured = Measured(difficulty.measure(setup, workdir / "rollouts.jsonl", key, numbers), {})
        if not options.blind:
            return measured
        in_band = [
            number
            for number in numbers
            if measured.rows[number].get("images") and options.low <= measured.accuracy(number) <= options.high
        ]
        grey = {**key, "pictures": "grey"}
        return measured._replace(blind=difficulty.measure(setup, workdir / "blind.jsonl", grey, in_band, blind=True))


def report(
    measured: Measured, candidates: Sequence[Candidate], outcomes: Mapping[str, str], options: Options, count: int
) -> str:
    """filter.md: the table by source, and notes on it."""
    scored = [row for row in measured.rows.values() if "scores" in row]
    cut = sum(row["truncated"] for row in scored) / max(1, options.rollouts * len(scored))
    lines = [
        "# Rollout filter",
        "",
        f"{options.rollouts} rollouts a record; kept are accuracies from {options.low:g} to {options.high:g}, "
        f"thinned to a mean of {options.target:g} in each source.",
        "",
        filter_report.table(candidates, outcomes).markdown(),
        "",
    ]
    if len(candidates) < count:
        lines.append(f"- limited to the first {len(candidates):,} of {count:,} records (--limit)")
    lines += [
        f"- target not reached by {line}" for line in filter_report.shortfalls(candidates, outcomes, options.target)
    ]
    if cut:
        lines.append(f"- {cut:.1%} of the responses were cut at config.sampling.max_new_tokens")
    if options.blind:
        pairs = [
            (_share(measured.rows[number]), _share(row)) for number, row in measured.blind.items() if "scores" in row
        ]
        text = (
            "accuracy {:.3f} with their images, {:.3f} with grey ones".format(*np.mean(pairs, axis=0))
            if pairs
            else "none of them has images"
        )
        lines.append(f"- {len(pairs):,} records of the band were also asked blind: {text}")
    skipped = [row["skipped"] for row in measured.rows.values() if "skipped" in row]
    lines += [f"- skipped: {line}" for line in skipped[:NAMED]]
    if len(skipped) > NAMED:
        lines.append(f"- skipped: {len(skipped) - NAMED:,} more, in rollouts.jsonl")
    return "\n".join([*lines, "", "![accuracies before and after](accuracy.png)", ""])


def write_records(
    split: str, data: str, out: Path, measured: Measured, kept_indices: Sequence[int], settings: Mapping
) -> None:
    """Writes the kept records with their accuracy, and all other splits unchanged; no-op if already written."""
    mark = json.dumps(settings, indent=1, sort_keys=True)
    if (out / MARK_FILE).is_file() and (out / MARK_FILE).read_text(encoding="utf-8") == mark:
        return
    summary = records.summary(data)
    splits = {name: records.open_split(data, name) for name in summary["splits"]}
    all_records = records.open_split(data, split)
    splits[split] = ({**all_records[number], "accuracy": measured.accuracy(number)} for number in kept_indices)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # left by a killed run
    if out.exists():
        out.rename(old)
    records.write(
        splits,
        str(out),
        name=summary["name"],
        finish=lambda partial: Path(partial, MARK_FILE).write_text(mark, encoding="utf-8"),
    )
    shutil.rmtree(old, ignore_errors=True)


def _share(row: Mapping) -> float | None:
    return sum(row["scores"]) / len(row["scores"]) if "scores" in row else None


def main(_) -> None:
    check_config.check_parts(FLAGS.config)
    processes.join(FLAGS.coordinator, FLAGS.process_count, FLAGS.process_index)
    options = Options(*(FLAGS[name].value for name in Options._fields))
    page = apply(FLAGS.config, Path(FLAGS.workdir), options)
    if processes.first():
        print(page.partition("![")[0].rstrip())
        print(f"wrote {FLAGS.workdir}/records")


if __name__ == "__main__":
    cli.define_run_flags()
    flags.DEFINE_integer("rollouts", Options().rollouts, "Responses sampled for each record.", lower_bound=1)
    flags.DEFINE_float("low", Options().low, "Lowest accuracy to keep.")
    flags.DEFINE_float("high", Options().high, "Highest accuracy to keep.")
    flags.DEFINE_float("target", Options().target, "Thin each source to this mean accuracy.")
    flags.DEFINE_integer("batch", 0, "Records decoded at a time; 0: as many as in training.", lower_bound=0)
    flags.DEFINE_integer("limit", 0, "Use only the first records of the split; 0: all.", lower_bound=0)
    flags.DEFINE_bool("blind", False, "Also drop records that are answered as well with grey images.")
    cli.run(main, elsewhere=cli.IN_CONFIG)

"""Evaluation metrics, from scored rows to results.md. Pure functions.

The unit is the question: its value is the mean over its samples, and intervals count questions, not responses. A
question that could not be asked counts as wrong, and is excluded from rates over responses.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from models.errors import InputError
from perl_jax.answers.compare import normalized
from perl_jax.evaluation import consistency, statistics
from perl_jax.evaluation.consistency import Row, fully_correct
from perl_jax.evaluation.statistics import Estimate, Table, counted, p_value, percent, points, proportion

SETTINGS = ("samples", "temperature", "permute", "max_new_tokens", "seed")


def figures(rows: Sequence[Row], samples: int, macro: bool) -> dict:
    """Metrics of the questions in their original order, JSON-able.

    - `micro`: accuracy over questions with Wilson's interval; `macro`: the mean over categories, with a bootstrap of
      the questions within each; `headline`: which of the two the benchmark reports (the argument `macro` selects the
      latter).
    - `credit`: the mean score if some response is partly correct (MV-MATH: the share of steps), else None.
    - `undecided`: the number of `responses` that only a judge could read, if there was none or it failed; they count as
      wrong, and the headline lies between `low` and `high`, the accuracy if all of them were right. None without any.
    - `not_asked`: number of questions that could not be asked, by reason.
    - `responses`: their number, and of them the shares `failures` (no answer extracted) and `truncated` (at the length
      limit), and the mean `length` in tokens; None without responses.
    - `categories`: `questions`, `accuracy`, `failures`, `truncated` of each.
    - `pass_at`: {k: the probability that one of k samples is correct} for k of 1, 2, 4, ..., samples; `majority`:
      accuracy of the majority vote. None with one sample.
    """
    original_rows = _original_rows(rows)
    accuracy = {row["id"]: float(np.mean(fully_correct(row))) for row in original_rows}
    categories = defaultdict(list)
    for row in original_rows:
        categories[row["category"]].append(row)
    scores = {row["id"]: float(np.mean(row["correct"])) for row in original_rows}
    several = samples > 1
    return {
        "questions": len(original_rows),
        "samples": samples,
        "headline": "macro" if macro else "micro",
        "micro": proportion(accuracy).to_json(),
        "macro": _macro([[accuracy[row["id"]] for row in group] for group in categories.values()]).to_json(),
        "credit": proportion(scores).to_json()
        if any(0 < x < 1 for row in original_rows for x in row["correct"])
        else None,
        "undecided": _undecided(list(categories.values()), macro),
        "not_asked": dict(Counter(row["fault"] for row in original_rows if row["fault"] is not None)),
        **_rates(original_rows),
        "categories": {name: _category(categories[name], accuracy) for name in sorted(categories)},
        "pass_at": {str(k): proportion(_pass_at(original_rows, k)).to_json() for k in _powers(samples)}
        if several
        else None,
        "majority": proportion({row["id"]: float(majority(row)) for row in original_rows}).to_json()
        if several
        else None,
    }


def compare_with(rows: Sequence[Row], other_rows: Sequence[Row]) -> dict:
    """Compares rows with another result's rows, on the questions that both were asked in original order, JSON-able.

    `first_only`, `second_only`, `p`: McNemar's test on the first response of each. `difference`: in accuracy over all
    samples, with its paired bootstrap interval. A question is shared if id and reference answer are equal; `only_here`
    and `only_there` count the others, and those that one of the two could not be asked.

    Raises InputError if no question is shared.
    """
    here, there = (
        {(row["id"], row["answer"]): row for row in _original_rows(result) if row["fault"] is None}
        for result in (rows, other_rows)
    )
    shared = here.keys() & there.keys()
    if not shared:
        raise InputError(
            f"the two results share none of their {len(here):,} and {len(there):,} questions: compare "
            "results on the same benchmark and snapshot"
        )
    test = statistics.mcnemar(
        *({key: fully_correct(row)[0] for key, row in result.items()} for result in (here, there))
    )
    accuracy, other_accuracy = (
        {key: float(np.mean(fully_correct(row))) for key, row in result.items()} for result in (here, there)
    )
    return {
        "questions": len(shared),
        "only_here": len(here) - len(shared),
        "only_there": len(there) - len(shared),
        "first_only": test.first,
        "second_only": test.second,
        "p": test.p,
        "difference": statistics.difference(accuracy, other_accuracy).to_json(),
    }


def pass_at(k: int, samples: int, correct: int) -> float:
    """Unbiased estimate of the probability that one of k responses is correct, from `correct` correct ones of `samples`
    (Chen et al. 2021, arXiv 2107.03374): the share of the subsets of size k that contain a correct one.

    >>> pass_at(1, 4, 1), pass_at(2, 4, 1), pass_at(4, 4, 1)
    (0.25, 0.5, 1.0)
    """
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(row: Row) -> bool:
    """Whether the majority vote over a row's responses is correct; ties go to the answer drawn first.

    Votes are equal if their meanings are, or without one their texts; a missing or empty answer is no vote.
    """
    votes = [
        meaning if meaning is not None else normalized(answer or "") or None
        for meaning, answer in zip(row["meaning"], row["extracted"])
    ]
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return False
    [(winner, _)] = counts.most_common(1)
    return fully_correct(row)[votes.index(winner)]


def _original_rows(rows: Sequence[Row]) -> list[Row]:
    """Each question in its original order, sorted by id, so that sums do not depend on the order of the rows."""
    return sorted((row for row in rows if row["role"] == "original"), key=lambda row: row["id"])


def _macro(groups: Sequence[Sequence[float]]) -> Estimate:
    mean = float(np.mean([np.mean(group) for group in groups])) if groups else math.nan
    return Estimate(mean, *statistics.stratified_bootstrap(groups), sum(map(len, groups)))


def _undecided(groups: Sequence[Sequence[Row]], macro: bool) -> dict | None:
    """How many responses are undecided, and the headline if these are all wrong, and all right."""
    if not macro:
        groups = [[row for group in groups for row in group]]
    marks = {row["id"]: row.get("undecided") or [False] * len(row["correct"]) for group in groups for row in group}
    if not (count := sum(map(sum, marks.values()))):
        return None

    def headline(undecided: float) -> float:
        def accuracy(row: Row) -> float:
            return float(np.mean(np.where(marks[row["id"]], undecided, fully_correct(row))))

        return float(np.mean([np.mean([accuracy(row) for row in group]) for group in groups]))

    return {"responses": count, "low": headline(0.0), "high": headline(1.0)}


def _rates(rows: Sequence[Row]) -> dict:
    asked = [row for row in rows if row["fault"] is None]
    lengths = [length for row in asked for length in row["lengths"]]
    failures = [answer is None for row in asked for answer in row["extracted"]]
    truncated = [bool(value) for row in asked for value in row["truncated"]]
    means = {
        name: float(np.mean(values)) if values else None
        for name, values in (("failures", failures), ("truncated", truncated), ("length", lengths))
    }
    return {"responses": len(lengths), **means}


def _category(rows: Sequence[Row], accuracy: Mapping[str, float]) -> dict:
    rates = _rates(rows)
    return {
        "questions": len(rows),
        "accuracy": proportion({row["id"]: accuracy[row["id"]] for row in rows}).to_json(),
        "failures": rates["failures"],
        "truncated": rates["truncated"],
    }


def _powers(samples: int) -> list[int]:
    return [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]


def _pass_at(rows: Sequence[Row], k: int) -> dict[str, float]:
    return {row["id"]: pass_at(k, len(row["correct"]), sum(fully_correct(row))) for row in rows}


# Text output


def markdown(result: Mapping) -> str:
    """The text of results.md, generated from a results.json."""
    measured = result["figures"]
    parts = [*_header(result), _headline(measured), summary_table(measured).markdown(), *_notes(measured)]
    if len(measured["categories"]) > 1:
        parts += ["## Categories", category_table(measured).markdown()]
    parts += consistency.markdown(result["consistency"]) + _comparison(result["against"])
    return "\n\n".join(parts) + "\n"


def summary_table(measured: Mapping) -> Table:
    """Accuracies and rates of a result's `figures`."""
    names = {"macro": "accuracy, mean over categories", "micro": "accuracy, all questions"}
    names = {key: names[key] for key in sorted(names, key=lambda key: key != measured["headline"])}
    rows = [[title, percent(Estimate.from_json(measured[key]))] for key, title in names.items()]
    if measured["credit"]:
        rows.append(["partial credit", percent(Estimate.from_json(measured["credit"]))])
    rows += [
        [f"pass@{k}", percent(Estimate.from_json(estimate))] for k, estimate in (measured["pass_at"] or {}).items()
    ]
    if measured["majority"]:
        rows.append(["majority vote", percent(Estimate.from_json(measured["majority"]))])
    length = "–" if measured["length"] is None else f"{measured['length']:,.1f}"
    rows += [
        ["no answer found, of responses", _share(measured["failures"])],
        ["truncated, of responses", _share(measured["truncated"])],
        ["mean response, tokens", length],
    ]
    return Table(["", f"{measured['questions']:,} questions"], rows)


def category_table(measured: Mapping) -> Table:
    """One row per category."""
    rows = []
    for name, category in measured["categories"].items():
        rows.append(
            [
                " ".join(name.split()) or "–",
                f"{category['questions']:,}",
                percent(Estimate.from_json(category["accuracy"])),
                _share(category["failures"]),
                _share(category["truncated"]),
            ]
        )
    return Table(["category", "questions", "accuracy", "no answer found", "truncated"], rows)


def _header(result: Mapping) -> list[str]:
    measured, judge = result["figures"], result["judge"]
    asked = measured["questions"] - sum(measured["not_asked"].values())
    settings = ", ".join(f"{name} {result['settings'][name]}" for name in SETTINGS if name in result["settings"])
    limited = result.get("limit") == result["rows"]  # reading ended there: how many more there are is not known
    of = f"the first {result['rows']:,} rows (--limit) of" if limited else f"{result['rows']:,} rows in"
    rows = f"{asked:,} questions asked of {of} the snapshot."
    if result["rejected"]:
        rows += f" Left out, and not counted: {counted(result['rejected'])}."
    if measured["not_asked"]:
        rows += f" Could not be asked, and count as wrong: {counted(measured['not_asked'])}."
    if result["partial"]:
        rows += " **Partial**: part of the benchmark, so not comparable with published figures."
    by = f"rules, then the judge {judge['model']}" if judge else "rules alone"
    return [
        f"# {result['benchmark']}, protocol {result['protocol']}",
        f"Model {result['model']['name']}, scored by {by}, {result['time']} ({settings}).",
        rows,
    ]


def _headline(measured: Mapping) -> str:
    what = {"macro": f"the mean over {len(measured['categories'])} categories", "micro": "over all questions"}
    accuracy = percent(Estimate.from_json(measured[measured["headline"]]))
    text = f"**Accuracy {accuracy}**: {what[measured['headline']]}, as the benchmark reports it."
    if undecided := measured.get("undecided"):
        low, high = (f"{100 * undecided[name]:.1f}%" for name in ("low", "high"))
        text += (
            f" {undecided['responses']:,} of {measured['responses']:,} responses can be read by a judge only "
            f"(`--judge`), and count as wrong: were they read, it would be between {low} and {high}."
        )
    return text


def _notes(measured: Mapping) -> list[str]:
    notes = [
        "In brackets 95% intervals on the number of questions: Wilson's, and for the mean over categories a "
        "bootstrap of the questions within each (10,000 resamples)."
    ]
    if measured["credit"]:
        notes[0] += " Accuracy counts a question as right if all its parts are; partial credit is the share of parts."
    if measured["pass_at"]:
        notes.append(
            f"A question's accuracy is the mean over its {measured['samples']:,} samples. pass@k: one of k "
            "samples is right, estimated without bias from all of them. Majority vote: the most frequent "
            "answer is right, of equally frequent ones that drawn first; no answer is no vote."
        )
    return notes


def _comparison(comparison: Mapping | None) -> list[str]:
    if not comparison:
        return []
    row = [
        f"{comparison['questions']:,}",
        f"{comparison['first_only']:,}",
        f"{comparison['second_only']:,}",
        p_value(comparison["p"]),
        points(Estimate.from_json(comparison["difference"])),
    ]
    header = ["questions of both", "right only here", "right only there", "McNemar's p", "difference, points"]
    name = comparison.get("name", "another result")
    return [
        f"## Against {name}",
        Table(header, [row]).markdown(),
        "McNemar's exact two-sided test, on the first response to each question. The difference in accuracy, here "
        "minus there, is over all samples, with a 95% bootstrap interval by question (10,000 paired resamples; not "
        f"separated: it holds 0). {comparison['only_here']:,} questions are only here, {comparison['only_there']:,} "
        "only there.",
    ]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"

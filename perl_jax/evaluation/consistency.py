"""Answer consistency under image permutation: the same questions in several orders, compared with a control.

Sampled answers vary from one draw to the next whatever the order. So each question is also asked equally often in its
original order: the effect of permuting is the difference to that control. The unit is the question, averaged over
replicates: replicate r is response r in each of its orders; for the control, response r and as many control responses
as there are further orders. Pure functions of scored rows.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from perl_jax.evaluation import statistics
from perl_jax.evaluation.statistics import Estimate, Table, bootstrapped, counted, percent, points

Row = Mapping[str, object]
Name = TypeVar("Name")

COMPARED = {
    "permuted": "permuted accuracy",
    "consistent": "consistent accuracy",
    "worst": "worst order",
    "flip": "flip rate",
}


class Question(NamedTuple):
    """The answers to one question. `O` orders, the original first; `S` replicates."""

    right: np.ndarray  # bool [O, S]
    meanings: Sequence[Sequence[str | None]]  # [O][S], mapped back to the original order
    places: Sequence[int | None]  # [O], of the image that decides the answer
    control: "Question | None"  # the original order in place of each order; None: not drawn


def consistency(rows: Sequence[Row], samples: int) -> dict | None:
    """Consistency figures of the questions asked in several orders, JSON-able; None if there are no such questions.

    Each is an `Estimate` over questions with its 95% bootstrap interval:

    - `accuracy`: in the original order; `permuted`: the mean over the other orders; `consistent`: correct in every
      order; `worst`: the accuracy over replicates in the order where it is lowest; `flip`: the answers to the orders
      do not all mean the same, where a missing answer is one more answer.
    - `control`: the same measures except `accuracy`, for the original order asked once per order. `drawn` is whether
      that was done; if not (greedy answers), the one answer is repeated, so `flip` is 0 by construction.
    - `difference`: permuted minus control, per question.
    - `places`: accuracy by the position, from 0, at which the decisive image was shown. `difference` is relative to the
      same question's mean over its orders, so that a position does not look bad because of hard questions; only over
      questions whose image was shown at several positions.

    Questions that could not be asked, or whose images must not move, are counted in `not_permuted`, by reason.
    """
    if not any(row["role"] == "permuted" for row in rows):
        return None
    questions, not_permuted = _questions(rows, samples)
    drawn = any(question.control for question in questions.values())
    permuted = {name: _measures(question) for name, question in questions.items()}
    control = {
        name: _measures(question.control or _repeated(question))
        for name, question in questions.items()
        if question.control or not drawn
    }
    values = {key: _column(permuted, key) for key in ("accuracy", *COMPARED)}
    control_values = {key: _column(control, key) for key in COMPARED}
    return {
        "questions": len(questions),
        "orders": sum(len(question.right) for question in questions.values()),
        "samples": samples,
        "not_permuted": dict(Counter(not_permuted.values())),
        **{key: bootstrapped(value).to_json() for key, value in values.items()},
        "control": {"drawn": drawn, **{key: bootstrapped(value).to_json() for key, value in control_values.items()}},
        "difference": {key: statistics.difference(values[key], control_values[key]).to_json() for key in COMPARED},
        "places": _places(questions),
    }


def by_question(rows: Sequence[Row], samples: int) -> dict[str, dict[tuple, float]]:
    """Value of each question asked in several orders, by measure (as in `consistency`) and by (id, reference answers in
    its orders). Keys of two results are equal exactly if both were asked the same."""
    questions, _ = _questions(rows, samples)
    answers: dict[str, list] = defaultdict(list)
    for row in rows:
        if row["role"] != "control":
            answers[row["id"]].append((tuple(row["order"]), row["answer"]))
    measured = {(name, *sorted(answers[name])): _measures(question) for name, question in questions.items()}
    return {key: _column(measured, key) for key in ("accuracy", *COMPARED)}


def fully_correct(row: Row) -> list[bool]:
    """Whether each response is fully correct, [D]; a benchmark may score the parts of a question."""
    return [value >= 1 for value in row["correct"]]


def _questions(rows: Sequence[Row], samples: int) -> tuple[dict[str, Question], dict[str, str]]:
    """The questions asked in several orders, and the reasons for the others."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["id"]):  # sums must not depend on the order of the rows
        groups[row["id"]].append(row)
    not_permuted = {name: reason for name, group in groups.items() if (reason := _why_not_permuted(group)) is not None}
    return {name: _question(group, samples) for name, group in groups.items() if name not in not_permuted}, not_permuted


def _why_not_permuted(group: Sequence[Row]) -> str | None:
    """Why a question's orders cannot be compared; None if they can."""
    fault = next((row["fault"] for row in group if row["fault"] is not None), None)
    if fault is not None or any(row["role"] == "permuted" for row in group):
        return fault
    return next((row["fixed"] for row in group if row["fixed"] is not None), "no reason given")


def _question(group: Sequence[Row], samples: int) -> Question:
    original = next(row for row in group if row["role"] == "original")
    rows = [original, *sorted((row for row in group if row["role"] == "permuted"), key=lambda row: row["order"])]
    control_row = next((row for row in group if row["role"] == "control"), None)
    matrix, meanings = np.array([fully_correct(row) for row in rows]), [row["meaning"] for row in rows]
    control = None
    if control_row is not None:
        control_correct = np.array(fully_correct(control_row)).reshape(samples, len(rows) - 1).T
        control_meanings = [control_row["meaning"][i :: len(rows) - 1] for i in range(len(rows) - 1)]
        control = Question(
            np.vstack([matrix[:1], control_correct]),
            [original["meaning"], *control_meanings],
            [original["place"]] * len(rows),
            None,
        )
    return Question(matrix, meanings, [row["place"] for row in rows], control)


def _repeated(question: Question) -> Question:
    """Repeats the answers to the original order in place of those to other orders."""
    count = len(question.right)
    first = np.repeat(question.right[:1], count, axis=0)
    return Question(first, question.meanings[:1] * count, question.places[:1] * count, None)


def _measures(question: Question) -> dict[str, float]:
    by_order = question.right.mean(1)
    return {
        "accuracy": float(by_order[0]),
        "permuted": float(by_order[1:].mean()),
        "consistent": float(question.right.all(0).mean()),
        "worst": float(by_order.min()),
        "flip": float(np.mean([len(set(replicate)) > 1 for replicate in zip(*question.meanings)])),
    }


def _column(measures: Mapping[Name, Mapping[str, float]], key: str) -> dict[Name, float]:
    return {name: values[key] for name, values in measures.items()}


def _places(questions: Mapping[str, Question]) -> list[dict]:
    """Accuracy by position, for each position at which some question's decisive image was shown."""
    at: dict[int, dict[str, float]] = defaultdict(dict)
    relative: dict[int, dict[str, float]] = defaultdict(dict)
    for name, question in questions.items():
        by_order, seen = question.right.mean(1), set(question.places) - {None}
        for place in seen:
            at[place][name] = float(by_order[[shown_at == place for shown_at in question.places]].mean())
            if len(seen) > 1:
                relative[place][name] = at[place][name] - float(by_order.mean())
    return [
        {
            "place": place,
            "accuracy": bootstrapped(at[place]).to_json(),
            "difference": bootstrapped(relative[place]).to_json(),
        }
        for place in sorted(at)
    ]


# Text output


def markdown(figures: Mapping[str, object] | None) -> list[str]:
    """The section of results.md, as paragraphs and tables; [] without figures."""
    if figures is None:
        return []
    not_permuted = f" Not moved: {counted(figures['not_permuted'])}." if figures["not_permuted"] else ""
    parts = [
        "## Consistency under permutation",
        f"{figures['questions']:,} questions were asked in {figures['orders']:,} orders, the original included, with "
        f"{figures['samples']:,} response{'s' * (figures['samples'] > 1)} to each.{not_permuted}",
        measures_table(figures).markdown(),
        *_notes(figures),
    ]
    if figures["places"]:
        parts += [
            places_table(figures).markdown(),
            "By the place of the one image that decides the answer, where there is one. The last column subtracts the "
            "same questions' mean over all their orders, for questions whose image was shown in several "
            "places: high places exist only in questions with many images, which may be harder.",
        ]
    return parts


def measures_table(figures: Mapping) -> Table:
    """Each measure in several orders, in the control, and their difference."""
    control_title = "original order, drawn again" if figures["control"]["drawn"] else "original order, repeated"
    rows = [
        [
            title,
            percent(Estimate.from_json(figures[key])),
            percent(Estimate.from_json(figures["control"][key])),
            points(Estimate.from_json(figures["difference"][key])),
        ]
        for key, title in COMPARED.items()
        if key != "worst" or figures["samples"] > 1  # else it is consistent accuracy
    ]
    accuracy_row = ["accuracy", percent(Estimate.from_json(figures["accuracy"])), "–", "–"]
    return Table(["", "several orders", control_title, "difference, points"], [accuracy_row, *rows])


def places_table(figures: Mapping) -> Table:
    """Accuracy by the position of the decisive image, counted from 1 as in the questions."""
    rows = []
    for place in figures["places"]:
        accuracy, difference = Estimate.from_json(place["accuracy"]), Estimate.from_json(place["difference"])
        rows.append(
            [
                str(place["place"] + 1),
                f"{accuracy.questions:,}",
                percent(accuracy),
                f"{difference.questions:,}",
                points(difference),
            ]
        )
    return Table(
        ["decisive image shown as image", "questions", "accuracy", "in several places", "minus their mean, points"],
        rows,
    )


def _notes(figures: Mapping) -> list[str]:
    worst = "Worst order: the share of right responses in the order where it is lowest. " * (figures["samples"] > 1)
    notes = [
        "Means over questions, with 95% bootstrap intervals by question (10,000 resamples; values that are all the "
        "same leave no width, which does not make them certain). Permuted accuracy: the mean over a question's other "
        f"orders. Consistent accuracy: right in every order. {worst}Flip rate: the answers, brought back to the "
        "question's original order, are not all the same, where no answer is one more answer (lower is better).",
        "Original order, drawn again: each question in its original order only, as often as it has orders; a model "
        "that minds no order differs from that by chance alone, so the difference is what permuting does. Not "
        "separated: its interval holds 0.",
    ]
    if not figures["control"]["drawn"]:
        notes[1] = (
            "Original order, repeated: the answers are greedy, so asking again would not change them; the flip "
            "rate there is 0 by construction, and the difference is what permuting does. Not separated: its "
            "interval holds 0."
        )
    return notes

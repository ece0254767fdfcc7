"""Wrong answers rewarded and right ones refused: `python -m benchmarks.grading` (a minute on one CPU core).

Reads the pairs of `grading_pairs.txt`, whose head says where they come from, and grades each response with
`answers.compare`, and with math-verify alone: both answers as LaTeX in a box, no question and no choices. Exits with 1
if ours rewards a wrong answer.
"""

import collections
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from perl_jax.answers import compare

FILE = Path(__file__).with_name("grading_pairs.txt")


class Pair(NamedTuple):
    gold: str
    response: str
    right: bool
    kind: str
    choices: tuple[str, ...]
    question: str
    source: str


def pairs(text: str) -> Iterator[Pair]:
    """The pairs of a text: "# source", "kind ¦ gold ¦ choices ¦ question", then right (+) and wrong (-) responses."""
    source = kind = gold = question = ""
    choices: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith("# "):
            source = line.removeprefix("# ")
        elif line.startswith(("  + ", "  - ")):
            for response in line[4:].split(" ¦ "):
                yield Pair(gold, response, line.startswith("  + "), kind, choices, question, source)
        elif line.strip() and not line.startswith("//"):
            kind, gold, *more = line.split(" ¦ ")
            choices = tuple(filter(None, more[0].split(" ; "))) if more else ()
            question = more[1] if len(more) > 1 else ""


def ours(pair: Pair) -> bool:
    record = {"answer": pair.gold, "kind": pair.kind, "choices": list(pair.choices), "question": pair.question}
    return compare.is_correct(record, pair.response)


def math_verify_alone(pair: Pair) -> bool:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    how = [math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()]
    gold, guess = (
        math_verify.parse(rf"\boxed{{{text}}}", how, parsing_timeout=None) for text in (pair.gold, pair.response)
    )
    return math_verify.verify(gold, guess, timeout_seconds=None)


def mistakes(every: Iterable[Pair], grade: Callable[[Pair], bool]) -> list[Pair]:
    """The pairs that a grader judges wrongly."""
    return [pair for pair in every if grade(pair) != pair.right]


def counts(wrongly: list[Pair]) -> dict[str, tuple[int, int]]:
    """{source: (wrong responses rewarded, right ones refused)} and their sum under ""."""
    rewarded, refused = (
        collections.Counter(source for pair in wrongly if pair.right == right for source in (pair.source, ""))
        for right in (False, True)
    )
    return {source: (rewarded[source], refused[source]) for source in {*rewarded, *refused, ""}}


def main() -> int:
    from benchmarks import workload

    every = list(pairs(FILE.read_text(encoding="utf-8")))
    ours_wrongly, alone_wrongly = (mistakes(every, grade) for grade in (ours, math_verify_alone))
    ours_counts, alone_counts = counts(ours_wrongly), counts(alone_wrongly)
    table = []
    for source in [*dict.fromkeys(pair.source for pair in every), ""]:
        rights = [pair.right for pair in every if source in (pair.source, "")]
        here, there = ours_counts.get(source, (0, 0)), alone_counts.get(source, (0, 0))
        sizes = (str(rights.count(False)), str(rights.count(True)))
        table.append((source or "all", *sizes, *(str(each[index]) for index in (0, 1) for each in (here, there))))
    columns = ("kind of case", "wrong", "right", "wrong rewarded: ours", "math-verify", "right refused: ours")
    workload.table((*columns, "math-verify "), table)
    for pair in ours_wrongly:
        print(f"{'refused' if pair.right else 'REWARDED'}: {pair.response} for {pair.gold} ({pair.kind})")
    (rewarded, refused), alone = ours_counts[""], alone_counts[""]
    workload.conclude(
        f"of {len(every)} pairs, {rewarded} wrong answers rewarded and {refused} right ones refused "
        f"(math-verify alone: {alone[0]} and {alone[1]})"
    )
    return int(rewarded > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Scores responses by a benchmark's rules, in killable worker processes, then by its judge if it has one.

Rules may hang on a hostile response (a tower of powers), so they run in `pebble`'s pool as rewards do. A question whose
responses time out is scored again one response at a time, and the one that hangs counts as wrong, without an answer. A
worker imports this module and the benchmark, and no JAX.
"""

import logging
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from models.errors import one_line
from perl_jax import benchmarks, grading
from perl_jax.benchmarks import Score
from perl_jax.evaluation import orders
from perl_jax.evaluation.orders import OrderedQuestion
from perl_jax.runtime.chat_endpoint import Endpoint, Failure

if TYPE_CHECKING:
    from perl_jax.evaluation.responses import Responses

logger = logging.getLogger(__name__)

MEMORY = 2 << 30  # bytes per worker
TIMEOUT = 20.0  # seconds for all responses to one question, and then for a single one


class ScoredResponse(NamedTuple):
    """The rules' result for one response."""

    correct: float
    extracted: str | None
    meaning: str | None  # the answer mapped to the question's original order
    judge: list[dict] | None = None  # messages for a judge; None: the rules have decided, or there is no judge


NOTHING = ScoredResponse(0.0, None, None)


def score_responses(
    name: str, protocol: str, answered: Sequence["Responses"], workers: int
) -> list[list[ScoredResponse]]:
    """Scores each response by the rules of a benchmark. The processes of a run share the work."""
    from perl_jax.runtime import processes  # imported here because workers must not import JAX

    mine = [n for n in range(len(answered)) if processes.owns(n)]
    tasks = [(name, protocol, _light(answered[n].asked), list(answered[n].texts)) for n in mine]
    every = {}
    for part in processes.exchange([[n, each] for n, each in zip(mine, _scored(tasks, workers))]):
        every |= {n: [ScoredResponse(*one) for one in each] for n, each in part}
    return [every[n] for n in range(len(answered))]


def _light(asked: OrderedQuestion) -> OrderedQuestion:
    """Without the image readers, which a worker does not need."""
    return asked._replace(item=asked.item._replace(row=asked.item.row._replace(images=[None] * len(asked.order))))


def _scored(tasks: Sequence[tuple], workers: int, again: bool = True) -> list[list[ScoredResponse]]:
    if not tasks:
        return []
    try:
        with grading.pool(workers, _prepare, tasks[0][0]) as pool:
            return _outcomes(pool, tasks)
    except RuntimeError:  # the pool itself breaks if a worker dies between two tasks; retried once
        if not again:
            raise
        return _scored(tasks, workers, again=False)


def _outcomes(pool, tasks: Sequence[tuple]) -> list[list[ScoredResponse]]:
    """Each task's result; for one that hung or killed its worker, each response is scored separately."""
    futures = [pool.schedule(score, task, timeout=TIMEOUT) for task in tasks]
    done = [grading.outcome(future) for future in futures]
    lost = [
        (*task[:-1], [text])
        for task, found in zip(tasks, done)
        if isinstance(found, Exception)
        for text in task[-1]
        if len(task[-1]) > 1
    ]
    alone = iter(_outcomes(pool, lost) if lost else ())
    out = []
    for (_, _, asked, texts), found in zip(tasks, done):
        if not isinstance(found, Exception):
            out.append([_settled(asked, one) for one in found])
        elif len(texts) > 1:
            out.append([one for _ in texts for one in next(alone)])
        else:
            out.append([_settled(asked, type(found).__name__)])
    return out


def _settled(asked: OrderedQuestion, found: ScoredResponse | str) -> ScoredResponse:
    """The result; an error message is logged and counts as wrong."""
    if isinstance(found, str):
        logger.warning("question %r: a response could not be scored (%s); counted as wrong", asked.item.row.id, found)
        return NOTHING
    return found


def _prepare(name: str) -> None:
    grading.limit(MEMORY)
    benchmarks.find(name)  # imported before the first question's time limit starts


def score(name: str, protocol: str, asked: OrderedQuestion, texts: Sequence[str]) -> list[ScoredResponse | str]:
    """Runs in a worker: scores the responses to a question, or returns error messages; may hang on hostile input."""
    benchmark = benchmarks.find(name)
    ask = getattr(benchmark, "judge_messages", None) if protocol == "official" else None
    return [_checked(benchmark, protocol, ask, asked, text) for text in texts]


def _checked(benchmark: ModuleType, protocol: str, ask, asked: OrderedQuestion, text: str) -> ScoredResponse | str:
    try:
        found = benchmark.score(asked.item, text, protocol)
        return _with_meaning(asked, found, ask(asked.item, text) if ask and found.extracted is None else None)
    except Exception as error:  # any exception of rules or formula parser costs one response, not the run
        return one_line(error, kind=True)


def _with_meaning(asked: OrderedQuestion, score: Score, judge: list[dict] | None = None) -> ScoredResponse:
    return ScoredResponse(
        score.correct, score.extracted, orders.meaning(asked, score.extracted, score.correct >= 1), judge
    )


class Judged(NamedTuple):
    """Statistics of the judge requests."""

    asked: int
    failed: int  # requests without a reply; as with an unusable reply, the response counts as wrong, without an answer


def judge(
    benchmark: ModuleType,
    endpoint: Endpoint,
    answered: Sequence["Responses"],
    found: Sequence[Sequence[ScoredResponse]],
) -> tuple[list[list[ScoredResponse]], Judged]:
    """Returns `found` with the judge's decisions where the rules could not decide, and the number of requests.

    Args:
        benchmark: one with `judge_messages` and `judged`.
        endpoint: the judge; queried greedily.
        answered: the responses, as for `score_responses`.
        found: the rules' results for these.
    """
    from perl_jax.runtime import logs

    wanted = [(n, d) for n, each in enumerate(found) for d, one in enumerate(each) if one.judge]
    out, failed = [list(each) for each in found], 0

    def ask(place: tuple[int, int]) -> str:
        n, d = place
        return endpoint.ask(found[n][d].judge, temperature=0.0)

    with logs.progress(Console(stderr=True), "response to judge", len(wanted)) as add:
        for (n, d), reply in endpoint.each(wanted, ask):
            if isinstance(reply, Failure):
                failed += 1
            else:
                asked, texts = answered[n].asked, answered[n].texts
                out[n][d] = _with_meaning(asked, benchmark.judged(asked.item, texts[d], reply))
            add(1)
    return out, Judged(len(wanted), failed)

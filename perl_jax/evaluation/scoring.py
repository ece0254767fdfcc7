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
    name: str, protocol: str, responses: Sequence["Responses"], workers: int
) -> list[list[ScoredResponse]]:
    """Scores each response by the rules of a benchmark. The processes of a run share the work."""
    from perl_jax.runtime import processes  # imported here because workers must not import JAX

    mine = [n for n in range(len(responses)) if processes.is_mine(n)]
    tasks = [(name, protocol, _without_images(responses[n].question), list(responses[n].texts)) for n in mine]
    scores = {}
    for part in processes.exchange([[n, results] for n, results in zip(mine, _scored(tasks, workers))]):
        scores |= {n: [ScoredResponse(*result) for result in results] for n, results in part}
    return [scores[n] for n in range(len(responses))]


def _without_images(question: OrderedQuestion) -> OrderedQuestion:
    """Without the image readers, which a worker does not need."""
    return question._replace(
        item=question.item._replace(row=question.item.row._replace(images=[None] * len(question.order)))
    )


def _scored(tasks: Sequence[tuple], workers: int, retry: bool = True) -> list[list[ScoredResponse]]:
    if not tasks:
        return []
    try:
        with grading.pool(workers, _prepare, tasks[0][0]) as pool:
            return _outcomes(pool, tasks)
    except RuntimeError:  # the pool itself breaks if a worker dies between two tasks; retried once
        if not retry:
            raise
        return _scored(tasks, workers, retry=False)


def _outcomes(pool, tasks: Sequence[tuple]) -> list[list[ScoredResponse]]:
    """Each task's result; for one that hung or killed its worker, each response is scored separately."""
    futures = [pool.schedule(score, task, timeout=TIMEOUT) for task in tasks]
    done = [grading.outcome(pool, future) for future in futures]
    lost = [
        (*task[:-1], [text])
        for task, results in zip(tasks, done)
        if isinstance(results, Exception)
        for text in task[-1]
        if len(task[-1]) > 1
    ]
    separate = iter(_outcomes(pool, lost) if lost else ())
    outcomes = []
    for (_, _, question, texts), results in zip(tasks, done):
        if not isinstance(results, Exception):
            outcomes.append([_logged(question, result) for result in results])
        elif len(texts) > 1:
            outcomes.append([result for _ in texts for result in next(separate)])
        else:
            outcomes.append([_logged(question, type(results).__name__)])
    return outcomes


def _logged(question: OrderedQuestion, result: ScoredResponse | str) -> ScoredResponse:
    """The result; an error message is logged and counts as wrong."""
    if isinstance(result, str):
        logger.warning(
            "question %r: a response could not be scored (%s); counted as wrong", question.item.row.id, result
        )
        return NOTHING
    return result


def _prepare(name: str) -> None:
    grading.limit(MEMORY)
    benchmarks.find(name)  # imported before the first question's time limit starts


def score(name: str, protocol: str, question: OrderedQuestion, texts: Sequence[str]) -> list[ScoredResponse | str]:
    """Runs in a worker: scores the responses to a question, or returns error messages; may hang on hostile input."""
    benchmark = benchmarks.find(name)
    ask = getattr(benchmark, "judge_messages", None) if protocol == "official" else None
    return [_score_one(benchmark, protocol, ask, question, text) for text in texts]


def _score_one(benchmark: ModuleType, protocol: str, ask, question: OrderedQuestion, text: str) -> ScoredResponse | str:
    try:
        result = benchmark.score(question.item, text, protocol)
        return _with_meaning(question, result, ask(question.item, text) if ask and result.extracted is None else None)
    except Exception as error:  # any exception of rules or formula parser costs one response, not the run
        return one_line(error, kind=True)


def _with_meaning(question: OrderedQuestion, score: Score, judge: list[dict] | None = None) -> ScoredResponse:
    return ScoredResponse(
        score.correct, score.extracted, orders.meaning(question, score.extracted, score.correct >= 1), judge
    )


class JudgeStatistics(NamedTuple):
    """Statistics of the judge requests."""

    asked: int  # requests
    failed: int  # requests without a reply; as with an unusable reply, the response counts as wrong, without an answer


def judge(
    benchmark: ModuleType,
    endpoint: Endpoint,
    responses: Sequence["Responses"],
    scores: Sequence[Sequence[ScoredResponse]],
) -> tuple[list[list[ScoredResponse]], JudgeStatistics]:
    """Returns `scores` with the judge's decisions where the rules could not decide, and the number of requests.

    Args:
        benchmark: one with `judge_messages` and `judged`.
        endpoint: the judge; queried greedily.
        responses: the responses, as for `score_responses`.
        scores: the rules' results for these.
    """
    from perl_jax.runtime import logs

    undecided = [(n, d) for n, results in enumerate(scores) for d, result in enumerate(results) if result.judge]
    decided, failed = [list(results) for results in scores], 0

    def ask(place: tuple[int, int]) -> str:
        n, d = place
        return endpoint.ask(scores[n][d].judge, temperature=0.0)

    with logs.progress(Console(stderr=True), "response to judge", len(undecided)) as add:
        for (n, d), reply in endpoint.each(undecided, ask):
            if isinstance(reply, Failure):
                failed += 1
            else:
                question, texts = responses[n].question, responses[n].texts
                decided[n][d] = _with_meaning(question, benchmark.judged(question.item, texts[d], reply))
            add(1)
    return decided, JudgeStatistics(len(undecided), failed)

"""Scoring in processes: a hostile response costs only itself, and a judge is asked about what rules leave."""

import json
import logging
import sys
import threading

import pytest
from fake_endpoint import FakeEndpoint, Reply, last_text
from public_files import jsonl, png

from perl_jax import grading
from perl_jax.benchmarks import Item, mathverse, mathvista, mv_math
from perl_jax.data import Row
from perl_jax.evaluation import orders, scoring
from perl_jax.evaluation.responses import Responses
from perl_jax.evaluation.scoring import NOTHING, JudgeStatistics, ScoredResponse
from perl_jax.runtime import processes
from perl_jax.runtime.chat_endpoint import Endpoint

RULES = """
import os, sys
from perl_jax.benchmarks import Score, records
from perl_jax.evaluation import scoring

rules = records.score

def hostile(item, text, protocol):
    if text == "hang":
        while True:
            pass
    if text == "die":
        os._exit(7)
    if text == "memory":
        len(bytearray(3 << 30))
    return Score(0.0, str("jax" in sys.modules)) if text == "jax" else rules(item, text, protocol)

def score(*task):
    records.score = hostile
    return scoring.score(*task)
"""
B, A = r"<think>A?</think>\boxed{B}", r"\boxed{A}"


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Texts that hang, die, need too much memory; they are given a second."""
    (tmp_path / "hostile_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    import hostile_rules

    monkeypatch.setattr(scoring, "score", hostile_rules.score)
    monkeypatch.setattr(scoring, "TIMEOUT", 1.0)
    yield
    del sys.modules["hostile_rules"]


def question(name="q", answer="B", choices=("a cat", "a dog"), kind="choice", count=2) -> Item:
    images = [lambda: png()] * count  # cannot be sent to a process
    row = Row(name, images, "Which?", answer, "mine", choices=list(choices), kind=kind)
    return Item(row, "", {"task": "Isomorphism"})


def answered(*texts: str, item: Item | None = None) -> list[Responses]:
    """One response to each of as many questions."""
    items = [item or question(f"q{n}") for n in range(len(texts))]
    questions = [orders.in_orders(item, 0, 0)[0] for item in items]
    return [Responses(each, "original", [text], [1], [False], None) for each, text in zip(questions, texts)]


def several(*texts: str) -> Responses:
    (one,) = answered("")
    return one._replace(texts=list(texts))


def test_each_response_in_its_place_whatever_the_workers(hostile):
    right = [[(n + d) % 3 > 0 for d in range(n % 4)] for n in range(30)]
    expected = [[ScoredResponse(float(one), "B" if one else "A", None) for one in each] for each in right]
    rows = [several(*(B if one else A for one in each)) for each in right]
    for workers in (1, 3):
        assert scoring.score_responses("records", "boxed", rows, workers) == expected
    assert scoring.score_responses("records", "boxed", [], 2) == []


def test_workers_have_no_jax(hostile):
    assert "jax" in sys.modules
    assert scoring.score_responses("records", "boxed", answered("jax"), 1)[0][0].extracted == "False"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"), [("hang", "TimeoutError"), ("die", "ProcessExpired"), ("memory", "MemoryError")]
)
def test_the_culprit_counts_as_wrong_is_named_and_leaves_its_neighbours(hostile, caplog, text, why):
    rows = [several(A, B), several(B, text, A, B), several(B)]
    rows[1] = rows[1]._replace(question=orders.in_orders(question("bad"), 0, 0)[0])
    with caplog.at_level(logging.WARNING):
        scores = scoring.score_responses("records", "boxed", rows, 2)
    assert [[one.correct for one in each] for each in scores] == [[0, 1], [1, 0, 0, 1], [1]]
    assert scores[1][1] == NOTHING and scores[1][2] == ScoredResponse(0.0, "A", None)
    assert caplog.text.count("could not be scored") == 1 and "'bad'" in caplog.text and why in caplog.text


@pytest.mark.slow
def test_several_that_hang_are_scored_side_by_side(hostile, monkeypatch):
    together, outcomes = [], scoring._outcomes
    monkeypatch.setattr(
        scoring, "_outcomes", lambda pool, tasks: (together.append(len(tasks)), outcomes(pool, tasks))[1]
    )
    scores = scoring.score_responses("records", "boxed", [several("hang", B, "hang", B)], 4)
    assert [one.correct for one in scores[0]] == [0, 1, 0, 1]
    assert together == [1, 4], "the question, then each of its responses alone"


def test_a_pool_that_breaks_is_started_again_once(monkeypatch):
    started, begin = [], grading.pool
    broken = {1}

    def pool(*arguments):
        started.append(arguments)
        if len(started) in broken:
            raise RuntimeError("Unexpected error within the Pool")
        return begin(*arguments)

    monkeypatch.setattr(grading, "pool", pool)
    assert scoring.score_responses("records", "boxed", answered(B), 1)[0][0].correct == 1 and len(started) == 2
    broken |= {3, 4}
    with pytest.raises(RuntimeError, match="within the Pool"):
        scoring.score_responses("records", "boxed", answered(B), 1)


HOSTILE = [
    r"9^{9^{9^{9}}}",
    "(" * 3000,
    r"\frac" * 500,
    "9" * 20_000,
    r"\sqrt" * 300,
    "1e999999999",
    "\ud800",
    "\x00",
    r"10^{10^{10}}",
    "x" * 300_000,
    "{image:7}",
    r"\sum_{n=1}^{10^{12}} \frac{1}{n}",
]


@pytest.mark.slow
def test_what_models_may_write(monkeypatch):
    monkeypatch.setattr(scoring, "TIMEOUT", 3.0)
    number = question("n", "12", (), "number")
    texts = [text for hostile in HOSTILE for text in (rf"\boxed{{{hostile}}}", r"\boxed{12.0}")]
    for name in ("records", "remi"):
        scores = scoring.score_responses(name, "boxed", answered(*texts, item=number._replace(category="GeomShape")), 2)
        assert [one.correct for (one,) in scores] == [0.0, 1.0] * len(HOSTILE)


def test_meanings_of_hostile_answers():
    """What an answer means is found where the rules run, and takes no time for a long one."""
    item = Item(Row("m", [None] * 3, "Which image is older?", "image 2", "mine", kind="text"), "", {})
    _, each, *_ = orders.in_orders(item, 3, 0)
    texts = [rf"\boxed{{{text}}}" for text in (*HOSTILE, each.item.row.answer, "image " * 30_000)]
    (scores,) = scoring.score_responses("records", "boxed", [several(*texts)._replace(question=each)], 1)
    assert [one.correct for one in scores] == [0.0] * len(HOSTILE) + [1.0, 0.0]
    assert scores[-2].meaning == "image 2" and all(one.meaning is not None for one in scores if one.extracted)


def test_processes_share_the_questions(monkeypatch):
    """What two processes score is together what one does, and neither scores what the other has."""
    rows = answered(*[B, A, "no box", B, A])
    full = scoring.score_responses("records", "boxed", rows, 1)
    shares, done = [], []
    for index in range(2):
        monkeypatch.setattr(processes, "is_mine", lambda number, index=index: number % 2 == index)
        monkeypatch.setattr(processes, "exchange", lambda value: shares.append(value) or [value])
        with pytest.raises(KeyError):  # the other one's are missing
            scoring.score_responses("records", "boxed", rows, 1)
        done += [n for n, _ in shares[-1]]
    assert sorted(done) == list(range(5)) and [n for n, _ in shares[0]] == [0, 2, 4]
    monkeypatch.setattr(processes, "exchange", lambda value: shares)
    assert scoring.score_responses("records", "boxed", rows, 1) == full


# The judge


def loaded(benchmark, folder) -> Item:
    row = dict(benchmark.EXAMPLE["row"])
    if benchmark is mv_math:
        (folder / "MV-MATH.json").write_text(json.dumps([row]))
    else:
        jsonl(folder / "testmini.jsonl", row)
    (item,) = benchmark.load(str(folder), allow_partial=True)
    return item


def client(server, folder, **options):
    return Endpoint(server.url, "judge", str(folder / "judge.jsonl"), **{"timeout": 5, "retries": 0, **options})


UNDECIDED = "Let me see. They are each of them very much alike, and so it remains an open question to me"
CASES = [  # (benchmark, its name, a response that rules decide, the judge's good, bad and useless replies)
    (mathvista, "mathvista", "14", "14", "15", "many"),
    (mathverse, "mathverse", "D", "1", "Judgement: 0", "2"),
    (mv_math, "mv_math", "Answer: {B}", "true", "False.", "Well,"),
]


@pytest.mark.parametrize(("benchmark", "name", "decided", "good", "bad", "useless"), CASES)
def test_a_judge_is_asked_what_rules_leave_and_never_twice(tmp_path, benchmark, name, decided, good, bad, useless):
    item = loaded(benchmark, tmp_path)
    replies = {"pears": good, "plums": bad, "limes": useless}
    undecided = [f"{UNDECIDED}, as with {fruit}" for fruit in replies]
    rows = answered(decided, *undecided, "", item=item)
    scores = [scoring.score(name, "official", row.question, row.texts) for row in rows]
    assert [bool(one.judge) for (one,) in scores] == [False, True, True, True, False]

    with FakeEndpoint(
        lambda request: next(replies[fruit] for fruit in replies if fruit in last_text(request))
    ) as server:
        with client(server, tmp_path) as endpoint:
            scored, judged = scoring.judge(benchmark, endpoint, rows, scores)
        assert [one.correct for (one,) in scored] == [1, 1, 0, 0, 0] and judged == JudgeStatistics(3, 0)
        assert len(server.requests) == 3 and {request["temperature"] for request in server.requests} == {0.0}
        assert scored[0] == scores[0] and scored[3][0].extracted is None and scored[1][0].extracted is not None
    with FakeEndpoint(lambda request: Reply(500)) as silent, client(silent, tmp_path) as endpoint:
        assert scoring.judge(benchmark, endpoint, rows, scores) == (scored, judged) and silent.requests == []


def test_a_judge_that_fails_counts_and_leaves_the_others(tmp_path):
    def reply(request):
        text = last_text(request)
        if "slow" in text:
            asked_all.wait(60)
        return Reply(500) if "broken" in text else Reply(body="rubbish") if "rubbish" in text else "true"

    item, asked_all = loaded(mv_math, tmp_path), threading.Event()
    texts = [f"{UNDECIDED}, {word}." for word in ("slow", "broken", "rubbish", "fine")]
    rows = answered("Answer: {A}", *texts, item=item)
    scores = scoring.score_responses("mv_math", "official", rows, 1)  # its questions come back from a process
    with FakeEndpoint(reply) as server, client(server, tmp_path, timeout=2.0) as endpoint:
        scored, judged = scoring.judge(mv_math, endpoint, rows, scores)
        asked_all.set()
    assert [one.correct for (one,) in scored] == [0, 0, 0, 0, 1] and judged == JudgeStatistics(4, 3)
    assert [one.extracted for (one,) in scored] == ["A", None, None, None, "true"]
    with FakeEndpoint(lambda request: "true") as server, client(server, tmp_path) as endpoint:
        assert scoring.judge(mv_math, endpoint, rows, scores)[1] == JudgeStatistics(4, 0)
        assert len(server.requests) == 3, "what failed is asked again, and nothing else"


def test_a_judge_is_for_the_official_protocol_alone(tmp_path):
    (each,) = answered("", item=loaded(mathverse, tmp_path))
    for protocol, asks in (("boxed", False), ("official", True)):
        (scores,) = scoring.score("mathverse", protocol, each.question, [UNDECIDED])
        assert bool(scores.judge) == asks and (scores.correct, scores.extracted) == (0, None)

"""Grading in processes: whatever one response does to the reward, the others are graded and the run goes on."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest
from environment import REPOSITORY

from models.errors import InputError
from perl_jax.grading import Grader

REWARD = """
import os, sys, time

def score(record, text):
    if text == "hang":
        while True:
            pass
    if text == "power":
        return 10 ** (10 ** 10)  # one C call, deaf to signals
    if text == "die":
        os._exit(7)
    if text == "raise":
        raise KeyError("two\\nlines")
    if text == "memory":
        return len(bytearray(3 << 30))
    if text == "many":
        return {"reward": 1.0} | {f"part {number}": 1.0 for number in range(99)}
    return {"nan": float("nan"), "inf": {"reward": float("inf")}, "huge": -1e39, "large": 1e30, "integer": 10**400,
            "word": "good", "parts": {"accuracy": 1.0},
            "none": None}.get(text, {"reward": 1.0, "length": len(text)})

def named(record, text):
    return {"reward": 1.0, text: 0.0}

def plain(record, text):
    return len(text) / 2

def slow(record, text):
    import pathlib, uuid
    (pathlib.Path(__file__).parent / "slow" / uuid.uuid4().hex).touch()
    time.sleep(60)

def picky(record, text):
    return {"reward": 1.0, "length": record["mine"]}

calls = 0

def seen(record, text):
    global calls
    calls += 1
    return {"reward": float(sorted(record) == ["answer", "id"]), "jax": float("jax" in sys.modules), "calls": calls}
"""
RECORD = {"id": "q1", "answer": "1", "images": [b"bytes", object()]}


@pytest.fixture(scope="module", autouse=True)
def user_module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_reward.py").write_text(REWARD)
    sys.path.insert(0, str(folder))
    (folder / "slow").mkdir()
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def grader():
    with Grader("my_reward:score", workers=2, timeout=1.0) as grader:
        yield grader


def test_the_culprit_gets_zero_and_is_named_and_the_rest_is_graded(grader, caplog):
    texts = [f"text {i}" for i in range(20)]
    texts[3], texts[11] = "hang", "die"
    pairs = [({**RECORD, "id": f"q{i}"}, text) for i, text in enumerate(texts)]
    before = grader.timeouts, grader.crashes
    with caplog.at_level(logging.WARNING):
        graded = grader.grade(pairs)
    assert [score["reward"] for score in graded] == [0.0 if i in (3, 11) else 1.0 for i in range(20)]
    assert graded[3] == {"reward": 0.0, "length": 0.0} and graded[4]["length"] == len("text 4")
    assert (grader.timeouts - before[0], grader.crashes - before[1]) == (1, 1)
    assert all(words in caplog.text for words in ("'q3'", "'q11'", "exit code 7")) and "'q4'" not in caplog.text


def test_a_call_deaf_to_signals_is_killed(grader):
    before = grader.timeouts
    assert grader.grade([(RECORD, "power"), (RECORD, "ok")])[1]["reward"] == 1.0
    assert grader.timeouts + grader.errors > before


def test_failures_inside_a_reward(caplog):
    texts = ["raise", "nan", "inf", "word", "parts", "none", "memory", "fine"]
    with Grader("my_reward:score", workers=1) as grader, caplog.at_level(logging.WARNING):
        graded = grader.grade([(RECORD, text) for text in texts])
        assert [score["reward"] for score in graded] == [0.0] * 7 + [1.0]
        assert (grader.errors, grader.timeouts, grader.crashes) == (7, 0, 0)
    kinds = ["KeyError", "not finite", "ValueError", "without 'reward'", "TypeError", "MemoryError"]  # once each
    assert sorted(kind for line in caplog.records for kind in kinds if kind in line.getMessage()) == sorted(kinds)
    assert len(caplog.records) == len(kinds) and caplog.text.count("'q1'") == len(kinds)
    assert "(my_reward.py:13)" in caplog.text, "where in the reward"


def test_values_that_no_float32_holds_and_endless_parts(caplog):
    with Grader("my_reward:score", workers=1) as grader, caplog.at_level(logging.WARNING):
        scores = grader.grade([(RECORD, text) for text in ("huge", "integer", "many", "large", "fine")])
        assert [score["reward"] for score in scores] == [0.0, 0.0, 0.0, 0.0, 1.0] and grader.errors == 4
    assert "not finite as float32" in caplog.text and "100 parts, more than 64" in caplog.text
    line = "record 'q1': reward 'my_reward:score' returned {'reward': 1e+30}, beyond 1e+15: too large to learn from"
    assert line in caplog.text
    with Grader("my_reward:plain", workers=1) as grader:  # no part to weigh
        assert grader.grade([(RECORD, "four")]) == [{"reward": 2.0}]
    heavy = Grader("my_reward:score", workers=1, weights={"length": 3e38})
    with heavy as grader, pytest.raises(InputError, match="no float32"):
        grader.grade([(RECORD, "a long text")])


def test_the_names_of_parts_are_bounded_over_all_responses():
    with Grader("my_reward:named", workers=1) as grader:
        assert all(score["reward"] == 1.0 for score in grader.grade([(RECORD, f"part {i}") for i in range(40)]))
        with pytest.raises(InputError, match=r"has 81 parts.*it must give each response the same parts"):
            grader.grade([(RECORD, f"part {i}") for i in range(80)])


@pytest.mark.slow
def test_each_different_error_is_warned_once(caplog):
    texts = ["raise", "word", "die", "hang"]
    with Grader("my_reward:score", workers=2, timeout=0.5) as grader, caplog.at_level(logging.WARNING):
        for turn in range(2):
            grader.grade([({**RECORD, "id": f"{text} {turn} {i}"}, text) for text in texts for i in range(2)])
        assert grader.failed == grader.errors + grader.crashes + grader.timeouts == 16
    assert len(caplog.records) == 4
    for words in ("KeyError", "ValueError", "exit code 7", "took more than 0.5 s"):
        assert sum(words in line.getMessage() for line in caplog.records) == 1


@pytest.mark.parametrize(
    ("bad", "good", "share", "words"),
    [  # of a first batch, and the largest share that may fail
        (4, 0, 1.0, "record 'raise 0'.*KeyError.*; so or alike on all 4 responses: mend the reward"),
        (4, 0, 0.5, "so or alike on all 4 responses, more than config.grading.max_failed = 0.5 allows"),
        (3, 1, 0.5, "record 'raise 0': reward 'my_reward:score' failed: .* on 3 of 4 responses"),
        (1, 9, 0.0, "on 1 of 10 responses, more than config.grading.max_failed = 0 allows"),
        (2, 2, 0.5, None),
        (3, 1, 1.0, None),
        (4, 0, None, None),
        (0, 4, 0.0, None),
    ],
)
def test_a_reward_that_fails_too_often_stops_the_run(bad, good, share, words):
    texts = ["raise"] * bad + ["fine"] * good
    pairs = [({**RECORD, "id": f"{text} {number}"}, text) for number, text in enumerate(texts)]
    with Grader("my_reward:score", workers=1, max_failed=share) as grader:
        if words is None:
            assert sum(score["reward"] for score in grader.grade(pairs)) == good
            return
        with pytest.raises(InputError, match=words) as error:
            grader.grade(pairs)
        assert "\n" not in str(error.value)


def test_all_of_a_later_batch_may_fail_where_the_share_allows_it():
    with Grader("my_reward:score", workers=1, max_failed=1.0) as grader:
        grader.grade([])
        grader.grade([(RECORD, "fine")])
        assert grader.grade([(RECORD, "raise")])[0]["reward"] == 0.0


@pytest.mark.slow
def test_a_reward_that_is_always_too_slow_is_not_awaited_for_each_response(user_module):
    texts = ["hang" + " " * number for number in range(200)]
    words = r"took more than 0.2 s \(config.grading.timeout\).* on all 200 responses"
    slow = Grader("my_reward:slow", workers=2, timeout=0.2, max_failed=0.5)
    with slow as grader, pytest.raises(InputError, match=words):
        grader.grade([(RECORD, text) for text in texts])
    assert len(list((user_module / "slow").iterdir())) < 40, "calls of the reward"


def test_a_signal_that_ends_a_run_costs_no_reward():
    with Grader("my_reward:plain", workers=2) as grader:
        assert grader.grade([(RECORD, "x")]) == [{"reward": 0.5}]
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, number)
        assert grader.grade((RECORD, "x" * i) for i in range(2, 4)) == [{"reward": 1.0}, {"reward": 1.5}]
        assert not grader.failed


def test_a_float_is_the_reward_and_order_and_length_are_kept():
    with Grader("my_reward:plain", workers=2) as grader:
        graded = grader.grade((RECORD, "x" * (i % 7)) for i in range(100))
        assert graded == [{"reward": (i % 7) / 2} for i in range(100)]
        assert grader.grade([]) == []


def test_workers_see_no_images_no_jax_and_each_pair_once():
    import jax  # noqa: F401  (the parent has it, as a trainer has)

    other = {**RECORD, "answer": "2"}
    with Grader("my_reward:seen", workers=1) as grader:
        graded = grader.grade([(RECORD, "a"), (dict(RECORD), "a"), (other, "a")])
    assert all(score["reward"] == 1.0 and score["jax"] == 0.0 for score in graded)
    assert graded[0]["calls"] == graded[1]["calls"] != graded[2]["calls"], "equal pairs are scored once"


def test_a_worker_lost_between_two_calls_is_replaced(grader):
    worker = multiprocessing.active_children()[0]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert grader.grade([(RECORD, "ok")])[0]["reward"] == 1.0


@pytest.mark.slow
def test_a_step_has_a_time_limit(caplog):
    """What is unfinished then counts as failed; the next step begins anew."""
    pairs = [({**RECORD, "id": f"q{i}"}, text) for i, text in enumerate(["fine", *["hang"] * 9])]
    limits = {"workers": 1, "timeout": 99.0, "step_timeout": 0.5}
    with Grader("my_reward:score", **limits) as grader, caplog.at_level(logging.WARNING):
        ready(grader, pairs[:1])
        assert [score["reward"] for score in grader.grade(pairs)] == [1.0] + [0.0] * 9
        assert grader.timeouts == grader.failed == 9
        ready(grader, [(RECORD, "next")])
        assert grader.grade([(RECORD, "next")])[0]["reward"] == 1.0
    words = "was not done with 9 of 10 responses in config.grading.step_timeout = 0.5 s; counted as 0"
    assert len(caplog.records) == 1 and words in caplog.text
    words = r"record 'q\d': .* was not done in config.grading.step_timeout = 0.5 s; so or alike"
    with Grader("my_reward:score", **limits, max_failed=0.5) as grader, pytest.raises(InputError, match=words):
        grader.grade(pairs)


def ready(grader, pairs):
    """Waits for the scores of pairs, so that the start of a worker takes no time of a step."""
    grader.start(pairs)
    for future, _ in grader._started.values():
        future.result()


def test_grades_a_demo_step_from_any_thread():
    pairs = [
        ({"id": i // 8, "answer": str(i // 8 % 10), "kind": "number"}, f"<think></think>\\boxed{{{i % 10}}}")
        for i in range(256)
    ]
    results = []
    with Grader("boxed") as grader:
        grader.grade(pairs[:1])
        thread = threading.Thread(target=lambda: results.extend(grader.grade(pairs)))
        thread.start()
        thread.join()
    assert [score["accuracy"] for score in results] == [float(i // 8 % 10 == i % 10) for i in range(256)]


def test_boxed_towers_of_powers_are_bounded():
    record = {"id": "tower", "answer": r"\frac{1}{2}", "kind": "number"}
    with Grader("boxed", timeout=3.0) as grader:
        scores = grader.grade([(record, r"\boxed{0.5}"), (record, r"\boxed{9^{9^{9}}}"), (record, r"\boxed{1/2}")])
    assert [score["accuracy"] for score in scores] == [1.0, 0.0, 1.0]


HOSTILE = [r"9^{9^{9}}", r"10^{10^{10}}", "9^9^9^9", "9^999999999", "7^{99999999}", "9999999!", "(10^7)!", "{" * 500,
           r"\frac{1}{" * 200 + "1" + "}" * 200, r"\sqrt{" * 300 + "1" + "}" * 300, "(" * 1000, r"\boxed{" * 5000,
           "1+" * 50_000, "x" * 1_000_000, " " * 100_000, "(x+1)^{5000}", r"\int_0^1 e^{x^2} dx", "1," * 20_000,
           r"\begin{matrix}" + "1&" * 2000 + r"1\end{matrix}", "__import__('os').getpid()", "5\0", "\ud800",
           "(9999^{9999})!", r"\sin(\sin(\sin(x)))^{99}", "((((9^99)^99)^99)^99)", "x^{y^{z^{w}}}"]  # fmt: skip


@pytest.mark.slow
def test_hostile_answers_are_bounded_and_the_rest_of_the_batch_is_graded():
    """Those of SOURCES that hung math-verify, and more; some end in a worker's limits, which are short here."""
    record = {"id": "hostile", "answer": r"\frac{1}{2}", "kind": "number"}
    answers = [text for pair in zip(HOSTILE, ["1/2"] * len(HOSTILE)) for text in pair]
    with Grader("boxed", timeout=4.0) as grader:
        scores = grader.grade([(record, f"<think></think>\\boxed{{{answer}}}") for answer in answers])
    assert [score["accuracy"] for score in scores] == [0.0, 1.0] * len(HOSTILE)
    assert grader.crashes == 0


WEIGHTED = [  # (reward, weights, what the first response earns)
    ("boxed", {"accuracy": 1.0}, 1.0),
    ("boxed", {"accuracy": 2, "format": -0.5}, 1.5),
    ("boxed", {}, 1.0),
    ("my_reward:score", {"length": 0.5}, 12.0),
]


@pytest.mark.parametrize(("reward", "weights", "worth"), WEIGHTED)
def test_weights_of_parts(reward, weights, worth):
    record = {"id": "q", "answer": "B", "kind": "choice"}
    pairs = [(record, text) for text in (r"<think></think>\boxed{B}", "raise", "no")]
    with Grader(reward, workers=1, weights=weights) as grader:
        first, *rest = grader.grade(pairs)
        assert first["reward"] == pytest.approx(worth)
        for score in rest:
            assert score.keys() == first.keys()
            assert not weights or score["reward"] == sum(weights[part] * score[part] for part in weights)


@pytest.mark.parametrize(
    ("reward", "weights", "words"),
    [
        ("boxed", {"acuracy": 1.0}, r"reward_weights has acuracy; reward 'boxed' has the parts: accuracy, format"),
        ("my_reward:plain", {"accuracy": 1.0}, r"has the parts: none, it gives a plain number"),
        ("boxed", {"accuracy": float("nan")}, "reward_weights.accuracy is nan"),
    ],
)
def test_weights_that_cannot_be_are_told_before_anything_is_graded(reward, weights, words):
    with pytest.raises(InputError, match=words):
        Grader(reward, workers=1, weights=weights)


def test_a_reward_that_fails_on_the_trial_is_told_with_the_first_responses():
    with Grader("my_reward:picky", workers=1, weights={"accuracy": 1.0}) as grader:
        assert grader.grade([(RECORD, "")])[0]["reward"] == 0.0
        with pytest.raises(InputError, match="has the parts: length"):
            grader.grade([({**RECORD, "mine": 3}, "ok")])


def test_rounding_is_right_only_where_the_config_says_so():
    record, response = {"id": "q", "answer": "2.45", "kind": "number"}, r"\boxed{2.5}"
    for rounding in (False, True):
        with Grader("boxed", workers=1, rounding=rounding) as grader:
            assert grader.grade([(record, response)])[0]["accuracy"] == rounding


def test_half_a_surrogate_pair_is_text_too(grader):
    assert grader.grade([(RECORD, "half \ud800")])[0]["reward"] == 1.0


def test_an_unknown_reward_and_a_closed_grader_say_so():
    with pytest.raises(InputError, match="known are boxed"):
        Grader("missing")
    grader = Grader("boxed")
    grader.close()
    with pytest.raises(RuntimeError, match="closed"):
        grader.grade([(RECORD, "x")])


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from perl_jax.grading import Grader\n"
        "print(Grader('my_reward:plain', workers=1).grade([({'id': 1}, 'four')]))\n"
    )
    path = os.pathsep.join([str(REPOSITORY), *sys.path])
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[{'reward': 2.0}]"), done.stderr


def test_what_was_started_early_is_not_scored_again(grader):
    """A culprit among it still gets zero alone, and the next call starts anew."""
    with Grader("my_reward:seen", workers=1) as counting:
        counting.start([(RECORD, "a"), (RECORD, "b")])
        counting.start([(RECORD, "b")])
        assert [score["calls"] for score in counting.grade([(RECORD, "c"), (RECORD, "b"), (RECORD, "a")])] == [3, 2, 1]
        assert counting.grade([(RECORD, "a")])[0]["calls"] == 4
    texts = ["die", *(f"text {i}" for i in range(6))]
    grader.start([(RECORD, text) for text in texts[:4]])
    assert [score["reward"] for score in grader.grade([(RECORD, text) for text in texts])] == [0.0] + [1.0] * 6

"""An evaluation as a whole: from images to scores and figures, and that one cut anywhere, in other batches or on more
processes gives the same."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import command_line
import evaluate_run
import pytest
import tiny_run
from evaluate_run import rows
from fake_endpoint import FakeEndpoint
from public_files import jsonl, parquet, png
from subprocesses import finish, free_port

from configs import base
from models.errors import InputError
from perl_jax import benchmarks, evaluate, permute, records, rollout
from perl_jax.benchmarks import mathverse, mathvision
from perl_jax.curation.build import build
from perl_jax.evaluation import orders, responses
from perl_jax.records import prompt_lengths
from perl_jax.records.prompts import with_lazy_images

pytestmark = pytest.mark.slow

FOLDER = "records-boxed"


@pytest.fixture(scope="module")
def options(tmp_path_factory, request):
    """A model and 16 held-out questions with two images, most of which can change places."""
    directory = tmp_path_factory.mktemp("evaluate")
    build("digits", str(directory / "data"), **(tiny_run.config().data.options.to_dict() | {"eval_size": 16}))
    tiny_run.untrained(directory / "model", getattr(request, "param", "qwen2_5_vl"))
    return {"model": str(directory / "model"), "data": str(directory / "data")}


BOTH_FAMILIES = pytest.mark.parametrize("options", tiny_run.FAMILIES, indirect=True)
DRAWN = {"permute": 3, "temperature": 1.0, "samples": 2}


@pytest.fixture(scope="module")
def full_run(options, tmp_path_factory):
    """The out directory of an evaluation that nothing disturbed, for reading only."""
    out = tmp_path_factory.mktemp("evaluate") / "whole"
    evaluate_run.run(out, **options, **DRAWN)
    return out


def results(out, folder=FOLDER) -> dict:
    return json.loads((out / folder / "results.json").read_text(encoding="utf-8"))


def assert_same(out, other):
    def key(row):
        return row["id"], row["order"]

    assert sorted(rows(out / FOLDER, "predictions.jsonl"), key=key) == sorted(
        rows(other / FOLDER, "predictions.jsonl"), key=key
    )
    assert rows(out / FOLDER) == rows(other / FOLDER)
    result, expected = results(out), results(other)
    for part in ("figures", "consistency", "settings", "rows", "rejected"):
        assert result[part] == expected[part], part


@BOTH_FAMILIES
def test_what_it_leaves(full_run):
    """A line a prompt, all its responses in it; a line a question, order and role; figures, and a page to read."""
    text = rows(full_run / FOLDER, "predictions.jsonl")
    assert len(text) == 16 * 2 and len({(row["id"], tuple(row["order"])) for row in text}) == len(text)
    scored = rows(full_run / FOLDER)
    for role, count, draws in (("original", 16, 2), ("permuted", 16, 2), ("control", 16, 2)):
        mine = [row for row in scored if row["role"] == role]
        assert len(mine) == count, role
        assert all(
            len(row[key]) == draws
            for row in mine
            for key in ("texts", "lengths", "correct", "extracted", "meaning", "truncated")
        )
    for row in text:
        assert row["prompt"] > 10 and all(1 <= length <= 8 for length in row["lengths"])
        original = next(one for one in scored if (one["id"], one["order"]) == (row["id"], row["order"]))
        assert row["texts"][:2] == original["texts"]
    result = results(full_run)
    assert result["rows"] == 16 and result["figures"]["questions"] == 16 and not result["partial"]
    assert result["consistency"]["questions"] == 16 and result["figures"]["pass_at"].keys() == {"1", "2"}
    page = (full_run / FOLDER / "results.md").read_text()
    assert "# records, protocol boxed" in page and "flip rate" in page and "original order, drawn again" in page


def test_started_again_it_asks_nothing(full_run, options, monkeypatch):
    monkeypatch.setattr(rollout, "generate", None)
    before = (full_run / FOLDER / "predictions.jsonl").read_bytes()
    evaluate_run.run(full_run, **options, **DRAWN)
    assert (full_run / FOLDER / "predictions.jsonl").read_bytes() == before


def test_in_other_batches_and_in_two_parts_it_is_the_same(full_run, options, tmp_path):
    evaluate_run.run(tmp_path, **options, **DRAWN, limit=5, batch=3)
    assert results(tmp_path)["partial"] and results(tmp_path)["figures"]["questions"] == 5
    evaluate_run.run(tmp_path, **options, **DRAWN, batch=7)
    assert_same(tmp_path, full_run)


def started(out, options, count: int = 1, die: int = 0) -> list[subprocess.Popen]:
    coordinator = f"localhost:{free_port()}" if count > 1 else ""
    text = [out, json.dumps({**options, **DRAWN}), coordinator, count]
    return [
        subprocess.Popen(
            [sys.executable, evaluate_run.__file__, *map(str, [*text, index, die])],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def test_killed_while_it_writes_it_goes_on(full_run, options, tmp_path):
    [(code, text)] = finish(started(tmp_path, options, die=3))
    assert code == -9, text
    file = tmp_path / FOLDER / "predictions.jsonl"
    content = file.read_text()
    assert 4 < content.count("\n") - 1 < 16 and not content.endswith("\n")
    evaluate_run.run(tmp_path, **options, **DRAWN)
    assert file.read_text().startswith(content[: content.rfind("\n") + 1])
    assert_same(tmp_path, full_run)


@BOTH_FAMILIES
def test_two_processes_give_the_same(full_run, options, tmp_path):
    for code, text in finish(started(tmp_path, options, count=2)):
        assert code == 0, text
    assert_same(tmp_path, full_run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"temperature": 0.5}, "temperature 1.0, now 0.5"),
        ({"samples": 1}, "samples 2, now 1"),
        ({"permute": 1}, "permute 3, now 1"),
        ({"max_new_tokens": 9}, "max_new_tokens 8, now 9"),
        ({"max_pixels": 3136}, "prompt "),
    ],
)
def test_other_settings_are_not_mixed(full_run, options, changes, words):
    with pytest.raises(InputError, match=rf"predictions\.jsonl was made with other settings \({words}"):
        evaluate_run.run(full_run, **{**options, **DRAWN, **changes})


def test_other_words_are_not_mixed(full_run, options, tmp_path):
    """The same ids, but another question."""
    config = tiny_run.config()
    question = config.data.options.to_dict() | {"eval_size": 16, "questions": ("what", "largest")}
    build("digits", str(tmp_path / "data"), **question)
    shutil.copytree(full_run, tmp_path / "out")
    with pytest.raises(InputError, match="has changed since it was asked"):
        evaluate_run.run(tmp_path / "out", **{**options, **DRAWN, "data": str(tmp_path / "data")})


def test_a_row_that_does_not_say_what_was_asked_is_not_taken():
    for row in ({"id": "q"}, {"asked": None}, {"asked": ""}, {"asked": "g"}):
        with pytest.raises(InputError, match="question 'q' has changed since it was asked"):
            responses._check({("q", (0,)): row}, [("q", (0,))], ["h"], Path("predictions.jsonl"))
    responses._check({("q", (0,)): {"asked": "h"}}, [("q", (0,)), ("new", (0,))], ["h", "i"], Path("predictions.jsonl"))


def test_a_record_is_asked_as_in_training(options):
    """The same tokens and images, in any order."""
    chosen = evaluate.Options(**{**evaluate_run.SMALL, **options, "out": ""})
    setup = evaluate.make_setup(chosen, benchmarks.find("records"), Path(options["model"]))
    setup = setup._replace(prompts=dataclasses.replace(setup.prompts, system="Be brief.", instruction="In a box."))
    split = records.open_split(options["data"], "eval")
    for item, record in zip(evaluate.read(chosen, setup.benchmark).items, split, strict=True):
        for question in orders.in_orders(item, count=1, seed=0):
            sample = permute.render(permute.apply(with_lazy_images(record), question.order))
            ids, images = setup.prompts.encode(sample)
            result, shown = responses._encode(setup, question)
            assert result == ids and [each.digest for each in shown] == [each.digest for each in images]
            assert question.item.row.answer == sample["answer"]


def test_what_is_too_long_is_told_as_in_training(options):
    """One measure of prompts for all: what training leaves out for its length, evaluation does not ask in its longest
    order; one token more of the limit, and both take it."""
    chosen = evaluate.Options(**{**evaluate_run.SMALL, **options, "out": ""})
    setup = evaluate.make_setup(chosen, benchmarks.find("records"), Path(options["model"]))
    split = records.open_split(options["data"], "eval")
    for item, record in zip(evaluate.read(chosen, setup.benchmark).items, split, strict=True):
        line = prompt_lengths.measure(record, setup.prompts)
        questions = orders.in_orders(item, count=24, seed=0)
        for limit in (line["tokens"], line["tokens"] - 1):
            limited = setup._replace(prompts=dataclasses.replace(setup.prompts, max_tokens=limit))
            rows = [responses._measure(limited, questions, number) for number in range(len(questions))]
            skipped = [row["skipped"] for row in rows if "skipped" in row]
            assert bool(skipped) == bool(prompt_lengths.exclusion_reason(line, limit)) == (limit < line["tokens"])
            assert all(f"question {item.row.id!r}: {responses.TOO_LONG}" in reason for reason in skipped)
            assert max((row["prompt"] for row in rows if "prompt" in row), default=0) <= limit
            for row, question in zip(rows, questions):
                if "prompt" in row:
                    assert row["prompt"] == len(responses._encode(limited, question)[0])
                else:
                    with pytest.raises(InputError, match=responses.TOO_LONG):
                        responses._encode(limited, question)


def test_all_measure_prompts_by_one_function(options, monkeypatch):
    setup = evaluate.make_setup(
        evaluate.Options(**{**evaluate_run.SMALL, **options, "out": ""}),
        benchmarks.find("records"),
        Path(options["model"]),
    )
    record = records.open_split(options["data"], "eval")[0]
    [question] = orders.in_orders(next(setup.benchmark.load(options["data"])), count=0, seed=0)
    monkeypatch.setattr(prompt_lengths, "token_count", lambda messages, images, prompts: 7)
    assert prompt_lengths.measure(record, setup.prompts)["tokens"] == 7
    assert responses._measure(setup, [question], 0) == {"number": 0, "prompt": 7}


# Policies whose figures are known


def respond(monkeypatch, policy):
    """In place of a model's responses those of `policy(asked, number of the response)`."""

    def rows(self, numbers, prompts, count):
        result = []
        for number, (ids, _) in zip(numbers, prompts, strict=True):
            texts = [policy(self.questions[number], draw) for draw in range(count)]
            fields = {"texts": texts, "lengths": [len(text) + 1 for text in texts], "truncated": [False] * count}
            result.append(responses._row(self.questions[number], self.hashes[number], prompt=len(ids), **fields))
        return result

    monkeypatch.setattr(rollout, "generate", lambda model, prompts, samples, **_: samples)
    monkeypatch.setattr(responses._Questions, "rows", rows)


def test_one_that_knows(options, tmp_path, monkeypatch):
    respond(monkeypatch, lambda question, draw: f"\\boxed{{{question.item.row.answer}}}")
    result = evaluate_run.run(tmp_path, **options, permute=1)
    assert result["figures"]["micro"]["mean"] == 1 and result["figures"]["failures"] == 0
    same = result["consistency"]
    assert same["consistent"]["mean"] == same["worst"]["mean"] == 1 and same["flip"]["mean"] == 0
    assert not same["control"]["drawn"], "greedy answers do not change when they are asked for again"


def test_one_that_points_at_a_place(options, tmp_path, monkeypatch):
    """Right where the image lies there, and never the same in two orders: all of it order, nothing of it chance."""
    respond(monkeypatch, lambda question, draw: r"\boxed{1}" if "Which" in question.item.row.question else r"\boxed{x}")
    result = evaluate_run.run(tmp_path, **options, permute=1, temperature=1.0)["consistency"]
    which = [row for row in rows(tmp_path / FOLDER) if "Which" in row["question"]]
    assert len(which) > 6 and result["consistent"]["mean"] == 0
    assert result["flip"]["mean"] == pytest.approx(len({row["id"] for row in which}) / 16)
    assert result["control"]["flip"]["mean"] == 0 and result["difference"]["flip"]["low"] > 0
    by_place = {row["place"]: row["correct"] for row in which}
    assert by_place == {0: [1.0], 1: [0.0]}


def test_one_that_guesses(options, tmp_path, monkeypatch):
    """The answer of the first draw is another one's than that of the second, in any order: chance, not order."""
    respond(monkeypatch, lambda question, draw: f"\\boxed{{{question.item.row.answer if draw % 2 else 'x'}}}")
    result = evaluate_run.run(tmp_path, **options, permute=1, temperature=1.0, samples=2)["consistency"]
    assert result["control"]["flip"]["mean"] == result["flip"]["mean"] == 0  # draw r beside draw r


# Published files


@pytest.fixture
def snapshot(tmp_path):
    """Rows of MathVision: one that can be asked, one without its image, one twice, one whose options are one text,
    one with an answer that is none of its options, one whose image is cut."""
    row = mathvision.EXAMPLE["row"]
    others = (
        {"id": "5", "image": "images/none.jpg"},
        {},
        {"id": "6", "options": "1, 2"},
        {"id": "7", "options": list("abcde"), "answer": "H"},
        {"id": "8", "image": "images/8.jpg"},
    )
    folder = tmp_path / "mathvision"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "4.jpg").write_bytes(png(size=(60, 56)))
    (folder / "images" / "8.jpg").write_bytes(png(size=(60, 56))[:300])
    jsonl(folder / "test.jsonl", row, *({**row, **other} for other in others))
    return folder


@pytest.mark.parametrize("protocol", ["boxed", "official"])
def test_a_broken_snapshot(options, snapshot, tmp_path, monkeypatch, protocol):
    """What cannot be asked counts as wrong, what is no question is left out by reason; a mended one goes on."""
    respond(monkeypatch, lambda question, draw: r"It is \boxed{60}.")
    chosen = {
        **options,
        "benchmark": "mathvision",
        "data": str(snapshot),
        "protocol": protocol,
        "allow_partial": True,
        "max_prompt_tokens": 400,
    }
    result = evaluate_run.run(tmp_path / "out", **chosen)
    question = result["figures"]
    assert question["questions"] == 3 and question["not_asked"] == {"it cannot be shown": 2}
    assert result["rejected"] == {"duplicate id": 1, "malformed row": 2}
    assert result["partial"] and question["micro"]["mean"] == pytest.approx(1 / question["questions"])
    (snapshot / "images" / "8.jpg").write_bytes(png(size=(60, 56)))
    again = evaluate_run.run(tmp_path / "out", **chosen)["figures"]
    assert sum(again["not_asked"].values()) == 1 and again["micro"]["mean"] == pytest.approx(2 / question["questions"])


def test_a_snapshot_of_another_size(options, snapshot, tmp_path):
    with pytest.raises(InputError, match=r"hold 6 rows, and 3,040 are published: download .* or allow a partial set"):
        evaluate_run.run(tmp_path / "out", **{**options, "benchmark": "mathvision", "data": str(snapshot)})
    assert not (tmp_path / "out").exists()


def test_a_judge(options, tmp_path, monkeypatch):
    """It is asked only where the rules cannot decide, once; what it fails to answer counts as wrong, and is asked the
    next time."""
    row = mathverse.EXAMPLE["row"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "image.png").write_bytes(png(size=(60, 56)))
    free = {**row, "question": "Find it.", "question_type": "free-form", "image": "image.png"}
    jsonl(
        tmp_path / "data" / "testmini.jsonl",
        {**row, "image": "image.png"},
        *({**free, "sample_index": str(i), "answer": f"$x={i} a$"} for i in range(3)),
    )
    respond(
        monkeypatch,
        lambda question, _: r"\boxed{D}" if question.item.row.choices else f"x is a times {question.item.row.id}",
    )
    chosen = {
        **options,
        "benchmark": "mathverse",
        "data": str(tmp_path / "data"),
        "protocol": "official",
        "allow_partial": True,
        "judge_model": "judge",
        "max_prompt_tokens": 400,
    }

    def answer(request):
        question = request["messages"][-1]["content"]
        return "1" if "a times 0" in question else "0" if "a times 1" in question else "I cannot say"

    with FakeEndpoint(answer) as server:
        result = evaluate_run.run(tmp_path / "out", **chosen, judge=server.url)
        assert result["judge"] == {"model": "judge", "url": server.url, "asked": 3, "failed": 0}
        assert result["figures"]["micro"]["mean"] == 2 / 4 and result["figures"]["failures"] == 1 / 4
        evaluate_run.run(tmp_path / "out", **chosen, judge=server.url)
        assert len(server.requests) == 3
    plain = evaluate_run.run(tmp_path / "out", **{**chosen, "judge_model": ""})
    assert plain["judge"] is None and plain["figures"]["micro"]["mean"] == 1 / 4
    assert plain["figures"]["failures"] == 3 / 4


EIGHT = ("blink", "mantis_eval", "mathverse", "mathvision", "mathvista", "mmiu", "mv_math", "remi")


@pytest.mark.parametrize("protocol", ["boxed", "official"])
@pytest.mark.parametrize("name", EIGHT)
def test_each_benchmark_from_its_files_to_a_score(options, tmp_path, monkeypatch, name, protocol):
    """Its example as the hub has it, asked of a model in up to three orders, and answered rightly."""
    benchmark, published = benchmarks.find(name), importlib.import_module(f"tests.perl_jax.benchmarks.test_{name}")
    for place, path in enumerate(benchmark.EXAMPLE["row"].get("input_image_path", ())):  # MMIU's, beside its rows
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_bytes(png(place))
    (tmp_path / "data").mkdir(exist_ok=True)
    published.load(tmp_path / "data", published.row())
    text = benchmark.EXAMPLE["right"]
    respond(
        monkeypatch, lambda question, _: text if protocol == "official" else f"\\boxed{{{question.item.row.answer}}}"
    )
    result = evaluate_run.run(
        tmp_path / "out",
        **{
            **options,
            "benchmark": name,
            "data": str(tmp_path / "data"),
            "protocol": protocol,
            "allow_partial": True,
            "permute": 2 * (protocol == "boxed"),
            "max_prompt_tokens": 2000,
        },
    )
    scored = rows(tmp_path / "out" / f"{name}-{protocol}")
    assert scored and all(row["correct"] == [1.0] and row["fault"] is None for row in scored), scored
    assert result["figures"]["micro"]["mean"] == 1 and result["figures"]["not_asked"] == {}


def test_a_prompt_that_is_too_long(options, tmp_path, capsys):
    result = evaluate_run.run(tmp_path, **{**options, "max_prompt_tokens": 20})
    assert result["figures"]["not_asked"] == {responses.TOO_LONG: 16} and result["figures"]["micro"]["mean"] == 0
    assert "raise --max_prompt_tokens, or show smaller images with --max_pixels" in capsys.readouterr().err


# The command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"benchmark": "blnik"}, "unknown benchmark 'blnik'; known are blink, "),
        ({"protocol": "official"}, "--protocol=official: records has the protocols boxed"),
        ({"benchmark": "blink", "protocol": "official", "permute": 1}, "--permute rewrites the question"),
        ({"samples": 4}, "at temperature 0 all --samples are the same"),
        ({"judge": "http://localhost/v1"}, "--judge and --judge_model go together"),
        (
            {"judge": "http://localhost/v1", "judge_model": "a"},
            "for --protocol=official of blink, mathverse, mathvista, mmiu, mv_math",
        ),
        ({"download": True}, "records is not on the hub"),
        ({"data": "nowhere"}, "nowhere holds no records"),
        ({"model": "nowhere"}, "nowhere: no such directory"),
        ({"max_pixels": 100}, "--max_pixels=100"),
        ({"against": "nowhere"}, "--against=nowhere: no scores.jsonl there or in its folder records-boxed"),
    ],
)
def test_flags_that_cannot_be(options, tmp_path, flags, words):
    text = {**evaluate_run.SMALL, **options, "out": tmp_path / "out", **flags}
    done = command_line.run("evaluate", *(f"--{name}={value}" for name, value in text.items()))
    assert done.code == 1 and words in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command(options, full_run, tmp_path):
    """Against another result, too."""
    flags = {**evaluate_run.SMALL, **options, "out": tmp_path, "against": full_run, "limit": 6}
    done = command_line.run("evaluate", *(f"--{name}={value}" for name, value in flags.items()))
    assert done.code == 0, done.err
    assert done.out.endswith(f"wrote {tmp_path}/{FOLDER}\n") and "6 questions asked" in done.out
    assert "McNemar" in done.out
    assert results(tmp_path)["against"]["questions"] == 6


def test_a_model_that_was_not_trained_here_is_asked_as_the_paper_asks():
    prompt = base.get_config().prompt
    assert prompt.system == evaluate.SYSTEM and prompt.instruction == evaluate.INSTRUCTION


def test_a_published_file_of_another_form(options, tmp_path):
    parquet(tmp_path / "data" / "Jigsaw" / "val-0.parquet", [{"idx": "1"}])
    with pytest.raises(InputError, match=r"holds no question of blink: .*malformed row"):
        evaluate_run.run(
            tmp_path / "out", **{**options, "benchmark": "blink", "data": str(tmp_path / "data"), "allow_partial": True}
        )

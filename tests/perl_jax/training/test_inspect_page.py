"""--inspect: what its page says of a run, and that it trains nothing."""

import re

import command_line
import pytest
import tiny_run
from environment import REPOSITORY
from markup import Tags

from models.errors import InputError
from models.qwen2_5_vl import from_scratch
from perl_jax import policy, records, train
from perl_jax.data import digits
from perl_jax.records import prompt_lengths
from perl_jax.records.stream import Stream
from perl_jax.training import batch, inspect_page, run_data, schedule

HOSTILE = "Which image shows </script><img src=x onerror=alert(1)> \u56fe7?"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records of which one has hostile words, one a prompt that is too long, and one an image that is cut short."""
    path = tmp_path_factory.mktemp("inspection") / "data"
    made = list(digits.records(None, "train", train_size=40, image_size=28, max_images=2, questions="which"))
    made[3]["question"] = made[3]["question"].replace("Which image shows", HOSTILE)
    made[5]["question"] += " now" * 200
    records.write({"train": made}, str(path))
    return str(path)


def config(data="", **changes):
    values = {
        "data.directory": data,
        "data.source": "",
        "eval.sets": (),
        "reward": "boxed",
        "warmup.steps": 1,
        "warmup.questions": 3,
    }
    return tiny_run.config(**{**(values if data else {}), **changes})


def inspect(workdir, count=6, **changes):
    text = inspect_page.write(config(**changes), workdir, count)
    return text, (workdir / "inspect.html").read_text()


def test_the_page_shows_what_the_steps_draw(data, tmp_path):
    text, page = inspect(tmp_path / "run", data=data)
    tags = Tags(page)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["excluded.jsonl", "inspect.html"]

    made = config(data)
    prompts, _ = policy.without_weights(made, tmp_path, run_data.texts(made, [data]))
    kept, _ = prompt_lengths.select({"train": [data]}, prompts, tmp_path)
    stream = Stream(data, split="train", seed=made.seed, kept=kept["train"])
    questions = batch.Questions(made, stream, prompts)
    drawn = [question for step in (1, 2, 3) for question in questions.take(*schedule.draw(made, step))][:6]
    titles = re.findall(r"<h3>(\S+) <span class=\"dim\">step (\d) \((\w+)\)", page)
    assert titles == [
        (question.record["id"], step, stage)
        for question, (step, stage) in zip(drawn, [("1", "warmup")] * 3 + [("2", "perl")] * 2 + [("3", "perl")])
    ]

    several = [question for question in drawn if len(question.record["images"]) > 1]
    permuted = page.count('<span class="tag">order 2 1</span>')
    assert several and permuted == len(several), "each that may move is seen in another order"
    assert page.count('<span class="tag">the original order</span>') == 6
    orders = 6 + permuted
    assert f"6 questions in {orders} orders; a wrong answer earns as much as the true one in 0" in text
    assert text.splitlines()[1] == "40 of 40 records sampled: 0 are invalid" in tags.words
    assert "2.5% are left out: longer than config.prompt.max_tokens = 128" in text
    assert "not count as right in 0 of 40" in text and text.endswith(str(tmp_path / "run" / "inspect.html"))
    for words in (
        "<|im_start|>",
        "<|image_pad|> x 1",
        "28 x 28 → 28 x 28 pixels",
        "2 x 2 = 4 patches, 1 tokens",
        "not drawn by this step",
        "rollout, prompts",
        "update, responses of 8 tokens",
    ):
        assert words in tags.words, words
    sources = [value for name, value in tags.attributes if name == "src"]
    assert len(sources) == 2 + sum(len(q.record["images"]) * (1 + (q in several)) for q in drawn)
    assert all(source.startswith("data:image/") for source in sources)
    assert "script" not in tags.tags and 'class="alarm"' not in page


def test_a_prompt_can_be_read_token_by_token(data, tmp_path):
    _, page = inspect(tmp_path, 40, data=data, **{"warmup.questions": 39})
    tags = Tags(page)
    assert HOSTILE in tags.words and "x onerror" not in " ".join(name for name, _ in tags.attributes)
    assert "<|image_pad|><|image_pad|>" not in tags.words

    prompts, _ = policy.without_weights(config(data), tmp_path, ["Which image shows 7?"] * 3)
    ids = prompts.processor.encode("a\u56fe\n")
    block = inspect_page._tokens(prompts.processor, [*ids, *[prompts.processor.image_token_id] * 70])
    pieces = re.findall(r'<(?:span|b)(?: title="([\d ]+)")?>([^<]+)</', block.split("</span>", 1)[1])
    assert [text for _, text in pieces] == ["a", "\u56fe", "↵\n", "&lt;|image_pad|&gt; x 70"]
    assert [len(numbers.split()) for numbers, _ in pieces] == [1, 3, 1, 0], "bytes of a character are in one piece"


def test_a_reward_that_does_not_know_is_flagged(data, tmp_path):
    text, page = inspect(tmp_path, 3, data=data, reward="tiny_reward:nothing")
    orders = page.count(" orders, p = ") + page.count("not drawn by this step")
    assert f"as the true one in {orders} (" in text
    assert "not count as right in 40 of 40" in text
    assert "Records whose true answer does not count as right: 40" in Tags(page).words
    assert page.count('<li class="alarm">') == 2
    assert page.count('class="text alarm"') > 2 * orders, "the true answer's row, and those that earn as much"


def test_records_that_cannot_be_shown_are_named(data, tmp_path, monkeypatch):
    opened = records.Split.__getitem__

    def broken(split, index):
        record = opened(split, index)
        return {**record, "images": [b"no picture"] * len(record["images"])} if record["id"].endswith("-7") else record

    monkeypatch.setattr(records.Split, "__getitem__", broken)
    text, page = inspect(tmp_path, 1, data=data)
    assert "40 of 40 records sampled: 1 are invalid" in text
    assert "digits-train-0-7&#x27;, image 1: not a readable image" in page


def test_a_model_is_asked_for_its_processor_alone(data, tmp_path, monkeypatch):
    texts = run_data.texts(config(data), [data])
    (tmp_path / "model").mkdir()
    from_scratch.make_processor(tmp_path / "model", config(data).scratch.to_dict(), texts)
    assert not list((tmp_path / "model").glob("*.safetensors"))
    (tmp_path / "run").mkdir()
    assert "as the true one in 0" in inspect(tmp_path / "run", 2, data=data, model=str(tmp_path / "model"))[0]

    options_given = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **options: options_given.update(options) or str(tmp_path / "model"),
    )
    policy.without_weights(config(data, model="someone/model"), tmp_path, ())
    assert options_given["allow_patterns"] and not any(
        "safetensors" in pattern for pattern in options_given["allow_patterns"]
    )


def test_the_command_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(train, "train", None)
    done = command_line.run(
        "train",
        "--config=configs/demo.py",
        f"--workdir={tmp_path / 'run'}",
        "--inspect=2",
        "--config.data.options.train_size=30",
        "--config.data.options.eval_size=4",
    )
    assert done.code == 0 and done.out.endswith(f"wrote {tmp_path}/run/inspect.html\n"), done.err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "data",
        "data.json",
        "excluded.jsonl",
        "inspect.html",
    ]


def test_a_config_that_could_not_train_is_one_line(data, tmp_path):
    with pytest.raises(InputError, match="no reward 'nonesuch'"):
        inspect(tmp_path, data=data, reward="nonesuch")
    with pytest.raises(InputError, match=r"config\.n_s is -1"):
        inspect(tmp_path, data=data, n_s=-1)

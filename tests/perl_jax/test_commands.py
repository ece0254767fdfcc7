"""Bad input at the command line: one clear line on stderr, an exit code that is not 0, nothing half-written."""

import json
import shutil
from types import SimpleNamespace

import command_line
import huggingface_hub.constants
import numpy as np
import pytest
import tiny
import tiny_run
from environment import REPOSITORY
from PIL import Image

from configs import base
from models.errors import InputError
from models.qwen2_5_vl import from_scratch
from perl_jax import export

CONFIG = "--config=configs/demo.py"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def refused(words: str, command: str, *arguments) -> str:
    """Runs a command that must fail with one line on stderr that holds `words`, and returns the line."""
    done = command_line.run(command, *arguments)
    lines = done.err.strip().splitlines()
    assert done.code != 0 and not done.out, done
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], done.err
    return lines[0]


@pytest.fixture(scope="module", name="base")
def base_model(tmp_path_factory):
    """A whole small model."""
    path = tmp_path_factory.mktemp("commands") / "base"
    from_scratch.make(path, tiny_run.config().scratch.to_dict(), ["Which image shows 7?"], vocab_size=300)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands") / "data"
    done = command_line.run("prepare", "--source=digits", f"--out={path}", "--limit=4")
    assert done.code == 0 and "wrote" in done.out
    return path


# Weights and configs of a model


@pytest.fixture
def broken(base, tmp_path):
    """A copy of the model, to break, and how to train from it: ([arguments], directory, workdir)."""
    path = tmp_path / "model"
    shutil.copytree(base, path)
    return path


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_shape(path):
    change(path / "config.json", intermediate_size=96)


def sliding(path):
    change(path / "config.json", use_sliding_window=True)


def pickled(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


FAULTS = {
    "truncated": (truncated, "truncated"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "model.safetensors"),
    "only a pickle": (pickled, "pytorch_model.bin"),
    "wrong shape": (other_shape, "has shape"),
    "another architecture": (lambda path: change(path / "config.json", model_type="llama"), "llama"),
    "sliding windows": (sliding, "use_sliding_window"),
    "no config": (lambda path: (path / "config.json").unlink(), "config.json"),
    "no tokenizer": (lambda path: [(path / name).unlink() for name in ("tokenizer.json", "vocab.json")], "tokenizer"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_cannot_be_used(broken, data, tmp_path, fault):
    breaks, words = FAULTS[fault]
    breaks(broken)
    refused(words, "sample", f"--model={broken}", "--prompt=Why?")
    refused(
        words,
        "train",
        CONFIG,
        f"--workdir={tmp_path / 'run'}",
        f"--config.model={broken}",
        "--config.scratch={}",
        "--config.data.source=",
        f"--config.data.directory={data}",
    )
    assert not list((tmp_path / "run").iterdir())


def test_a_hub_model_without_a_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("Qwen/Qwen2.5-VL-none", "Qwen/Qwen2.5-VL-none@v1"):
        line = refused("hub cannot be reached", "sample", f"--model={name}", "--prompt=Why?")
        assert "hf download Qwen/Qwen2.5-VL-none)" in line
    refused("no such directory", "sample", "--model=/nowhere/at/all", "--prompt=Why?")


def test_what_is_no_model(tmp_path):
    (tmp_path / "run" / "checkpoints" / "20").mkdir(parents=True)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", tmp_path / "run" / "checkpoints" / "20"):
        line = refused("and is no model: export it first", "sample", f"--model={path}", "--prompt=Why?")
        assert f"perl_jax.export --workdir={tmp_path / 'run'} --out=DIR" in line
    (tmp_path / "adapter_config.json").write_text("{}")
    refused("holds adapters alone", "sample", f"--model={tmp_path}", "--prompt=Why?")


def test_a_holdout_of_a_small_set(tmp_path):
    Image.fromarray(tiny.noise_image(40, 30, 1)).save(tmp_path / "one.png")
    row = {"id": "a", "images": ["one.png"], "question": "How many dots are there?", "answer": "3"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    ask = ("prepare", "--source=jsonl", f"--input={tmp_path / 'rows.jsonl'}", f"--out={tmp_path / 'set'}")
    refused("none of the 1 records would go to 'eval'", *ask, "--holdout=1e-9")
    refused("all 1 records of 'train' would go to 'eval'", *ask, "--holdout=0.999999999")
    assert not (tmp_path / "set").exists()


# The config of a run


def test_keys_and_values_of_a_config(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    refused("totl_steps", "train", CONFIG, workdir, "--config.totl_steps=3")
    refused("totl", "train", CONFIG, workdir, "--config.warmup.totl=3")
    refused("total_steps", "train", CONFIG, workdir, "--config.total_steps=many")
    refused("workdir", "train", CONFIG)
    refused("none.py", "train", "--config=configs/none.py", workdir)
    refused("reward_weights.accuracy is 'x'", "train", CONFIG, workdir, "--config.reward_weights.accuracy=x")
    refused("has the parts: accuracy, format", "train", CONFIG, workdir, "--config.reward_weights.acuracy=1")
    refused("unexpected argument 'config.total_steps=3'", "train", CONFIG, workdir, "config.total_steps=3")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("totl_steps = 3", "totl_steps"),
        ("warmup.stepz = 3", "did you mean config.warmup.steps?"),
        ("data.optoins = {}", "optoins"),
        ("warmup = {'steps': 3, 'stepz': 3}", "config.warmup is replaced as a whole"),
        ("total_steps = 'many'", "total_steps"),
        ("eval.sets = 'eval'", "sets"),
    ],
)
def test_keys_and_values_in_a_config_file(tmp_path, line, words):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from configs import base\n\ndef get_config():\n    config = base.get_config()\n"
        f"    config.{line}\n    return config\n"
    )
    assert len(refused(words, "train", f"--config={file}", f"--workdir={tmp_path / 'run'}")) < 300
    assert not (tmp_path / "run").exists()


def test_scratch_and_options_are_open():
    """What takes them says which keys there are."""
    config = base.get_config()
    config.scratch.depth = 3
    config.data.options.size = 4
    config.data.options = {"other": 5}
    config.data.options.size = 6
    assert config.data.options.to_dict() == {"other": 5, "size": 6} and config.scratch.depth == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model=somewhere", "somewhere: no such directory"),
        ("data.directory=somewhere", "somewhere holds no records"),
        ("data.source=none", "none"),
        ("reward=none", "none"),
        ("eval.sets=('nope',)", "nope"),
        ("eval.sets=3", "config.eval.sets must hold names"),
    ],
)
def test_settings_that_cannot_be(tmp_path, change, words):
    refused(
        words,
        "train",
        CONFIG,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.options.train_size=4",
        "--config.data.options.eval_size=4",
        f"--config.{change}",
    )
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_a_directory_without_records(base, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        refused(
            f"{tmp_path / name} holds no records",
            "train",
            CONFIG,
            f"--workdir={tmp_path / 'run'}",
            "--config.data.source=",
            f"--config.data.directory={tmp_path / name}",
        )
    assert not list((tmp_path / "run").iterdir()) and not (tmp_path / "missing").exists()


# Pictures and questions


def test_images_that_cannot_be_read(base, tmp_path):
    Image.fromarray(tiny.noise_image(40, 30, 1)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    for name, content in {"cut.png": data[:200], "text.png": b"hello", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        refused(name, "sample", f"--model={base}", f"--image={tmp_path / name}", "--prompt=What?")
    refused("missing.png", "sample", f"--model={base}", f"--image={tmp_path / 'missing.png'}", "--prompt=What?")
    refused(
        "2 slots for images, but 1 images",
        "sample",
        f"--model={base}",
        f"--image={tmp_path / 'whole.png'}",
        "--prompt=<image>or<image>?",
    )
    refused("<|video_pad|>", "sample", f"--model={base}", "--prompt=<|video_pad|>What?")
    refused("temperature", "sample", f"--model={base}", "--prompt=What?", "--temperature=-1")


@pytest.mark.slow
def test_a_question_about_two_images_is_answered(base, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((28, 28, 3), 200, np.uint8)).save(tmp_path / name)
    flags = [f"--image={tmp_path / name}" for name in ("a.png", "b.png")]
    ask = ("sample", f"--model={base}", *flags, "--prompt=Which image shows 7?", "--max_new_tokens=4")
    one = command_line.run(*ask)
    assert one.code == 0 and one.out and not one.err
    several = command_line.run(*ask, "--samples=3", "--temperature=1.0", "--seed=1")
    assert several.code == 0 and all(f"[{number}] " in several.out for number in (1, 2, 3))


# Exports


def test_exports_that_cannot_be(base, tmp_path):
    refused("holds no checkpoints", "export", f"--workdir={base}", f"--out={tmp_path / 'out'}")
    refused("holds no checkpoints", "export", f"--workdir={tmp_path / 'none'}", f"--out={tmp_path / 'out'}")
    refused("not empty", "export", f"--workdir={base}", f"--out={base}")
    (base / "checkpoints").mkdir()
    refused("no checkpoint 'latest'; there are: none", "export", f"--workdir={base}", f"--out={tmp_path / 'out'}")
    refused("--out", "export", f"--workdir={base}")
    assert not list(tmp_path.iterdir())


def test_the_best_step_of_a_run_without_an_evaluation(tmp_path):
    saved = SimpleNamespace(steps=lambda: [3, 6], latest=lambda: 6, best=lambda: None)
    assert export.numbered(saved, "latest", tmp_path) == 6 and export.numbered(saved, "3", tmp_path) == 3
    with pytest.raises(InputError, match=r"no best checkpoint: none of 3, 6 was saved with .* give --step=latest"):
        export.numbered(saved, "best", tmp_path)
    with pytest.raises(InputError, match="no checkpoint '4'; there are: 3, 6"):
        export.numbered(saved, "4", tmp_path)

"""How commands read their flags: names, values that stand apart, what is given twice, configs from any folder."""

import command_line
import pytest
from absl import flags

from models.errors import InputError
from perl_jax import prepare
from perl_jax.runtime import cli


@pytest.fixture
def defined():
    """Flags of every kind, for one test."""
    names = [
        flags.DEFINE_string("max_words", "", "").name,
        flags.DEFINE_bool("fast_mode", False, "").name,
        flags.DEFINE_multi_string("one_more", [], "").name,
        flags.DEFINE_integer("note", 0, "").name,
    ]
    yield
    for name in names:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--max-words=a-b"], ["--max_words=a-b"]),
        (["-max-words", "--fast-mode"], ["--max_words", "--fast-mode"]),  # the second is the first's value
        (["--fast-mode", "--max-words"], ["--fast_mode", "--max_words"]),  # a switch has none
        (["--no-fast-mode"], ["--nofast_mode"]),
        (["--nofast-mode"], ["--nofast_mode"]),
        (["--note=-3", "--note-", "-3"], ["--note=-3", "--note-", "-3"]),
        (["--config.a-b=1", "--un-known"], ["--config.a-b=1", "--un-known"]),
        (["--", "--max-words=1"], ["--", "--max-words=1"]),
    ],
)
def test_hyphens_are_underscores_in_names_alone(defined, typed, read):
    assert cli.normalised(["command", *typed]) == ["command", *read]


@pytest.mark.parametrize(
    "twice",
    [
        ["--max_words=1", "--max-words=1"],
        ["--max_words", "1", "--max_words=2"],
        ["--fast_mode", "--no-fast-mode"],
        ["--config.a=1", "--config.a=2"],
        ["--unknown=1", "--unknown=2"],
    ],
)
def test_a_flag_given_twice_is_refused_unless_its_values_add_up(defined, twice):
    with pytest.raises(InputError, match="is given twice: give it once"):
        cli.check_names(["command", *twice], {})
    cli.check_names(["command", "--one_more=1", "--one-more=2", "--max_words", "--max_words"], {})


def test_a_flag_of_another_name(defined):
    with pytest.raises(InputError, match="there is no flag --old_words: give --max_words"):
        cli.check_names(["command", "--old_words=3"], {"old_words": "max_words"})
    cli.check_names(["command", "--max_words=3"], {"max_words": "never, since it is defined"})


@pytest.mark.parametrize("command", ["train", "prepare", "filter", "evaluate", "report", "export", "sample"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(command, flag):
    done = command_line.run(command, flag, "--nothing")
    assert done.code == 0 and not done.err
    assert "\n  --" in done.out


def test_old_names_and_names_that_people_expect():
    for command, flag, instead in [
        ("prepare", "endpoint", "annotator"),
        ("prepare", "model", "annotator_model"),
        ("train", "model", "config.model"),
        ("filter", "data", "config.data.directory"),
    ]:
        done = command_line.run(command, f"--{flag}=x")
        assert (done.code, done.err) == (1, f"error: there is no flag --{flag}: give --{instead}\n")


def test_a_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = str(cli.CONFIGS / "demo.py")
    for name in ("demo", "demo.py", "configs/demo.py", "configs/demo", "./demo", ours):
        assert cli.config_file(name) == ours and cli.config_file(f"{name}:grpo") == f"{ours}:grpo"
    (tmp_path / "demo.py").write_text("")
    assert cli.config_file("demo") == "demo.py", "one's own comes first"
    assert cli.config_file("configs/demo.py:a:b") == f"{ours}:a:b"
    for name in ("nope", "mine/demo.py", "__init__", "/demo.py", ""):
        with pytest.raises(InputError, match=r"no such file; the names in configs/ are base, demo, "):
            cli.config_file(name)


def test_columns_of_several_flags_add_up():
    assert prepare.parse_columns(["question=problem,answer=a=b", "id=key"]) == {
        "question": "problem",
        "answer": "a=b",
        "id": "key",
    }
    several = ["images=left,images=right", "choices=a", "choices=b"]
    assert prepare.parse_columns(several) == {"images": ["left", "right"], "choices": ["a", "b"]}
    refused = (["question"], ["question="], ["=a"], ["question=a", "question=b"], ["images=a", "images=a"], [""])
    for texts in refused:
        with pytest.raises(InputError, match="give each of our columns once, as ours=theirs"):
            prepare.parse_columns(texts)
    with pytest.raises(InputError, match="bias is given twice"):
        prepare.parse_options(["bias=1", "bias=2"])

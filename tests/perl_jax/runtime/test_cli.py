"""How commands read their flags: names, values that stand apart, what is given twice, configs from any folder."""

import logging
import sys

import command_line
import pytest
from absl import flags

from models.errors import InputError
from perl_jax import prepare
from perl_jax.runtime import cli, compilations


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


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "mine.json", "mine", "mine.txt"])
@pytest.mark.parametrize("there", [True, False])
def test_a_config_that_is_no_python_file(tmp_path, monkeypatch, name, there):
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / name).write_text("total_steps: 3")
    known = there or name.rpartition(".")[2] in ("yaml", "yml", "json")
    words = (
        "no Python file; a config is a Python file whose get_config" if known else "no such file; the names in configs"
    )
    with pytest.raises(InputError, match=words):
        cli.config_file(name)


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket/run", "gs:/bucket", "file:///tmp/run", "HDFS://x/y"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config=demo", "--workdir="),
        ("filter", "--config=demo", "--workdir="),
        ("export", "--workdir=run", "--out="),
        ("export", "--out=model", "--workdir="),
        ("prepare", "--source=digits", "--out="),
        ("prepare", "--source=jsonl", "--out=set", "--download", "--input="),
        ("evaluate", "--model=m", "--benchmark=remi", "--data=d", "--out="),
        ("evaluate", "--model=m", "--benchmark=remi", "--out=o", "--download", "--data="),
        ("plan", "--config=demo", "--topology=h100:1", "--out="),
        ("report", "--workdir=a", "--workdir=B="),
        ("report", "--workdir=a", "--out="),
    ],
)
def test_a_url_is_no_path(tmp_path, monkeypatch, arguments, url):
    """That of a bucket neither, where the library for it is not there; test_bucket.py has what is where it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert f"{arguments[-1]}{url}: {url.partition(':')[0]}:// is not read or written" in wrong(
        *arguments[:-1], arguments[-1] + url
    )
    assert not list(tmp_path.iterdir())


def test_what_looks_like_a_url_and_is_a_path_is_taken(tmp_path):
    for path in ("a=b:c/d", "runs/x:/y", "C:/run", "a b/c"):
        assert "holds no checkpoints" in wrong("export", f"--workdir={tmp_path}/{path}", f"--out={tmp_path}/out")


NOWHERE = "--workdir=/dev/null/run"  # where no run can begin


def wrong(*arguments: str) -> str:
    """The one line that a command says."""
    done = command_line.run(*arguments)
    assert done.code == 1 and not done.out and done.err.startswith("error: ") and done.err.count("\n") == 1, done
    return done.err


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    assert "--config is missing: give --config=CONFIG, such as --config=demo; the names" in wrong("train", NOWHERE)
    assert "--workdir is missing: give --workdir=WORKDIR" in wrong("train", "--config=demo")
    assert "--prompt is missing" in wrong("sample", "--model=x")
    for name, text, words in (
        ("empty", "x = 1", "the file has no function get_config(); a config is a Python file"),
        ("plain", "def get_config(): return {'a': 1}", "its get_config() returns a dict; let it return what"),
        ("none", "def get_config(): pass", "its get_config() returns nothing; end it with `return config`"),
        ("broken", "def get_config():\n    x = (\n", "broken.py, line 2: "),
        ("unknown", "import no_such_module", "unknown.py, line 1: "),
        ("unnamed", "def get_config():\n    return cfg", "unnamed.py, line 2: name 'cfg' is not defined"),
        ("nought", "def get_config():\n    return 1 / 0", "nought.py, line 2: "),
        ("own", "import ml_collections as m\nget_config = lambda: m.ConfigDict({'a': 1})", "is missing: begin with"),
    ):
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        for module in [module for module in sys.modules if module.endswith("config_config")]:
            monkeypatch.delitem(sys.modules, module)  # of an earlier command in this process
        assert words in wrong("train", f"--config={file}", NOWHERE)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optimizer.lr", "did you mean config.optimizer.learning_rate?"),
        ("lr", "did you mean config.optimizer.learning_rate?"),
        ("rollout.n", "did you mean config.rollouts?"),
        ("total_steps.x", "did you mean config.total_steps?"),
        ("sampling.zzz", "config.sampling has batch, max_new_tokens, temperature, tensor, top_k, top_p"),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_a_key_that_there_is_not(key, meant, apart):
    config = ("--config", "demo") if apart else ("--config=demo",)
    text = wrong("train", *config, f"--config.{key}=3", NOWHERE)
    assert text.startswith(f"error: --config.{key}: no such key in the config") and meant in text


@pytest.mark.parametrize(
    "line",
    [
        "config.optimizer.lr = 3",
        "config.update_from_flattened_dict({'optimizer.lr': 3})",
        "config.update({'optimizer': {'lr': 3}})",
        "config.optimizer.lr += 1",
        "config['optimizer']['lr'] = 1",
        "o = config.optimizer; o.lr = 3",
    ],
)
def test_a_key_in_a_file_that_there_is_not(tmp_path, line):
    file = tmp_path / "mine.py"
    file.write_text(f"from configs import base\n\ndef get_config():\n    config = base.get_config()\n    {line}\n")
    text = wrong("train", f"--config={file}", NOWHERE)
    assert (
        f"{file}, line 5: no such key in the config: 'optimizer.lr'; did you mean config.optimizer.learning_rate?"
        in text
    )


def test_words_that_are_no_flags():
    for arguments, words in (
        (["--image", "a", "b"], "unexpected argument 'b'; flags look like --name=value; give --image again for each: "),
        (["--image=a", "b", "c"], "--image=a --image=b"),
        (["--prompt", "what", "is"], '--prompt="what is"'),
        (["seed=3"], "unexpected argument 'seed=3'; flags look like --name=value: --seed=3"),
        (["what"], "unexpected argument 'what'; flags look like --name=value"),
    ):
        prompt = [] if "--prompt" in arguments else ["--prompt=x"]
        assert words in wrong("sample", "--model=x", *prompt, *arguments)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_none(value):
    flag, key = f"--temperature={value}", f"--config.optimizer.learning_rate={value}"
    assert f"{flag}: give a finite number" in wrong("sample", "--model=x", "--prompt=x", flag)
    assert f"{key}: give a finite number" in wrong("train", "--config=demo", NOWHERE, key)


def test_a_platform_without_a_device(monkeypatch):
    def backends():
        exec(compile("assert False", "jax/_src/xla_bridge.py", "exec"))

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(AssertionError) as error:
        backends()
    text = str(cli.without_device(error.value))
    assert text.startswith("JAX_PLATFORMS=cuda: JAX finds no such device; install JAX for it") and "\n" not in text
    with pytest.raises(AssertionError) as error:
        raise AssertionError("of something else")
    assert cli.without_device(error.value) is None


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


def test_log_lines_are_plain_and_details_are_for_who_asks():
    record = logging.LogRecord("perl_jax.x", logging.INFO, "file", 1, "measured %d", (3,), None)
    assert cli.Line().format(record) == "measured 3" and cli.without_details(record)
    record.levelno, record.levelname = logging.WARNING, "WARNING"
    assert cli.Line().format(record) == "warning: measured 3"
    setattr(record, compilations.DETAIL, True)
    assert not cli.without_details(record)

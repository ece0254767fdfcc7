"""The documents are true: links resolve, what they name is there, and their commands parse."""

import ast
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import command_line
import pytest
from absl import flags
from environment import REPOSITORY
from PIL import Image

from configs import base
from perl_jax import rewards
from perl_jax.curation import curate
from perl_jax.data import jsonl
from perl_jax.evaluation import published
from perl_jax.runtime import cli, config_keys
from perl_jax.training import check_config, config_changes

FOLDERS = ("", "docs", "perl_jax", "perl_jax/data", "perl_jax/benchmarks", "launch")
PAGES = {
    str(file.relative_to(REPOSITORY)): file.read_text(encoding="utf-8")
    for folder in FOLDERS
    for file in sorted((REPOSITORY / folder).glob("*.md"))
    if file.name != "CHANGELOG.md"  # of names that were
}
DOCS = [name for name in PAGES if name.startswith("docs/")]
STAND_INS = {"CONFIG": "base", "N": "2", "I": "0", "MODEL,": "MODEL"}  # for what a reader fills in
LAUNCHERS = ("launch/slurm.sh", "launch/slurm_local.sh", "launch/tpu_vm.sh")  # of flags of train


# Links


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


@functools.cache
def anchors(file: Path) -> set[str]:
    """Those of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names.append(f"{slug}-{names.count(slug)}" if slug in names else slug)
    return set(names)


def broken_links(name: str, text: str) -> list[str]:
    out = []
    for target in re.findall(r"\]\(([^()\s]+)\)", without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        if not file.exists() or (anchor and anchor not in anchors(file)):
            out.append(target)
    return out


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(name):
    assert not broken_links(name, PAGES[name])


def test_a_broken_link_is_seen():
    text = "[a](config.md#loss) [b](config.md#no-such) [c](missing.md) `[d](missing.md)` [e](https://a.b/c)"
    assert broken_links("docs/README.md", text) == ["config.md#no-such", "missing.md"]


def test_the_index_names_every_page():
    assert sorted(re.findall(r"\]\((\w+\.md)\)", PAGES["docs/README.md"])) == sorted(
        name.removeprefix("docs/") for name in DOCS if name != "docs/README.md"
    )


# Names


def missing_names(text: str) -> list[str]:
    """Paths of the repository and modules that are named and are not there."""
    rooms = "launch|configs|perl_jax|models|tests|benchmarks|docs"
    paths = re.findall(rf"(?<![\w./~-])((?:{rooms})/[\w/.-]*\w)", text)
    modules = re.findall(r"python -m ((?:perl_jax|benchmarks)\.[\w.]*\w)", text)
    paths += [module.replace(".", "/") for module in modules]
    made = {"models/perl-qwen2.5-vl"}  # by the reader
    return [
        path
        for path in dict.fromkeys(paths)
        if not any((REPOSITORY / f"{path}{end}").exists() for end in ("", ".py"))
        and not re.search(r"\bNAME\b|_NAME\b|CONFIG\b", path)
        and path not in made
    ]


@pytest.mark.parametrize("name", PAGES)
def test_what_is_named_is_there(name):
    assert not missing_names(PAGES[name])


def test_a_missing_name_is_seen():
    text = "configs/perl_7b.py, `perl_jax/rewards/NAME.py`, configs/perl_8b.py, python -m benchmarks.speeds"
    assert missing_names(text) == ["configs/perl_8b.py", "benchmarks/speeds"]


def resolves(name: str) -> bool:
    """Whether `permute.apply` is one of a module of perl_jax, or `State.model` of what such a module has."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(["perl_jax", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False


KEYS = dict(config_keys.flat(base.get_config()))


@pytest.mark.parametrize("name", DOCS)
def test_functions_and_keys_in_code_exist(name):
    """What looks like `module.function` is one of perl_jax, or a key of the config."""
    dotted = re.findall(r"`([a-z]\w*(?:\.[a-z]\w*)+)(?:\([^`]*\))?`", PAGES[name])
    files = ("py", "md", "sh", "json", "jsonl", "html", "png", "yaml", "txt", "safetensors", "jinja")
    dotted = [each.removeprefix("config.") for each in dotted if each.rpartition(".")[2] not in files]
    theirs = {"reward_model.ground_truth"}
    assert not [each for each in dotted if each not in {*KEYS, *theirs} and not resolves(each)]
    assert name != "docs/method.md" or len(dotted) > 30


def test_a_function_that_is_not_there_is_seen():
    assert resolves("permute.apply") and resolves("training.batch.with_signal") and resolves("update.State.model")
    assert not resolves("permute.applied") and not resolves("nothing.apply")


@pytest.mark.parametrize("name", DOCS)
def test_metrics_have_the_names_that_are_logged(name):
    """By the source, where some have their prefix from elsewhere."""
    places = ("training/metrics", "training/batch", "training/held_out", "runtime/logs", "runtime/compilations")
    places += ("train", "update", "grpo", "engine/flops", "rewards/boxed")
    texts = "".join((REPOSITORY / "perl_jax" / f"{place}.py").read_text(encoding="utf-8") for place in places)
    prefixes = "reward|group|advantage|response|permute|update|time|speed|eval|data|grading|compile"
    for prefix, metric in re.findall(rf"`({prefixes})/([a-z_]+)`", PAGES[name]):
        last = re.sub("^(rollout|update)_", "", metric) if prefix == "speed" else metric
        assert re.search(rf'["/_]{last}"', texts), f"{prefix}/{metric}"


# Commands


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """(command of perl_jax, its arguments) in the shell blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            words = shlex.split(line, comments=True)
            for place, word in enumerate(words):
                if word == "-m" and words[place + 1].startswith("perl_jax."):
                    yield words[place + 1].removeprefix("perl_jax."), words[place + 2 :]
                elif word == "perl_jax" and place == 0:
                    yield words[1], words[2:]
                elif word in LAUNCHERS and (options := [each for each in words[place:] if each.startswith("--")]):
                    yield "train", options


def parsed(monkeypatch, command: str, arguments: list[str]) -> command_line.Done:
    """What a command says of its arguments; nothing else of it runs, but a run's config is checked."""

    def only_parse(main, elsewhere=None) -> None:
        rest = cli.parse(sys.argv, elsewhere or {})
        if len(rest) > 1:
            cli.refuse(cli.unexpected(sys.argv, rest[1]))
        if command in ("train", "filter", "plan"):
            check_config.check(flags.FLAGS.config)

    monkeypatch.setattr(cli, "run", only_parse)
    filled = ["=".join(STAND_INS.get(part, part) for part in argument.split("=")) for argument in arguments]
    return command_line.run(command, *filled)


@pytest.mark.parametrize("name", [name for name in PAGES if list(commands(PAGES[name]))])
def test_commands_parse(name, monkeypatch):
    for command, arguments in commands(PAGES[name]):
        done = parsed(monkeypatch, command, arguments)
        assert done.code == 0, f"{command} {shlex.join(arguments)}: {done.err}"


@pytest.mark.parametrize(
    "line",
    [
        "python -m perl_jax.train --config=demo",
        "python -m perl_jax.train --config=demo --workdir=a --config.no_such=3",
        "perl_jax evaluate --model=a --benchmark=blink --data=b --out=c --permutation=3",
        "perl_jax sample --model=a --prompt=b c.png",
        "sbatch launch/slurm.sh --config=no_such --workdir=a",
    ],
)
def test_a_command_that_does_not_parse_is_seen(line, monkeypatch):
    [(command, arguments)] = commands(f"```sh\n{line}\n```")
    done = parsed(monkeypatch, command, arguments)
    assert done.code == 1 and done.err.startswith("error: ")


# Examples


def test_the_reward_in_ten_lines_is_one(tmp_path):
    [code] = re.findall(r"^```python\n(.*?)^```", PAGES["docs/rewards.md"], re.MULTILINE | re.DOTALL)
    (tmp_path / "my_reward.py").write_text(code)
    score = rewards.find(f"{tmp_path / 'my_reward.py'}:score")
    right = score({"answer": "Image 2"}, r"<think></think> \boxed{image 2}")
    assert right == {"reward": 1, "accuracy": 1, "short": 1} and score({"answer": "Image 2"}, "")["reward"] == 0.1


def test_the_rows_of_ones_own_become_records(tmp_path):
    [rows] = re.findall(r"^```json\n(.*?)^```", PAGES["docs/data.md"], re.MULTILINE | re.DOTALL)
    (tmp_path / "photos.jsonl").write_text(rows)
    for name in re.findall(r"\w+\.jpg", rows):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    made = [curate.curate(row) for row in jsonl.records(str(tmp_path / "photos.jsonl"))]
    assert [one.record["answer"] for one in made] == ["{image:1}", "Yes", "1"]
    assert [one.decision.order_effect for one in made] == ["rewrite", "rewrite", "invariant"]


# Tables


def between(text: str, name: str) -> str:
    [part] = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    return part


def test_their_flags_are_answered_with_ours():
    """What docs/coming_from.md promises: each flag of theirs, typed here, leads to the key in its row."""
    rows = re.findall(r"^\|(.+)\|(.+)\| `([\w.]+)` \|$", between(PAGES["docs/coming_from.md"], "flags"), re.MULTILINE)
    assert len(rows) > 30
    for *theirs, ours in rows:
        for name in re.findall(r"`(\w+)`", "".join(theirs)):
            assert config_keys.suggestion(base.get_config(), name) == ours, name


def test_the_free_keys_are_all_there():
    listed = re.findall(r"`([\w.]+)`", between(PAGES["docs/resuming.md"], "free keys"))
    assert sorted(listed) == sorted(set(config_changes.FREE) - {"processes"})


def test_the_published_figures_are_those_of_the_code():
    for model in published.MODELS:
        cells = " | ".join(str(model.cells[name][0]) for name in published.BENCHMARKS)
        assert f"| {model.name} | {cells} |" in PAGES["docs/reproduce.md"]


def table(text: str) -> dict[str, object]:
    """{key: default} as docs/config.md has them."""
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| .+ \|$", text, re.MULTILINE)
    assert len(rows) == len({key for key, _ in rows})
    return {key: value.replace("\\|", "|") for key, value in rows}


def test_every_key_is_in_the_table_with_its_default():
    leaves = {key: value for key, value in KEYS.items() if not hasattr(value, "items") or not len(value)}
    printed = table(PAGES["docs/config.md"])
    assert printed.keys() == leaves.keys()
    for key, value in leaves.items():
        if isinstance(value, str):
            assert (printed[key] if value else printed[key].replace('""', "")) == value, key
        else:
            assert ast.literal_eval(printed[key]) == (dict(value) if hasattr(value, "items") else value), key
            assert type(ast.literal_eval(printed[key])) in (type(value), dict), key

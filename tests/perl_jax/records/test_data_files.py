"""One input names one set of files: all shards of one split, or it is said what is unclear."""

import doctest
import shutil
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import pytest

from models.errors import InputError
from perl_jax.records import data_files


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}\n")
    return folder


def found(given):
    files = data_files.find(str(given))
    return [path.relative_to(files.folder).as_posix() for path in files.paths]


def test_doctests():
    assert doctest.testmod(data_files).failed == 0


def test_a_file(tmp_path):
    made(tmp_path, "me@home.jsonl", "train.csv")
    files = data_files.find(str(tmp_path / "me@home.jsonl"))
    assert (files.paths, files.folder, files.name) == ([tmp_path / "me@home.jsonl"], tmp_path, "me@home")
    assert found(tmp_path / "train.csv@train") == ["train.csv"]
    with pytest.raises(InputError, match="leave out @test"):
        found(tmp_path / "train.csv@test")


def test_the_shards_of_a_folder_in_order(tmp_path):
    names = [f"part{number}.jsonl" for number in range(12)]
    made(tmp_path, *reversed(names), "a.png", "README.md", ".cache/x.jsonl", "dataset_info.json")
    assert found(tmp_path) == names
    assert found(tmp_path / "part1*.jsonl") == ["part1.jsonl", "part10.jsonl", "part11.jsonl"]
    assert data_files.find(str(tmp_path)).name == tmp_path.name


def test_splits_are_not_mixed(tmp_path):
    shards = [f"data/train-{number:05}-of-00002.parquet" for number in range(2)]
    made(tmp_path, *shards, "data/test-00000-of-00001.parquet", "data/test_mini-00000-of-00001.parquet")
    assert found(f"{tmp_path}@train") == shards
    assert found(f"{tmp_path}@test_mini") == ["data/test_mini-00000-of-00001.parquet"]
    assert found(tmp_path / "data" / "t*-of-00002.parquet") == [name.removeprefix("data/") for name in shards]
    with pytest.raises(InputError, match=r"splits test, test_mini, train: name one, .*@train"):
        found(tmp_path)
    with pytest.raises(InputError, match="no files of the split 'val'; it has test, test_mini, train"):
        found(f"{tmp_path}@val")


def test_a_folder_without_splits_is_for_training(tmp_path):
    made(tmp_path, "a.jsonl", "b.jsonl")
    assert found(f"{tmp_path}@train") == found(tmp_path) == ["a.jsonl", "b.jsonl"]
    with pytest.raises(InputError, match="it has no splits"):
        found(f"{tmp_path}@test")


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (["a.jsonl", "b.csv"], "", "files in .csv and .jsonl: name one kind"),
        (["a.png"], "", "holds no data files"),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "", "lacks train-00001-of-00003"),
        (["a.jsonl"], "*.csv", "no file matches"),
        (["a.jsonl"], "b.jsonl", "no such file or folder"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, names, given, words):
    made(tmp_path, *names)
    with pytest.raises(InputError, match=words) as caught:
        found(tmp_path / given)
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub, and no network: `hub(name, ...)` puts the files of owner/shapes into the cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "datasets--owner--shapes"

    def fill(*names):
        made(root / "snapshots" / "abc", *names)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text("abc")
        return root

    return fill


def test_the_cached_snapshot(hub):
    root = hub("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "images.zip")
    files = data_files.find("owner/shapes@train")
    assert [path.name for path in files.paths] == ["train-00000-of-00001.parquet"]
    assert (files.name, files.within) == ("shapes", root) and [path.name for path in files.zips] == ["images.zip"]
    with pytest.raises(InputError, match="owner/shapes holds the splits test, train"):
        data_files.find("owner/shapes")


def test_subsets_are_named(hub):
    hub("red/train.jsonl", "blue/train.jsonl")
    with pytest.raises(InputError, match="subsets blue, red: name one, as --input=owner/shapes/blue"):
        data_files.find("owner/shapes@train")
    assert [path.parent.name for path in data_files.find("owner/shapes/red@train").paths] == ["red"]


def test_neither_cached_nor_reached(hub):
    hub("train.jsonl")
    with pytest.raises(InputError, match=r"owner/other is no file or folder here.* `hf download owner/other") as caught:
        data_files.find("owner/other@train")
    assert "\n" not in str(caught.value)


def test_only_the_split_is_downloaded(hub, monkeypatch, tmp_path):
    names = ["data/train.jsonl", "data/test.jsonl", "images/a.png"]
    root, asked = hub(*names), []

    def snapshot_download(repo, repo_type, allow_patterns):
        asked.extend(allow_patterns)
        return str(root / "snapshots" / "abc")

    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repo: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert [path.name for path in data_files.find("owner/shapes@train").paths] == ["train.jsonl"]
    assert "data/train.jsonl" in asked and "*.png" in asked and "data/test.jsonl" not in asked
    shutil.rmtree(root)

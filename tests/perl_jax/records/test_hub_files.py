"""Files as the hub publishes them: each row and image is read or named, and nothing outside a file's folder is."""

import base64
import csv
import json
import os
import string
import subprocess
import sys
import tracemalloc
import zipfile
from unittest import mock

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, strategies
from public_files import STRUCT, jsonl, parquet, png, zipped

from models.errors import InputError
from perl_jax.records import hub_files


def read(store, value):
    return store.reader(value)()


def refused(store, value, words):
    with pytest.raises(InputError, match=words) as caught:
        read(store, value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


# Rows


def test_one_row_is_the_same_in_every_format(tmp_path):
    row = {"id": "ü", "choices": ["a", "b"], "n": 3, "none": None}
    (tmp_path / "a.json").write_text(json.dumps([row] * 3))
    files = [jsonl(tmp_path / "a.jsonl", *[row] * 3), tmp_path / "a.json", parquet(tmp_path / "a.parquet", [row] * 3)]
    for file in files:
        assert list(hub_files.rows(file)) == [(1, row), (2, row), (3, row)]


def test_a_bad_line_is_one_row(tmp_path):
    lines = {"n": 1}, b'{"n": 2', b"", b"\xff\xfe", [3], b"[" * 100_000, b'{"n": ' + b"9" * 5000, {"n": 8}
    rows = list(hub_files.rows(jsonl(tmp_path / "a.jsonl", *lines)))
    assert [number for number, _ in rows] == [1, 2, 4, 5, 6, 7, 8]  # an empty line is none
    assert [row for _, row in rows if not isinstance(row, InputError)] == [{"n": 1}, {"n": 8}]
    assert "line 2 is not JSON" in str(rows[1][1]) and "list" in str(rows[3][1])


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert list(hub_files.rows(jsonl(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"n": 1}'))) == [(1, {"n": 1})]


def test_what_is_broken_in_parquet_costs_its_group_of_rows(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"{i} " * 50 for i in range(200)]})
    pyarrow.parquet.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
    column = pyarrow.parquet.read_metadata(path).row_group(0).column(0)
    middle, content = column.data_page_offset + column.total_compressed_size // 2, bytearray(path.read_bytes())
    content[middle : middle + 40] = b"x" * 40
    path.write_bytes(content)
    rows = list(hub_files.rows(path))
    assert [number for number, _ in rows] == [1, *range(101, 201)]
    assert "rows 1 to 100" in str(rows[0][1]) and rows[1][1] == {"text": "100 " * 50}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "half.parquet").write_bytes(parquet(tmp_path / "a.parquet", [{"n": 1}]).read_bytes()[:-20])
    (tmp_path / "lines.json").write_text('{"n": 1}\n{"n": 2}\n')
    (tmp_path / "object.json").write_text('{"n": 1}')
    (tmp_path / "rows.xlsx").write_text("n\n1\n")
    for name, words in (
        ("half.parquet", "again"),
        ("lines.json", ".jsonl"),
        ("object.json", "list of rows"),
        ("rows.xlsx", ".parquet"),
        ("none.jsonl", "no such file"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            list(hub_files.rows(tmp_path / name))
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_parquet_is_read_in_parts(tmp_path):
    """The first row comes before the rest is in memory."""
    path = parquet(tmp_path / "a.parquet", [{"data": bytes(1 << 18)}] * 400)  # 100 MiB
    before = pyarrow.total_allocated_bytes()
    rows = hub_files.rows(path)
    next(rows)
    assert pyarrow.total_allocated_bytes() - before < 50 << 20


@pytest.mark.parametrize("value", ["a\0b", "\ud800", 3, None, b"a"])
def test_what_is_no_text(value):
    with pytest.raises(InputError, match=r"^it "):
        hub_files.text(value, "it")


def test_numbers_as_text():
    assert [hub_files.text_or_number(value, "it") for value in (3, 0.5, "x")] == ["3", "0.5", "x"]
    for value in (float("nan"), True, None, []):
        with pytest.raises(InputError, match=r"^it "):
            hub_files.text_or_number(value, "it")


# Images


def test_every_way_to_give_an_image(tmp_path):
    data, other = png(1), png(2)
    (tmp_path / "sub dir").mkdir()
    (tmp_path / "sub dir" / "a.png").write_bytes(data)
    (tmp_path / ("a" * 64)).write_bytes(other)  # might be base64, but no image
    store, text = hub_files.ImageStore(tmp_path), base64.b64encode(data).decode()
    for value in (
        "sub dir/a.png",
        "./sub dir/a.png",
        str(tmp_path / "sub dir/a.png"),
        f"file://{tmp_path}/sub%20dir/a.png",
        data,
        text,
        f"data:image/png;base64,{text}",
        text[:40] + "\n" + text[40:],
        {"bytes": data, "path": "other"},
        {"bytes": None, "path": "sub dir/a.png"},
        {"bytes": text},
        {"type": "image", "image": "sub dir/a.png"},
        {"image_url": {"url": f"data:image/png;base64,{text}"}},
    ):
        assert read(store, value) == data, value
    assert read(store, "a" * 64) == other


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    image = hub_files.ImageStore(tmp_path).reader("a.png")
    (tmp_path / "a.png").write_bytes(png())
    assert image() == png()
    (tmp_path / "a.png").unlink()
    assert image() == png()  # a conversation's questions share what was read


def test_paths_that_leave_the_folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "a.png").write_bytes(png())
    os.symlink(tmp_path / "a.png", folder / "link.png")
    os.symlink(tmp_path, folder / "up")
    os.mkfifo(folder / "pipe.png")
    for store in (hub_files.ImageStore(folder), hub_files.ImageStore(folder, [])):
        refused(store, "../a.png", "leaves")
        refused(store, "x/../../a.png", "leaves")
        refused(store, "link.png", "outside")
        refused(store, "up/a.png", "outside")
        refused(store, "pipe.png", "not in")
        refused(store, "none.png", "not in")
    refused(hub_files.ImageStore(folder), str(tmp_path / "a.png"), "outside")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("https://host/a.png", "download it"),
        ("HTTP://host/a.png", "download it"),
        (None, "NoneType"),
        (b"", "bytes"),
        (7, "int"),
        ({}, "NoneType"),
        ({"bytes": None, "path": None}, "NoneType"),
        (["a.png"], "list"),
        ("a\0.png", "not"),
        ("\ud800.png", "not"),
        ("a" * 100_000, "not in"),
        ("data:image/png;base64,%%%", "base64"),
        ("data:text/plain,hi", "data:"),
    ],
)
def test_values_that_are_no_image(tmp_path, value, words):
    refused(hub_files.ImageStore(tmp_path), value, words)


def test_zips_are_searched_as_given_then_by_tail(tmp_path):
    members = {"train_images/nights/1.png": png(1), "other/nights/1.png": png(2), "2.png": png(3), "dir/": b""}
    first = zipped(tmp_path / "a.zip", members)
    second = zipped(tmp_path / "b.zip", {"more/3.png": png(4), "2.png": png(5)})
    store = hub_files.ImageStore(tmp_path, [first, second])
    assert read(store, "other/nights/1.png") == png(2)
    assert read(store, "train_images/nights/1.png") == png(1)
    assert read(store, "3.png") == png(4)
    assert read(store, "/home/them/data/2.png") == png(3)  # the first zip's, where both have it
    assert read(store, "/home/them/more/3.png") == read(store, "/home/b/more/3.png") == png(4)
    refused(store, "their/2.png", "not in")  # a file of that name is not yet that file
    refused(store, "nights/1.png", "may be train_images/nights/1.png or other/nights/1.png")
    refused(store, "4.png", "its 2 zips")
    refused(store, "dir/", "not in")


def test_published_images_may_be_unpacked(tmp_path):
    (tmp_path / "train_images" / "deep").mkdir(parents=True)
    (tmp_path / "train_images" / "deep" / "1.png").write_bytes(png(1))
    store = hub_files.ImageStore(tmp_path, [])
    for path in ("train_images/deep/1.png", "deep/1.png", "file:///mnt/theirs/images/deep/1.png"):
        assert read(store, path) == png(1)
    refused(hub_files.ImageStore(tmp_path), "deep/1.png", "not in")  # a person's own path means what it says


def test_bad_zips_and_members(tmp_path, monkeypatch):
    file = zipped(tmp_path / "a.zip", {"../out.png": png(), "/abs.png": png(), "big.png": png(), "bad.png": png(3)})
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo("bad.png").header_offset
    content = bytearray(file.read_bytes())
    content[start + 60] ^= 255
    file.write_bytes(content)
    store = hub_files.ImageStore(tmp_path, [file])
    refused(store, "../out.png", "leaves")
    refused(store, "out.png", "not in")
    refused(store, "abs.png", "not in")
    refused(store, "bad.png", "cannot be unpacked")
    monkeypatch.setattr(hub_files, "MAX_BYTES", 100)
    refused(store, "big.png", "at most 100")
    (tmp_path / "b.zip").write_bytes(content[:50])
    with pytest.raises(InputError, match=r"b\.zip cannot be opened.*again"):
        hub_files.ImageStore(tmp_path, [tmp_path / "b.zip"])


def test_a_member_of_a_zip_is_read_with_a_bound_whatever_size_it_claims(tmp_path):
    """200 MB of zeros that claim to be 100 bytes, and members that are unpacked at once whatever is asked for."""
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(200_000_000))
        archive.writestr("other.png", bytes(9), zipfile.ZIP_BZIP2)
        size = archive.getinfo("bomb.png").file_size
    file.write_bytes(file.read_bytes().replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    store = hub_files.ImageStore(tmp_path, [file])
    tracemalloc.start()
    refused(store, "bomb.png", "cannot be unpacked")
    refused(store, "other.png", "not packed by deflate")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000


def test_zips_are_found_by_their_listing(tmp_path):
    zips = [zipped(tmp_path / f"train_images{part}.zip", {}) for part in ("", "_part1", "_part2")]
    assert hub_files.image_zips(tmp_path) == zips[:1]
    (tmp_path / "train_images_zips.txt").write_text("train_images_part1.zip\ntrain_images_part2.zip\nnot_here.zip\n")
    assert hub_files.image_zips(tmp_path) == zips[1:]
    assert hub_files.image_zips(tmp_path, "val") == []


def test_parquet_structs_hold_images(tmp_path):
    schema = pyarrow.schema([("image", STRUCT)])
    (tmp_path / "a.png").write_bytes(png(1))
    rows = [{"image": {"bytes": png(2), "path": "a.png"}}, {"image": {"path": "a.png"}}]
    path, store = parquet(tmp_path / "a.parquet", rows, schema), hub_files.ImageStore(tmp_path)
    assert [read(store, row["image"]) for _, row in hub_files.rows(path)] == [png(2), png(1)]


def test_a_download_without_a_network_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    fetch = mock.Mock()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    hub_files.download("them/set", tmp_path, ["a/*"], "script")
    fetch.assert_called_once_with(
        "them/set", repo_type="dataset", revision="script", local_dir=tmp_path, allow_patterns=["a/*"]
    )
    for error in (RuntimeError("no\nname"), huggingface_hub.errors.LocalEntryNotFoundError("no network")):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", mock.Mock(side_effect=error))
        with pytest.raises(InputError, match=r"hf download them/set .*--revision script --include 'a/\*'") as caught:
            hub_files.download("them/set", tmp_path, ["a/*"], "script")
        assert "\n" not in str(caught.value)


def test_parquet_and_the_hub_are_imported_late():
    """A command that reads neither starts without them."""
    imports = "from perl_jax.records import hub_files"
    code = f"import sys; {imports}; print({{'pyarrow', 'huggingface_hub'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
@given(
    rows=strategies.lists(
        strategies.tuples(*[strategies.text(string.printable + "é中", max_size=8)] * 2).filter(any), max_size=4
    )
)
def test_delimited_files_are_what_was_written(tmp_path_factory, suffix, delimiter, rows):
    path = tmp_path_factory.mktemp("table") / f"a{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("a", "b"), *rows])
    assert [row for _, row in hub_files.rows(path)] == [{"a": a or None, "b": b or None} for a, b in rows]


def test_a_large_cell_and_a_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("image,n\n" + "A" * 1_000_000 + ",1\n1,2,3\n")
    (_, row), (number, error) = hub_files.rows(tmp_path / "a.csv")
    assert len(row["image"]) == 1_000_000 and number == 2 and "3 cells under 2 columns" in str(error)
    (tmp_path / "a.csv").write_text("n,n\n1,2\n")
    with pytest.raises(InputError, match="column 'n' twice"):
        list(hub_files.rows(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (png(0), True),
        (base64.b64encode(png(0)).decode(), True),
        ({"bytes": png(0), "path": None}, True),
        ({"image_url": {"url": "data:image/png;base64,AAAA"}}, True),
        ("a/b.JPG", True),
        (["a.png", "b.webp"], True),
        ("['a.png', 'b.png']", True),
        (["a.png", "a cat"], False),
        ("a cat", False),
        (b"text", False),
        ({"path": "a.mp4"}, False),
        (7, False),
        ("", False),
        ([], False),
        ("[" * 5000, False),
    ],
)
def test_what_looks_like_an_image(value, expected):
    assert hub_files.is_image(value) == expected


def test_the_cached_files_of_the_hub_are_links(tmp_path):
    """They lie beside the snapshots, so images may be anywhere in the data set's cache, and not outside."""
    for name in ("repo/blobs", "repo/snapshots/abc"):
        (tmp_path / name).mkdir(parents=True)
    for place in ("repo/blobs/1", "2"):
        (tmp_path / place).write_bytes(png(0))
    snapshot = tmp_path / "repo" / "snapshots" / "abc"
    (snapshot / "a.png").symlink_to(tmp_path / "repo" / "blobs" / "1")
    (snapshot / "b.png").symlink_to(tmp_path / "2")
    store = hub_files.ImageStore(snapshot, [], within=tmp_path / "repo")
    assert store.reader("a.png")() == png(0)
    for reader in (store.reader("b.png"), hub_files.ImageStore(snapshot, []).reader("a.png")):
        with pytest.raises(InputError, match="is outside"):
            reader()

"""A file that is not what was written is named."""

import pytest
from damage import DAMAGES, damage

from models.errors import InputError
from perl_jax.runtime import checksums


def written(folder):
    for name in ("a.json", "b.bin"):
        (folder / name).write_bytes(name.encode() * 40)
    checksums.write(folder)
    checksums.check(folder, "mend it")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_named(tmp_path, kind):
    written(tmp_path)
    damage(tmp_path / "b.bin", kind)
    with pytest.raises(InputError, match=r"b\.bin [^\n]*: mend it$"):
        checksums.check(tmp_path, "mend it")


@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "missing"])
def test_damaged_checksums_are_named_too(tmp_path, kind):
    written(tmp_path)
    damage(tmp_path / checksums.FILE, kind)
    with pytest.raises(InputError, match=r"[^\n]*: mend it$"):
        checksums.check(tmp_path, "mend it")


def test_files_that_come_later_or_are_not_covered_may_be_anything(tmp_path):
    for name in ("a.json", "b.bin"):
        (tmp_path / name).write_bytes(name.encode())
    checksums.check(tmp_path, "of an earlier version")
    checksums.write(tmp_path, "*.json")
    (tmp_path / "b.bin").write_bytes(b"")
    (tmp_path / "c.json").write_bytes(b"")
    checksums.check(tmp_path, "mend it")

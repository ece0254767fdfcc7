"""Where a run starts; loading in training dtypes, adapters and references are tested in test_train.py."""

import filecmp

import pytest
import tiny_run
from damage import DAMAGES, damage

from models.errors import InputError
from perl_jax import policy

TEXTS = ["Which image shows 8?", "In a box.", "\\boxed{2}"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The workdir and fingerprint of a model made from nothing."""
    workdir = tmp_path_factory.mktemp("made")
    return workdir, policy.base(tiny_run.config(), workdir, TEXTS).fingerprint


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_new_model_is_one_line(made, kind):
    workdir, _ = made
    for file in sorted((workdir / "init").iterdir()):
        before = file.read_bytes()
        damage(file, kind)
        with pytest.raises(InputError, match=r"/init/[^\n]*: restore it, or move the folder away"):
            policy.base(tiny_run.config(), workdir, TEXTS)
        file.write_bytes(before)


def test_the_same_model_is_made_again(made, tmp_path):
    workdir, fingerprint = made
    (workdir / "init").rename(tmp_path / "away")
    assert policy.base(tiny_run.config(), workdir, TEXTS).fingerprint == fingerprint
    compared = filecmp.dircmp(workdir / "init", tmp_path / "away")
    assert not compared.diff_files + compared.left_only + compared.right_only and compared.same_files

"""Where a run starts; loading in training dtypes, adapters and references are tested in test_train.py."""

import filecmp
import os
import subprocess
import sys

import pytest
import tiny_run
from damage import DAMAGES, damage
from environment import REPOSITORY
from subprocesses import finish, free_port

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


DOWNLOAD = """
import sys, time
from pathlib import Path
import huggingface_hub
from perl_jax import policy
from perl_jax.runtime import processes

cache, coordinator, index = sys.argv[1:]

def snapshot_download(name, **_):
    print("asked for", name, (Path(cache) / "model").exists(), flush=True)
    if name == "owner/none":
        raise OSError("offline")
    time.sleep(0.5)  # the other process would be here, too
    (Path(cache) / "model").touch()
    return cache

huggingface_hub.snapshot_download = snapshot_download
processes.join(coordinator, 2, int(index))
policy.directory("owner/model")
policy.directory("owner/none")
"""


@pytest.mark.slow
def test_process_0_downloads_before_the_others(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", DOWNLOAD, tmp_path, f"localhost:{free_port()}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen([*command, str(index)], env=environment, **pipes) for index in range(2)]
    texts = [text for _, text in finish(both, timeout=60)]
    first, second = ([line for line in text.splitlines() if line.startswith("asked for")] for text in texts)
    assert first == ["asked for owner/model False", "asked for owner/none True"], texts
    assert second == ["asked for owner/model True"], texts
    assert all("InputError: owner/none: no such directory, and the hub cannot be reached" in text for text in texts)

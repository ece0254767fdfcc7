"""Where a policy comes from: a Hugging Face directory, or a small model from nothing."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from models import qwen2_5_vl as qwen
from models.errors import InputError
from perl_jax import mesh, processes, scratch
from perl_jax.prompts import Prompts

FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors", "LICENSE*")  # of a hub model: never a pickle


class Policy(NamedTuple):
    """A loaded model, the prompts that it is trained with, and which weights it started from."""

    model: qwen.Qwen2_5_VL
    prompts: Prompts
    path: str
    fingerprint: str


def load(config, workdir: Path, texts: Iterable[str]) -> Policy:
    """The policy that `config.model` names; without a name one of `config.scratch`'s sizes, made once in the workdir.

    Its weights lie on the current mesh. `texts` train a new model's tokenizer. Raises InputError where neither is
    given.
    """
    if not config.model and not config.scratch:
        raise InputError("config.model must name a Hugging Face directory, or config.scratch give sizes of a new model")
    path = directory(config.model) if config.model else workdir / "init"

    def make():
        if not config.model and not path.exists():
            scratch.make(path, config.scratch.to_dict(), texts, seed=config.seed)

    processes.after_first(make)
    model = qwen.load(path, dtype="float32", compute_dtype=config.compute_dtype, sharding=mesh.sharding)
    prompts = Prompts(qwen.Processor.from_pretrained(path), **config.prompt)
    return Policy(model, prompts, str(path), fingerprint(path))


def directory(name: str) -> Path:
    """The local directory of a model: `name` itself, or a hub id such as `Qwen/Qwen2.5-VL-3B-Instruct@main`.

    Raises InputError for what is neither here nor in the hub's cache and cannot be downloaded.
    """
    if Path(name).exists():
        return Path(name)
    hub_id = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if not hub_id:
        raise InputError(f"{name}: no such directory, and no hub id like owner/name or owner/name@revision")
    from huggingface_hub import snapshot_download

    try:  # from its cache where the hub cannot be reached
        return Path(snapshot_download(hub_id[1], revision=hub_id[2], allow_patterns=FILES))
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no such directory, and the hub cannot be reached or has no such model: "
                         f"download it where you are online (hf download {hub_id[1]})") from error  # fmt: skip


def fingerprint(path: Path) -> str:
    """A hash of a directory's weights: file names, sizes and 16 samples of 64 KiB from each, header included."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(Path(path).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            for i in range(16):
                stream.seek(i * size // 16)
                digest.update(stream.read(1 << 16))
    return digest.hexdigest()

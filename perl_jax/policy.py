"""Where a policy comes from: a Hugging Face directory, or a small model from nothing."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from models import qwen2_5_vl as qwen
from models.errors import InputError
from perl_jax import scratch
from perl_jax.prompts import Prompts


class Policy(NamedTuple):
    """A loaded model, the prompts that it is trained with, and which weights it started from."""

    model: qwen.Qwen2_5_VL
    prompts: Prompts
    path: str
    fingerprint: str


def load(config, workdir: Path, texts: Iterable[str]) -> Policy:
    """The policy that `config.model` names; without a name one of `config.scratch`'s sizes, made once in the workdir.

    `texts` train a new model's tokenizer. Raises InputError where neither or both are given.
    """
    if bool(config.model) == bool(config.scratch):
        raise InputError("config.model must name a Hugging Face directory, or config.scratch give sizes of a new model")
    path = Path(config.model or workdir / "init")
    if config.scratch and not path.exists():
        scratch.make(path, config.scratch.to_dict(), texts, seed=config.seed)
    model = qwen.load(path, dtype="float32", compute_dtype=config.compute_dtype)
    prompts = Prompts(qwen.Processor.from_pretrained(path), **config.prompt)
    return Policy(model, prompts, str(path), fingerprint(path))


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

"""Loads the policy to train: from a Hugging Face directory or hub id, or a small randomly initialised model."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
from flax import nnx
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

import models
from models import lora
from models.atomic_directory import atomic_directory
from models.errors import InputError
from perl_jax import mesh
from perl_jax.records.prompts import Prompts
from perl_jax.runtime import checksums, processes

HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # owner/name or owner/name@revision
FILES = ("*.json", "*.jinja", "*.txt", "LICENSE*", "README.md")  # of a hub model; its card has the licence
WEIGHTS = ("*.safetensors",)  # no pickle files
MEND = "restore it, or move the folder away: the same config and seed make the same model again"


class Base(NamedTuple):
    """The base of a run, besides the model itself: its prompt settings, and which weights."""

    prompts: Prompts
    path: str
    fingerprint: str


def load(config: ConfigDict, workdir: Path, texts: Iterable[str]) -> tuple[models.Model, Base]:
    """The model to train, on the current mesh, each weight loaded in its training dtype, and its base.

    Adds new adapters if `config.lora` has a rank. Otherwise as `base`.
    """
    base_model = base(config, workdir, texts)
    model = models.load(
        base_model.path, dtype=dtypes(config), compute_dtype=config.compute_dtype, sharding=mesh.sharding
    )
    return adapted(config, model, mesh.sharding), base_model


def frozen(config: ConfigDict, base: Base) -> models.Model:
    """The base model on the current mesh for inference alone, in the compute dtype."""
    return models.load(base.path, dtype=config.compute_dtype, sharding=mesh.sharding)


def base(config: ConfigDict, workdir: Path, texts: Iterable[str]) -> Base:
    """The base that `config.model` names, or without a name a new model of `config.scratch`'s sizes.

    A new model is made once, in the workdir; `texts` train its tokenizer. Raises InputError where neither is given.
    """
    path = _place(config, workdir)
    sums = path.with_name(f"{path.name}.{checksums.FILE}")  # beside it: the model's files are copied on export

    def make() -> None:
        if not config.model and not path.exists():
            from_scratch, sizes = _new(config)
            with atomic_directory(path) as partial:
                from_scratch.make(partial, sizes, texts, seed=config.seed)
            checksums.write(path, to=sums)

    processes.after_first(make)
    if not config.model:
        checksums.check(path, MEND, by=sums)
    prompts = Prompts(models.Processor.from_pretrained(path), **config.prompt)
    return Base(prompts, str(path), fingerprint(path))


def without_weights(config: ConfigDict, workdir: Path, texts: Iterable[str]) -> tuple[Prompts, models.Config]:
    """The prompts that `load` would give, and the model's config, without reading, making or downloading weights."""
    path = _place(config, workdir, weights=False)
    with tempfile.TemporaryDirectory() as folder:
        if not config.model and not path.exists():
            path = Path(folder)
            from_scratch, sizes = _new(config)
            from_scratch.make_processor(path, sizes, texts)
        prompts = Prompts(models.Processor.from_pretrained(path), **config.prompt)
        return prompts, models.read_config(path)


def _place(config: ConfigDict, workdir: Path, weights: bool = True) -> Path:
    """The model's directory; that of a new model is in the workdir once it is made."""
    if not config.model and not config.scratch:
        raise InputError("config.model must name a Hugging Face directory, or config.scratch give sizes of a new model")
    return directory(config.model, weights) if config.model else workdir / "init"


def _new(config: ConfigDict) -> tuple[ModuleType, dict]:
    """The `from_scratch` module and the sizes of a new model.

    The family is that of `config.scratch.model_type`, or the first.
    """
    sizes = config.scratch.to_dict()
    model_type = sizes.pop("model_type", next(iter(models.FAMILIES)))
    return models.family({"model_type": model_type}).from_scratch, sizes


def adapted(
    config: ConfigDict, model: models.Model, sharding: Callable[..., NamedSharding] | None = None
) -> models.Model:
    """The model with the adapters of `config.lora`, if any."""
    return lora.add(model, **config.lora, seed=config.seed, sharding=sharding) if config.lora.rank else model


def trainable(config: ConfigDict) -> Callable[[str], bool]:
    """A predicate for trainable weights, by attribute path."""
    if config.lora.rank:
        return lora.is_adapter
    return lambda path: config.train_vision or not path.startswith("visual.")


def dtypes(config: ConfigDict) -> Callable[[str], str]:
    """The dtype of each weight by attribute path: float32 if trainable, else the compute dtype."""
    trains = trainable(config)
    return lambda path: "float32" if trains(path) else config.compute_dtype


def reference(config: ConfigDict, model: models.Model) -> models.Model | None:
    """The reference model of the KL penalty for a policy that starts as `model`; None without KL.

    With adapters it is the model without them, sharing its arrays. Otherwise it is a copy in the compute dtype, to
    which weights are cast before use anyway: results are bit-identical.
    """
    if not config.loss.kl_coef:
        return None
    if config.lora.rank:
        return lora.without(model)
    graph, weights = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda w: w.astype(model.compute_dtype), weights))


def directory(name: str, weights: bool = True) -> Path:
    """The local directory of a model: `name` itself, or a hub id such as `Qwen/Qwen2.5-VL-3B-Instruct@main`.

    Downloads with or without weights: process 0 first, so that a cache (HF_HOME) that all hosts share is filled once.
    All processes make the same call. Raises InputError for a model that is neither here nor in the hub's cache and
    cannot be downloaded.
    """
    return processes.after_first(lambda: _here_or_downloaded(name, weights))


def _here_or_downloaded(name: str, weights: bool) -> Path:
    if Path(name).exists():
        check_directory(Path(name))
        return Path(name)
    hub_id = HUB_ID.fullmatch(name)
    if not hub_id:
        raise InputError(f"{name}: no such directory, and no hub id like owner/name or owner/name@revision")
    from huggingface_hub import snapshot_download

    try:  # uses the cache where the hub cannot be reached
        patterns = FILES + WEIGHTS if weights else FILES
        return Path(snapshot_download(hub_id[1], revision=hub_id[2], allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: no such directory, and the hub cannot be reached or has no such model: "
            f"download it where you are online (hf download {hub_id[1]})"
        ) from error


def check_directory(path: Path) -> None:
    """Raises InputError for a directory that holds something of a run, but no model."""
    if not path.is_dir() or (path / "config.json").exists():
        return
    for checkpoints in (path / "checkpoints", path, path.parent):
        if checkpoints.name == "checkpoints" and checkpoints.is_dir():
            raise InputError(
                f"{path} belongs to the workdir of a run and is no model: export it first, "
                f"python -m perl_jax.export --workdir={checkpoints.parent} --out=DIR, and give DIR"
            )
    if (path / "adapter_config.json").exists():
        raise InputError(f"{path} holds adapters alone, no model: export without --adapter, or merge them with PEFT")


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

"""Loads and saves Hugging Face weights; hub names follow from attribute paths by four rules:

- the STACKS hold all their layers stacked on a leading axis; the hub names each layer;
- a `kernel` is stored input first: the hub has our last axis in front; `scale`, `bias`, `embedding` are the same;
- `kernel`, `scale` and `embedding` are called `weight` in the hub, and `mlp_0` is `mlp.0`;
- these short names are those of some families' files, others have longer prefixes: their `hub_name` adds them.

Inside this module names are short, whatever a directory calls them.
"""

import contextlib
import dataclasses
import inspect
import itertools
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import models
from models.atomic_directory import atomic_directory
from models.errors import InputError
from models.source import DTYPES, INDEX, WEIGHTS, Tensor, open_directory

logger = logging.getLogger(__name__)

STACKS = (("visual", "blocks"), ("visual", "deepstack_merger_list"), ("model", "layers"))
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SHARD_BYTES = 5_000_000_000
PIECE = 1 << 26  # bytes of a parameter read at a time
Keys = tuple[str, ...]


def load(
    path: str | Path,
    dtype: Any | Callable[[str], Any] = "float32",
    compute_dtype: Any = None,
    sharding: Callable[[tuple[int, ...], tuple[str, ...]], jax.sharding.Sharding] | None = None,
) -> models.Model:
    """A model with the weights of a Hugging Face directory, its parameters in `dtype`.

    `dtype` may be a function of a parameter's path ("visual.blocks.attn.qkv.kernel"); it then needs `compute_dtype`.
    `sharding` maps (shape, logical axes) of a parameter to its sharding, of which only the local shards are read; None
    is one device. Large shards are assembled on the device from pieces of `PIECE` bytes, or of a layer if that is more:
    the host never holds a whole stack. Raises InputError, naming the file or tensor, for anything missing, unexpected,
    misshapen or truncated; warns, naming them, of tensors with NaN or infinity.
    """
    raw, tensors, source = open_directory(path)
    family = models.family(raw)
    config, network = family.Config.from_hf(raw), family.Model
    dtype_of = dtype if inspect.isfunction(dtype) else lambda path: dtype
    compute_dtype = jnp.dtype(compute_dtype or dtype)
    abstract = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0), compute_dtype=compute_dtype, source=source))
    graph, state = nnx.split(abstract)
    flat = list(nnx.to_flat_state(state))
    _check(path, config, {tuple(keys): param.shape for keys, param in flat}, tensors)
    not_finite: set[str] = set()
    noting = {name: _Noting(name, tensor, not_finite) for name, tensor in tensors.items()}

    def fill(keys: Keys, param: nnx.Param) -> nnx.Param:
        stored_dtype = jnp.dtype(dtype_of(".".join(keys)))

        def read(index: tuple[slice, ...]) -> np.ndarray:
            return _read(noting, keys, param.shape, index, stored_dtype)

        if sharding is None:
            return param.replace(_on_device(read, param.shape, (slice(None),) * len(param.shape), stored_dtype, None))
        where = sharding(param.shape, param.get_metadata("axes"))
        parts = [
            _on_device(read, param.shape, index, stored_dtype, device)
            for device, index in where.addressable_devices_indices_map(param.shape).items()
        ]
        return param.replace(jax.make_array_from_single_device_arrays(param.shape, where, parts))

    filled = nnx.from_flat_state([(keys, fill(tuple(keys), param)) for keys, param in flat])
    if not_finite:
        others = f" and {len(not_finite) - 1} more tensors hold" if len(not_finite) > 1 else " holds"
        logger.warning(
            "%s: %s%s NaN or infinity, and so will all that is computed: restore the weights",
            path,
            family.hub_name(min(not_finite)),
            others,
        )
    return nnx.merge(graph, filled)


def save(model: models.Model, path: str | Path, dtype: Any = None) -> None:
    """Writes a Hugging Face directory that transformers loads: config, weights with hub names, side files.

    Each tensor has the dtype it had on disk, or `dtype` if given. The directory is written atomically. Raises
    InputError where `path` is not empty, and ValueError for a model with adapters (`lora.merge`).
    """
    with new_directory(path) as partial:
        plan = _plan(model, dtype)
        _write_config(partial / "config.json", model, plan, dtype)
        _write_weights(partial, plan)
        for name, data in model.source.files if model.source else ():
            (partial / name).write_bytes(data)


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A temporary directory that becomes `path` at the end, or is removed on an error.

    Raises InputError where `path` is not empty.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise InputError(f"{path}: exists and is not empty: give a new directory")
    with atomic_directory(path) as partial:
        yield Path(partial)


def named(tree: Any) -> dict[str, jax.Array]:
    """{hub name: array in the hub's shape} of a model, an nnx.State (of weights or gradients) or a nested dict.

    Layers are unstacked and kernels transposed; a tied model has no `lm_head.weight`. Works under tracing. A tree that
    is no model is of the family whose `OWN_WEIGHTS` are in it, else of the first.
    """
    leaves = list(_leaves(tree))
    hub_name = _family(tree, leaves).hub_name
    return {
        hub_name(name): _to_hub(keys, value if layer is None else value[layer])
        for keys, value in leaves
        for name, layer in _names(keys, len(value))
    }


def _family(tree: Any, leaves: list[tuple[Keys, Any]]) -> ModuleType:
    if isinstance(tree, nnx.Module) and hasattr(tree, "config"):
        return models.family(tree.config)
    parts = {key for keys, _ in leaves for key in keys}
    families = [models.family({"model_type": name}) for name in models.FAMILIES]
    return next((family for family in families if family.OWN_WEIGHTS & parts), families[0])


def _leaves(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if isinstance(tree, nnx.Module):
        yield from _leaves(nnx.state(tree, nnx.Param), keys)
    elif isinstance(tree, nnx.Variable):
        yield keys, tree.get_value()
    elif isinstance(tree, Mapping):
        for key in tree:
            yield from _leaves(tree[key], (*keys, key))
    elif tree is not None:
        yield keys, tree


def _stacked(keys: Keys) -> bool:
    return tuple(keys[:2]) in STACKS


def _names(keys: Keys, layers: int) -> list[tuple[str, int | None]]:
    """(short name, layer or None) of each hub tensor in the parameter at `keys`."""
    *parents, leaf = keys
    if leaf not in LEAVES:
        raise InputError(f"{'.'.join(map(str, keys))}: no weight of a model, so it has no Hugging Face name")
    parts = [re.sub(r"_(\d+)$", r".\1", part) for part in parents] + [LEAVES[leaf]]
    if not _stacked(keys):
        return [(".".join(parts), None)]
    return [(".".join([*parts[:2], str(layer), *parts[2:]]), layer) for layer in range(layers)]


def _to_hub(keys: Keys, value: Any) -> Any:
    """One layer's weight in the hub's shape, from a numpy or jax array (or a shape, as a tuple)."""
    if keys[-1] != "kernel":
        return value
    if isinstance(value, tuple):
        return (value[-1], *value[:-1])
    return value.transpose(value.ndim - 1, *range(value.ndim - 1))


def _check(
    path: str | Path, config: models.Config, shapes: dict[Keys, tuple[int, ...]], tensors: dict[str, Tensor]
) -> None:
    expected = {
        name: _to_hub(keys, tuple(shape[1:] if _stacked(keys) else shape))
        for keys, shape in shapes.items()
        for name, _ in _names(keys, shape[0])
    }
    hub_name = models.family(config).hub_name
    if missing := expected.keys() - tensors.keys():
        raise InputError(
            f"{path}: {_first(map(hub_name, missing))} missing: the weights are incomplete or of another model"
        )
    if config.text.tie_word_embeddings and HEAD in tensors:
        expected[HEAD] = expected[EMBEDDING]
    if unexpected := tensors.keys() - expected.keys():
        raise InputError(f"{path}: {_first(map(hub_name, unexpected))} unexpected: config.json describes another model")
    for name, shape in expected.items():
        if tensors[name].shape != tuple(shape):
            raise InputError(
                f"{tensors[name].file}: tensor {hub_name(name)!r} has shape {list(tensors[name].shape)}, "
                f"config.json means {list(shape)}: weights and config.json are not of one model"
            )
    if config.text.tie_word_embeddings and HEAD in tensors and not _equal(tensors[HEAD], tensors[EMBEDDING]):
        raise InputError(
            f"{tensors[HEAD].file}: tensor {HEAD!r} differs from {hub_name(EMBEDDING)!r}, though config.json ties "
            "them: set tie_word_embeddings to false"
        )


def _equal(a: Tensor, b: Tensor, rows: int = 4096) -> bool:
    parts = (slice(start, start + rows) for start in range(0, a.shape[0], rows))  # limits the rows in memory
    return all(np.array_equal(a[part], b[part]) for part in parts)


def _first(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    some = ", ".join(repr(name) for name in names[:most])
    return f"tensor {some}" if len(names) == 1 else f"{len(names)} tensors (first: {some}) are"


def _read(
    tensors: dict[str, Tensor], keys: Keys, shape: tuple[int, ...], index: tuple[slice, ...], dtype: np.dtype
) -> np.ndarray:
    """The part `index` of the parameter at `keys`, reading only the layers and slices that it needs."""
    names = _names(keys, shape[0])
    names, inner = (names[index[0]], index[1:]) if _stacked(keys) else (names, index)
    part = [len(range(*s.indices(size))) for s, size in zip(inner, shape[len(shape) - len(inner) :])]
    out = np.empty((len(names), *part), dtype)
    for place, (name, _) in enumerate(names):
        value = tensors[name][_to_hub(keys, inner)]
        out[place] = np.moveaxis(value, 0, -1) if keys[-1] == "kernel" else value
    return out if _stacked(keys) else out[0]


@dataclasses.dataclass(frozen=True)
class _Noting:
    """A tensor that adds its name to `not_finite` where a part that is read holds NaN or infinity."""

    name: str
    tensor: Tensor
    not_finite: set[str]

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        value = self.tensor[index]
        if not _is_finite(value):
            self.not_finite.add(self.name)
        return value


def _is_finite(value: np.ndarray) -> bool:
    if value.dtype == jnp.bfloat16:  # in place of numpy's own, which goes number by number
        return (value.view(np.uint16) & 0x7F80).max(initial=0) < 0x7F80
    return bool(np.isfinite(value).all())


def _on_device(
    read: Callable, shape: tuple[int, ...], index: tuple[slice, ...], dtype: np.dtype, device: jax.Device | None
) -> jax.Array:
    """The part `index` of a parameter of `shape` on a device, transferred in pieces along its first axis."""
    starts, stops, _ = zip(*(part.indices(size) for part, size in zip(index, shape)))
    size = tuple(stop - start for start, stop in zip(starts, stops))
    at_once = max(1, PIECE // (dtype.itemsize * math.prod(size[1:])))
    if size[0] <= at_once:
        return jax.device_put(read(index), device)
    # An array on one device cannot be used under a mesh of several.
    with jax.set_mesh(jax.sharding.Mesh(np.array(device), ())) if device else contextlib.nullcontext():
        array = jnp.zeros(size, dtype, device=device)
        for start in range(0, size[0], at_once):
            here = slice(starts[0] + start, min(starts[0] + start + at_once, stops[0]))
            piece = jax.device_put(read((here, *index[1:])), device)
            array = _put(array, piece, np.int32(start)).block_until_ready()  # otherwise pieces would accumulate
    return array


@partial(jax.jit, donate_argnums=0)
def _put(array, piece, start):
    return jax.lax.dynamic_update_slice_in_dim(array, piece, start, axis=0)


@dataclasses.dataclass(frozen=True)
class _Write:
    """One tensor to be written, whose `value` is fetched when it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    value: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize


def _plan(model: models.Model, dtype: Any) -> list[_Write]:
    """The tensors to write, in the order of the source."""
    on_disk = model.source.dtype_of if model.source else {}
    plan = {}
    for keys, value in _leaves(model):
        if "lora_A" in keys:
            raise ValueError(f"{'.'.join(keys)}: merge the adapters first, other software would not know them")
        shape = _to_hub(keys, tuple(value.shape[1:] if _stacked(keys) else value.shape))
        for name, layer in _names(keys, len(value)):
            stored = _dtype_name(dtype if dtype is not None else DTYPES.get(on_disk.get(name), value.dtype))
            plan[name] = _Write(name, stored, shape, lambda k=keys, v=value, i=layer: _fetch(k, v, i))
    if HEAD in on_disk and HEAD not in plan:
        tied = plan[EMBEDDING]
        plan[HEAD] = dataclasses.replace(tied, name=HEAD, dtype=tied.dtype if dtype is not None else on_disk[HEAD])
    order = {name: place for place, name in enumerate(on_disk)}
    writes = sorted(plan.values(), key=lambda write: order.get(write.name, len(order)))
    hub_name = models.family(model.config).hub_name
    return [dataclasses.replace(write, name=hub_name(write.name)) for write in writes]


def _fetch(keys: Keys, value: jax.Array, layer: int | None) -> np.ndarray:
    # A dynamic index: the stack is neither fetched whole nor the slice compiled for each layer.
    part = value if layer is None else jax.lax.dynamic_index_in_dim(value, np.int32(layer), keepdims=False)
    return _to_hub(keys, np.asarray(part))


def _dtype_name(dtype: Any) -> str:
    for name, known in DTYPES.items():
        if known == jnp.dtype(dtype):
            return name
    raise InputError(f"dtype {dtype!r}: weights are saved as {', '.join(str(known) for known in DTYPES.values())}")


def _write_config(file: Path, model: models.Model, plan: list[_Write], dtype: Any) -> None:
    if model.source and dtype is None:
        file.write_bytes(model.source.config)  # unchanged
        return
    raw = json.loads(model.source.config) if model.source else model.config.to_hf()
    stored = {"torch_dtype": str(DTYPES[plan[0].dtype])}
    for section in (raw, raw.get("text_config"), raw.get("vision_config")):
        if isinstance(section, dict):
            here = {key: stored["torch_dtype"] for key in ("dtype", "torch_dtype") if key in section}
            section.update(here or (stored if section is raw else {}))
    file.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _write_weights(path: Path, plan: list[_Write]) -> None:
    shards: list[list[_Write]] = [[]]
    for write in plan:
        if shards[-1] and sum(other.size for other in shards[-1]) + write.size > SHARD_BYTES:
            shards.append([])
        shards[-1].append(write)
    if len(shards) == 1:
        _write_file(path / WEIGHTS, shards[0])
        return
    places = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(path / file, shard)
        places.update({write.name: file for write in shard})
    index = {"metadata": {"total_size": sum(write.size for write in plan)}, "weight_map": places}
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_tensors(file: Path, tensors: Mapping[str, jax.Array]) -> None:
    """Writes named arrays to one safetensors file."""
    _write_file(
        file,
        [
            _Write(name, _dtype_name(value.dtype), value.shape, lambda v=value: np.asarray(v))
            for name, value in tensors.items()
        ],
    )


def _write_file(file: Path, writes: list[_Write]) -> None:
    """Writes one safetensors file, tensor by tensor, to avoid a second copy of the weights in memory."""
    ends = list(itertools.accumulate(write.size for write in writes))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # required by transformers
    for write, end in zip(writes, ends):
        header[write.name] = {"dtype": write.dtype, "shape": list(write.shape), "data_offsets": [end - write.size, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors start aligned
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for write in writes:
            stream.write(np.ascontiguousarray(write.value(), DTYPES[write.dtype]).reshape(-1).view(np.uint8).data)

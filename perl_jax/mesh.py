"""Device mesh and array sharding: the only module that names mesh axes.

    slice   slices of a TPU pod, over the data-centre network: replicated weights, sharded rows
    data    the same within a slice
    fsdp    sharded rows, and sharded weights that are gathered layer by layer
    tensor  tensor parallelism: heads, hidden units of an MLP, vocabulary

The mesh is JAX's current one (`with jax.set_mesh(mesh.make())`); without one, all functions here are no-ops and
everything is on one device. Weights name their dimensions logically (`models`), and `LAYOUTS` maps these names to mesh
axes; a dimension that the axis does not divide is replicated. Rows (an update's rows of tokens, a vision pack's rows of
images, a sampler's prompts with their streams) are sharded over all axes but `tensor`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from models.errors import InputError

Tree = TypeVar("Tree")  # a pytree of arrays

ROWS = ("slice", "data", "fsdp")
AXES = (*ROWS, "tensor")
_TENSOR = {"heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "vision_mlp": "tensor", "vocab": "tensor"}
LAYOUTS = {  # of weights: logical name -> mesh axis; other names are not sharded
    "train": {"embed": "fsdp", "vision_embed": "fsdp", "vision_merge": "fsdp", **_TENSOR},
    "decode": _TENSOR,  # weights are read for every token: gathering takes longer than reading
}


def make(
    devices: Sequence[jax.Device] | None = None, *, slice: int = 1, data: int = 1, fsdp: int = -1, tensor: int = 1
) -> Mesh:
    """The mesh of `devices` (default: all), with the given axis sizes; one may be -1, for all remaining devices.

    Raises InputError for sizes that do not match the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (slice, data, fsdp, tensor)))
    requested, count = ", ".join(f"{axis}={size}" for axis, size in sizes.items()), len(devices)
    inferred = [axis for axis, size in sizes.items() if size == -1]
    if len(inferred) > 1 or any(size < 1 for axis, size in sizes.items() if axis not in inferred):
        raise InputError(f"config.mesh: sizes are 1 or more, or -1 once for what is left, not {requested}")
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if count % known if inferred else count != known:
        raise InputError(
            f"config.mesh: {requested} does not make up {count} devices; change one of them, or set one to -1"
        )
    sizes.update(dict.fromkeys(inferred, count // known))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    elif sizes["slice"] == slices:
        within = 1, *(sizes[axis] for axis in AXES[1:])
        grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)
    else:
        raise InputError(f"config.mesh: {requested}, but the devices are {slices} slices; set slice={slices}")
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@contextlib.contextmanager
def with_tensor(size: int) -> Iterator[bool]:
    """The current mesh with `size` devices along `tensor`, neighbours along `fsdp`: whether that is another one.

    Each copy of decoding weights thus lies on more devices, and there are fewer shards of rows. 0 leaves the mesh as it
    is, as does the lack of one. Raises InputError where the axes do not allow the size.
    """
    current = jax.sharding.get_mesh()
    if current.empty or size in (0, current.shape["tensor"]):
        yield False
        return
    sizes = dict(current.shape)
    if size not in tensor_sizes():
        raise InputError(
            f"config.sampling.tensor is {size}; with tensor={sizes['tensor']} and fsdp={sizes['fsdp']} in the mesh it "
            f"must be 0 or one of {', '.join(map(str, tensor_sizes()))}"
        )
    both = sizes["fsdp"] * sizes["tensor"]
    shape = tuple((sizes | {"fsdp": both // size, "tensor": size}).values())
    with jax.set_mesh(Mesh(current.devices.reshape(shape), AXES, axis_types=current.axis_types)):
        yield True


def tensor_sizes() -> list[int]:
    """The sizes that `with_tensor` takes on the current mesh, rising: from that of the mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    both = sizes["fsdp"] * sizes["tensor"]
    return [size for size in range(sizes["tensor"], both + 1, sizes["tensor"]) if both % size == 0]


def shards() -> int:
    """The number of shards of rows."""
    shape = jax.sharding.get_abstract_mesh().shape
    return int(np.prod([shape.get(axis, 1) for axis in ROWS]))


def local_shards() -> frozenset[int]:
    """The shards that are on this process's devices."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return frozenset([0])
    parts = NamedSharding(mesh, P(ROWS)).addressable_devices_indices_map((shards(),)).values()
    return frozenset(part.start or 0 for (part,) in filter(None, parts))


def partition_spec(shape: Sequence[int], axes: Sequence[str], layout: str = "train") -> P:
    """The partition spec of a weight of `shape` with logical `axes`, one per dimension, in the current mesh.

    For a layer taken out of a stack, `axes` may still have the stack's leading axis.
    """
    sizes, rules = jax.sharding.get_abstract_mesh().shape, LAYOUTS[layout]
    names = [rules.get(axis) for axis in axes[len(axes) - len(shape) :]]
    return P(*(name if name and size % sizes[name] == 0 else None for name, size in zip(names, shape)))


def head_axis(heads: int) -> str | None:
    """The mesh axis for this many heads; None (replicated) where it does not divide them."""
    return "tensor" if heads % jax.sharding.get_abstract_mesh().shape["tensor"] == 0 else None


def sharding(shape: Sequence[int], axes: Sequence[str]) -> NamedSharding:
    """The sharding of a weight in training, as an argument of `models.load`."""
    return NamedSharding(jax.sharding.get_mesh(), partition_spec(shape, axes))


def in_any_thread(f: Callable) -> Callable:
    """`f` on the current mesh, in whatever thread it is called: another thread starts without a mesh."""
    current = jax.sharding.get_mesh()

    def on_mesh(*args: Any) -> Any:
        with jax.set_mesh(current):
            return f(*args)

    return f if current.empty else on_mesh


# Inside compiled programs.


def rows(tree: Tree, axis: int = 0, heads: int | None = None) -> Tree:
    """Shards dimension `axis` of the arrays as rows, and dimension `heads` over `tensor` where it divides that."""

    def where(x: jax.Array) -> P:
        names: list[str | tuple[str, ...] | None] = [None] * x.ndim
        names[axis] = ROWS
        if heads is not None:
            names[heads] = head_axis(x.shape[heads])
        return P(*names)

    empty = jax.sharding.get_abstract_mesh().empty
    return tree if empty else jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, where(x)), tree)


def by_width(x: jax.Array, axis: int = 0) -> jax.Array:
    """Shards the width of embeddings [..., D] over `fsdp`, like the embedding table, if divisible."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[-1] % mesh.shape["fsdp"]:
        return x
    spec = P(*[None] * axis, ROWS[:-1], *[None] * (x.ndim - axis - 2), "fsdp")
    return jax.lax.with_sharding_constraint(x, spec)


def from_width(x: jax.Array, axis: int = 0) -> jax.Array:
    """Reshards embeddings looked up `by_width` to `rows`; without this intermediate, XLA would replicate all rows."""
    return rows(by_width(x, axis), axis)


def to_width(x: jax.Array, axis: int = 0) -> jax.Array:
    """The inverse of `from_width`, for embeddings to be looked up; its gradient is resharded likewise."""
    return by_width(rows(x, axis), axis)


def replicated(tree: Tree) -> Tree:
    """Replicates the arrays on all devices."""
    empty = jax.sharding.get_abstract_mesh().empty
    return tree if empty else jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P()), tree)


def weights(state: Tree, layout: str = "train") -> Tree:
    """Shards weights, or a pytree like them (gradients, optimizer moments), as in `layout`."""
    if jax.sharding.get_abstract_mesh().empty:
        return state

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.Variable):
            return leaf
        where = partition_spec(leaf.shape, leaf.get_metadata("axes"), layout)
        return leaf.replace(jax.lax.with_sharding_constraint(leaf[...], where))

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def gathered(weight: jax.Array, *axes: str) -> jax.Array:
    """A weight with these logical axes as it lies in decoding: whole on each shard of rows."""
    if jax.sharding.get_abstract_mesh().empty:
        return weight
    weight = jax.lax.with_sharding_constraint(weight, partition_spec(weight.shape, axes))  # else a cast would come last
    return jax.lax.with_sharding_constraint(weight, partition_spec(weight.shape, axes, "decode"))


def by_row(f: Callable, in_axes: int | tuple[int, ...] = 0, out_axes: int | tuple[int, ...] = 0) -> Callable:
    """`jax.vmap` over sharded rows."""
    return jax.vmap(f, in_axes, out_axes, spmd_axis_name=None if jax.sharding.get_abstract_mesh().empty else ROWS)


def vmap_one_row(f: Callable) -> Callable:
    """`by_row` with one row per shard. A single row is not batched: XLA is slower on batches of one on a CPU."""

    def single(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], args)))

    return single if shards() == 1 else by_row(f)


def by_shard(f: Callable, shared: int = 0) -> Callable:
    """Applies `f` to each shard of the arguments' first dimensions, without communication between shards.

    The first `shared` arguments are replicated.
    """
    if shards() == 1:
        return f

    def sharded(*args: Any) -> Any:
        specs = tuple(P() if i < shared else P(ROWS) for i in range(len(args)))
        return jax.shard_map(f, in_specs=specs, out_specs=P(ROWS), axis_names=set(ROWS), check_vma=False)(*args)

    return sharded


def by_heads(attention: Callable) -> Callable:
    """Shards `attention(q [T, H, d], k [T, J, d], v [T, J, d], ...) -> [T, H, d]` of a row by heads over `tensor`.

    Where the axis does not divide the KV heads, each device computes all of them. For use within `by_row`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attention

    def sharded(q: jax.Array, k: jax.Array, v: jax.Array, *more: Any) -> jax.Array:
        heads = P(None, head_axis(k.shape[1]))
        specs = heads, heads, heads, *[P()] * len(more)
        return jax.shard_map(attention, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, *more)

    return sharded


# Outside compiled programs.


def place(tree: Tree, axis: int = 0) -> Tree:
    """Puts host arrays on the devices, with dimension `axis` sharded as rows."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return tree
    where = NamedSharding(mesh, P(*[None] * axis, ROWS))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, where, lambda index: x[index]), tree)


def like(x: jax.Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """An array of this shape, of the dtype and sharding of `x`, for ahead-of-time compilation."""
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding if x.committed else None)


def reshard(state: nnx.State, layout: str) -> nnx.State:
    """Reshards weights from the training layout to another by one compiled program; no-op if the layouts agree."""
    if jax.sharding.get_abstract_mesh().empty or not any(
        partition_spec(leaf.shape, leaf.get_metadata("axes"), layout)
        != partition_spec(leaf.shape, leaf.get_metadata("axes"))
        for leaf in jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    ):
        return state
    return _reshard(state, layout)


def from_other(state: nnx.State) -> nnx.State:
    """Weights from another mesh of the same devices, in the training layout of the current one."""
    return _reshard(state, "train")


@partial(jax.jit, static_argnums=1)
def _reshard(state: nnx.State, layout: str) -> nnx.State:
    return weights(state, layout)


def abstract(
    shape: Sequence[int], dtype: DTypeLike = jnp.int32, *where: str | tuple[str, ...] | None
) -> jax.ShapeDtypeStruct:
    """An abstract array on the current mesh, if there is one, sharded along its dimensions as `where` says."""
    mesh = jax.sharding.get_mesh()
    return jax.ShapeDtypeStruct(shape, dtype, sharding=None if mesh.empty else NamedSharding(mesh, P(*where)))

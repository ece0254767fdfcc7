"""Where arrays lie on many devices: the only module that names mesh axes.

    slice   slices of a TPU pod, over the data-centre network: copies of the weights, rows apart
    data    the same within a slice
    fsdp    rows apart, and a part of each weight on each device, gathered layer by layer
    tensor  parts of each layer's computation: heads, hidden units of an MLP, vocabulary

The mesh is JAX's current one (`with jax.set_mesh(mesh.make())`); without one everything here does nothing, and all
is on one device. Weights say by logical names what their dimensions are (`models`), and the tables below say which
mesh axis each name goes to; a dimension that the axis does not divide stays whole. What comes in rows (an update's rows
of tokens, a pack's rows of pictures, a sampler's prompts with their streams) is shared out over all axes but `tensor`.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.errors import InputError

ROWS = ("slice", "data", "fsdp")
AXES = (*ROWS, "tensor")
_TENSOR = {"heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "vision_mlp": "tensor", "vocab": "tensor"}
LAYOUTS = {  # of weights: logical name -> mesh axis; a name that is not here is not cut
    "train": {"embed": "fsdp", "vision_embed": "fsdp", "vision_merge": "fsdp", **_TENSOR},
    "decode": _TENSOR,  # a weight is read once a token: gathering it each time would take longer than to read it
}


def make(devices=None, *, slice: int = 1, data: int = 1, fsdp: int = -1, tensor: int = 1) -> Mesh:
    """The mesh of `devices` (by default all there are), with so many along each axis; one may be -1: what is left.

    Raises InputError for sizes that do not make up the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (slice, data, fsdp, tensor)))
    said, count = ", ".join(f"{axis}={size}" for axis, size in sizes.items()), len(devices)
    rest = [axis for axis, size in sizes.items() if size == -1]
    if len(rest) > 1 or any(size < 1 for axis, size in sizes.items() if axis not in rest):
        raise InputError(f"config.mesh: sizes are 1 or more, or -1 once for what is left, not {said}")
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if count % known if rest else count != known:
        raise InputError(f"config.mesh: {said} does not make up {count} devices; change one of them, or set one to -1")
    sizes.update(dict.fromkeys(rest, count // known))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    elif sizes["slice"] == slices:
        within = 1, *(sizes[axis] for axis in AXES[1:])
        grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)
    else:
        raise InputError(f"config.mesh: {said}, but the devices are {slices} slices; set slice={slices}")
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def shards() -> int:
    """How many parts rows are shared out in."""
    shape = jax.sharding.get_abstract_mesh().shape
    return int(np.prod([shape.get(axis, 1) for axis in ROWS]))


def own() -> frozenset[int]:
    """The shards that this process has devices of."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return frozenset([0])
    parts = NamedSharding(mesh, P(ROWS)).addressable_devices_indices_map((shards(),)).values()
    return frozenset(part.start or 0 for (part,) in parts)


def spec(shape, axes, layout: str = "train") -> P:
    """How a weight of `shape` with logical `axes`, one a dimension, is cut in the current mesh.

    Of a layer taken out of its stack, `axes` may still name the stack: it stands in front.
    """
    sizes, rules = jax.sharding.get_abstract_mesh().shape, LAYOUTS[layout]
    names = [rules.get(axis) for axis in axes[len(axes) - len(shape) :]]
    return P(*(name if name and size % sizes[name] == 0 else None for name, size in zip(names, shape)))


def head_axis(heads: int) -> str | None:
    """The axis that so many heads are cut over; None where it does not divide them: then each device has them all."""
    return "tensor" if heads % jax.sharding.get_abstract_mesh().shape["tensor"] == 0 else None


def sharding(shape, axes) -> NamedSharding:
    """Where a weight goes in training: what `models.load` asks for."""
    return NamedSharding(jax.sharding.get_mesh(), spec(shape, axes))


# Within compiled programs.


def rows(tree, axis: int = 0, heads: int | None = None):
    """The arrays with their dimension `axis` shared out as rows, and `heads` over `tensor` where that divides it."""

    def where(x):
        names = [None] * x.ndim
        names[axis] = ROWS
        if heads is not None:
            names[heads] = head_axis(x.shape[heads])
        return P(*names)

    empty = jax.sharding.get_abstract_mesh().empty
    return tree if empty else jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, where(x)), tree)


def by_width(x, axis: int = 0):
    """Rows of embeddings [..., D] with their width over `fsdp`, as that of the table lies, where that divides it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[-1] % mesh.shape["fsdp"]:
        return x
    apart = P(*[None] * axis, ROWS[:-1], *[None] * (x.ndim - axis - 2), "fsdp")
    return jax.lax.with_sharding_constraint(x, apart)


def from_width(x, axis: int = 0):
    """`rows` of embeddings that were looked up `by_width`; in one step XLA would hold all rows on each device."""
    return rows(by_width(x, axis), axis)


def to_width(x, axis: int = 0):
    """The other way, of `rows` of embeddings that others will look up; so too does the gradient go back."""
    return by_width(rows(x, axis), axis)


def whole(tree):
    """The arrays with a copy on each device."""
    empty = jax.sharding.get_abstract_mesh().empty
    return tree if empty else jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P()), tree)


def weights(state: nnx.State, layout: str = "train") -> nnx.State:
    """Weights, or what is like them (a gradient, the optimizer's moments), cut as `layout` says."""
    if jax.sharding.get_abstract_mesh().empty:
        return state

    def place(leaf):
        if not isinstance(leaf, nnx.Variable):
            return leaf
        where = spec(leaf.shape, leaf.get_metadata("axes"), layout)
        return leaf.replace(jax.lax.with_sharding_constraint(leaf[...], where))

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def by_row(f: Callable, in_axes=0, out_axes=0) -> Callable:
    """`jax.vmap` over rows."""
    return jax.vmap(f, in_axes, out_axes, spmd_axis_name=None if jax.sharding.get_abstract_mesh().empty else ROWS)


def by_own_row(f: Callable) -> Callable:
    """`by_row` of one row for each shard. A single one is no batch: XLA computes those of one slower on a CPU."""

    def alone(*args):
        return jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], args)))

    return alone if shards() == 1 else by_row(f)


def by_shard(f: Callable, shared: int = 0) -> Callable:
    """`f` of what each shard holds of its arguments' first dimensions; nothing moves between shards meanwhile.

    The first `shared` arguments are there whole.
    """
    if shards() == 1:
        return f

    def sharded(*args):
        specs = tuple(P() if i < shared else P(ROWS) for i in range(len(args)))
        return jax.shard_map(f, in_specs=specs, out_specs=P(ROWS), axis_names=set(ROWS), check_vma=False)(*args)

    return sharded


def by_heads(attention: Callable) -> Callable:
    """`attention(q [T, H, d], k [T, J, d], v [T, J, d], ...) -> [T, H, d]` of a row, with heads over `tensor`.

    Where the axis does not divide the key heads each device computes all of them. Within `by_row`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attention

    def sharded(q, k, v, *more):
        heads = P(None, head_axis(k.shape[1]))
        specs = heads, heads, heads, *[P()] * len(more)
        return jax.shard_map(attention, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, *more)

    return sharded


# Between programs.


def place(tree, axis: int = 0):
    """Host arrays on the devices, with their dimension `axis` shared out as rows."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return tree
    where = NamedSharding(mesh, P(*[None] * axis, ROWS))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, where, lambda index: x[index]), tree)


def shapes(tree, like):
    """What arrays laid out as `like` would be to a program that is compiled ahead, with the shapes in `tree`."""

    def shape(x, like):
        where = like.sharding if getattr(like, "committed", False) else None
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(shape, tree, like)


def moved(state: nnx.State, layout: str) -> nnx.State:
    """Weights in the training layout in another one, by one compiled program; as they are where nothing differs."""
    if jax.sharding.get_abstract_mesh().empty or not any(
        spec(leaf.shape, leaf.get_metadata("axes"), layout) != spec(leaf.shape, leaf.get_metadata("axes"))
        for leaf in jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    ):
        return state
    return _moved(state, layout)


@partial(jax.jit, static_argnums=1)
def _moved(state, layout: str):
    return weights(state, layout)

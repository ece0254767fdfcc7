"""Weights in every Hugging Face layout, there and back to the byte, and one clear line for each broken directory."""

import contextlib
import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import models as door
from models import qwen2_5_vl as qwen
from models import qwen3_vl, source, weights
from models.errors import InputError

HEAD = "lm_head.weight"
NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def config(tied: bool = False) -> qwen.Config:
    return qwen.Config(
        qwen.VisionConfig(2, 16, 24, 2, 24, window_size=56, fullatt_block_indexes=(1,)),
        qwen.TextConfig(60, 24, 40, 3, 4, 2, 1e6, (1, 1, 1), 1e-6, tied),
        image_token_id=50,
        video_token_id=51,
        vision_start_token_id=52,
        vision_end_token_id=53,
    )


def qwen3_config(tied: bool = False) -> qwen3_vl.Config:
    return qwen3_vl.Config(
        qwen3_vl.VisionConfig(3, 16, 24, 2, 24, num_position_embeddings=9, deepstack_visual_indexes=(2, 0)),
        qwen3_vl.TextConfig(60, 24, 40, 3, 4, 2, 8, 1e6, (2, 1, 1), 1e-6, tied),
        image_token_id=50,
        video_token_id=51,
        vision_start_token_id=52,
        vision_end_token_id=53,
    )


CONFIGS = {"Qwen2.5-VL": config, "Qwen3-VL": qwen3_config}


def random_model(tied: bool = False, dtype=jnp.float32, config=config) -> door.Model:
    """A model whose every weight, norms and biases too, is random."""
    made = config(tied)
    network = door.family(made).Model
    graph, state = nnx.split(nnx.eval_shape(lambda: network(made, rngs=nnx.Rngs(0), dtype=dtype)))
    rng = np.random.default_rng(0)
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state))


def write_file(path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file by the book, apart from the code under test."""
    header, data = {}, b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        header[name] = {
            "dtype": NAMES.get(value.dtype.name, value.dtype.name),
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def read(path) -> dict[str, np.ndarray]:
    """{name on disk: array} of a directory, read by the safetensors library (bfloat16 as its bits)."""
    safetensors = pytest.importorskip("safetensors")
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        for name, entry in safetensors.deserialize(file.read_bytes()):
            dtype = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}[entry["dtype"]]
            tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return tensors


def in_memory_name(name: str) -> str:
    if name.startswith("visual."):
        return "model." + name
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def directory(path, tensors: dict[str, np.ndarray], tied: bool = False, shards: int = 1, config=config):
    """A Hugging Face directory with these tensors."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config(tied).to_hf()))
    if shards == 1:
        write_file(path / "model.safetensors", tensors)
        return path
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        write_file(path / file, {name: value for name, value in tensors.items() if places[name] == file})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


def tensors_of(model) -> dict[str, np.ndarray]:
    return door.named(jax.device_get(nnx.state(model)))  # in numpy, nothing is compiled


def assert_same(a: dict, b: dict) -> None:
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


@pytest.mark.parametrize("names", ["hub", "memory"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", ["untied", "tied", "tied, head on disk"])
def test_every_layout_there_and_back(tmp_path, names, shards, dtype, head):
    tied = head != "untied"
    model = random_model(tied, jnp.dtype(dtype))
    hub = tensors_of(model)
    assert (HEAD in hub) != tied
    if head == "tied, head on disk":
        hub[HEAD] = hub["model.embed_tokens.weight"]
    on_disk = {in_memory_name(name) if names == "memory" else name: value for name, value in hub.items()}
    path = directory(tmp_path / "in", on_disk, tied, shards)
    loaded = qwen.load(path)
    assert {param.dtype for param in jax.tree.leaves(nnx.state(loaded))} == {jnp.dtype("float32")}
    for name, value in tensors_of(loaded).items():
        np.testing.assert_array_equal(value, hub[name].astype(np.float32))
    qwen.save(loaded, tmp_path / "out")
    assert_same(read(tmp_path / "out"), hub)
    assert (tmp_path / "out" / "config.json").read_bytes() == (path / "config.json").read_bytes()


@pytest.mark.parametrize("head", ["untied", "tied", "tied, head on disk"])
@pytest.mark.parametrize("names", ["hub", "short"])
def test_qwen3_there_and_back(tmp_path, head, names):
    """In bfloat16 shards, with the names that all Qwen3-VL's files have, whatever the directory read calls them."""
    tied = head != "untied"
    hub = tensors_of(random_model(tied, jnp.bfloat16, qwen3_config))
    assert (HEAD in hub) != tied and "model.visual.deepstack_merger_list.1.norm.bias" in hub
    if head == "tied, head on disk":
        hub[HEAD] = hub["model.language_model.embed_tokens.weight"]
    on_disk = {source.hub_name(name) if names == "short" else name: value for name, value in hub.items()}
    path = directory(tmp_path / "in", on_disk, tied, 3, qwen3_config)
    loaded = door.load(path)
    for name, value in tensors_of(loaded).items():
        np.testing.assert_array_equal(value, hub[name].astype(np.float32))
    door.save(loaded, tmp_path / "out")
    assert_same(read(tmp_path / "out"), hub)
    assert (tmp_path / "out" / "config.json").read_bytes() == (path / "config.json").read_bytes()


def test_what_is_wrong_with_qwen3_is_named_as_in_its_files(tmp_path):
    tensors = tensors_of(random_model(config=qwen3_config))
    spoilt = {
        "missing": lambda t: t.pop("model.visual.pos_embed.weight"),
        "unexpected": lambda t: t.update({"model.language_model.layers.3.mlp.up_proj.weight": t["lm_head.weight"]}),
        "shape": lambda t: t.update({"model.language_model.norm.weight": np.zeros(3, np.float32)}),
    }
    for name, spoil in spoilt.items():
        spoil(changed := dict(tensors))
        with pytest.raises(InputError, match=name) as error:
            door.load(directory(tmp_path / name, changed, config=qwen3_config))
        assert "'model.visual.pos_embed" in str(error.value) or "'model.language_model." in str(error.value)


def test_mixed_dtypes_come_back(tmp_path):
    tensors = tensors_of(random_model())
    for i, name in enumerate(tensors):
        tensors[name] = tensors[name].astype([np.float32, ml_dtypes.bfloat16, np.float16][i % 3])
    qwen.save(qwen.load(directory(tmp_path / "in", tensors)), tmp_path / "out")
    assert_same(read(tmp_path / "out"), tensors)


def test_load_rounds_to_the_asked_dtype(tmp_path):
    model = random_model()
    qwen.save(model, tmp_path / "in")
    loaded = qwen.load(tmp_path / "in", dtype="bfloat16", compute_dtype="float32")
    assert loaded.compute_dtype == jnp.float32
    for name, value in tensors_of(loaded).items():
        assert_same({name: value}, {name: tensors_of(model)[name].astype(ml_dtypes.bfloat16)})


def test_load_reads_each_weight_in_the_dtype_that_a_function_says(tmp_path):
    model, paths = random_model(), []

    def dtype(path):
        paths.append(path)
        return "bfloat16" if path.startswith("visual.") else "float32"

    qwen.save(model, tmp_path / "in")
    loaded = qwen.load(tmp_path / "in", dtype=dtype, compute_dtype="bfloat16")
    assert loaded.compute_dtype == jnp.bfloat16 and "visual.blocks.attn.qkv.kernel" in paths
    for name, value in tensors_of(loaded).items():
        held = ml_dtypes.bfloat16 if name.startswith("visual.") else np.float32
        assert_same({name: value}, {name: tensors_of(model)[name].astype(held)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_none_are_named(tmp_path, caplog, dtype, value):
    model = random_model(dtype=dtype)
    layer = model.model.layers.mlp.up_proj.kernel
    layer[...] = layer[...].at[1, 3, 5].set(value)
    weights.save(model, tmp_path / "model")
    weights.load(tmp_path / "model", dtype=dtype)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path}/model: model.layers.1.mlp.up_proj.weight holds NaN or infinity, ")
    caplog.clear()
    layer[...] = layer[...].at[1, 3, 5].set(jnp.finfo(dtype).max)
    weights.save(model, tmp_path / "large")
    weights.load(tmp_path / "large", dtype=dtype)
    assert not caplog.records


@pytest.mark.parametrize("key", ["torch_dtype", "dtype", None])
def test_save_in_another_dtype_says_so(tmp_path, key):
    path = directory(tmp_path / "in", tensors_of(random_model()))
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(raw | ({key: "float32"} if key else {})))
    qwen.save(qwen.load(path), tmp_path / "out", dtype="bfloat16")
    assert {value.dtype.name for value in read(tmp_path / "out").values()} == {"bfloat16"}
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == raw | {key or "torch_dtype": "bfloat16"}


def test_a_model_from_nothing(tmp_path):
    for tied in (False, True):
        model, path = random_model(tied), tmp_path / f"tied-{tied}"
        qwen.save(model, path)
        assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
        assert_same(read(path), tensors_of(model))
        assert qwen.load(path).config == model.config


def test_side_files_are_carried(tmp_path):
    path = directory(tmp_path / "in", tensors_of(random_model()))
    carried = {
        name: name.encode() * 3
        for name in (
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt",
            "chat_template.jinja",
            "preprocessor_config.json",
            "generation_config.json",
            "LICENSE",
            "perl_jax.json",
            "special_tokens_map.json",
        )
    }
    for name, data in carried.items():
        (path / name).write_bytes(data)
    for name in ("README.md", "modeling.py", "tokenizer.py", "optimizer.pt"):
        (path / name).write_text("left behind")
    qwen.save(qwen.load(path), tmp_path / "out")
    written = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert written.keys() == carried.keys() | {"config.json", "model.safetensors"}
    assert all(written[name] == data for name, data in carried.items())


def test_shards_of_a_save(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHARD_BYTES", 20_000)
    model = random_model()
    qwen.save(model, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert_same(read(tmp_path / "out"), tensors_of(model))
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors_of(model).values())
    assert_same(tensors_of(qwen.load(tmp_path / "out")), tensors_of(model))


def test_sharding_decides_where_weights_go(tmp_path):
    qwen.save(random_model(), tmp_path / "in")
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    shapes = {}

    def sharding(shape, axes):
        assert len(shape) == len(axes)
        shapes[shape] = axes
        return NamedSharding(mesh, PartitionSpec(*("x" if axis == "mlp" else None for axis in axes)))

    model = qwen.load(tmp_path / "in", sharding=sharding)
    assert_same(tensors_of(model), tensors_of(random_model()))
    assert shapes[(3, 24, 40)] == ("layers", "embed", "mlp")
    kernel = model.model.layers.mlp.gate_proj.kernel
    assert kernel.get_value().sharding.spec == PartitionSpec(None, None, "x")
    assert kernel.get_metadata("axes") == ("layers", "embed", "mlp")


def test_a_slice_reads_that_slice(tmp_path):
    """What a device asks for, of every parameter, is that part of the whole."""
    qwen.save(random_model(), tmp_path / "in")
    _, tensors, _ = source.open_directory(tmp_path / "in")
    for keys, param in nnx.to_flat_state(nnx.state(random_model())):
        index = tuple(slice(size // 3, size // 3 + max(1, size // 2)) for size in param.shape)
        part = weights._read(tensors, tuple(keys), param.shape, index, np.dtype("float32"))
        np.testing.assert_array_equal(part, np.asarray(param[...])[index])


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_host_holds_a_piece_at_a_time(tmp_path, monkeypatch, sharded, dtype):
    """Whatever is larger than a piece, stacks and tables, is read in pieces, or a layer at a time; and so becomes what
    it is when it is read as a whole."""
    qwen.save(random_model(), tmp_path / "in")
    unsharded = qwen.load(tmp_path / "in", dtype=dtype)
    held, read_part = [], weights._read

    def noted(tensors, keys, shape, index, dtype):
        value = read_part(tensors, keys, shape, index, dtype)
        held.append((value.nbytes, value[0].nbytes))
        return value

    monkeypatch.setattr(weights, "_read", noted)
    monkeypatch.setattr(weights, "PIECE", 2048)
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh) if sharded else contextlib.nullcontext():
        where = (lambda *_: NamedSharding(mesh, PartitionSpec())) if sharded else None
        model = qwen.load(tmp_path / "in", dtype=dtype, sharding=where)
    assert_same(tensors_of(model), tensors_of(unsharded))
    parameters = [leaf.nbytes for leaf in jax.tree.leaves(nnx.state(unsharded))]
    assert max(parameters) > 4096 and all(size <= max(2048, row) for size, row in held)
    assert sum(size for size, _ in held) == sum(parameters), "each once"


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_named_takes_models_states_gradients_and_dicts(family):
    model = random_model(config=CONFIGS[family])
    names = tensors_of(model)
    assert door.named(model).keys() == names.keys()
    state = nnx.state(model)
    assert_same({k: np.asarray(v) for k, v in door.named(state).items()}, names)
    assert_same({k: np.asarray(v) for k, v in door.named(nnx.to_pure_dict(state)).items()}, names)
    graph, state = nnx.split(model)

    def loss(state):
        return sum(jnp.sum(value**2) for value in door.named(nnx.merge(graph, state)).values())

    for gradient in (jax.grad(loss)(state), nnx.grad(lambda model: loss(nnx.state(model)))(model)):
        gradients = door.named(gradient)
        assert gradients.keys() == names.keys()
        for name, value in gradients.items():
            np.testing.assert_array_equal(value, 2 * names[name])
    assert door.named({"model": {"norm": {"scale": np.ones(3)}, "embed_tokens": None}}).keys() == {"model.norm.weight"}
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        door.named({"model": {"norm": {"weight": np.ones(3)}}})


def test_source_is_a_small_key(tmp_path):
    path = directory(tmp_path / "in", tensors_of(random_model()))
    first, again = qwen.load(path).source, qwen.load(path).source
    assert first == again and hash(first) == hash(again) and first is not again
    assert pickle.loads(pickle.dumps(first)) == first
    assert len(repr(first)) < 100
    for change in ({"config": b"{}"}, {"dtypes": first.dtypes[1:]}, {"files": (("LICENSE", b"x"),)}):
        assert dataclasses.replace(first, **change) != first
    (path / "generation_config.json").write_text("{}")
    assert qwen.load(path).source != first
    graphs = [nnx.split(qwen.load(path))[0] for _ in range(2)]
    assert graphs[0] == graphs[1] and hash(graphs[0]) == hash(graphs[1])


def test_save_replaces_nothing_and_leaves_no_half(tmp_path, monkeypatch):
    model = random_model()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file", "full/a"):
        with pytest.raises(InputError, match="not empty"):
            qwen.save(model, tmp_path / name)
    (tmp_path / "empty").mkdir()
    qwen.save(model, tmp_path / "empty")
    with pytest.raises(InputError, match="dtype"):
        qwen.save(model, tmp_path / "new", dtype="int8")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(weights, "_write_file", fail)
    with pytest.raises(OSError, match="disk full"):
        qwen.save(model, tmp_path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "file", "full"]


# Broken directories: each function breaks a good one; the words must be in the one line that says so.


def _tensor(change):
    def breaks(path):
        tensors = tensors_of(random_model())
        change(tensors)
        write_file(path / "model.safetensors", tensors)

    return breaks


def _bytes(change):
    return lambda path: (path / "model.safetensors").write_bytes(change((path / "model.safetensors").read_bytes()))


def _shards(change):
    def breaks(path):
        (path / "model.safetensors").unlink()
        sharded = directory(path / "shards", tensors_of(random_model()), shards=2)
        for file in sharded.iterdir():
            file.rename(path / file.name)
        sharded.rmdir()
        change(path)

    return breaks


def _index(change):
    def breaks(path):
        index = json.loads((path / "model.safetensors.index.json").read_text())
        change(index)
        (path / "model.safetensors.index.json").write_text(json.dumps(index))

    return _shards(breaks)


def _pickled(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _header(text: bytes):
    return _bytes(lambda data: len(text).to_bytes(8, "little") + text + data)


BROKEN = {
    "no config": (lambda path: (path / "config.json").unlink(), ["config.json", "no such file"]),
    "config is no JSON": (lambda path: (path / "config.json").write_text("{"), ["config.json", "JSON"]),
    "config is a list": (lambda path: (path / "config.json").write_text("[]"), ["config.json", "object"]),
    "config is binary": (lambda path: (path / "config.json").write_bytes(b"\xff\xfe\x00"), ["config.json", "JSON"]),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), ["model.safetensors"]),
    "pickle": (_pickled, ["pytorch_model.bin", "pickle"]),
    "missing": (_tensor(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")), ["layers.1.mlp.up_proj", "missing"]),
    "missing head": (_tensor(lambda t: t.pop(HEAD)), [HEAD, "missing"]),
    "missing layer": (
        _tensor(lambda t: [t.pop(name) for name in list(t) if "layers.2." in name]),
        ["12 tensors", "layers.2.", "missing"],
    ),
    "unexpected": (_tensor(lambda t: t.update(extra=np.zeros(3, np.float32))), ["extra", "unexpected"]),
    "deeper": (
        _tensor(lambda t: t.update({"model.layers.3.mlp.up_proj.weight": np.zeros((40, 24), np.float32)})),
        ["layers.3.mlp", "unexpected"],
    ),
    "shape": (
        _tensor(lambda t: t.update({"model.norm.weight": np.zeros(25, np.float32)})),
        ["model.norm.weight", "[25]", "[24]"],
    ),
    "transposed": (
        _tensor(lambda t: t.update({"visual.blocks.0.mlp.up_proj.weight": np.zeros((16, 24), np.float32)})),
        ["visual.blocks.0.mlp.up_proj.weight", "[16, 24]", "[24, 16]"],
    ),
    "integers": (
        _tensor(lambda t: t.update({"model.norm.weight": np.zeros(24, np.int8)})),
        ["model.norm.weight", "int8"],
    ),
    "two names": (
        _tensor(lambda t: t.update({"model.language_model.norm.weight": np.zeros(24, np.float32)})),
        ["model.language_model.norm.weight", "twice"],
    ),
    "truncated": (_bytes(lambda data: data[:-1]), ["model.safetensors", "truncated"]),
    "truncated header": (_bytes(lambda data: data[:100]), ["model.safetensors", "truncated"]),
    "empty": (_bytes(lambda data: b""), ["model.safetensors", "truncated"]),
    "too long": (_bytes(lambda data: data + b"12345678"), ["model.safetensors", "too long"]),
    "no safetensors": (_bytes(lambda data: b"version https://git-lfs.github.com/spec/v1\n"), ["model.safetensors"]),
    "header no JSON": (_header(b"hello"), ["model.safetensors", "malformed"]),
    "header a list": (_header(b"[1]"), ["model.safetensors", "malformed"]),
    "header odd": (_header(b'{"a": {"dtype": "F32", "shape": 3}}'), ["model.safetensors", "malformed"]),
    "header offsets": (
        _header(b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'),
        ["model.safetensors", "'a'", "8 bytes"],
    ),
    "missing shard": (
        _shards(lambda path: (path / "model-00002-of-00002.safetensors").unlink()),
        ["model-00002-of-00002.safetensors", "missing"],
    ),
    "shard elsewhere": (
        _index(lambda index: index["weight_map"].update(a="../../x.safetensors")),
        ["index.json", "../../x.safetensors"],
    ),
    "not in its shard": (
        _index(lambda index: index["weight_map"].update(a="model-00002-of-00002.safetensors")),
        ["model-00002-of-00002.safetensors", "'a'"],
    ),
    "no weight map": (_index(lambda index: index.pop("weight_map")), ["index.json", "weight_map"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_directories(tmp_path, case):
    path = directory(tmp_path / "in", tensors_of(random_model()))
    breaks, words = BROKEN[case]
    breaks(path)
    with pytest.raises(InputError) as error:
        qwen.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_no_directory(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        qwen.load(tmp_path / "absent")


def test_a_tied_head_that_differs(tmp_path):
    tensors = tensors_of(random_model(tied=True))
    tensors[HEAD] = tensors["model.embed_tokens.weight"] + 1
    with pytest.raises(InputError, match="tie_word_embeddings"):
        qwen.load(directory(tmp_path / "in", tensors, tied=True))


# Against transformers itself.


def torch_model(tied: bool, dtype: str, config=config):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    raw = config(tied).to_hf()
    [architecture] = raw["architectures"]
    theirs = getattr(transformers, architecture)
    theirs = theirs(theirs.config_class(**raw))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    return theirs.to(getattr(torch, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_writes_and_reads(tmp_path, tied, dtype, family):
    config = CONFIGS[family]
    theirs = torch_model(tied, dtype, config)
    theirs.save_pretrained(tmp_path / "in", max_shard_size="20KB")
    model = door.load(tmp_path / "in")
    assert model.config == config(tied)
    door.save(model, tmp_path / "out")
    on_disk = read(tmp_path / "in")
    if family == "Qwen2.5-VL":
        on_disk = {source.hub_name(name): value for name, value in on_disk.items()}
    assert_same(read(tmp_path / "out"), on_disk)
    assert_transformers_reads(tmp_path / "out", theirs)


def assert_transformers_reads(path, theirs):
    again, info = type(theirs).from_pretrained(path, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expected = theirs.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for name, value in again.state_dict().items():
        assert value.dtype == expected[name].dtype and value.equal(expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_reads_a_model_from_nothing(tmp_path, tied, family):
    config = CONFIGS[family]
    theirs = torch_model(tied, "float32", config)
    model = random_model(tied, config=config)
    door.save(model, tmp_path / "out", dtype="bfloat16")
    again, info = type(theirs).from_pretrained(tmp_path / "out", dtype="auto", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours = {source.memory_name(name): value.astype(ml_dtypes.bfloat16) for name, value in tensors_of(model).items()}
    for name, value in again.state_dict().items():
        if name != HEAD or not tied:
            np.testing.assert_array_equal(value.float().numpy(), ours[name].astype(np.float32))

"""Checkpoints: what comes back is what was saved, bit for bit; the right ones are kept; the wrong ones are refused."""

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

from models.errors import InputError
from perl_jax import update
from perl_jax.training import checkpoint

RUN = {"base": "abc", "stream": {"position": 7, "data": [["x", 1.0]]}, "prompt": {"system": "Grüße"}}


def state_of(model, seed: int, trainable=None) -> update.State:
    """A training state whose every number is random, the optimizer's too."""
    state = update.init(model, optax.adamw(1e-3), trainable)
    rng = np.random.default_rng(seed)

    def noise(leaf):
        return jnp.array(rng.integers(1, 99) if leaf.ndim == 0 else rng.normal(size=leaf.shape), leaf.dtype)

    return state.replace(trainable=jax.tree.map(noise, state.trainable), opt_state=jax.tree.map(noise, state.opt_state))


def equal(a, b) -> bool:
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)
    return all(jax.tree.leaves(same)) and len(jax.tree.leaves(same)) > 0


@pytest.fixture
def model(models):
    return models["untied"]


def test_what_comes_back_is_what_was_saved(model, tmp_path):
    saved = state_of(model, seed=1)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None and checkpoints.best() is None
        checkpoints.save(12, jax.tree.map(jnp.array, saved), RUN, {})
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 12 and checkpoints.best() is None
        assert checkpoints.run(12) == RUN
        restored = checkpoints.restore(12, state_of(model, seed=2))
    assert not any(leaf.committed for leaf in jax.tree.leaves(restored.trainable))  # or all would compile anew
    assert equal(restored.trainable, saved.trainable) and equal(restored.opt_state, saved.opt_state)


def test_a_save_is_due_some_minutes_after_the_one_before(model, tmp_path, monkeypatch):
    """In all processes, where it is in one."""
    now = [100.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        now[0] += 299
        assert not checkpoints.due(5)
        monkeypatch.setattr("perl_jax.runtime.processes.exchange", lambda value: [value, True])
        assert checkpoints.due(5)
        monkeypatch.undo()
        monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
        now[0] += 1
        assert checkpoints.due(5)
        checkpoints.save(1, state_of(model, seed=1), RUN, {})
        assert not checkpoints.due(5)


def test_a_state_may_be_donated_right_after_it_is_saved(model, tmp_path):
    saved = state_of(model, seed=1)
    on_device = jax.tree.map(jnp.array, saved)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, on_device, RUN, {})
        for leaf in jax.tree.leaves(on_device):
            leaf.delete()
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert equal(checkpoints.restore(1, saved).trainable, saved.trainable)


def test_the_newest_and_the_best_are_kept(model, tmp_path):
    state = jax.tree.map(jnp.array, state_of(model, seed=1, trainable=lambda path: path.endswith("norm.scale")))
    scores = {1: 0.2, 2: 0.9, 3: None, 4: 0.5, 5: None}
    with checkpoint.Checkpoints(tmp_path, keep=2, best="eval/x") as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, state, RUN, {} if score is None else {"eval/x": score, "eval/y": 1.0 - score})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.latest() == 5 and checkpoints.best() == 2


def test_another_metric_is_the_best_from_then_on(model, tmp_path):
    state = jax.tree.map(jnp.array, state_of(model, seed=1, trainable=lambda path: path.endswith("norm.scale")))
    for step, best in enumerate(("eval/x", "eval/x", "eval/y", "eval/y", "eval/y"), start=1):
        with checkpoint.Checkpoints(tmp_path, keep=1, best=best) as checkpoints:
            checkpoints.save(step, state, RUN, {"eval/x": 1.0, "eval/y": 1.0 / step})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 5] and checkpoints.best() == 3


def test_a_damaged_checkpoint_is_named(model, tmp_path):
    state = jax.tree.map(jnp.array, state_of(model, seed=1, trainable=lambda path: path.endswith("norm.scale")))
    with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(3, state, RUN, {})
    for file in (tmp_path / checkpoint.FOLDER / "3").rglob("*"):
        if file.is_file() and file.parent.name != "3":
            file.write_bytes(b"")
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        for read in (lambda: checkpoints.run(3), lambda: checkpoints.restore(3, state)):
            with pytest.raises(InputError, match="checkpoint 3 cannot be read"):
                read()


def flip_a_bit(folder):
    """In the middle of the largest file."""
    file = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def cut(folder):
    file = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def fill_with_zeros(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))


def lose_the_optimizer(folder):
    shutil.rmtree(folder / "optimizer")


def lose_manifests(folder):
    for file in [*folder.rglob("*manifest*"), *folder.rglob("_METADATA"), *folder.rglob("_sharding")]:
        file.unlink() if file.is_file() else shutil.rmtree(file)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def change_the_metadata(folder):
    [file] = [file for file in (folder / "run").rglob("*") if b"position" in file.read_bytes()]
    file.write_bytes(file.read_bytes().replace(b'"position": 7', b'"position": 8'))


DAMAGES = (flip_a_bit, cut, fill_with_zeros, lose_the_optimizer, lose_manifests, empty, change_the_metadata)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_any_damage_is_noticed_and_the_one_before_is_whole(model, tmp_path, damage):
    state = jax.tree.map(jnp.array, state_of(model, seed=1, trainable=lambda path: ".mlp." in path))
    with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (3, 6):
            checkpoints.save(step, state, RUN, {})
    damage(tmp_path / checkpoint.FOLDER / "6")
    with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
        if checkpoints.latest() == 6:  # else it is none by its form alone
            with pytest.raises(checkpoint.Damaged, match=r"^checkpoint 6 cannot be read [^\n]*one before$"):
                assert checkpoints.run(6) == RUN
                checkpoints.restore(6, state)
            aside = checkpoints.set_aside(6)
            assert aside.parent.name == checkpoint.ASIDE and aside.exists()
        assert checkpoints.latest() == 3 and checkpoints.run(3) == RUN
        assert equal(checkpoints.restore(3, state).trainable, state.trainable)
        checkpoints.save(6, state, RUN, {})


def test_no_flipped_bit_is_missed(model, tmp_path):
    """Of arrays whose bits are written as they are: any bit of any element of any dtype."""
    rng = np.random.default_rng(0)
    arrays = {
        "a": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        "c": jnp.int32(3),
    }
    before = checkpoint._checksums(arrays)
    for _ in range(60):
        name = "abc"[rng.integers(3)]
        values = np.array(arrays[name]).reshape(-1)
        bits = values.view(f"uint{8 * values.dtype.itemsize}")
        bits[rng.integers(bits.size)] ^= bits.dtype.type(1 << int(rng.integers(8 * bits.dtype.itemsize)))
        changed = arrays | {name: jnp.asarray(values.reshape(arrays[name].shape))}
        assert [name] == [key for key, total in checkpoint._checksums(changed).items() if total != before[key]]


def test_a_checkpoint_of_an_earlier_version_is_read(model, tmp_path, monkeypatch):
    """Without checksums, it is taken as it is."""
    state = jax.tree.map(jnp.array, state_of(model, seed=1, trainable=lambda path: path.endswith("norm.scale")))
    save = checkpoint.ocp.args.JsonSave
    monkeypatch.setattr(
        checkpoint.ocp.args,
        "JsonSave",
        lambda run: save({name: value for name, value in run.items() if name not in ("checksums", "crc")}),
    )
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, RUN, {})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.run(3) == RUN and equal(checkpoints.restore(3, state).trainable, state.trainable)


def test_a_half_written_checkpoint_does_not_count(model, tmp_path):
    state = jax.tree.map(jnp.array, state_of(model, seed=1, trainable=lambda path: path.endswith("norm.scale")))
    with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(3, state, RUN, {})
    folder = tmp_path / checkpoint.FOLDER
    written = next(file for file in (folder / "3").rglob("*") if file.is_file())
    for name in ("4.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-1795262537"):  # as a kill leaves them
        (folder / name / "weights").mkdir(parents=True)
        (folder / name / "weights" / written.name).write_bytes(written.read_bytes()[:9])
    with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.latest() == 3
        checkpoints.save(4, state, RUN, {})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 4]


def test_weights_alone_go_into_a_model_and_leave_those_that_did_not_train(model, tmp_path):
    saved = state_of(model, seed=1, trainable=lambda path: not path.startswith("visual."))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.tree.map(jnp.array, saved), RUN, {})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        target = tiny.random_model(tiny.CONFIGS["untied"], seed=9)
        before = jax.tree.map(np.array, nnx.state(target.visual, nnx.Param))
        checkpoints.restore_weights(1, target)
    assert equal(nnx.state(target.visual, nnx.Param), before)
    assert equal(nnx.state(target.model, nnx.Param), nnx.state(saved.model.model, nnx.Param))


@pytest.mark.parametrize("change", [{"hidden_size": 32, "vocab_size": 320}, {"num_hidden_layers": 4}])
def test_a_model_of_other_sizes_is_refused(model, tmp_path, change):
    text = dataclasses.replace(model.config.text, **change)
    vision = dataclasses.replace(model.config.vision, out_hidden_size=text.hidden_size)
    other = tiny.random_model(dataclasses.replace(model.config, text=text, vision=vision))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.tree.map(jnp.array, state_of(model, seed=1)), RUN, {})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(InputError, match="checkpoint 1"):
            checkpoints.restore(1, state_of(other, seed=2))
        with pytest.raises(InputError, match="checkpoint 1"):
            checkpoints.restore_weights(1, other)


def test_other_trainable_weights_are_refused(model, tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.tree.map(jnp.array, state_of(model, seed=1)), RUN, {})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(InputError, match="checkpoint 1"):
            checkpoints.restore(1, state_of(model, seed=2, trainable=lambda path: path.startswith("visual.")))
        with pytest.raises(InputError, match="checkpoint 1"):
            checkpoints.restore_weights(1, tiny.random_model(tiny.CONFIGS["tied"]))


def test_reading_where_no_run_was_says_so_and_makes_nothing(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoints"):
        checkpoint.Checkpoints(tmp_path / "none", read_only=True)
    assert not list(tmp_path.iterdir())

"""The door: each family has what its docstring lists, and is found by config.json, a config or a model."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny

import models as door
from models import qwen2_5_vl as qwen
from models.errors import InputError
from models.weights import write_tensors


def test_importing_the_door_is_light():
    """Grading workers import it, and have no JAX."""
    code = "import sys, models, models.image_files; print({'jax', 'flax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", door.FAMILIES)
def test_a_family_has_all_that_is_asked_of_one(name):
    family = door.family({"model_type": name})
    assert family.Config.model_type == name == family.__name__.removeprefix("models.")
    assert all(callable(getattr(family, part)) for part in ("Model", "published", "pack_images", "pack_shapes"))
    assert all(hasattr(family.Model, part) for part in ("encode", "embed", "head", "logits"))
    for config in family.published().values():
        for part, listed in ((config, door.Config), (config.text, door.TextConfig), (config.vision, door.VisionConfig)):
            assert all(hasattr(part, field) for field in listed.__annotations__)
        assert door.family(config) is family is door.family(config.to_hf())
        assert family.Config.from_hf(config.to_hf()) == config
    assert isinstance(family.NAME, str) and family.NAME in next(iter(family.published()))
    assert callable(family.from_scratch.make) and callable(family.from_scratch.make_processor)


def test_an_old_config_is_known_by_its_architecture():
    raw = {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    assert door.family(raw) is qwen is door.family(raw | {"model_type": "qwen2_5_vl"})


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"model_type": "llava"},
        {"model_type": ["qwen2_5_vl"]},
        {"architectures": ["Qwen2VLModel"]},
        {"model_type": "qwen3_vl_moe", "architectures": ["Qwen3VLMoeForConditionalGeneration"]},
        {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]},
    ],
)
def test_an_unknown_family(raw, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    write_tensors(tmp_path / "model.safetensors", {})
    for ask in (door.load, door.read_config):
        with pytest.raises(InputError, match=r"known are qwen2_5_vl, qwen3_vl$") as error:
            ask(tmp_path)
        assert "\n" not in str(error.value) and str(raw.get("model_type")) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tied", "qwen3-tied"])
def test_through_the_door_and_back(models, tmp_path, name):
    model = models[name]
    door.save(model, tmp_path / "model")
    loaded = door.load(tmp_path / "model")
    assert isinstance(loaded, door.family(model.config).Model)
    assert door.read_config(tmp_path / "model") == loaded.config == model.config
    for tensor, value in door.named(loaded).items():
        np.testing.assert_array_equal(value, door.named(model)[tensor])
    prompts = tiny.prompts(model.config)[:2]
    inputs = door.pack(model.config, prompts, min_pixels=tiny.MIN_PIXELS, max_pixels=tiny.MAX_PIXELS)
    assert inputs.ids.shape[0] == 2 and (inputs.lengths == [len(ids) for ids, _ in prompts]).all()

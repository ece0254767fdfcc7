"""config.json in both its layouts, there and back, and what is refused."""

import copy
import dataclasses
import json

import pytest

from models.errors import InputError
from models.qwen3_vl.config import Config, TextConfig, VisionConfig

SMALL = Config(
    vision=VisionConfig(3, 32, 48, 4, 48, num_position_embeddings=9, deepstack_visual_indexes=(2, 0)),
    text=TextConfig(100, 48, 64, 3, 4, 2, 20, 5e5, (4, 3, 3), 1e-6, True),
    image_token_id=90,
    video_token_id=91,
    vision_start_token_id=92,
    vision_end_token_id=93,
)

# The published sizes: depth and width of the text, MLP, heads, tied; depth, width, MLP of the vision tower, deepstack.
PUBLISHED = {
    "2B": (28, 2048, 6144, 16, True, 24, 1024, 4096, [5, 11, 17]),
    "4B": (36, 2560, 9728, 32, True, 24, 1024, 4096, [5, 11, 17]),
    "8B": (36, 4096, 12288, 32, False, 27, 1152, 4304, [8, 16, 24]),
    "32B": (64, 5120, 25600, 64, False, 27, 1152, 4304, [8, 16, 24]),
}


def published(size: str) -> dict:
    """A config.json as on the hub."""
    layers, width, mlp, heads, tied, depth, vision, vision_mlp, deepstack = PUBLISHED[size]
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": tied,
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": mlp,
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "use_cache": True,
            "vocab_size": 151936,
        },
        "vision_config": {
            "deepstack_visual_indexes": deepstack,
            "depth": depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision,
            "in_channels": 3,
            "intermediate_size": vision_mlp,
            "model_type": "qwen3_vl",
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": width,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def newer(raw: dict) -> dict:
    """The same as transformers 5 writes it."""
    raw = copy.deepcopy(raw)
    text, vision = raw["text_config"], raw["vision_config"]
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta"), "type": "default"}
    vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": 10000}
    vision["model_type"] = "qwen3_vl_vision"
    return raw


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_in_both_layouts(size):
    config = Config.from_hf(published(size))
    layers, width, mlp, heads, tied, depth, vision, vision_mlp, deepstack = PUBLISHED[size]
    assert config.text == TextConfig(
        151936, width, mlp, layers, heads, 8, 128, 5e6, (24, 20, 20), 1e-6, tie_word_embeddings=tied
    )
    assert config.vision == VisionConfig(
        depth, vision, vision_mlp, 16, width, deepstack_visual_indexes=tuple(deepstack)
    )
    assert config == Config.published(size) == Config.from_hf(newer(published(size)))
    assert hash(config) == hash(Config.from_hf(published(size)))
    assert config.embedding_size == 4 * width


def test_a_tie_in_the_text_config_counts():
    raw = published("4B")
    del raw["tie_word_embeddings"]
    raw["text_config"]["tie_word_embeddings"] = True
    assert Config.from_hf(raw) == Config.published("4B")


@pytest.mark.parametrize("tied", [True, False])
def test_to_hf_and_back(tied):
    config = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, tie_word_embeddings=tied))
    assert Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config


def test_missing_keys_take_the_defaults_of_transformers():
    transformers = pytest.importorskip("transformers")
    raw = {"model_type": "qwen3_vl", "text_config": {"hidden_size": 3584, "num_key_value_heads": None}}
    ours, theirs = Config.from_hf(raw), transformers.Qwen3VLConfig(**copy.deepcopy(raw))
    vision, text = theirs.vision_config, theirs.text_config
    for key, value in dataclasses.asdict(ours.vision).items():
        assert getattr(vision, key) == value, key
    assert ours.text.rope_theta == text.rope_parameters["rope_theta"] == 500000
    for key in set(dataclasses.asdict(ours.text)) - {"rope_theta", "mrope_section", "tie_word_embeddings"}:
        assert getattr(text, key) == getattr(ours.text, key), key
    assert theirs.tie_word_embeddings == ours.text.tie_word_embeddings
    assert ours.image_token_id == theirs.image_token_id


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_and_writes_the_same(tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, tie_word_embeddings=tied))
    theirs = transformers.Qwen3VLConfig(**config.to_hf())
    assert theirs.text_config.rope_parameters["rope_theta"] == 5e5
    assert theirs.text_config.rope_parameters["mrope_section"] == [4, 3, 3]
    assert list(theirs.vision_config.deepstack_visual_indexes) == [2, 0]
    assert theirs.tie_word_embeddings == tied
    theirs.save_pretrained(tmp_path)
    assert Config.from_hf(json.loads((tmp_path / "config.json").read_text())) == config


def test_mergers_in_the_order_of_their_blocks():
    """A block's feature is of the first merger that names it; one that names no block makes none."""
    mergers = {(): (), (1, 2): (0, 1), (2, 0): (1, 0), (1, 1): (0,), (7, 2): (1,)}
    for indexes, expected in mergers.items():
        assert dataclasses.replace(SMALL.vision, deepstack_visual_indexes=indexes).deepstack_mergers == expected


@pytest.mark.parametrize(
    "change, text_change, vision_change, message",
    [
        ({"model_type": "qwen3_vl_moe"}, {}, {}, "model_type is 'qwen3_vl_moe'"),
        ({"architectures": ["Qwen3VLMoeForConditionalGeneration"]}, {}, {}, "Qwen3VLMoeForConditionalGeneration"),
        ({"text_config": []}, {}, {}, "text_config must be an object"),
        ({"tie_word_embeddings": "yes"}, {}, {}, "tie_word_embeddings"),
        ({}, {"num_hidden_layers": 10**9}, {}, "num_hidden_layers must be a whole number"),
        ({}, {"attention_bias": True}, {}, "attention_bias"),
        ({}, {"layer_types": ["sliding_attention"]}, {}, "sliding"),
        ({}, {"hidden_act": "gelu"}, {}, "hidden_act is 'gelu'"),
        ({}, {"rope_scaling": {"rope_type": "yarn", "mrope_section": [4, 3, 3]}}, {}, "yarn"),
        ({}, {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 3, 4]}}, {}, "mrope_section"),
        ({}, {"rope_scaling": {"rope_type": "default", "mrope_section": 3}}, {}, "mrope_section"),
        ({}, {"num_key_value_heads": 3}, {}, "num_key_value_heads"),
        ({}, {"head_dim": 5}, {}, "head_dim 5"),
        ({}, {"head_dim": None}, {}, "head_dim must be"),
        ({}, {}, {"hidden_act": "silu"}, "vision_config.hidden_act"),
        ({}, {}, {"depth": 10**9}, "vision_config.depth must be"),
        ({}, {}, {"out_hidden_size": 64}, "out_hidden_size"),
        ({}, {}, {"num_heads": 16}, "vision_config.hidden_size"),
        ({}, {}, {"in_channels": 1}, "in_channels"),
        ({}, {}, {"patch_size": [16, 16]}, "vision_config.patch_size"),
        ({}, {}, {"deepstack_visual_indexes": 7}, "deepstack_visual_indexes"),
        ({}, {}, {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta"),
    ],
)
def test_refused(change, text_change, vision_change, message):
    raw = SMALL.to_hf()
    raw["text_config"].update(text_change)
    raw["vision_config"].update(vision_change)
    with pytest.raises(InputError, match=r"config\.json: ") as error:
        Config.from_hf({**raw, **change})
    assert message in str(error.value) and "\n" not in str(error.value)

"""config.json in all its layouts, there and back, and what is refused."""

import copy
import dataclasses
import json

import pytest

from models.errors import InputError
from models.qwen2_5_vl.config import Config, TextConfig, VisionConfig

SMALL = Config(
    vision=VisionConfig(3, 32, 48, 4, 48, window_size=56, fullatt_block_indexes=(0, 2)),
    text=TextConfig(100, 48, 64, 3, 4, 2, 5e5, (2, 2, 2), 1e-6, True),
    image_token_id=90,
    video_token_id=91,
    vision_start_token_id=92,
    vision_end_token_id=93,
)

# The published sizes: depth and width of the text, MLP, heads, key/value heads, vocabulary, eps, tied, vision MLP.
PUBLISHED = {
    "3B": (36, 2048, 11008, 16, 2, 151936, True, 3420),
    "7B": (28, 3584, 18944, 28, 4, 152064, False, 3420),
    "32B": (64, 5120, 27648, 40, 8, 152064, False, 3456),
    "72B": (80, 8192, 29568, 64, 8, 152064, False, 3456),
}


def published(size: str) -> dict:
    """A flat config.json as on the hub."""
    layers, width, mlp, heads, kv, vocab, tied, vision = PUBLISHED[size]
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_config": {
            "depth": 32,
            "hidden_act": "silu",
            "hidden_size": 1280,
            "intermediate_size": vision,
            "num_heads": 16,
            "in_chans": 3,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "temporal_patch_size": 2,
        },
    }


def nested(raw: dict, older: bool) -> dict:
    """The same in the layout of later versions; `older` keeps rope_theta and the tie inside text_config."""
    raw = copy.deepcopy(raw)
    top = ("architectures", "model_type", "vision_config")
    text = {key: raw.pop(key) for key in list(raw) if key not in top and not key.endswith("_token_id")}
    text["model_type"] = "qwen2_5_vl_text"
    if not older:
        raw["tie_word_embeddings"] = text.pop("tie_word_embeddings")
        text["rope_parameters"] = {
            **text.pop("rope_scaling"),
            "rope_type": "default",
            "rope_theta": text.pop("rope_theta"),
        }
    return {**raw, "text_config": text}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_in_every_layout(size):
    config = Config.from_hf(published(size))
    layers, width, mlp, heads, kv, vocab, tied, vision = PUBLISHED[size]
    assert config.text == TextConfig(vocab, width, mlp, layers, heads, kv, 1e6, (16, 24, 24), 1e-6, tied)
    assert config.text.head_dim == 128
    assert config.vision == VisionConfig(32, 1280, vision, 16, width)
    assert config == Config.published(size)
    assert Config.from_hf(nested(published(size), older=False)) == config
    assert Config.from_hf(nested(published(size), older=True)) == config
    assert hash(config) == hash(Config.from_hf(published(size)))


@pytest.mark.parametrize("tied", [True, False])
def test_to_hf_and_back(tied):
    config = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, tie_word_embeddings=tied))
    assert Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config


def test_missing_keys_take_the_defaults_of_transformers():
    transformers = pytest.importorskip("transformers")
    raw = {
        "model_type": "qwen2_5_vl",
        "text_config": {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": None},
    }
    ours, theirs = Config.from_hf(raw), transformers.Qwen2_5_VLConfig(**copy.deepcopy(raw))
    vision, text = theirs.vision_config, theirs.text_config
    for key, value in dataclasses.asdict(ours.vision).items():
        assert getattr(vision, key) == value, key
    assert ours.text.rope_theta == text.rope_parameters["rope_theta"]
    for key in set(dataclasses.asdict(ours.text)) - {"rope_theta", "mrope_section", "tie_word_embeddings"}:
        assert getattr(text, key) == getattr(ours.text, key), key
    assert theirs.tie_word_embeddings == ours.text.tie_word_embeddings
    assert ours.image_token_id == theirs.image_token_id


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_and_writes_the_same(tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, tie_word_embeddings=tied))
    theirs = transformers.Qwen2_5_VLConfig(**config.to_hf())
    assert theirs.text_config.rope_parameters["rope_theta"] == 5e5
    assert theirs.text_config.rope_parameters["mrope_section"] == [2, 2, 2]
    assert theirs.vision_config.fullatt_block_indexes == [0, 2]
    assert theirs.tie_word_embeddings == tied
    theirs.save_pretrained(tmp_path)
    assert Config.from_hf(json.loads((tmp_path / "config.json").read_text())) == config


def test_full_attention_blocks_past_the_end_are_ignored():
    raw = SMALL.to_hf()
    raw["vision_config"]["fullatt_block_indexes"] = [31, 1, 7]
    assert Config.from_hf(raw).vision.fullatt_block_indexes == (1,)
    raw["vision_config"]["fullatt_block_indexes"] = []
    assert Config.from_hf(raw).vision.fullatt_block_indexes == ()


@pytest.mark.parametrize(
    "change, vision_change, message",
    [
        ({"model_type": "qwen2_vl"}, {}, "model_type is 'qwen2_vl'"),
        ({"num_hidden_layers": 10**9}, {}, "num_hidden_layers must be a whole number of at least 1 and at most 1,024"),
        ({"vocab_size": 10**11}, {}, "vocab_size must be a whole number"),
        ({}, {"depth": 10**9}, "vision_config.depth must be"),
        ({}, {"window_size": 10**18}, "vision_config.window_size must be"),
        ({"model_type": None, "architectures": ["LlamaForCausalLM"]}, {}, "LlamaForCausalLM"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"]}, {}, "Qwen2VLForConditionalGeneration"),
        ({"use_sliding_window": True}, {}, "use_sliding_window"),
        ({"layer_types": ["sliding_attention"]}, {}, "sliding"),
        ({"hidden_act": "gelu"}, {}, "hidden_act is 'gelu'"),
        ({}, {"hidden_act": "quick_gelu"}, "vision_config.hidden_act"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [2, 2, 2]}}, {}, "yarn"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 3]}}, {}, "mrope_section"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [3, 3]}}, {}, "mrope_section"),
        ({"num_key_value_heads": 3}, {}, "num_key_value_heads"),
        ({"num_attention_heads": 5}, {}, "hidden_size 48"),
        ({"hidden_size": "48"}, {}, "hidden_size must be"),
        ({"hidden_size": 0}, {}, "hidden_size must be"),
        ({"rms_norm_eps": None}, {}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, {}, "tie_word_embeddings"),
        ({"text_config": []}, {}, "text_config must be an object"),
        ({}, {"out_hidden_size": 64}, "out_hidden_size"),
        ({}, {"num_heads": 16}, "vision_config.hidden_size"),
        ({}, {"window_size": 14}, "window_size"),
        ({}, {"in_channels": 1}, "in_channels"),
        ({}, {"patch_size": [14, 14]}, "vision_config.patch_size"),
        ({}, {"fullatt_block_indexes": 7}, "fullatt_block_indexes"),
        ({}, {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta"),
    ],
)
def test_refused(change, vision_change, message):
    raw = {**SMALL.to_hf(), **change}
    raw["vision_config"].update(vision_change)
    with pytest.raises(InputError, match=r"config\.json: ") as error:
        Config.from_hf(raw)
    assert message in str(error.value) and "\n" not in str(error.value)

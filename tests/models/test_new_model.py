"""A small model from nothing: Hugging Face's own classes open what scratch writes, and it behaves as the published."""

import json

import ml_collections
import numpy as np
import pytest

import models as door
from models import new_model, qwen2_5_vl, qwen3_vl
from models.errors import InputError
from models.qwen2_5_vl import from_scratch

TEXTS = ["Which image shows 7?", "What is in Image 2?", "How many images show 3?", "second", "<think></think>"] * 3
SIZES = ml_collections.ConfigDict(
    {
        "vision": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "fullatt_block_indexes": (1,),
        },
        "text": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 1e6,
            "mrope_section": (2, 1, 1),
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        },
    }
)
QWEN3_SIZES = {
    "vision": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": (0,),
    },
    "text": {**SIZES["text"], "head_dim": 16, "mrope_section": (4, 2, 2)},
}
FAMILIES = {  # family: sizes, what it says without a system text, transformers' class
    qwen2_5_vl: (SIZES, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "Qwen2_5_VL"),
    qwen3_vl: (QWEN3_SIZES, "", "Qwen3VL"),
}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.NAME)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, family):
    path = tmp_path_factory.mktemp("scratch") / "model"
    family.from_scratch.make(path, FAMILIES[family][0], TEXTS, seed=1, vocab_size=400)
    return path


@pytest.fixture(scope="module")
def tokenizer(model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


def test_text_round_trips_and_digits_are_single_tokens(tokenizer):
    for text in ("Which image shows 7?", "  naïve 図\n\n1234 I'll", "\U0001f600 \\boxed{12}"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("1234")["input_ids"]) == 4
    assert len(tokenizer(" shows")["input_ids"]) == 1  # learnt, with its space


def test_loaded_tokenizer_cuts_text_as_the_trained_one(tokenizer):
    trained = new_model.train_tokenizer(TEXTS, 400)
    for text in [*TEXTS, "We'LL see: 3.14,\r\n\n x\t y  z  ", "a1b22 --- ?!\n(ok)"]:
        assert tokenizer(text)["input_ids"] == trained.encode(text).ids


def test_special_tokens_come_last_in_the_published_order(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list(new_model.SPECIAL_TOKENS))
    assert ids == list(range(len(tokenizer) - len(ids), len(tokenizer)))
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id]


@pytest.mark.parametrize("numbered", [False, True])
def test_chat_template(tokenizer, numbered, family):
    image_item, words = {"type": "image"}, [{"type": "text", "text": " and "}, {"type": "text", "text": "?"}]
    messages = [
        {"role": "user", "content": [image_item, words[0], image_item, words[1]]},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": [{"image": "x.png"}]},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, add_vision_id=numbered)
    slots = [(f"Picture {i}: " if numbered else "") + "<|vision_start|><|image_pad|><|vision_end|>" for i in (1, 2, 3)]
    assert text == FAMILIES[family][1] + (
        f"<|im_start|>user\n{slots[0]} and {slots[1]}?<|im_end|>\n"
        f"<|im_start|>assistant\n7<|im_end|>\n<|im_start|>user\n{slots[2]}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_chat_template_keeps_a_given_system_text(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi\n"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n  Hi\n<|im_end|>\n"
    )


def test_directory_is_complete_for_this_project(model_dir, tokenizer, family):
    model, processor = door.load(model_dir), door.Processor.from_pretrained(model_dir)
    assert model.config.text.vocab_size % 64 == 0 and model.config.text.vocab_size >= len(tokenizer)
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert processor.eos_ids == tuple(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    content = "<image>Which image shows 7?"
    vision = family.VisionConfig
    assert (processor.min_pixels, processor.max_pixels) == (vision.min_pixels, vision.max_pixels)
    limits = {"min_pixels": 784, "max_pixels": 8000}
    ids, images = processor([{"role": "user", "content": content}], [np.zeros((56, 84, 3), np.uint8)], **limits)
    assert ids.count(model.config.image_token_id) == 6 and images[0].size == (84, 56)
    assert model(door.pack(model.config, [(ids, images)], **limits)).shape[-1] == model.config.text.vocab_size


def test_same_arguments_same_bytes(model_dir, tmp_path, family):
    family.from_scratch.make(tmp_path / "again", FAMILIES[family][0], TEXTS, seed=1, vocab_size=400)
    for file in sorted(model_dir.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_transformers_loads_the_model(model_dir, family):
    torch = pytest.importorskip("torch")
    import transformers

    theirs = getattr(transformers, f"{FAMILIES[family][2]}ForConditionalGeneration")
    model, info = theirs.from_pretrained(model_dir, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision.depht": 3}, "vision.depht"),
        ({"text.vocab_size": 3}, "text.vocab_size"),
        ({"text.num_key_value_heads": 3}, "num_key_value_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_named(tmp_path, change, words):
    sizes = SIZES.to_dict()
    for key, value in change.items():
        section, name = key.split(".")
        sizes[section][name] = value
    with pytest.raises(InputError, match=words):
        from_scratch.make(tmp_path / "model", sizes, TEXTS)
    assert not list(tmp_path.iterdir())


def test_used_directories_and_tiny_vocabularies_are_refused(model_dir, tmp_path):
    with pytest.raises(InputError, match="not empty"):
        from_scratch.make(model_dir, SIZES, TEXTS)
    with pytest.raises(InputError, match="at least 270"):
        from_scratch.make(tmp_path / "model", SIZES, TEXTS, vocab_size=100)
    assert json.loads((model_dir / "config.json").read_text())["model_type"] in door.FAMILIES


def test_a_part_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"depth cannot be set .* vision and text"):
        from_scratch.make(tmp_path / "model", SIZES.to_dict() | {"depth": 3}, TEXTS)


def test_a_processor_without_weights_is_the_models_own(model_dir, tmp_path, family):
    family.from_scratch.make_processor(tmp_path, FAMILIES[family][0], TEXTS, vocab_size=400)
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert "model.safetensors" not in made
    for name in made.keys() - {"config.json"}:  # which says the weights' dtype too
        assert made[name] == (model_dir / name).read_bytes(), name
    alone, with_weights = (door.Processor.from_pretrained(path) for path in (tmp_path, model_dir))
    assert alone.encode(TEXTS[0]) == with_weights.encode(TEXTS[0]) and alone.vision == with_weights.vision

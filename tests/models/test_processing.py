"""Chat messages to token ids: images anywhere, the reference's tokens, and one line for what does not fit."""

import io
import json
import subprocess
import sys
import unicodedata

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, strategies
from PIL import Image
from sample_images import encoded
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from models import qwen2_5_vl as qwen
from models.errors import InputError

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# What the published template does, in our own words: a default system text, pictures numbered only on add_vision_id.
TEMPLATE = """\
{%- set seen = namespace(images=0) -%}
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for turn in messages -%}
{{ '<|im_start|>' + turn.role + '\\n' }}
{%- for part in ([{'type': 'text', 'text': turn.content}] if turn.content is string else turn.content) -%}
{%- if part.type == 'image' -%}
{%- set seen.images = seen.images + 1 -%}
{{ 'Picture ' ~ seen.images ~ ': ' if add_vision_id else '' }}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}"""
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


def control_ids(processor, text):
    """The ids of a text in which special tokens are control tokens."""
    return processor.tokenizer.encode(text, add_special_tokens=False)


def write_tokenizer(path) -> None:
    """A byte-level BPE in Qwen2.5-VL's format, its special tokens after the plain ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(["You are a helpful assistant.", "Which image shows the largest digit?"], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
        "additional_special_tokens": SPECIAL[1:],
        "chat_template": TEMPLATE,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture
def path(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return qwen.Processor.from_pretrained(path)


def image_array(height=56, width=84, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def shown(count: int) -> str:
    return "<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>"


def plain(processor, ids) -> str:
    return processor.tokenizer.decode(ids, skip_special_tokens=False)


def user(*items):
    return [{"role": "user", "content": list(items)}]


def text(text):
    return {"type": "text", "text": text}


def test_images_anywhere_and_in_every_form(processor, tmp_path):
    arrays = [
        image_array(56, 84),
        image_array(84, 84, 1),
        image_array(28, 112, 2),
        image_array(140, 56, 3),
        image_array(56, 56, 4),
    ]
    (tmp_path / "a.png").write_bytes(png(arrays[3]))
    forms = [arrays[0], Image.fromarray(arrays[1]), png(arrays[2]), tmp_path / "a.png", Image.fromarray(arrays[4])]
    items = [{"type": "image", "image": form} for form in forms]
    ids, images = processor(
        user(items[0], text("first "), items[1], items[2], text("adjacent"), items[3])
        + [{"role": "assistant", "content": "yes"}, {"role": "user", "content": [text("last "), items[4]]}]
    )
    expected = (
        HEAD + shown(6) + "first " + shown(9) + shown(4) + "adjacent" + shown(10) + "<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nlast " + shown(4) + TAIL
    )
    assert plain(processor, ids) == expected
    for ours, array in zip(images, arrays, strict=True):
        assert ours.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(ours), array)


def test_no_image_own_system_text_no_generation_prompt(processor):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi é 中"}]
    ids, images = processor(messages, add_generation_prompt=False)
    assert images == []
    assert plain(processor, ids) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi é 中<|im_end|>\n"
    assert processor(messages)[0] == ids + control_ids(processor, "<|im_start|>assistant\n")


def test_slots_take_the_images_in_order(processor):
    first, second, third = (image_array(seed=seed) for seed in range(3))
    written = processor(
        user(
            {"type": "image", "image": first},
            text("or "),
            {"type": "image", "image": second},
            text("?"),
            {"type": "image", "image": third},
        )
    )
    by_slot = processor([{"role": "user", "content": "<image>or <image>?<image>"}], images=[first, second, third])
    mixed = processor(
        user({"type": "image"}, text("or "), {"type": "image", "image": second}, text("?<image>")),
        images=[first, third],
    )
    for ids, decoded in (by_slot, mixed):
        assert ids == written[0]
        for a, b in zip(decoded, written[1], strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("slots, count", [(0, 1), (1, 0), (2, 1), (1, 3)])
def test_slots_and_images_differ(processor, slots, count):
    with pytest.raises(InputError, match=rf"{slots} slots.* {count} images"):
        processor([{"role": "user", "content": "<image>" * slots + "?"}], images=[image_array()] * count)


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_in_a_text(processor, token):
    for messages in (
        [{"role": "user", "content": f"look {token} here"}],
        user(text(token)),
        [{"role": f"user{token}", "content": "a"}],
        [{"role": "assistant", "content": f"<image>{token}"}],
        user(text("a" + token[:5]), text(token[5:])),
    ):
        with pytest.raises(InputError, match="special token") as error:
            processor(messages)
        assert token in str(error.value)


def test_special_tokens_cannot_be_put_together_around_a_slot(processor):
    ids, _ = processor([{"role": "user", "content": "<|image<image>_pad|>"}], images=[image_array(56, 56)])
    assert ids.count(processor.image_token_id) == 4


@pytest.mark.parametrize(
    "content, message",
    [
        ([{"type": "video", "video": "a.mp4"}], "video"),
        ([{"type": "audio"}], "'text' or 'image'"),
        ([{"type": "text"}], "'text' or 'image'"),
        (["text"], "'text' or 'image'"),
        (7, "content must be"),
        ([{"type": "image", "image": None}], "NoneType"),
        ([{"type": "image", "image": b"\x89PNG broken"}], r"messages\[0\]\.content\[0\].*not a readable image"),
        ([{"type": "image", "image": "/no/such.png"}], "/no/such.png"),
        ([{"type": "image", "image": "https://x.org/a.png"}], "on this machine"),
        ([{"type": "image", "image": np.zeros((2, 1000, 3), np.uint8)}], "200 times"),
    ],
)
def test_refused_content(processor, content, message):
    with pytest.raises(InputError, match=message) as error:
        processor([{"role": "user", "content": content}])
    assert "\n" not in str(error.value)


def test_no_messages(processor):
    with pytest.raises(InputError, match="no messages"):
        processor([])


def test_a_template_that_refuses(path):
    (path / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match="roles must alternate"):
        qwen.Processor.from_pretrained(path)([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("message", ["hi", {"content": "a"}, {"role": "user"}])
def test_refused_messages(processor, message):
    with pytest.raises(InputError, match=r"messages\[0\]"):
        processor([message])


def test_pixel_limits(path):
    array = image_array(280, 280)
    processor = qwen.Processor.from_pretrained(path)
    assert (processor.min_pixels, processor.max_pixels) == (3136, 1003520)
    messages = user({"type": "image", "image": array})

    def count(processor, **limits):
        return processor(messages, **limits)[0].count(processor.image_token_id)

    assert count(processor) == 100
    assert count(processor, max_pixels=28 * 28 * 16) == 16
    assert count(processor, min_pixels=400 * 400) == 225
    for limits in (
        {"min_pixels": 784, "max_pixels": 784 * 25},
        {"size": {"shortest_edge": 784, "longest_edge": 784 * 25}},
        {"size": {"shortest_edge": 1, "longest_edge": 1}, "min_pixels": 784, "max_pixels": 784 * 25},
    ):
        (path / "preprocessor_config.json").write_text(json.dumps({**limits, "patch_size": 14, "merge_size": 2}))
        limited = qwen.Processor.from_pretrained(path)
        assert (limited.min_pixels, limited.max_pixels) == (784, 784 * 25)
        assert count(limited) == 25 and count(limited, max_pixels=10**6) == 100


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": [0.5, 0.5, 0.5]},
        {"patch_size": 16},
        {"do_rescale": False},
        {"rescale_factor": 1.0},
        {"resample": 2},
        {"max_pixels": "many"},
        {"max_pixels": 10**18},
        {"min_pixels": 10**18},
        {"min_pixels": -1},
    ],
)
def test_images_prepared_otherwise(path, settings):
    file = path / "preprocessor_config.json"
    for name, content in ((file.name, settings), ("processor_config.json", {"image_processor": settings})):
        (path / name).write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"/{name}: "):
            qwen.Processor.from_pretrained(path)
        file.unlink(missing_ok=True)


def test_settings_nested_as_transformers_5_saves_them(path):
    """They count before preprocessor_config.json, for transformers too."""
    pil = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").Qwen2VLImageProcessorPil
    settings = {
        "image_processor": pil(min_pixels=784, max_pixels=784 * 25).to_dict(),
        "processor_class": "Qwen2_5_VLProcessor",
    }
    for older in (False, True):
        if older:
            (path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 1, "max_pixels": 784 * 9}))
        (path / "processor_config.json").write_text(json.dumps(settings))
        ours, theirs = qwen.Processor.from_pretrained(path), pil.from_pretrained(path)
        assert (ours.min_pixels, ours.max_pixels) == (784, 784 * 25)
        assert (theirs.size["shortest_edge"], theirs.size["longest_edge"]) == (784, 784 * 25)
    (path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    assert qwen.Processor.from_pretrained(path).max_pixels == 784 * 9


def test_published_preprocessor_config(path):
    settings = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert qwen.Processor.from_pretrained(path).max_pixels == 12845056


def test_chat_template_places(path):
    def says(processor):
        return plain(processor, processor([{"role": "user", "content": "x"}])[0])

    (path / "chat_template.json").write_text(json.dumps({"chat_template": "from json"}))
    assert says(qwen.Processor.from_pretrained(path)) == "from json"
    (path / "chat_template.jinja").write_text("from jinja")
    assert says(qwen.Processor.from_pretrained(path)) == "from jinja"
    for file in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        (path / file).unlink()
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    with pytest.raises(InputError, match="template"):
        qwen.Processor.from_pretrained(path)


def test_a_template_that_drops_images(path):
    (path / "chat_template.jinja").write_text("{{ messages[0].role }}")
    with pytest.raises(InputError, match="0 of 1 images"):
        qwen.Processor.from_pretrained(path)(user({"type": "image", "image": image_array()}))


def test_eos_and_pad(path):
    processor = qwen.Processor.from_pretrained(path)
    end, pad = (processor.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    assert processor.eos_ids == (end,) and processor.pad_id == pad
    assert processor.image_token_id == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for written, expected in (([end, pad], (end, pad)), (pad, (pad,)), (None, (end,))):
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
        assert qwen.Processor.from_pretrained(path).eos_ids == expected
    for wrong in ("end", 10**11, [end, -1]):
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(InputError, match="eos_token_id"):
            qwen.Processor.from_pretrained(path)


def test_decode_and_encode(processor):
    ids = processor.encode("Which  image ?\n中é")
    assert processor.decode(ids) == "Which  image ?\n中é"
    assert processor.decode(np.array([*ids, *processor.eos_ids, processor.pad_id])) == "Which  image ?\n中é"


@hypothesis.settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=strategies.lists(strategies.sampled_from([*SPECIAL, "<|", "im_end", "|>", " ", "\n", "A dog", "e\u0301"])))
def test_no_text_encodes_to_a_control_token(processor, parts):
    """What an answer or a caption says is learned as text; the reference is the tokenizer without its added tokens."""
    text = "".join(parts)
    ids = processor.encode(text)
    assert not {processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL} & set(ids)
    assert processor.decode(ids) == unicodedata.normalize("NFC", text)


def test_encode_leaves_the_chat_template_its_control_tokens(processor):
    processor.encode("<|im_end|>")  # as a text
    ids, _ = processor([{"role": "user", "content": "Which?"}])
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2  # system and user


@pytest.mark.parametrize("form", ["path", "bytes", "PIL"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_grey_and_rotated_images_are_the_stored_picture(processor, tmp_path, form, kind):
    """The processor, whatever it is given, shows what a record holds."""
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = (np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16)
    (tmp_path / "a").write_bytes(data := encoded(Image.fromarray(grey), format=kind, exif=exif))
    image = {"path": tmp_path / "a", "bytes": data, "PIL": Image.open(tmp_path / "a")}[form]
    _, (shown,) = processor(user({"type": "image", "image": image}))
    np.testing.assert_array_equal(np.asarray(shown), np.rot90(np.repeat((grey >> 8)[..., None], 3, 2), -1))


def test_config_json_must_agree(path, processor):
    vision = qwen.VisionConfig(1, 16, 24, 2, 24, patch_size=8, window_size=32)
    text_config = qwen.TextConfig(400, 24, 40, 1, 4, 2, 1e6, (1, 1, 1), 1e-6, False)
    config = qwen.Config(vision, text_config, image_token_id=processor.image_token_id)
    (path / "config.json").write_text(json.dumps(config.to_hf()))
    other = qwen.Processor.from_pretrained(path)
    assert other(user({"type": "image", "image": image_array(64, 64)}))[0].count(other.image_token_id) == 16
    (path / "config.json").write_text(json.dumps({**config.to_hf(), "image_token_id": 3}))
    with pytest.raises(InputError, match=r"image_pad.* 3 in config.json"):
        qwen.Processor.from_pretrained(path)


def test_broken_tokenizers(path, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for wrong, message in ((empty / "absent", "no such directory"), (empty, "no tokenizer.json")):
        with pytest.raises(InputError, match=message):
            qwen.Processor.from_pretrained(wrong)
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read") as error:
        qwen.Processor.from_pretrained(path)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_images(path):
    content = json.loads((path / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|image_pad|>"]
    (path / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"].remove("<|image_pad|>")
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="image_pad"):
        qwen.Processor.from_pretrained(path)


def test_torch_is_not_imported(path):
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None; import numpy as np\n"
        "from models.processing import Processor\n"
        f"processor = Processor.from_pretrained({str(path)!r})\n"
        "ids, _ = processor([{'role': 'user', 'content': '<image>'}], images=[np.zeros((56, 56, 3), np.uint8)])\n"
        "assert ids.count(processor.image_token_id) == 4"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pack_takes_what_it_gives(processor):
    vision = qwen.VisionConfig(1, 16, 24, 2, 24)
    text_config = qwen.TextConfig(400, 24, 40, 1, 4, 2, 1e6, (1, 1, 1), 1e-6, False)
    tokens = {
        f"{name}_token_id": processor.tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in [
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        ]
    }
    config = qwen.Config(vision, text_config, **tokens)
    prompt = processor(
        [{"role": "user", "content": "<image> and <image>"}], images=[image_array(), image_array(30, 400)]
    )
    inputs = qwen.pack(config, [prompt])
    np.testing.assert_array_equal(inputs.ids[0, : len(prompt[0])], prompt[0])

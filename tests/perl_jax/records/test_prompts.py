"""Prompts: what a policy gets to see of a record, and that an exported directory shows the same."""

import dataclasses
import io
import json

import numpy as np
import pytest
import tiny_run
from PIL import Image

from models import image_files, images
from models import qwen2_5_vl as qwen
from models.errors import InputError
from models.qwen2_5_vl import from_scratch
from perl_jax.records import prompts

RECORD = {"id": "cats-7", "question": "<image>Which is it?", "choices": ["a cat", "a dog"]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "model"
    from_scratch.make(path, tiny_run.config().scratch.to_dict(), ["Which is it? cat dog image"], vocab_size=300)
    return path


@pytest.fixture(scope="module")
def policy_prompts(directory):
    return prompts.Prompts(qwen.Processor.from_pretrained(directory), "Be brief.", "Box it.", 28 * 28, 56 * 56, 200)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), 90, np.uint8))


def test_question_lettered_choices_and_instruction_in_one_user_turn(policy_prompts):
    assert policy_prompts.messages(RECORD) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>Which is it?\nA. a cat\nB. a dog\nBox it."},
    ]
    ids, pictures = policy_prompts.encode({**RECORD, "images": [picture(28, 28)]})
    pad = "<|image_pad|>"
    assert policy_prompts.processor.tokenizer.decode(ids) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>{pad}<|vision_end|>Which is it?\n"
        "A. a cat\nB. a dog\nBox it.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [image.size for image in pictures] == [(28, 28)]


def test_empty_texts_leave_no_trace(policy_prompts):
    bare = dataclasses.replace(policy_prompts, system="", instruction="")
    for record in ({"question": "Why?"}, {"question": "Why?", "choices": []}):
        assert bare.messages(record) == [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(("size", "tokens"), [((14, 14), 1), ((56, 56), 4), ((280, 280), 4)])
def test_images_are_shown_within_the_limits(policy_prompts, size, tokens):
    ids, _ = policy_prompts.encode({**RECORD, "images": [picture(*size)]})
    assert ids.count(policy_prompts.processor.image_token_id) == tokens


def test_a_prompt_that_is_too_long_names_its_record(policy_prompts):
    with pytest.raises(InputError, match=r"record 'cats-7': its prompt has \d+ tokens, more than .*max_tokens = 200"):
        policy_prompts.encode({**RECORD, "question": "<image>" + "Which " * 300, "images": [picture(28, 28)]})


def test_slots_and_images_must_agree(policy_prompts):
    with pytest.raises(InputError, match="1 slots for images, but 2 images"):
        policy_prompts.encode({**RECORD, "images": [picture(28, 28)] * 2})


def test_a_directory_without_the_file_is_asked_plainly(directory):
    plain = prompts.Prompts.of_directory(directory)
    assert (plain.system, plain.instruction) == ("", "")
    assert plain.limits == {"min_pixels": 3136, "max_pixels": 1003520}


@pytest.fixture
def exported(policy_prompts, directory, tmp_path):
    """A copy of the directory with the file and the limits that an export writes."""
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | policy_prompts.limits))
    (tmp_path / prompts.FILE).write_text(policy_prompts.to_json(step=3), encoding="utf-8")
    return tmp_path


def test_an_exported_directory_shows_what_training_showed(policy_prompts, exported):
    again = prompts.Prompts.of_directory(exported)
    assert again.limits == policy_prompts.limits and again.max_tokens == policy_prompts.max_tokens
    record = {**RECORD, "images": [picture(90, 40)]}
    assert again.encode(record)[0] == policy_prompts.encode(record)[0]
    assert json.loads((exported / prompts.FILE).read_text())["step"] == 3


def test_a_changed_chat_template_is_refused(exported):
    template = exported / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(InputError, match=r"perl_jax\.json: its chat template"):
        prompts.Prompts.of_directory(exported)


def test_other_limits_of_images_are_refused(exported):
    settings = exported / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_pixels": 12845056}))
    with pytest.raises(InputError, match="12845056 pixels"):
        prompts.Prompts.of_directory(exported)


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"system": 3}'])
def test_a_broken_file_is_named(exported, content):
    (exported / prompts.FILE).write_text(content)
    with pytest.raises(InputError, match=r"perl_jax\.json"):
        prompts.Prompts.of_directory(exported)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    picture(width, height).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_without_a_header_is_named():
    made = prompts.with_lazy_images({"id": "r", "images": [png(8, 6)] * 2, "question": "?"})
    assert [(image.width, image.height) for image in made["images"]] == [(8, 6)] * 2 and made["question"] == "?"
    with pytest.raises(InputError, match="record 'r', image 2"):
        prompts.with_lazy_images({"id": "r", "images": [png(8, 6), png(8, 6)[:20]]})


def test_a_broken_image_is_found_by_whom_it_is_at_home_with(policy_prompts):
    broken = prompts.with_lazy_images({"id": "r", "images": [png(8, 6), png(80, 60)[:-40]]})["images"]
    home = int(broken[1].preferred_position * 4)
    [line, none] = policy_prompts.prepare([broken, broken[:1]], 4, {home})
    assert line.startswith("record 'r', image 2: not a readable image") and none is None
    assert policy_prompts.prepare([broken], 4, {0, 1, 2, 3} - {home}) == [None]


def test_what_is_prepared_is_not_decoded_again(policy_prompts, monkeypatch):
    [picture] = prompts.with_lazy_images({"id": "r", "images": [png(80, 60)]})["images"]
    assert policy_prompts.prepare([[picture]], 1, {0}) == [None]
    monkeypatch.setattr(image_files, "open_image", None)
    patches, grid = images.patches(picture, policy_prompts.processor.vision, **policy_prompts.limits)
    assert patches.shape == (8, 1176) and grid == (1, 2, 4)

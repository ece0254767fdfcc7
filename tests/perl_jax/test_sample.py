"""Sampling from an exported directory: the prompt is training's, and what comes out is plain text."""

import numpy as np
import pytest
import tiny
import tiny_run
from PIL import Image

import models
from models.errors import InputError
from perl_jax import export, rollout, sample
from perl_jax.records import prompts

SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, request):
    out = tmp_path_factory.mktemp("sample") / "model"
    export.export(tiny_run.trained(getattr(request, "param", "qwen2_5_vl")), out)
    return out


@pytest.fixture(scope="module")
def images():
    return [Image.fromarray(tiny.noise_image(40, 30, seed)) for seed in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("exported", tiny_run.FAMILIES, indirect=True)
def test_images_come_first_unless_the_prompt_has_slots(exported, images):
    settings = prompts.Prompts.of_directory(exported)
    for question, full_question in (("Which?", "<image><image>Which?"), ("<image>or<image>?", "<image>or<image>?")):
        prompt = settings.encode({"id": "", "question": full_question, "images": images})
        out = rollout.generate(
            models.load(exported),
            [prompt],
            samples=1,
            temperature=0.0,
            eos_ids=settings.processor.eos_ids,
            **SHORT,
            **settings.limits,
        )
        expected = settings.processor.decode(out.tokens[0, 0, : out.lengths[0, 0]])
        assert sample.answers(exported, question, images, **SHORT) == [expected]
    assert "In a box." in settings.messages({"question": "Which?"})[-1]["content"]  # training's instruction


@pytest.mark.slow
def test_samples_differ_and_a_seed_repeats_them(exported, images):
    draws = [
        sample.answers(exported, "Which?", images, samples=4, temperature=1.0, seed=seed, **SHORT) for seed in (0, 0, 1)
    ]
    assert len(set(draws[0])) > 1
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.slow
def test_a_question_without_images(exported):
    (text,) = sample.answers(exported, "Why?", [], **SHORT)
    assert "<|" not in text


@pytest.mark.slow
@pytest.mark.parametrize("question", ["<image>Which?", "<image><image><image>Which?"])
def test_slots_and_images_must_agree(exported, images, question):
    with pytest.raises(InputError, match="but 2 images were given"):
        sample.answers(exported, question, images, **SHORT)


def test_an_image_file_that_is_missing_or_broken_is_named(tmp_path, images):
    images[0].save(tmp_path / "whole.png")
    assert np.array_equal(np.asarray(sample.read_image(str(tmp_path / "whole.png"))), np.asarray(images[0]))
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:99])
    for name in ("broken.png", "missing.png", ""):
        with pytest.raises(InputError, match=f"--image={tmp_path / name}"):
            sample.read_image(str(tmp_path / name))

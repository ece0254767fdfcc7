"""Sampling from an exported directory: the prompt is training's, and what comes out is plain text."""

import numpy as np
import pytest
import tiny
import tiny_run
from PIL import Image

from models import qwen2_5_vl as qwen
from models.errors import InputError
from perl_jax import export, rollout, sample
from perl_jax.records import prompts

SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "model"
    export.export(tiny_run.trained(), out)
    return out


@pytest.fixture(scope="module")
def pictures():
    return [Image.fromarray(tiny.noise_image(40, 30, seed)) for seed in (1, 2)]


def test_pictures_come_first_unless_the_prompt_has_slots(exported, pictures):
    shown = prompts.Prompts.of_directory(exported)
    for question, whole in (("Which?", "<image><image>Which?"), ("<image>or<image>?", "<image>or<image>?")):
        prompt = shown.encode({"id": "", "question": whole, "images": pictures})
        out = rollout.generate(
            qwen.load(exported),
            [prompt],
            samples=1,
            temperature=0.0,
            eos_ids=shown.processor.eos_ids,
            **SHORT,
            **shown.limits,
        )
        expected = shown.processor.decode(out.tokens[0, 0, : out.lengths[0, 0]])
        assert sample.answers(exported, question, pictures, **SHORT) == [expected]
    assert "In a box." in shown.messages({"question": "Which?"})[-1]["content"]  # training's instruction


def test_samples_differ_and_a_seed_repeats_them(exported, pictures):
    draws = [
        sample.answers(exported, "Which?", pictures, samples=4, temperature=1.0, seed=seed, **SHORT)
        for seed in (0, 0, 1)
    ]
    assert len(set(draws[0])) > 1
    assert draws[0] == draws[1] != draws[2]


def test_a_question_without_pictures(exported):
    (text,) = sample.answers(exported, "Why?", [], **SHORT)
    assert "<|" not in text


@pytest.mark.parametrize("question", ["<image>Which?", "<image><image><image>Which?"])
def test_slots_and_pictures_must_agree(exported, pictures, question):
    with pytest.raises(InputError, match="but 2 images were given"):
        sample.answers(exported, question, pictures, **SHORT)


def test_a_picture_file_that_is_missing_or_broken_is_named(tmp_path, pictures):
    pictures[0].save(tmp_path / "whole.png")
    assert np.array_equal(np.asarray(sample.read_image(str(tmp_path / "whole.png"))), np.asarray(pictures[0]))
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:99])
    for name in ("broken.png", "missing.png", ""):
        with pytest.raises(InputError, match=f"--image={tmp_path / name}"):
            sample.read_image(str(tmp_path / name))

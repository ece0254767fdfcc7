"""Handwritten digits (scikit-learn's 1,797, included in the package) as short questions over several images.

Five kinds of questions: `digits_which` (which image shows X: the answer is a position), `digits_what` (what does image
i show: the mention is a position), `digits_count` and `digits_largest` (positions do not matter) and `digits_single`
(one image). Positions are biased as in real data, in training and evaluation alike: the image that the question is
about is the first with probability `bias`, else uniformly one of the others. So a model can learn to look at the first
image only, which accuracy in original order does not reveal. `captions` state the digit of each image, and "yes" for
those that the question is about: content for warm-up responses to write before the answer.
"""

import functools
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from models.errors import InputError
from perl_jax.records import Record

SPLITS = ("train", "eval")
QUESTIONS = ("which", "what", "count", "largest", "single")
EVAL_SHARE = 0.2  # of the images, never used in training
SIDE_STEP = 28  # pixels of one merged patch: image sides remain multiples of it

EXAMPLE = {
    "id": "digits-train-0-0",
    "question": "<image:0><image:1><image:2><image:3>Which image shows 0?",
    "choices": [],
    "answer": "{image:0|number}",
    "kind": "number",
    "order_effect": "rewrite",
    "source": "digits_which",
    "accuracy": None,
    "movable": None,
    "captions": ["0 yes", "6", "9", "5"],
}


def records(
    input: str | None = None,
    split: str = "train",
    seed: int = 0,
    *,
    train_size: int = 4000,
    eval_size: int = 400,
    bias: float = 0.8,
    image_size: int = 56,
    ragged: bool = False,
    min_images: int = 2,
    max_images: int = 4,
    questions: str | Sequence[str] = QUESTIONS,
) -> Iterator[Record]:
    """Yields questions, cycling over `questions`; number i of a split does not depend on the split's size.

    Args:
        input: None; the images come with scikit-learn.
        split: `train`, or `eval` with images of its own.
        seed: of digits, images and positions.
        train_size, eval_size: records per split.
        bias: probability that the first image is the one that matters.
        image_size: side of a square image in pixels.
        ragged: vary the sides by `SIDE_STEP`, with the digit at a random place on black.
        min_images, max_images: for questions over several images, 2 to 10; uniform between.
        questions: some of `QUESTIONS`, as a sequence or comma-separated; a name given twice is used twice as often.

    Raises:
        InputError: an option out of range.
    """
    questions = tuple(questions.split(",")) if isinstance(questions, str) else tuple(questions)
    _check(input, split, bias, image_size, min_images, max_images, questions)
    pools = _pools()[split]
    for number in range(train_size if split == "train" else eval_size):
        # A separate generator per record, so that no record depends on the number of records.
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        name = questions[number % len(questions)]
        count = 1 if name == "single" else int(rng.integers(min_images, max_images + 1))
        digits, question, answer, effect, asked = _question(rng, name, count, bias)
        chosen = [int(rng.choice(pools[digit])) for digit in digits]
        yield Record(
            id=f"digits-{split}-{seed}-{number}",
            images=[_ragged(rng, index, image_size) if ragged else digit_image(index, image_size) for index in chosen],
            question="".join(f"<image:{i}>" for i in range(count)) + question,
            choices=[],
            answer=answer,
            kind="number",
            order_effect=effect,
            source=f"digits_{name}",
            accuracy=None,
            movable=None,
            captions=[f"{digit} yes" if place in asked else f"{digit}" for place, digit in enumerate(digits)],
        )


@functools.cache
def digit_image(index: int, size: int) -> bytes:
    """Encodes scikit-learn's digit number `index` as an RGB PNG of `size` x `size` pixels."""
    return _png(_grey(index, size))


def _question(rng, name, count, bias):
    """(the digit of each image, question, answer, order_effect, positions that it asks about)."""
    place = 0 if count == 1 or rng.random() < bias else int(rng.integers(1, count))
    digits = [int(digit) for digit in rng.choice(10, size=count, replace=False)]
    if name == "which":
        # Other digits may repeat, so that occurring only once does not identify X.
        others = [digit for digit in range(10) if digit != digits[place]]
        digits_shown = [digit if i == place else int(rng.choice(others)) for i, digit in enumerate(digits)]
        return digits_shown, f"Which image shows {digits[place]}?", f"{{image:{place}|number}}", "rewrite", {place}
    if name == "what":
        return digits, f"What does {{image:{place}|lower}} show?", str(digits[place]), "rewrite", {place}
    if name == "count":
        wanted, others = digits[0], digits[1:]
        hits = set(rng.choice(count, size=rng.integers(0, count + 1), replace=False).tolist())
        digits_shown = [wanted if i in hits else int(rng.choice(others)) for i in range(count)]
        return digits_shown, f"How many images show {wanted}?", str(len(hits)), "invariant", hits
    if name == "largest":
        largest = digits.index(max(digits))
        digits[largest], digits[place] = digits[place], digits[largest]
        return digits, "What is the largest digit?", str(max(digits)), "invariant", {}
    return digits, "What digit is this?", str(digits[0]), "invariant", {}


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """(grey levels [1797, 8, 8] from 0 to 16, digits [1797])."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


@functools.cache
def _pools() -> dict[str, list[np.ndarray]]:
    """{split: for each digit, its image indices}; the splits are disjoint."""
    digits = _scans()[1]
    # fixed, so that no seed moves an image into or out of eval
    order = np.random.default_rng(0).permutation(len(digits))
    held_out = round(EVAL_SHARE * len(digits))
    parts = {"train": order[held_out:], "eval": order[:held_out]}
    return {split: [np.sort(part[digits[part] == digit]) for digit in range(10)] for split, part in parts.items()}


def _grey(index: int, size: int) -> Image.Image:
    values = np.round(_scans()[0][index] * (255 / 16)).astype(np.uint8)
    return Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR)


def _ragged(rng, index, size) -> bytes:
    width, height = (size + SIDE_STEP * int(rng.integers(0, 3)) for _ in range(2))
    ground = Image.new("L", (width, height))
    ground.paste(_grey(index, size), (int(rng.integers(0, width - size + 1)), int(rng.integers(0, height - size + 1))))
    return _png(ground)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _check(input, split, bias, image_size, min_images, max_images, questions):
    if input is not None:
        raise InputError(f"the source digits includes its images; leave out the input {input!r}")
    if split not in SPLITS:
        raise InputError(f"the source digits has no split {split!r}, only {', '.join(SPLITS)}")
    if not 0 <= bias <= 1 or image_size < 1 or not 2 <= min_images <= max_images <= 10:
        raise InputError(
            f"digits: bias {bias} must be from 0 to 1, image_size {image_size} above 0, and "
            f"2 <= min_images {min_images} <= max_images {max_images} <= 10"
        )
    if not questions or not set(questions) <= set(QUESTIONS):
        raise InputError(f"digits: questions {', '.join(questions)!r} must be some of {', '.join(QUESTIONS)}")

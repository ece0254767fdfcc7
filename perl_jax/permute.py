"""Image permutation with text rewriting, and the orders that a training step samples.

A sample is a plain dict: `id`, `images`, `question`, `answer`, `order_effect`, and optionally `choices`, `kind`,
`movable`, `captions`. Its text refers to images by symbols (`perl_jax.symbols`), so permuting the images is an exact
rewrite; symbols become words only in `render`. An answer that lists an order is stored as mentions
("{image:1|number}→{image:0|number}"), and one that names a set of images as a set symbol. Method: PeRL, permutation of
the image sequence with rephrasing (paper, section on permuted rollouts), with the paper's linear schedule.
"""

import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count as count_from
from typing import Any

from models.errors import InputError
from perl_jax import symbols
from perl_jax.symbols import MARKER, MENTION, SET, SLOT

Order = tuple[int, ...]
Sample = Mapping[str, Any]

SCHEDULES = ("linear", "cosine", "constant", "rising")
SHUFFLES = ("none", "once", "fresh", "half")

_BARE_LETTER = re.compile(r"(\W*)([A-Za-z])(\W*)")
_BARE_ITEM = re.compile(r"\d+|\b[A-Za-z]\b")


def original_order(count: int) -> Order:
    """The order in which `count` images are stored: place i shows image i.

    >>> original_order(3)
    (0, 1, 2)
    """
    return tuple(range(count))


def inverse(order: Sequence[int]) -> Order:
    """The inverse permutation: `inverse(order)[i]` is the place that shows original image i.

    >>> inverse((2, 0, 3, 1))
    (1, 3, 0, 2)
    """
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def movable_places(sample: Sample) -> list[int]:
    """Places whose image may move, ascending; [] where nothing can (`fixed`, or fewer than two such places).

    These are the record's `movable`, or all places if it names none. Where a letter names a choice by the image shown
    in it, only images that are alone in a choice move: swapping an image of the question with one of a choice would
    change the question.
    """
    total = len(_images(sample))
    movable = sample.get("movable")
    if movable is None:
        alone = [slots[0] for slots in _choice_slots(sample) if len(slots) == 1]
        places = sorted(alone) if _answers_by_shown_choice(sample) else list(range(total))
    else:
        places = sorted({operator.index(place) for place in movable})
    if any(not 0 <= place < total for place in places):
        raise InputError(f"{_name(sample)}: movable place {places} outside its {total} images")
    return places if len(places) > 1 and _effect(sample) != "fixed" else []


def apply(sample: Sample, order: Iterable[int]) -> Sample:
    """A new sample whose place j shows original image `order[j]`; slots keep their places in the text.

    `invariant`: only the images move. `rewrite`: every mention of image i in question, choices and answer becomes a
    mention of place `order.index(i)`, and so does an answer that is a bare letter or a bare list of places (see
    `_move_answer`). Raises InputError, naming the sample, for an order that is not a permutation of its images or moves
    a place that must stay (any, if `fixed`), and for a symbol outside the images.

    >>> apply({"id": "q", "images": ["a", "b"], "question": "What is in {image:0}?", "answer": "cat",
    ...        "order_effect": "rewrite"}, [1, 0])["question"]
    'What is in {image:1}?'
    """
    order = _valid_order(sample, order)
    new = {**sample, **_reordered(order, sample)}
    if "choices" in sample:
        new["choices"] = list(sample["choices"] or ())
    if _effect(sample) != "rewrite" or order == original_order(len(order)):
        return new
    place_of = inverse(order)
    new["question"] = _move_mentions(sample, sample["question"], place_of)
    new["answer"] = _move_answer(sample, sample["answer"], place_of)
    if "choices" in sample:
        new["choices"] = [_move_mentions(sample, choice, place_of) for choice in new["choices"]]
    return new


def probability(
    step: int, total_steps: int, start: float = 1.0, end: float = 0.0, warmup_steps: int = 0, schedule: str = "linear"
) -> float:
    """Probability that an order is permuted at `step` of `total_steps` (counted from 1): the paper's p(t).

    It is `start` up to `warmup_steps`, and goes to `end` from there: `linear` (the paper's) or along half a `cosine`;
    `constant` stays at `start`, and `rising` is `linear` run backwards, from `end` to `start`. Raises InputError for
    another schedule, and for probabilities outside [0, 1].

    >>> [probability(step, 4) for step in (1, 2, 3, 4)]
    [0.75, 0.5, 0.25, 0.0]
    """
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise InputError(f"permutation probabilities lie in [0, 1], got start {start} and end {end}")
    if schedule not in SCHEDULES:
        raise InputError(f"the schedule of permutation is one of {', '.join(SCHEDULES)}, not {schedule!r}")
    if schedule == "rising":
        start, end = end, start
    if step <= warmup_steps or schedule == "constant":
        return float(start)
    if step >= total_steps:
        return float(end)
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    if schedule == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start + (end - start) * done


def draw_orders(
    sample: Sample, n_s: int, p: float, *, seed: int, epoch: int, step: int, canonical: bool = True
) -> list[Order]:
    """The n_s + 1 orders of a question at one step: the original, then n_s orders each permuted with probability p.

    Without `canonical` the first one too is permuted with probability p. A permuted order is uniform over the
    permutations of the movable places other than the identity, and distinct from the step's earlier ones until all are
    used. Every draw is a hash of (seed, epoch, step, id, index of the order), so it is the same on any mesh, in any
    process, and after a resume.
    """
    original, places = original_order(len(_images(sample))), movable_places(sample)
    orders, used = [original] if canonical else [], {original}
    for index in range(len(orders), n_s + 1):
        key = ("train", int(seed), int(epoch), int(step), str(sample["id"]), index)
        if not places or _hash(*key) >= p * 2**64:
            orders.append(original)
            continue
        if len(used) == math.factorial(len(places)):
            used = {original}
        orders.append(_draw(original, places, used, key))
        used.add(orders[-1])
    return orders


def shuffled_order(sample: Sample, shuffle: str, *, seed: int, epoch: int, step: int) -> Order:
    """The one order in which a data set that is shuffled, not permuted in groups, shows a question at a step.

    `none`: the original. `once`: the same uniform one at every step. `fresh`: a new uniform one at each. `half`: as
    order 1 of a group with p = 1/2, the original or a new one of the others, each with probability 1/2: what a group of
    two orders shows at p = 1, but in groups of one order. Raises InputError for anything else.
    """
    original, places = original_order(len(_images(sample))), movable_places(sample)
    key = ("shuffle", int(seed), int(epoch), int(step), str(sample["id"]))
    if shuffle not in SHUFFLES:
        raise InputError(f"shuffle is one of {', '.join(SHUFFLES)}, not {shuffle!r}")
    if shuffle == "once":
        return uniform_orders(sample, 1, seed)[0]
    if not places or shuffle == "none" or (shuffle == "half" and _hash(*key) < 2**63):
        return original
    return _draw(original, places, {original} if shuffle == "half" else set(), key)


def uniform_orders(sample: Sample, count: int, seed: int) -> list[Order]:
    """`count` orders for evaluation, uniform over the permutations of the movable places, identity included.

    Deterministic in (seed, id); distinct until all permutations are used.
    """
    original, places = original_order(len(_images(sample))), movable_places(sample)
    orders: list[Order] = []
    used: set[Order] = set()
    for index in range(count):
        if len(used) == math.factorial(len(places)):
            used = set()
        orders.append(_draw(original, places, used, ("evaluate", int(seed), str(sample["id"]), index)))
        used.add(orders[-1])
    return orders


def render(sample: Sample) -> Sample:
    """The sample as plain text: mentions become words, slots become `<image>`, images are listed as shown.

    The k-th `<image>` of question and choices together shows the k-th image returned. Every image needs exactly one
    slot; a text without slots gets all of them at its start. Raises InputError, naming the sample, for anything else,
    for a symbol outside the images, an unknown style, and a literal `<image>` in the stored text.

    >>> render({"id": "q", "images": ["a", "b"], "question": "What is in {image:1|lower}?", "answer": "cat",
    ...         "order_effect": "rewrite"})["question"]
    '<image><image>\\nWhat is in image 2?'
    """
    images = _images(sample)
    texts = [sample["question"], *(sample.get("choices") or ())]
    if any(MARKER in text for text in texts):
        raise InputError(f"{_name(sample)}: its text holds a plain {MARKER}; name the place, as in <image:0>")
    if SLOT.search(sample["answer"]):
        raise InputError(f"{_name(sample)}: its answer shows an image; mention it instead, as in {{image:0}}")
    slots = [int(i) for text in texts for i in SLOT.findall(text)]
    if not slots and images:
        slots = list(range(len(images)))
        texts[0] = "".join(f"<image:{i}>" for i in slots) + "\n" + texts[0]
    if sorted(slots) != list(range(len(images))):
        raise InputError(f"{_name(sample)}: slots {slots} do not show each of its {len(images)} images once")
    question, *choices = [SLOT.sub(MARKER, _words(sample, text)) for text in texts]
    new = {**sample, **_reordered(slots, sample), "question": question}
    if "choices" in sample:
        new["choices"] = choices
    return {**new, "answer": _words(sample, sample["answer"])}


def canonical_answer(prediction: str, sample: Sample, order: Iterable[int]) -> str:
    """Maps a prediction under `apply(sample, order)` back to the original order, so that answer flips can be counted.

    `sample` is in original order. Where its answer refers to an image (a mention in any style, a letter or a list of
    places that name images) the prediction is rewritten to the original place of that image; any other text is returned
    stripped.

    >>> sample = {"id": "q", "images": ["a", "b"], "question": "", "answer": "{image:0}", "order_effect": "rewrite"}
    >>> canonical_answer("image 2", sample, (1, 0))
    'Image 1'
    """
    order = _valid_order(sample, order)
    prediction = prediction.strip()
    if _effect(sample) != "rewrite":
        return prediction
    answer = sample["answer"]
    if named := SET.fullmatch(answer):
        return _set_in_original_order(sample, prediction, named[2], order)
    if len(symbols.mentioned(answer)) == 1:
        for place, image in enumerate(order):
            if _folded(_words(sample, _point_at(answer, place))) == _folded(prediction):
                return _words(sample, _point_at(answer, image))
        return prediction
    if _kind(sample) != "order" and not _BARE_LETTER.fullmatch(answer):
        return prediction
    try:
        return _move_answer(sample, prediction, order, bare=True)
    except InputError:  # the model may name a place that does not exist
        return prediction


def _set_in_original_order(sample: Sample, prediction: str, style: str, order: Order) -> str:
    places = {int(number) - 1 for number in re.findall(r"[0-9]{1,4}", prediction)}
    if len(places) < 2 or not places <= set(range(len(order))):
        return prediction
    return _words(sample, _move_mentions(sample, symbols.mention_set(places, style), order))


# Symbols and answers


def _name(sample: Sample) -> str:
    return f"record {sample.get('id')!r}"


def _images(sample: Sample) -> list:
    return list(sample.get("images") or ())


def _reordered(order: Sequence[int], sample: Sample) -> dict[str, list]:
    """The per-image fields (`images`, `captions`) in a new order."""
    return {key: [sample[key][i] for i in order] for key in ("images", "captions") if sample.get(key)}


def _kind(sample: Sample) -> str:
    return sample.get("kind") or "choice"  # without a kind, a bare letter is read as a choice


def _effect(sample: Sample) -> str:
    effect = sample.get("order_effect")
    if effect not in ("invariant", "rewrite", "fixed"):
        raise InputError(f"{_name(sample)}: order_effect is {effect!r}, not invariant, rewrite or fixed")
    return effect


def _folded(text: str) -> str:
    return " ".join(text.split()).strip(" ().").casefold()


def _valid_order(sample: Sample, order: Iterable[int]) -> Order:
    total = len(_images(sample))
    try:
        order = tuple(operator.index(i) for i in order)
    except TypeError:
        raise InputError(f"{_name(sample)}: order {order!r} is not a sequence of whole numbers") from None
    if sorted(order) != list(range(total)):
        raise InputError(f"{_name(sample)}: order {list(order)} is not a permutation of its {total} images")
    moved = [place for place, image in enumerate(order) if place != image]
    stays = sorted(set(moved) - set(movable_places(sample))) if moved else []
    if stays:
        raise InputError(
            f"{_name(sample)}: order {list(order)} moves places {stays}, which must stay "
            f"(order_effect {_effect(sample)})"
        )
    return order


def _point_at(text: str, place: int) -> str:
    return MENTION.sub(lambda match: symbols.mention(place, match[2]), text)


def _place(sample: Sample, place: int) -> int:
    total = len(_images(sample))
    if not 0 <= place < total:
        raise InputError(f"{_name(sample)}: a reference to image {place}, but it has {total} images (counted from 0)")
    return place


def _move_mentions(sample: Sample, text: str, place_of: Order) -> str:
    return _named(sample, symbols.move, text, place_of)


def _words(sample: Sample, text: str) -> str:
    return _named(sample, symbols.words, text, len(_images(sample)))


def _named(sample: Sample, function: Callable[..., str], *args: object) -> str:
    try:
        return function(*args)
    except InputError as error:
        raise InputError(f"{_name(sample)}: {error}") from None


def _move_answer(sample: Sample, answer: str, place_of: Order, bare: bool = False) -> str:
    """The answer after the permutation. Mentions are rewritten; without any (or if `bare`, a rendered text), by kind:

    a choice's bare letter k is image k if there are no choices. If choices show images, it becomes the choice that now
    shows the same image. Otherwise it stays, since the choices' texts were rewritten. A list of places ("2→1→3", "B, A,
    C") is mapped item by item, unless there are choices that it could name.
    """
    if not bare and symbols.mentioned(answer):
        return _move_mentions(sample, answer, place_of)
    if _kind(sample) == "choice" and (match := _BARE_LETTER.fullmatch(answer)):
        return match[1] + _move_letter(sample, match[2], place_of) + match[3]
    if _kind(sample) == "order" and not sample.get("choices"):
        items = _BARE_ITEM.findall(answer)
        if not items or len(set(items)) < len(items):
            raise InputError(f"{_name(sample)}: order answer {answer!r} is not a list of different images")
        return _BARE_ITEM.sub(lambda match: _move_item(sample, match[0], place_of), answer)
    return answer


def _move_item(sample: Sample, item: str, place_of: Order) -> str:
    """Rewrites one bare reference, a number from 1 or a letter from A, keeping its case."""
    if item.isdigit():
        return str(place_of[_place(sample, int(item) - 1)] + 1)
    moved = symbols.letter(place_of[_place(sample, symbols.letter_place(item))])
    return moved if item.isupper() else moved.lower()


def _move_letter(sample: Sample, letter: str, place_of: Order) -> str:
    if choices_are_images(sample):
        choices, movable = len(sample.get("choices") or ()), sorted(sample.get("movable") or ())
        if choices == len(movable) < len(sample["images"]) and choices:  # a fixed reference image, then the choices
            index = symbols.letter_place(letter)
            if index >= choices:
                raise InputError(f"{_name(sample)}: answer {letter!r}, but it has {choices} choices")
            moved = symbols.letter(movable.index(place_of[movable[index]]))
            return moved if letter.isupper() else moved.lower()
        if choices not in (0, len(sample["images"])):
            raise InputError(
                f"{_name(sample)}: {choices} choices that are only letters, for {len(sample['images'])} "
                "images: which image a letter names cannot be told"
            )
        return _move_item(sample, letter, place_of)
    if not _answers_by_shown_choice(sample):
        return letter
    choice_slots = _choice_slots(sample)
    index = symbols.letter_place(letter)
    if index >= len(choice_slots):
        raise InputError(f"{_name(sample)}: answer {letter!r}, but it has {len(choice_slots)} choices")
    if not choice_slots[index]:  # "none of the above"
        return letter
    target = [place_of[_place(sample, place)] for place in choice_slots[index]]
    if target not in choice_slots:
        raise InputError(f"{_name(sample)}: no choice shows what answer {letter!r} shows, once its images have moved")
    moved = symbols.letter(choice_slots.index(target))
    return moved if letter.isupper() else moved.lower()


def choices_are_images(sample: Sample) -> bool:
    """Whether letter k names image k: there are no choices, or each is just its letter."""
    choices = sample.get("choices") or ()
    return all(choice.strip(" ().:") in ("", symbols.letter(k)) for k, choice in enumerate(choices[:26]))


def _choice_slots(sample: Sample) -> list[list[int]]:
    """The places that each choice shows."""
    return [[int(place) for place in SLOT.findall(choice)] for choice in sample.get("choices") or ()]


def _answers_by_shown_choice(sample: Sample) -> bool:
    return (
        _effect(sample) == "rewrite"
        and _kind(sample) == "choice"
        and any(SLOT.search(choice) for choice in sample.get("choices") or ())
        and _BARE_LETTER.fullmatch(sample["answer"]) is not None
    )


# Draws


def _hash(*key: object) -> int:
    """64 uniform bits that depend on the key alone: no generator state to carry, shard or restore."""
    return int.from_bytes(hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest(), "big")


def _draw(original: Order, places: list[int], used: set[Order], key: tuple) -> Order:
    """A uniform permutation of `places` that is not in `used` (at least one must be left)."""

    def drawn(attempt: int) -> Order:
        order = list(original)
        for place, image in zip(places, sorted(places, key=lambda place: _hash(*key, attempt, place))):
            order[place] = image
        return tuple(order)

    return next(order for order in map(drawn, count_from()) if order not in used)

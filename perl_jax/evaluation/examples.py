"""Example questions for the report: answers that differ between models, and answers that depend on the image order.

Each has its images, in the orders shown, and the models' responses. Images are read again from the benchmark's data. If
that is gone, only the text is shown, and the page says so.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np

from models.errors import InputError
from models.image_files import open_image
from perl_jax import benchmarks
from perl_jax.benchmarks import Item
from perl_jax.evaluation.consistency import fully_correct
from perl_jax.evaluation.results import Key, Model, Question, Row
from perl_jax.runtime import html
from perl_jax.runtime.html import Html, concat, dim, element, folded, note, tag

SHOWN, ORDERS_SHOWN = 5, 3  # questions per kind and benchmark, orders per question
SIDE = 160  # pixels of a thumbnail's longer side
STYLE = """
.asked { border-top: 1px solid #d8dee4; margin-top: .6rem; padding-top: .5rem; }
.asked p { margin: .4rem 0; }
.asked .thumbs img { max-height: 10rem; } .asked .sides { grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.asked .sides .text { padding: .3rem .5rem; margin-top: .2rem; border-radius: .3rem; }
.decisive img { outline: 3px solid #0b5fb3; }
"""


class Kind(NamedTuple):
    """Questions of one benchmark with a common property."""

    title: str
    ids: list[str]


def kinds(models: Sequence[Model], key: Key) -> list[Kind]:
    """Questions that the last model answers better and worse than the first in original order, and flipped questions.

    Flipped: the last model's answer changes with the order; first those stable when asked again in the same order.
    """
    before, after = (_asked(model, key) for model in (models[0], models[-1]))
    steps = {
        id_: _share(question.original) - _share(before[id_].original)
        for id_, question in after.items()
        if id_ in before and _same(question.original, before[id_].original)
    }
    names = f"by {models[-1].name} than by {models[0].name}"
    flips = {id_: flipped_when_asked_again(question) for id_, question in after.items() if flip(question) is not None}
    all_kinds = [
        Kind(f"answered better {names}", [id_ for id_, step in steps.items() if step > 0]),
        Kind(f"answered worse {names}", [id_ for id_, step in steps.items() if step < 0]),
        Kind(f"{models[-1].name} changes its answer with the order", sorted(flips, key=flips.__getitem__)),
    ]
    return [kind for kind in all_kinds if kind.ids]


def _asked(model: Model, key: Key) -> dict[str, Question]:
    """The questions without a fault in any of their orders."""
    questions = model.results[key].questions() if key in model.results else {}
    return {
        id_: question for id_, question in questions.items() if not any(row.get("fault") for row in question.orders)
    }


def flip(question: Question) -> int | None:
    """Index of the first sample whose answers, mapped to the original order, differ between orders; else None."""
    meanings = zip(*(row["meaning"] for row in question.orders))
    return next((i for i, sample in enumerate(meanings) if len(set(sample)) > 1), None)


def flipped_when_asked_again(question: Question) -> bool:
    """Whether the control answers of some sample differ from its answer in the original order or from each other."""
    samples = len(question.original["meaning"])
    control = question.control["meaning"] if question.control else []
    repeats = len(control) // samples if samples else 0
    return any(
        len({first, *control[i * repeats : (i + 1) * repeats]}) > 1
        for i, first in enumerate(question.original["meaning"])
    )


def cards(models: Sequence[Model], key: Key) -> list[Html]:
    """The questions of each kind, collapsed, at most `SHOWN` of each."""
    kinds_found = kinds(models, key)
    wanted_ids = {id_ for kind in kinds_found for id_ in kind.ids[:SHOWN]}
    results = [model.results[key] for model in models if key in model.results]
    items, problem = _items(key[0], {str(result.facts.get("data")): None for result in results[::-1]}, wanted_ids)
    questions = {model.name: model.results[key].questions() for model in models if key in model.results}
    out = [note(f"Without images: {problem}")] if problem else []
    for kind in kinds_found:
        limit = f", {SHOWN} shown" if len(kind.ids) > SHOWN else ""
        parts = [_card(id_, questions, models[-1].name, items.get(id_)) for id_ in kind.ids[:SHOWN]]
        out.append(folded(f"{kind.title}: {len(kind.ids)}{limit}", *parts))
    return out


def _items(benchmark: str, directories: Iterable[str], wanted: AbstractSet[str]) -> tuple[dict[str, Item], str]:
    """The wanted questions, from the benchmark snapshots in turn, and why some are missing."""
    items: dict[str, Item] = {}
    problem = ""
    for directory in directories if wanted else ():
        try:
            loaded = benchmarks.find(benchmark).load(directory, allow_partial=True)
            matching = (item for item in loaded if isinstance(item, Item) and item.row.id in wanted)
            items |= {item.row.id: item for item in itertools.islice(matching, len(wanted))}
        except (InputError, OSError) as error:
            problem = problem or str(error)
        if wanted <= items.keys():
            return items, ""
    return items, problem or f"the data no longer has {', '.join(sorted(wanted - items.keys()))}" * bool(wanted)


def _card(id_: str, questions: Mapping[str, Mapping[str, Question]], last: str, item: Item | None) -> Html:
    question = questions[last][id_]
    sample = flip(question) or 0
    tags = []
    if flip(question) is not None and question.control:
        control_answer = "another answer" if flipped_when_asked_again(question) else "the same answer"
        tags = [tag(f"asked again in its original order: {control_answer}")]
    views = []
    for row in _orders(question, sample):
        rows = {name: _find(of_model.get(id_), row) for name, of_model in questions.items()}
        views.append(_view(row, rows, sample, item))
    heading = element("h3", f"{id_} ", dim(f"{question.original.get('category', '')} "), *tags)
    return element("div", heading, *views, class_="card")


def _orders(question: Question, sample: int) -> list[Row]:
    """The question's original order and some others, those with a different answer first."""
    original, *others = question.orders
    same = {id(row): row["meaning"][sample] == original["meaning"][sample] for row in others}
    return [original, *sorted(others, key=lambda row: same[id(row)])][:ORDERS_SHOWN]


def _find(question: Question | None, row: Row) -> Row | None:
    return next((each for each in question.orders if _same(each, row)), None) if question else None


def _same(row: Row, other: Row) -> bool:
    return all(row[key] == other[key] for key in ("order", "answer"))


def _view(row: Row, rows: Mapping[str, Row | None], sample: int, item: Item | None) -> Html:
    """A question in one order: its images, its text, and each model's response."""
    moved = row["order"] != sorted(row["order"])
    order = f"order {' '.join(str(place + 1) for place in row['order'])}" if moved else "the original order"
    responses = [_response(name, response_row, sample) for name, response_row in rows.items()]
    return element(
        "div",
        dim(order),
        _thumbnails(row, item),
        element("div", row["question"], class_="text"),
        element("p", "True answer: ", element("strong", row["answer"])),
        element("div", *responses, class_="sides"),
        class_="asked",
    )


def _response(name: str, row: Row | None, sample: int) -> Html:
    if row is None:
        return element("div", dim(name), element("div", "not asked in this order", class_="text dim"))
    if row.get("fault"):
        return element("div", dim(name), element("div", f"could not be asked: {row['fault']}", class_="text wrong"))
    count = len(row["texts"])
    place = min(sample, count - 1)
    samples = f", right in {sum(fully_correct(row))} of {count} samples, here number {place + 1}" if count > 1 else ""
    extracted = row["extracted"][place]
    heading = dim(
        name + samples + ("; no answer found" if extracted is None else f"; answer found: {html.clipped(extracted)}")
    )
    return element("div", heading, html.text_cell(row["texts"][place], row["correct"][place], "div"))


def _thumbnails(row: Row, item: Item | None) -> Html:
    """Thumbnails in the order shown, the decisive one outlined."""
    figures = []
    for place, index in enumerate(row["shown"] if item else ()):
        caption = f"{place + 1}" + (", decisive" if row.get("place") == place else "")
        try:
            image = html.thumbnail(open_image(item.row.images[index](), "it"), f"image {place + 1}", SIDE)
        except (InputError, OSError, IndexError) as error:
            image = tag(f"image {place + 1} cannot be shown: {error}", alarm=True)
        decisive = "decisive" if row.get("place") == place else ""
        figures.append(element("figure", image, element("figcaption", caption), class_=decisive))
    return element("div", *figures, class_="thumbs") if figures else concat()


def _share(row: Row) -> float:
    return float(np.mean(fully_correct(row)))

"""HTML page for manual review of a prepared data set: sample records in two orders, with their labels and evidence.

If present beside the records, it reads `decisions.jsonl` (one line per record: id, split, order_effect, evidence,
confidence, by, original, and optionally the model's label) and `rejected.jsonl` (split, id, reason, detail).
"""

import collections
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.errors import InputError
from models.image_files import open_image
from perl_jax import permute, records, symbols
from perl_jax.runtime import files, html
from perl_jax.runtime.html import Html, concat, dim, element, folded, note, table, tag

SCANNED = 5000  # most records per split from which samples are drawn
REJECTED_SHOWN = 5  # rows per reason
CHARACTERS = 3000  # most characters shown of a text

_PIECE = re.compile(rf"{permute.MARKER}|\w+|\s+|[^\w\s]")

STYLE = """
.bar { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #8c959f; padding: .4rem 0; z-index: 1; }
.bar button, .verdict input { font: inherit; font-size: .9rem; margin-right: .4rem; } #verdicts { width: 100%; }
.verdict { border-top: 1px solid #d8dee4; padding-top: .4rem; } .verdict [type=text] { width: min(30rem, 60%); }
.card:has([value=right]:checked) { background: #f2faf4; } .card:has([value=wrong]:checked) { background: #fdf4f3; }
"""
SCRIPT = """
const cards = [...document.querySelectorAll(".card")], find = name => document.getElementById(name);
let unsaved = false;
function show() {
  const verdicts = cards.map(card => ({id: card.dataset.id, split: card.dataset.split,
    order_effect: card.dataset.effect, verdict: card.querySelector("input:checked")?.value ?? null,
    note: card.querySelector("[type=text]").value})).filter(each => each.verdict || each.note);
  const count = verdict => verdicts.filter(each => each.verdict == verdict).length;
  find("tally").textContent = `${count("right")} right, ${count("wrong")} wrong, of ${cards.length}`;
  find("verdicts").value = JSON.stringify(verdicts, null, 1);
}
document.addEventListener("input", () => { unsaved = true; show(); });
find("download").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([find("verdicts").value], {type: "application/json"}));
  link.download = "verdicts.json";
  link.click();
  unsaved = false;
};
find("copy").onclick = () => {
  find("folded").open = true;
  find("verdicts").select();
  document.execCommand("copy");
  unsaved = false;
};
addEventListener("beforeunload", event => { if (unsaved) event.preventDefault(); });
show();
"""


class View(NamedTuple):
    """A record in one order of its images."""

    places: list[int]  # indices of the images, in their order in the text
    originals: list[int]  # original index of each of them
    question: str
    choices: list[str]
    answer: str


def write(directory: str, out: str, count: int, seed: int = 0) -> None:
    """Writes the page `out`, with `count` records of the data set in `directory`, or all if it has fewer.

    The sample is balanced over labels and sources, rare ones first, and deterministic for a data set and seed. Raises
    InputError if there are no records, or if `out` is not named *.html.
    """
    if Path(out).suffix != ".html" or count < 1:
        raise InputError(f"a review of {count} records in {out}: ask for one or more, in a file named *.html")
    summary = _summary(directory)
    splits = {split: records.open_split(directory, split) for split in summary["splits"]}
    samples = [(split, splits[split][i]) for split, i in sample(splits, count, seed)]
    samples.sort(key=lambda pair: (pair[1]["order_effect"], pair[1]["source"], pair[0], pair[1]["id"]))
    wanted, decisions, deciders = {record["id"] for _, record in samples}, {}, collections.Counter()
    for line in files.json_lines(Path(directory, "decisions.jsonl")):
        deciders[str(line.get("by"))] += 1
        if line.get("id") in wanted:
            decisions[line["id"]] = line
    rejected = list(files.json_lines(Path(directory, "rejected.jsonl")))
    body = [
        element("h1", f"Review of {summary['name']}"),
        *_head(summary["splits"], deciders, len(samples), len(rejected)),
        _bar(),
        *(_card(split, record, decisions.get(record["id"], {})) for split, record in samples),
        *_rejected(rejected),
    ]
    files.write(Path(out), html.page("Review", body, STYLE, SCRIPT))


def sample(splits: Mapping[str, records.Split], count: int, seed: int) -> list[tuple[str, int]]:
    """(split, index) of at most `count` records, alternating between labels, and within a label between sources."""
    by_label: dict[str, dict[str, list]] = {}
    for number, (split, stored) in enumerate(splits.items()):
        for i in np.random.default_rng([seed, number]).permutation(len(stored))[:SCANNED]:
            record = stored[int(i)]
            sources = by_label.setdefault(record["order_effect"], {})
            sources.setdefault(record["source"], []).append((split, int(i)))
    return _in_turn(_in_turn(sources.values()) for sources in by_label.values())[:count]


def _in_turn(lists: Iterable[list]) -> list:
    """Interleaves the lists, shortest first, until all are exhausted."""
    rows = zip_longest(*sorted(lists, key=len))
    return [item for row in rows for item in row if item is not None]


def views(record: records.Record) -> list[tuple[permute.Order, View]]:
    """The record in its original order and, if possible, in one permuted order. InputError as `permute.apply`."""
    orders = permute.draw_orders(record, 1, 1.0, seed=0, epoch=0, step=0)
    places = permute.render({**record, "images": list(range(len(record["images"])))})["images"]
    out = []
    for order in dict.fromkeys(orders):
        sample = permute.render(permute.apply(record, order))
        originals = [order[place] for place in places]
        out.append((order, View(places, originals, sample["question"], sample["choices"], sample["answer"])))
    return out


def differing(old: str, new: str) -> tuple[Html, Html]:
    """Both texts, with differing words highlighted in each."""
    a, b = (_PIECE.findall(text[:CHARACTERS]) for text in (old, new))
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return tuple(
        concat(
            *(_marked(words[block[i] : block[i + 1]], block[0] != "equal") for block in blocks),
            "…" * (len(text) > CHARACTERS),
        )
        for text, words, i in ((old, a, 1), (new, b, 3))
    )


def _marked(words: Sequence[str], differs: bool) -> Html:
    return element("mark", "".join(words)) if differs and words else concat("".join(words))


def _summary(directory: str) -> dict:
    file = Path(directory, "records.json")
    if not file.is_file():
        raise InputError(f"{directory} holds no records (no records.json); write some with perl_jax.prepare")
    return json.loads(file.read_text(encoding="utf-8"))


# The page


def _head(splits: Mapping[str, Mapping], deciders: Mapping[str, int], shown: int, rejected: int) -> list[Html]:
    labels = sum((collections.Counter(split["order_effect"]) for split in splits.values()), collections.Counter())
    total = sum(split["records"] for split in splits.values())
    sizes = {name: split["records"] for name, split in splits.items()}
    parts = [f"{shown} of {total} records ({_counts(sizes)})", _counts(labels)]
    parts += [f"decided by {_counts(deciders)}" if deciders else "it is not known what decided (no decisions.jsonl)"]
    explanation = (
        "Right: the answer is right in both orders, and the label is (rewrite: wording and answer follow the "
        "images; invariant: only the images move; fixed: the order carries meaning). Words that differ are "
        "highlighted."
    )
    return [element("p", " · ".join([*parts, f"{rejected} rows rejected"])), note(explanation)]


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {number}" for name, number in ordered)


def _bar() -> Html:
    buttons = [element("button", text, id=text.lower(), type="button") for text in ("Download", "Copy")]
    verdicts = element("textarea", id="verdicts", rows="8", readonly="")
    details = element("details", element("summary", "Verdicts as JSON"), verdicts, id="folded")
    return element("div", *buttons, element("span", id="tally"), details, class_="bar")


def _card(split: str, record: records.Record, decision: Mapping) -> Html:
    title = element("h3", f"{record['id']} ", dim(f"{split} · {record['source']} · {record['kind']}"))
    try:
        content = [_label(record, decision), *_sides(record, decision)]
    except InputError as error:
        content = [element("p", str(error), class_="alarm")]
    radios = [
        element("label", element("input", type="radio", name=f"{split} {record['id']}", value=value), value)
        for value in ("right", "wrong")
    ]
    verdict = element("div", *radios, element("input", type="text", placeholder="note"), class_="verdict")
    return element(
        "div",
        title,
        *content,
        verdict,
        class_="card",
        data_id=record["id"],
        data_split=split,
        data_effect=record["order_effect"],
    )


def _label(record: records.Record, decision: Mapping) -> Html:
    """The label with its origin and evidence; also the model's own label, if any."""
    parts = [tag(record["order_effect"])]
    if record["movable"] is not None:
        parts.append(tag(f"movable places {', '.join(str(place + 1) for place in record['movable']) or 'none'}"))
    parts.append(concat(*_reason(decision)) if decision else dim("evidence unknown"))
    if isinstance(model := decision.get("model"), dict):
        other = model.get("order_effect") not in (None, record["order_effect"])
        parts += [Html("<br>"), tag(f"model: {model.get('order_effect')}", alarm=other), *_reason(model)]
    return element("p", *parts)


def _reason(decision: Mapping) -> list[str]:
    """Origin, confidence and evidence."""
    confidence = decision.get("confidence")
    sure = f"{confidence:.2f}" if isinstance(confidence, int | float) else "unknown"
    by = f"by {decision['by']}, " if decision.get("by") else ""
    return [f"{by}confidence {sure}: {decision.get('evidence') or 'no evidence given'}"]


def _sides(record: records.Record, decision: Mapping) -> list[Html]:
    """The record in original and permuted order side by side, and its wording in the source."""
    (_, original), *others = views(record)
    images = [
        html.thumbnail(open_image(data, f"record {record['id']!r}, image {i + 1}"), f"image {i + 1}")
        for i, data in enumerate(record["images"])
    ]
    other = others[0][1] if others else original
    columns = _columns(original, other)
    if others:
        order = " ".join(str(i + 1) for i in others[0][0])
        titles = ["the original order", f"order {order}"]
        unchanged = original[2:] == other[2:] and record["order_effect"] == "rewrite"
    else:
        titles, unchanged = ["the original order; nothing may move"], False
    sides = [
        element("div", dim(title), _thumbnails(view, images), column)
        for title, view, column in zip(titles, (original, other), columns)
    ]
    if unchanged:
        sides.append(element("p", tag("labelled rewrite, but no word changes", alarm=True)))
    return [element("div", *sides, class_="sides"), *_source(original, decision.get("original"))]


def _thumbnails(view: View, images: Sequence[Html]) -> Html:
    """The images in the order that a model sees them, each with the number that the text uses."""
    figures = []
    for place, original in zip(view.places, view.originals):
        moved = f", was Image {original + 1}" if place != original else ""
        figures.append(element("figure", images[original], element("figcaption", f"Image {place + 1}{moved}")))
    return element("div", *figures, class_="thumbs")


def _columns(original: View, other: View) -> tuple[Html, Html]:
    """Question, choices and answer of both, with differences highlighted."""
    pairs = zip(*(differing(a, b) for a, b in zip(_lines(original), _lines(other))))
    return tuple(element("div", *(element("div", text) for text in column), class_="text") for column in pairs)


def _lines(view: View) -> list[str]:
    """A view's texts, each slot with the number of its image."""
    shown = iter(view.places)
    texts = [re.sub(permute.MARKER, lambda _: f"▣{next(shown) + 1}", text) for text in (view.question, *view.choices)]
    return [texts[0], *(f"{symbols.letter(i)}. {text}" for i, text in enumerate(texts[1:])), f"Answer: {view.answer}"]


def _source(view: View, original: object) -> list[Html]:
    """What was rephrased, beside the source's question, choices and answer."""
    if not isinstance(original, dict):
        return []
    texts = {"question": view.question, "choices": "\n".join(view.choices), "answer": view.answer}
    rows = []
    for key, current in texts.items():
        before = original.get(key) or ""
        before = "\n".join(map(str, before)) if isinstance(before, list | tuple) else str(before)
        if _without_slots(before) != _without_slots(current):
            rows.append([key, *(element("td", text, class_="text") for text in differing(before, current))])
    return [table(["", "in the source", "now"], rows, "words") if rows else note("Wording as in the source.")]


def _without_slots(text: str) -> str:
    return " ".join(text.replace(permute.MARKER, " ").split())


def _rejected(rows: Sequence[Mapping]) -> list[Html]:
    """Sample rejected rows for each reason, spread over the file."""
    reasons: dict[str, list] = {}
    for row in rows:
        reasons.setdefault(str(row.get("reason")), []).append(row)
    parts = []
    for reason, matching in sorted(reasons.items(), key=lambda pair: -len(pair[1])):
        examples = [matching[int(i)] for i in np.linspace(0, len(matching) - 1, min(REJECTED_SHOWN, len(matching)))]
        cells = [
            [row.get("split"), row.get("id"), element("td", str(row.get("detail"))[:CHARACTERS], class_="text")]
            for row in examples
        ]
        parts += [element("h3", f"{reason}: {len(matching)}"), table(["split", "id", "detail"], cells, "words")]
    return [folded(f"Rejected: {len(rows)} rows", *parts)] if rows else []

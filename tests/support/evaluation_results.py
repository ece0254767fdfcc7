"""Evaluation results as the command writes them, for a small BLINK snapshot with real images."""

import io
import json

import pyarrow
from PIL import Image, ImageDraw
from public_files import STRUCT, parquet

from perl_jax.evaluation import consistency, figures

SCHEMA = pyarrow.schema(
    [
        ("idx", pyarrow.string()),
        ("sub_task", pyarrow.string()),
        ("question", pyarrow.string()),
        *((f"image_{i}", STRUCT) for i in range(1, 4)),
        ("choices", pyarrow.list_(pyarrow.string())),
        ("answer", pyarrow.string()),
        ("prompt", pyarrow.string()),
    ]
)
CHOICES = ["the first image", "the second image", "the third image"]
QUESTION = "Which one is real?"
ORDERS = ([0, 1, 2], [1, 2, 0], [2, 0, 1])


def numbered_image(colour, number):
    """A coloured image with a number, so that the order is visible on a page."""
    image = Image.new("RGB", (200, 120), colour)
    ImageDraw.Draw(image).text((90, 40), str(number), fill="white", font_size=40)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def snapshot(directory, questions=20):
    """A BLINK snapshot of questions on three images each; the answer of question q is image q mod 3."""
    rows = []
    for q in range(questions):
        lines = "".join(f"\n({letter}) {choice}" for letter, choice in zip("ABC", CHOICES))
        images = {
            f"image_{i + 1}": {"bytes": numbered_image(["#a33", "#3a3", "#33a"][i], i + 1), "path": None}
            for i in range(3)
        }
        rows.append(
            {
                "idx": f"q{q}",
                "sub_task": "Forensic_Detection",
                "question": QUESTION,
                "choices": CHOICES,
                "answer": f"({'ABC'[q % 3]})",
                "prompt": f"{QUESTION}\nSelect from the following choices.{lines}",
                **images,
            }
        )
    parquet(directory / "Forensic_Detection" / "val-00000-of-00001.parquet", rows, SCHEMA)
    return directory


def row(q, order, role="original", right=True, say="so", again=1, samples=1):
    """Question q in one order: correct, or always naming the image after the correct one."""
    answer = q % 3
    meant = "ABC"[answer if right else (answer + 1) % 3]
    place = order.index(answer)
    box = "ABC"[order.index("ABC".index(meant))]
    count = samples * again
    return {
        "id": f"q{q}",
        "category": "Forensic_Detection",
        "source": "blink",
        "images": 3,
        "role": role,
        "order": order,
        "shown": order,
        "question": f"<image><image><image>\n{QUESTION}\n"
        + "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABC", CHOICES)),
        "answer": "ABC"[place],
        "texts": [f"<think>{say}</think> \\boxed{{{box}}}"] * count,
        "lengths": [7] * count,
        "truncated": [False] * count,
        "correct": [float(right)] * count,
        "extracted": [box] * count,
        "meaning": [meant] * count,
        "place": place,
        "fixed": None,
        "fault": None,
    }


def rows(right, questions=20, permuted=(), say="so", control=False, samples=1):
    """Scores of a model with `right` questions correct in original order, and `permuted[i]` of them in order i."""
    out = []
    for q in range(questions):
        out.append(row(q, ORDERS[0], right=q < right, say=say, samples=samples))
        out += [
            row(q, order, "permuted", q < count, say, samples=samples) for order, count in zip(ORDERS[1:], permuted)
        ]
        if control:
            out.append(row(q, ORDERS[0], "control", q < right, say, len(permuted), samples))
    return out


def write(directory, scored, data, benchmark="blink", protocol="boxed", samples=1, macro=False, **changes):
    """Writes results to `directory/<benchmark>-<protocol>`; returns `directory`."""
    place = directory / f"{benchmark}-{protocol}"
    place.mkdir(parents=True)
    (place / "scores.jsonl").write_text("".join(json.dumps(each) + "\n" for each in scored))
    found = {
        "benchmark": benchmark,
        "protocol": protocol,
        "judge": None,
        "model": {"name": directory.name, "fingerprint": "abc"},
        "data": str(data),
        "settings": {"samples": samples, "temperature": 0.0, "permute": 2, "max_new_tokens": 64, "seed": 0},
        "rows": len({each["id"] for each in scored}),
        "rejected": {},
        "partial": True,
        "time": "2026-11-22T10:00:00",
        "figures": figures.figures(scored, samples, macro),
        "consistency": consistency.consistency(scored, samples),
        "against": None,
    }
    (place / "results.json").write_text(json.dumps({**found, **changes}))
    return directory

"""School mathematics as it is published: every form of row is read, and of answers those with one value are kept."""

import doctest
import io
import json

import pyarrow
import pytest
from PIL import Image
from public_files import STRUCT, jsonl, parquet, png, zipped

from models.errors import InputError
from perl_jax.answers import compare
from perl_jax.data import Rejected, k12
from perl_jax.records import hub_files

QUESTION = "As shown in the figure, $AB=AC$ and $\\angle A=40^{\\circ}$. Find $\\angle B$ = ___"
ROW = {"id": "x", "question": QUESTION, "answer": "$70^{\\circ}$.", "subject": "math", "image": {"bytes": png(1)}}
TEXTS = [(name, pyarrow.string()) for name in ("id", "question", "answer", "subject")]
MMK12 = pyarrow.schema([*TEXTS, ("image", STRUCT)])


def test_doctests():
    assert doctest.testmod(k12).failed == 0


def test_the_example_comes_from_mmk12(tmp_path):
    """As the stages after this one will make it: the image's slot comes with them."""
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [ROW | {"id": None}, ROW], MMK12)
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [ROW], MMK12)
    first, second = k12.records(str(tmp_path))
    assert first.images[0]() == png(1) and second.id == "x"
    assert all(getattr(first, key) == k12.EXAMPLE[key] for key in ("id", "answer", "kind", "source"))
    assert k12.EXAMPLE["question"] == f"<image:0>\n{first.question}"


def test_a_json_list(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(2))
    rows = [
        {"id": "a", "question": "<image>1 + 1 = ", "answer": 2, "image_path": "images/a.png"},
        {"id": "b", "question": "1 + 1 = ", "answer": "$$2$$", "image": None},
        {"question": None, "answer": "2"},
    ]
    (tmp_path / "k12.json").write_text(json.dumps(rows))
    first, second, third = k12.records(str(tmp_path))
    assert (first.question, first.answer, first.images[0]()) == ("1 + 1 =", "2", png(2))
    assert second.images == [] and second.answer == "2"
    assert (third.id, third.reason) == ("k12-3", "malformed row")


def blank(size=(224, 224), colour="white"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def mm_eureka(name, branch, answer="3"):
    url = f"file:///mnt/theirs/images/{name}"
    if branch == "internvl":
        messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "<image>\nHow many?"}]
        return {"id": name, "conversations": messages, "answer": answer, "image_urls": [url]}
    parts = [{"type": "image", "image": url}, {"type": "text", "text": "How many?"}]
    return {"id": name, "message": json.dumps([{"role": "user", "content": parts}]), "answer": answer}


@pytest.mark.parametrize("branch", ["internvl", "qwen"])
def test_mm_eureka_jsonl(tmp_path, branch):
    """Its paths are the authors'; a blank image stands for none."""
    images = {"1.png": png(3), "2.png": blank(), "3.png": blank((200, 224)), "4.png": png(1, (224, 224))}
    zipped(tmp_path / "pictures.zip", {f"train/images/{name}": data for name, data in images.items()})
    jsonl(tmp_path / "train.jsonl", *[mm_eureka(f"{i}.png", branch) for i in range(1, 6)], b"half a line")
    *made, last = k12.records(str(tmp_path))
    assert [row.question for row in made] == ["How many?"] * 5
    assert [len(row.images) for row in made] == [1, 0, 1, 1, 1]
    assert made[0].images[0]() == png(3) and isinstance(last, Rejected)
    with pytest.raises(InputError, match=r"5\.png"):
        made[4].images[0]()


@pytest.mark.parametrize(("answer", "value", "kind"), [
    ("$$\\number{24} $$", "24", "number"), ("11.", "11", "number"), ("70$textdegree$", "70°", "number"),
    ("360 sets", "360", "number"), ("12.5 square meters.", "12.5", "number"), ("5 cm", "5 cm", "number"),
    ("50\\%", "50\\%", "number"), ("5 percent", None, "prose"), ("4$\\sqrt{3}$", "4\\sqrt{3}", "number"),
    ("$\\frac{4}{49}$.", "\\frac{4}{49}", "number"), ("30${}^\\circ $", "30{}^\\circ", "number"),
    ("$\\sqrt{2}$π+4$\\sqrt{2}$", "\\sqrt{2}π+4\\sqrt{2}", "number"), ("1,234", "1,234", "number"),
    ("(-1, -2).", "(-1, -2)", "number"), ("$$[-4,3]$$", "[-4,3]", "number"), ("1:3:2", "1:3:2", "number"),
    ("$$ \\left ( \\dfrac{9}{4},2 \\right ) $$", "\\left( \\dfrac{9}{4},2 \\right)", "number"),
    ("2n+1.", "2n+1", "number"), ("$\\frac{a}{2}$", "\\frac{a}{2}", "number"), ("$y=3$", "y=3", "number"),
    ("$$-\\number{4034}$$", "-4034", "number"), ("1 < x < 6", "1 < x < 6", "number"), ("x>2", "x>2", "number"),
    ("2\\sin (2x-\\frac{\\pi }{6})", "2\\sin (2x-\\frac{\\pi }{6})", "number"), ("2 sin x", "2 sin x", "number"),
    ("rhombus.", "rhombus", "text"), ("Yes", "Yes", "text"), ("A", "A", "text"), ("=", "=", "text"),
    ("$>$", ">", "text"), ("acute triangle", "acute triangle", "text"), ("AB", "AB", "text"),
    ("(1)$$-2$$ (2)$$3$$", None, "several"), ("96\n376", None, "several"), ("$$7$$ $$10$$", None, "several"),
    ("$$x=-4$$,$$y=-2$$", None, "several"), ("6 or 2 or 10", None, "several"), ("169 555 671", None, "several"),
    ("(1)(3).", None, "several"), ("2.4.", None, "several"), ("1.3.4.", None, "several"), ("3, 5", None, "several"),
    ("3，5", None, "several"), ("(2,4)→(3,4)", None, "several"), ("2;\nx<0", None, "several"),
    ("$a$ and $b$", None, "several"), ("x=1, y=2", None, "several"), ("(3,6)(7,8), 2", None, "several"),
    ("$$2.2$$ (not unique)", None, "other"), ("$$8$$ (or fill in $$8.0$$)", None, "other"),
    ("∵a=b ∴c=7", None, "prose"), ("K<10?", None, "prose"), ("the sum of two angles", None, "prose"),
    ("as x grows the area is 7 times that of the first one", None, "prose"), ("9" * 300, None, "prose"),
    ("", None, "prose"), ("...", None, "prose"),
    ("AC=BD", None, "relation"), ("$$\\angle 2 = \\angle 4$$", None, "relation"), ("$$M\\in FH$$", None, "relation"),
    ("$$8~cm< AB\\leqslant 10~cm$$", None, "relation"), ("$$\\hat {y}=10-1.05x$$", None, "relation"),
    ("$\\overrightarrow{a}+2$", None, "relation"), ("$$\\ce{H_{2}O}$$", None, "relation"),
])  # fmt: skip
def test_answers(answer, value, kind):
    if value is None:
        with pytest.raises(InputError, match=kind):
            k12.one_value(answer)
    else:
        assert k12.one_value(answer) == (value, kind)
        assert compare.is_correct({"answer": value, "kind": kind}, value)


def test_rejected_answers_say_why_and_letters_of_options_are_choices(tmp_path):
    options = QUESTION + "\nA. 30\nB. 70"
    jsonl(
        tmp_path / "a.jsonl",
        ROW | {"image": None, "answer": "1\n2"},
        *[{"question": options, "answer": answer} for answer in ("B", "$$B$$", "(B)", "C")],
    )
    rejected, *made = k12.records(str(tmp_path / "a.jsonl"))
    assert (rejected.reason, rejected.detail) == ("answer: several answers", "1\n2")
    assert [(row.answer, row.kind) for row in made] == [("B", "choice")] * 3 + [("C", "text")]


def test_a_folder_that_is_none_is_named(tmp_path, monkeypatch):
    for path in (None, str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match=r"FOLDER|parquet"):
            list(k12.records(path))
    requested = []
    monkeypatch.setattr(hub_files, "download", lambda *args: requested.append(args))
    with pytest.raises(InputError, match="parquet"):
        list(k12.records(str(tmp_path), download=True))
    assert requested == [("FanqingM/MMK12", str(tmp_path), ["data/train-*"])]

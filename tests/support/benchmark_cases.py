"""Benchmark questions about images a, b, c, ..., whose text refers to the position of each image."""

import json
from typing import NamedTuple

from public_files import parquet, png

from perl_jax.benchmarks import Item, find

PNG = [png(place, (4, 4)) for place in range(5)]
NTH = ("first", "second", "third", "fourth", "fifth")
POINTS = ["Point A", "Point B", "Point C", "Point D"]
MARKED = (
    "Given the following two images, REF is marked on the {a.nth} image and points on the {b.side} image: which "
    "point of the {b.nth} image is that of REF, as the left ear of a cat is that of another?"
)


class Place(int):
    """The position of an image among those shown, in several wordings."""

    nth = property(lambda self: NTH[self])
    n = property(lambda self: self + 1)
    side = property(lambda self: ("left", "right")[self])
    letter = property(lambda self: "ABCDE"[self])


class Case(NamedTuple):
    """A benchmark question about images a, b, c, ..., whose text refers to their positions."""

    benchmark: str
    task: str
    count: int  # of images
    question: str
    choices: tuple = ()  # "<image>" each: letters are bound to images
    answer: str = "B"  # text about images; or a choice letter, in the original order
    decisive: str = ""  # the image that decides the answer
    fixed: str = ""  # images that do not move
    wrong: tuple = ()  # without choices: wrong answers

    @property
    def bound(self) -> bool:
        """Whether its letters stand for images."""
        return not self.wrong and all(choice in ("<image>", "ABCDE"[n]) for n, choice in enumerate(self.choices))

    def text_in(self, order: str, text: str) -> str:
        """A text of this question with the images shown in this order."""
        return " ".join(text.format(**{name: Place(place) for place, name in enumerate(order)}).split())

    def right(self, order: str) -> str:
        """The correct answer for this order."""
        first = self.count - len(self.choices)
        return "ABCDE"[order.index(self.decisive) - first] if self.bound else self.answer


IMAGES = ("the {a.nth} image", "the {b.nth} image", "the {c.nth} image", "the {d.nth} image")
SLOTS = ("<image>",) * 4
CASES = [
    Case("blink", "Art_Style", 3, "Styles are Pop Art and Cubism. Use the {a.nth} image as the reference image: which "
         "one of the {b.nth} or the {c.nth} image shares its style?", IMAGES[1:3], decisive="c"),
    Case("blink", "Visual_Similarity", 3, "Take the first image as reference. Which one of the latter two images is "
         "more like the first one?", IMAGES[1:3], decisive="c", fixed="a"),
    Case("blink", "Jigsaw", 3, "Given the {a.nth} image with the lower right corner missing, is the {b.nth} image or "
         "the {c.nth} image the missing part? Imagine which image would fit the missing spot.", IMAGES[1:3], "A", "b"),
    Case("blink", "Forensic_Detection", 4, "You are a judge and are given the four images. Which one of them is most "
         "likely to be a real photograph?", IMAGES, "C", "c"),
    *(Case("blink", f"{task}_Correspondence", 2, MARKED, POINTS, "C") for task in ("Functional", "Semantic", "Visual")),
    Case("mantis_eval", "", 2, "Which picture has more cups? <image> <image>", ("the {a.nth}", "the {b.nth}", "both"),
         decisive="b"),
    Case("mantis_eval", "", 2, "<image><image> Is the cat in the {a.side} photo older than that of image {b.n}?",
         ("Yes", "No")),
    Case("mantis_eval", "", 3, "Which of the following images shows a cat? <image><image><image>", ("A", "B", "C"),
         decisive="b"),
    Case("mantis_eval", "", 3, "Which image shows a cat?", (), "Image {c.n}", "c",
         wrong=("Image {a.n}", "Image {b.n}")),
    Case("mantis_eval", "", 3, "How many dice are in image {b.n}?", (), "4", "b", wrong=("2", "3")),
    Case("mantis_eval", "", 3, "Which of these shows a cat?", SLOTS[:3], decisive="b"),
    Case("mmiu", "face_retrieval", 4, "Find the person of the query among the candidates. The query image is the "
         "{a.nth} image.", IMAGES[1:4], "A", "b"),
    Case("mmiu", "visual_correspondence_blink", 2, MARKED, POINTS, "A"),
    Case("mmiu", "visual_quality", 2, "Which part is darker?",
         ("The sky in the {a.nth} image", "The man in the {b.nth} image"), decisive="b"),
    Case("mmiu", "nlvr", 2, "There are 2 dogs in the {a.side} image. True or false?", ("true", "false"), "A", "a"),
    Case("mv_math", "choice", 4, "Which net folds to a cube?", SLOTS, decisive="b"),
    Case("mv_math", "choice", 5, "As shown in <image>, which net folds to it?", SLOTS, "D", "e", fixed="a"),
    Case("mv_math", "single-step", 2, "How long is AB?\n<image>\n<image>", (), "12", wrong=("13", "1/2")),
    Case("remi", "Isomorphism", 2, "Are these graphs the same? <image><image>", (), "1", wrong=("0",)),
    Case("records", "mine", 3, "<image><image><image>Is {a} like {c}?", (), "yes", wrong=("no", "perhaps")),
    Case("records", "mine", 3, "<image><image><image>Which image is older?", (), "{b}", "b", wrong=("{a}", "{c}")),
    Case("records", "mine", 3, "<image><image><image>Which image is it?", ("A", "B", "C"), decisive="b"),
]  # fmt: skip


def load(case: Case, folder) -> Item:
    """The question as loaded from its benchmark's file format, in original order."""
    names = "abcde"[: case.count]
    question, choices = case.text_in(names, case.question), [case.text_in(names, choice) for choice in case.choices]
    lines = [f"{letter}: {choice}" for letter, choice in zip("ABCDE", choices)]
    structs = [{"bytes": data, "path": None} for data in PNG[: case.count]]
    numbered = {f"image_{place + 1}": struct for place, struct in enumerate(structs)}
    answer = case.answer if choices else case.text_in(names, case.answer)
    if case.benchmark == "blink":
        published = [question, "Select from the following choices.", *(f"({line[0]}) {line[3:]}" for line in lines)]
        row = {
            "idx": "q",
            "sub_task": case.task,
            "question": question,
            **numbered,
            "choices": choices,
            "answer": f"({answer})",
            "prompt": "\n".join(published),
        }
        parquet(folder / case.task / "val-1.parquet", [row])
    elif case.benchmark == "mantis_eval":
        kind = "multi-choice" if choices else "short-answer"
        row = {
            "id": "q",
            "question_type": kind,
            "question": question,
            "images": structs,
            "options": choices or None,
            "answer": answer,
        }
        parquet(folder / "test-1.parquet", [row])
    elif case.benchmark == "mmiu":
        for place in range(case.count):
            (folder / "rel" / "task").mkdir(parents=True, exist_ok=True)
            (folder / "rel" / "task" / f"{place}.png").write_bytes(PNG[place])
        context = "\n".join(["Select from the following options.", *lines])
        row = {
            "task": case.task,
            "options": "\n".join(lines),
            "question": question,
            "context": context,
            "input_image_path": [f"./rel/task/{place}.png" for place in range(case.count)],
            "output": answer,
        }
        parquet(folder / "all.parquet", [row])
    elif case.benchmark == "mv_math":
        text = "\n".join([case.question, *(f"{line[0]}.\n\n{line[3:]}" for line in lines)])
        for place in range(case.count):
            text = text.replace("<image>", f"<image_{place + 1}>", 1)
            (folder / "images").mkdir(exist_ok=True)
            (folder / "images" / f"{place}.png").write_bytes(PNG[place])
        row = {
            "problem_id": 1,
            "question": text,
            "input_image": [f"{place}.png" for place in range(case.count)],
            "answer": answer,
            "answer_type": case.task,
            "subject": "Solid Geometry",
        }
        (folder / "MV-MATH.json").write_text(json.dumps([row]))
    else:
        for place in range(case.count):
            question = question.replace("<image>", f"<image{place + 1}>", 1)
        parquet(folder / "test-1.parquet", [{"task": case.task, "question": question, "label": answer, **numbered}])
    (item,) = find(case.benchmark).load(str(folder), allow_partial=True)
    assert isinstance(item, Item), item
    return item


def record(case: Case) -> dict:
    """The question as a record, with {a} as a mention of image a."""
    symbols = {name: f"{{image:{place}|lower}}" for place, name in enumerate("abcde")}
    question = case.question.format(**symbols)
    for place in range(case.count):
        question = question.replace("<image>", f"<image:{place}>", 1)
    return {
        "id": "q",
        "images": PNG[: case.count],
        "question": question,
        "choices": list(case.choices),
        "answer": case.answer.format(**symbols),
        "kind": "choice" if case.choices else "text",
        "order_effect": "rewrite",
        "source": "mine",
        "accuracy": None,
        "movable": None,
    }

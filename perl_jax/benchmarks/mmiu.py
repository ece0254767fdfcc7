"""MMIU (FanqingM/MMIU-Benchmark): 11,698 questions over 2 to 32 images, in 52 tasks of 7 relationships.

Images are read from the seven zips, or from folders of the same names. Prompt and rules of `official`: the authors'
inference script and evaluate.py of OpenGVLab/MMIU. There a language model interprets longer replies; here rules do
first, and then the judge, if there is one. Where it fails the response counts as wrong; the authors leave the row out.
The headline accuracy is the mean over tasks. A task is the row's task name, of which there are some 60, not 52.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from models.errors import InputError
from perl_jax import symbols
from perl_jax.benchmarks import Item, Score, _common
from perl_jax.curation import references
from perl_jax.data import ImageReader, Rejected, Row
from perl_jax.records import hub_files
from perl_jax.symbols import MARKER

REPOSITORY = "FanqingM/MMIU-Benchmark"
PATTERNS = ("all.parquet", "*.zip")
PROTOCOLS = _common.PROTOCOLS
MACRO = True
ROWS = 11_698

EXAMPLE = {
    "row": {
        "task": "forensic_detection_blink",
        "visual_input_component": "natural image",
        "source": "made_up",
        "options": "A: the first image\nB: the second image",
        "question": "Which image is most likely to be a photograph?",
        "context": "One of the two images is drawn.\nSelect from the following choices.\n"
        "A: the first image\nB: the second image\n",
        "input_image_path": ["./Low-level-semantic/forensic/0_0.jpg", "./Low-level-semantic/forensic/0_1.jpg"],
        "output": "B",
    },
    "question": "One of the two images is drawn.\nWhich image is most likely to be a photograph?",
    "choices": ["the first image", "the second image"],
    "answer": "B",
    "right": "(B).",
    "wrong": "A",
}

_HINT = "Please answer the option directly like A,B,C,D..."
_QUESTION_FIRST = """person_reid multiple_image_captioning spot_the_similarity face_retrieval sketch2image_retrieval
    handwritten_retrieval spot_the_diff image2image_retrieval vehicle_retrieval text2image_retrieval
    general_action_recognition video_captioning next_img_prediction temporal_ordering meme_vedio_understanding
    action_quality_assessment temporal_localization mevis ravens_progressive_matrices threed_indoor_recognition
    point_tracking threed_cad_recognition single_object_tracking"""  # tasks, in the authors' script
_LETTERS = "ABCDEFGHIJKLMN"  # accepted as an answer by the authors' rule
_NONE = (
    "If the answer differs in meaning from all options, write (Z). Where the options are mostly numbers, do not be too "
    "precise: take the one that the answer comes closest to."
)
_NO_ANSWER = ("image none", "model error or image error", "image error", "model error")
_SELECT = re.compile(rf"(?:\s*{_common.SELECT}|(?:^|\s+)Candidates:)\s*$", re.I)
_OPTION = re.compile(r"^([A-Z]):[ \t]*", re.M)

_TEMPORAL = ("Continuous-temporal", "Discrete-temporal")  # relationships
_FILM = "images in the order of time"
_POINTS = "a point of the first image, sought in the second"
_QUERY = "a query, and candidates that options may number"
_PLACE = _common.place_words("latter")  # of two images
_ORDERED = {  # tasks by what their order means, as the question's wording may not say it
    _FILM: """point_tracking single_object_tracking threeD_Object_Tracking Egocentric_Video_QuestionAnswering
        Multiview_reasoning Multiview_Action_Recognition casuality_reasoning_next_qa casuality_reasoning_var
        gui_app_recognition gui_next_action_prediction multiple_image_captioning general_action_recognition
        video_captioning next_img_prediction temporal_ordering temporal_localization mevis meme_vedio_understanding
        action_quality_assessment textual_cloze visual_cloze visual_coherence visual_ordering""",
    "a change from one image to the other": """Homography_estimation Image_Spatial_Transformation_Estimation
        threeD_Pose_Estimation spot_the_diff""",
    _POINTS: """functional_correspondence_blink
        functional_correspondence_funk_point semantic_correspondence_blink semantic_correspondence_misc210k
        visual_correspondence_blink visual_correspondence_scannet""",
    "parts of a puzzle at their places": "ravens_progressive_matrices jigsaw_puzzle_solving",
    "views and their depths, in sequence": """threeD_Depth_Estimation threeD_Object_Detection
        threeD_Scene_Reconstruction threeD_question_answering""",
    _QUERY: """person_reid face_retrieval sketch2image_retrieval
        handwritten_retrieval image2image_retrieval vehicle_retrieval text2image_retrieval""",
}
_REASONS = {task: reason for reason, tasks in _ORDERED.items() for task in tasks.split()}


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the questions; `category` is the task. A row without an answer is rejected, as by the authors."""
    paths = _common.files(directory, ("all.parquet", "all.json", "*.parquet"), REPOSITORY)
    folder = Path(directory)
    zips = {path.stem: hub_files.ImageStore(folder / path.stem, [path]) for path in sorted(folder.glob("*.zip"))}
    unpacked = functools.cache(lambda relationship: hub_files.ImageStore(folder / relationship, ()))
    make = functools.partial(_item, store_of=lambda relationship: zips.get(relationship) or unpacked(relationship))
    return _common.read(paths, make, ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store_of: Callable[[str], hub_files.ImageStore]) -> Item:
    task = _common.column(row, "task")
    paths = [hub_files.text(path, "an image path") for path in _common.column_list(row, "input_image_path")]
    if not paths:
        raise InputError("no image")
    answer = _common.column(row, "output").strip().upper()
    if len(answer) != 1 or answer not in _LETTERS:
        raise InputError(f"the answer {answer!r} is not the letter of an option")
    columns = {key: _common.column(row, key, "") for key in ("question", "context", "options")}
    context, choices = _without_options(columns["context"], columns["options"])
    texts = _in_order(task, columns["question"].strip(), context.strip())
    question = "\n".join(filter(None, texts))
    if not question:
        raise InputError("no question")
    effect, reason = _order(task, _relationship(paths[0]), question, choices, len(paths))
    return Item(
        Row(
            id=f"{task}.{name}",
            images=[_image(path, store_of) for path in paths],
            question=question,
            answer=answer,
            source="mmiu",
            choices=choices,
            kind="choice",
            order_effect=effect,
            reason=reason,
        ),
        task,
        columns,
    )


def _order(task: str, relationship: str, question: str, choices: list[str], count: int) -> tuple[str | None, str]:
    """(order_effect, reason): what the order means if the question's wording does not say it and it cannot be
    rewritten; (None, "") leaves it to the wording.

    It can be rewritten if a query is named and all options name candidates, or if both images with marked points are
    named.
    """
    reason = _FILM if relationship in _TEMPORAL else _REASONS.get(task, "")
    text = references.to_symbols(question, count)
    options = [symbols.mentioned(choice) for choice in references.choices_to_symbols(choices, question, count)]
    named = {*symbols.mentioned(text), *itertools.chain(*options)} == {*range(count)}
    if reason == _QUERY and named and options and all(options):
        return None, ""
    if reason == _POINTS and named and not _PLACE.search(symbols.MENTION.sub("", text)):
        return "rewrite", "points are marked in the images, and its words name these by their places"
    return ("fixed", reason) if reason else (None, "")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _relationship(path: str) -> str:
    return (_parts(path) or [""])[0]


def _image(path: str, store_of: Callable[[str], hub_files.ImageStore]) -> ImageReader:
    """`./relationship/task/file`: a file of the folder, or a member of the zip, named after the relationship."""
    if not (parts := _parts(path)) or ".." in parts:
        raise InputError(f"image path {path!r}")
    return store_of(parts[0]).reader("/".join(parts[1:]))


def _without_options(context: str, options: str) -> tuple[str, list[str]]:
    """(context without its options, options without letters); unchanged, and [], if the options are not A, B, C, ..."""
    marks = list(_OPTION.finditer(options))
    ends = [mark.start() for mark in marks[1:]] + [len(options)]
    choices = [options[mark.end() : end].strip() for mark, end in zip(marks, ends)]
    lettered = [mark[1] for mark in marks] == [*symbols.LETTERS[: len(marks)]]
    if not (choices and lettered and all(choices)):
        return _with_options(context, options), []
    line = " ".join(f"{symbols.letter(place)}. {choice}" for place, choice in enumerate(choices))
    head, matched, tail = context.rpartition(options.strip() if options.strip() in context else line)
    return (_SELECT.sub("", head) + tail.rstrip() if matched else _SELECT.sub("", context)), choices


def _with_options(context: str, options: str) -> str:
    return context if options.strip() in context else f"{context.rstrip()}\n{options.strip()}".lstrip()


def _in_order(task: str, question: str, context: str) -> tuple[str, str]:
    return (question, context) if task in _QUESTION_FIRST.split() else (context, question)


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages; in `official` all images, then context and question in the task's order, then a hint."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    columns = item.columns
    context = _with_options(columns["context"], columns["options"])
    texts = *_in_order(item.category, columns["question"], context), _HINT
    return _common.user(MARKER * len(item.row.images) + "\n".join(texts))


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; if the reference answer is not among the options, no response is correct."""
    if protocol == "boxed":
        return _common.boxed_score(item.row, text)
    count = len(item.row.choices) or len(_LETTERS)
    letter = _letter(text, item.row.choices, count)
    return Score(float(letter == item.row.answer and letter in symbols.LETTERS[:count]), letter)


def _letter(text: str, choices: list[str], count: int) -> str | None:
    """The letter of a one-letter reply, ignoring punctuation; else the one marked letter, else the one option named."""
    text = text.strip().replace("\u00a0", "")
    if text in _NO_ANSWER:
        return None
    text = text.strip().strip(".,()").strip()
    if len(text) == 1 and text.upper() in _LETTERS:
        return text.upper()
    if letter := _common.marked_letter(text, count):
        return letter
    answer = " ".join(text.split()).casefold()
    named = [place for place, choice in enumerate(choices) if _names(answer, choice)]
    return symbols.letter(named[0]) if len(named) == 1 else None


def _names(answer: str, choice: str) -> bool:
    words = " ".join(choice.split()).casefold()
    return bool(re.search(rf"(?<!\w){re.escape(words)}(?!\w)", answer))


def judge_messages(item: Item, text: str) -> list[dict] | None:
    """Messages that ask a judge which option a response means; None if the rules know or there is nothing to read."""
    plain = text.replace("\u00a0", "").strip()
    if not plain.strip(".,() ") or plain in _NO_ANSWER or score(item, text, "official").extracted is not None:
        return None
    lettered = [f"({symbols.letter(place)}) {choice}" for place, choice in enumerate(item.row.choices)]
    options = "\n".join(lettered) or item.columns["options"]
    return _common.choice_judge(item.columns["question"], options, plain, _NONE)


def judged(item: Item, text: str, reply: str) -> Score:
    """The score of a response from the option that a judge read in it; none for (Z)."""
    letter = _common.judged_letter(reply, len(item.row.choices) or len(_LETTERS))
    return Score(float(letter == item.row.answer), letter)

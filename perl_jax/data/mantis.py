"""Mantis-Instruct (TIGER-Lab/Mantis-Instruct): conversations over several images, in Hugging Face format.

Reads a folder per config, with `train-*.parquet` and zipped or unpacked images; or one folder with `train.json`, a list
of the same rows (`id`, `images`, `conversation`, `source`). Each (user, assistant) pair becomes a separate question,
with all images that the conversation has shown so far. Checkability is decided later, in curation.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from models.errors import InputError
from perl_jax.data import ImageReader, Rejected, Row
from perl_jax.records import hub_files
from perl_jax.records.chat_messages import OPTION, option_letters
from perl_jax.symbols import MARKER

SPLITS = ("train",)
REPOSITORY = "TIGER-Lab/Mantis-Instruct"

EXAMPLE = {
    "id": "multi_vqa-1.1",
    "question": "<image:0><image:1>\nWhich image shows more people than {image:0|lower} does? Answer with its number.",
    "choices": [],
    "answer": "{image:1}",
    "kind": "text",
    "order_effect": "rewrite",
    "source": "multi_vqa",
    "accuracy": None,
    "movable": None,
}

_LEADING = re.compile(r"^((?:<image>|\s)*)Answer the following multiple-choice question:\s*")
_ANSWER = re.compile(r"^Answer:\s*", re.IGNORECASE)
_LETTER = re.compile(r"(?:\(([A-Z])\)|([A-Z])(?:[.:)]|$))(?:\s.*)?", re.DOTALL)
_REFERENCE = re.compile(r"<image> is the reference")


class Known(NamedTuple):
    """What a config fixes for all its questions, beyond their wording."""

    order_effect: str | None = None
    reason: str = ""
    movable: Callable[[str], list[int] | None] = lambda question: None  # question -> its movable positions


def _all_but_reference(question: str) -> list[int] | None:
    """All positions but that of a reference image shown where it is named; one named by number can move too."""
    if not (match := _REFERENCE.search(question)):
        return None
    reference = question[: match.start()].count(MARKER)
    return [place for place in range(question.count(MARKER)) if place != reference]


def _shown_as_options(question: str) -> list[int] | None:
    lines = [line for line in question.splitlines() for _ in range(line.count(MARKER))]
    return [place for place, line in enumerate(lines) if OPTION.match(line)] or None


_FRAMES = Known("fixed", "frames of a film in the order of time")
_DIRECTED = Known("fixed", "a difference, described from the first image to the second")
_KNOWN = {  # configs not listed are decided by their wording
    "nextqa": _FRAMES,
    "star": _FRAMES,
    "visual_story_telling": Known("fixed", "images of a story in its order"),
    "spot-the-diff": _DIRECTED,
    "birds-to-words": _DIRECTED,
    "dreamsim": Known(movable=_all_but_reference),
    "iconqa": Known(movable=_shown_as_options),
}


def records(
    input: str | None = None,
    split: str = "train",
    seed: int = 0,
    *,
    configs: str | Sequence[str] = (),
    download: bool = False,
) -> Iterator[Row | Rejected]:
    """Yields the question pairs, config by config in alphabetical order.

    Args:
        input: the folder of the config folders, or of train.json.
        split: `train`.
        seed: unused.
        configs: names, as a sequence or comma-separated; none: all configs there.
        download: download those configs to the folder first (the images of all configs are several hundred GB).

    Raises:
        InputError: no such folder or config, an unreadable file, or a failed download.
    """
    configs = [name for name in configs.split(",") if name] if isinstance(configs, str) else list(configs)
    if input is None or split not in SPLITS:
        raise InputError(f"the source mantis needs --input=FOLDER and has the split train; got {input!r}, {split!r}")
    if download:
        if not configs:
            raise InputError("mantis: name the configs to download, as configs=nlvr2,dreamsim: all are too large")
        hub_files.download(REPOSITORY, input, [f"{name}/{split}*" for name in configs])
    for folder, files in _folders(Path(input), split, configs).items():
        store = hub_files.ImageStore(folder, hub_files.image_zips(folder, split))
        config = "" if folder == Path(input) else folder.name
        numbered = (row for file in files for _, row in hub_files.rows(file))
        for number, row in enumerate(numbered, start=1):
            named = row.get("source") if isinstance(row, dict) else None
            source = config or (named if named and isinstance(named, str) and named.isprintable() else "mantis")
            if config or not configs or source in configs:
                yield from _questions(f"{source}-{number}", source, row, store)


def _folders(folder: Path, split: str, configs: Sequence[str]) -> dict[Path, list[Path]]:
    """{folder of a config: its files}; only the folder itself, if it has files."""

    def files(place: Path) -> list[Path]:
        return sorted(place.glob(f"{split}-*.parquet")) or sorted(place.glob(f"{split}.json"))

    if paths := files(folder):
        return {folder: paths}
    places = sorted(place for place in folder.iterdir() if place.is_dir()) if folder.is_dir() else []
    folders = {place: paths for place in places if (paths := files(place))}
    if not folders:
        raise InputError(
            f"{folder} holds neither {split}.json nor folders with {split}-*.parquet: download it, with "
            "--option=download=True --option=configs=..."
        )
    if unknown := set(configs) - {place.name for place in folders}:
        raise InputError(
            f"{folder} has no config {min(unknown)!r}; it has {', '.join(place.name for place in folders)}"
        )
    return {place: paths for place, paths in folders.items() if not configs or place.name in configs}


def _questions(name: str, source: str, row: dict | InputError, store: hub_files.ImageStore) -> Iterator[Row | Rejected]:
    """Yields a row's pairs. Images without a slot come before its first text, as in the authors' loader."""
    try:
        if isinstance(row, InputError):
            raise row
        images, turns = _parts(row)
    except InputError as error:
        yield Rejected(name, "malformed row", str(error))
        return
    missing = len(images) - sum(text.count(MARKER) for _, text in turns)
    if missing < 0:
        yield Rejected(name, "slots differ from images", f"{len(images) - missing} slots, {len(images)} images")
        return
    images, before = [store.reader(image) for image in images], missing
    for turn in range(0, len(turns), 2):
        pair = turns[turn : turn + 2]
        slots = pair[0][1].count(MARKER)
        yield _pair(f"{name}.{turn // 2}", source, pair, images[: before + slots], MARKER * before, turn // 2)
        before += sum(text.count(MARKER) for _, text in pair)


def _parts(row: dict) -> tuple[list, list[tuple[str, str]]]:
    """(images as given, [(role, text)]) of a row; InputError if it has another format."""
    images, conversation = row.get("images"), row.get("conversation")
    if not isinstance(images or [], list) or not isinstance(conversation, list) or not conversation:
        raise InputError(
            f"images are a {type(images).__name__}, its conversation a {type(conversation).__name__}; "
            "expected two lists"
        )
    if not all(isinstance(turn, dict) for turn in conversation):
        raise InputError("its conversation is not a list of {role, content}")
    turns = [
        tuple(hub_files.text(turn.get(key), f"a turn's {key}") for key in ("role", "content")) for turn in conversation
    ]
    return list(images or []), turns


def _pair(name: str, source: str, pair, images: list[ImageReader], front: str, turn: int) -> Row | Rejected:
    if [role for role, _ in pair] != ["user", "assistant"]:
        return Rejected(name, "turns are not user, assistant", ", ".join(role for role, _ in pair))
    question, answer = front + _LEADING.sub(r"\1", pair[0][1].strip()), _ANSWER.sub("", pair[1][1].strip())
    if MARKER in answer:
        return Rejected(name, "answer shows an image", answer)
    known = _KNOWN.get(source, Known())
    letter = _option_letter(answer, question)
    return Row(
        id=name,
        images=images,
        question=question,
        answer=letter or answer,
        source=source,
        kind="choice" if letter else None,
        order_effect=known.order_effect,
        movable=known.movable(question),
        reason=known.reason,
        turn=turn,
    )


def _option_letter(answer: str, question: str) -> str | None:
    """The letter that an answer names, alone or before the option's text, if the question has that option."""
    match = _LETTER.fullmatch(answer)
    letter = match and (match[1] or match[2])
    return letter if letter in option_letters(question) else None

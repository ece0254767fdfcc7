"""User data: files with one question per row, of a person's own or made for other trainers.

Columns: `question`, `answer`, `images` (paths relative to the file, base64, or bytes), and optionally `id`, `choices`,
`order_effect`, `kind`, `movable`, `source`. Images are placed by `<image>` in the text, else they come first.
References are plain text ("image 2") or symbols (`{image:1}`). Names of columns may be in any letter case; other names
are given by `map`. Files for other trainers are read unchanged: EasyR1 and veRL (`problem` or `prompt`,
`reward_model.ground_truth`), PeRL's own rows with their `change_needed`, TRL (`prompt` of messages; the answer in
`solution` or `ground_truth`), ms-swift, LLaMA-Factory and ShareGPT (`messages`, `conversations`, or `query` and
`response`: the last assistant turn is the answer), VLMEvalKit (TSV with base64, choices in columns A, B, C). What is
not read is named.
"""

import collections
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from models.errors import InputError
from perl_jax import records as records_lib
from perl_jax import symbols
from perl_jax.data import Rejected, Row
from perl_jax.records import chat_messages, choices, data_files, hub_files
from perl_jax.rewards.boxed import extract_boxed

SPLITS = ("train",)

EXAMPLE = {
    "id": "1",
    "question": "<image:0><image:1>\nWhich image shows a cat?",
    "choices": [],
    "answer": "{image:1}",
    "kind": "text",
    "order_effect": "rewrite",
    "source": "mine",
    "accuracy": None,
    "movable": None,
}

COLUMNS = ("id", "images", "question", "choices", "answer", "order_effect", "kind", "movable", "source")
_CONVERSATIONS = ("messages", "conversations", "conversation")
_NAMES = {  # other names of our columns; a dotted name is a field of a struct
    "images": ("images", "image"),
    "question": ("question", "problem", "prompt", "query", "instruction", *_CONVERSATIONS),
    "choices": ("choices", "options"),
    "answer": ("answer", "solution", "ground_truth", "reward_model.ground_truth", "response", "completion", "output"),
    "source": ("source", "data_source"),
}
_SEVERAL = ("images", "choices")  # our columns that may be put together from several
_LOOKED_AT = 100  # rows of a file searched for its columns
_ANSWER_TAG = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_THOUGHTS = re.compile(r"\s*<think>.*</think>\s*", re.DOTALL)
_SERIES = re.compile(r"(.*(?:image|img|picture|photo|pic).*?)(?:[ _-]?(\d+)|[ _-]([A-Ha-h]))", re.IGNORECASE)
_NUMBERED_MARKER = re.compile(r"<\|?(?:image|img)[ _]?(\d+)\|?>", re.IGNORECASE)
_MEDIA = ("video", "videos", "audio", "audios")  # columns of a row that shows something else
_OTHER_MEDIA = re.compile(r"<(?:video|audio)>")


def records(
    input: str | None = None,
    split: str = "train",
    seed: int = 0,
    *,
    map: Mapping[str, str | Sequence[str]] | None = None,
    images: str | None = None,
    columns: dict[str, bool] | None = None,
) -> Iterator[Row | Rejected]:
    """Yields the rows of one or more files, in the files' order.

    Args:
        input: a .jsonl, .json, .parquet, .csv or .tsv file, a folder of them, a pattern, or a hub id, with `@split`.
        split: `train`.
        seed: unused.
        map: {our column: its name in the file}, for columns with other names; several names for images and choices.
        images: a folder that relative image paths may begin at, and that no image may be outside of.
        columns: gets {column that holds something: whether it is read}.

    Raises:
        InputError: no such file, or a missing column.
    """
    if input is None or split not in SPLITS:
        raise InputError(f"the source jsonl needs --input=FILE and has the split train; got {input!r}, {split!r}")
    if images is not None and not Path(images).is_dir():
        raise InputError(f"--images={images}: no such folder")
    found, columns = data_files.find(input), {} if columns is None else columns
    for path in found.paths:
        prefix = "" if len(found.paths) == 1 else f"{path.relative_to(found.folder).with_suffix('')}:"
        yield from _rows_of(path, prefix, found, map or {}, images, columns)


def _rows_of(
    path: Path, prefix: str, found: data_files.Files, mapped: Mapping, images: str | None, left: dict[str, bool]
) -> Iterator[Row | Rejected]:
    """The rows of one file; `left` gets {column that holds something: whether it is read}."""
    rows = hub_files.rows(path)
    first = list(itertools.islice(rows, _LOOKED_AT))
    columns = _Columns(path, [row for _, row in first if isinstance(row, dict)], mapped)
    store = _image_store(path, found, images)
    shared = _SharedImages(path)
    for number, row in itertools.chain(first, rows):
        try:
            if isinstance(row, InputError):
                raise row
            columns.see(row)
            for name, value in row.items():
                if not _is_empty(value):
                    left[name] = left.get(name, False) or name in columns.used
            yield _row(columns, row, f"{prefix}{number}", found.name, store, shared)
        except InputError as error:
            yield Rejected(f"{prefix}{number}", "malformed row", str(error))


def _image_store(path: Path, found: data_files.Files, images: str | None) -> hub_files.ImageStore:
    if images is not None:
        return hub_files.ImageStore(images, found.zips, also=[path.parent], within=images)
    return hub_files.ImageStore(path.parent, found.zips, also=[found.folder], within=found.within or found.folder)


class _Columns:
    """Which columns of a file hold what.

    Raises:
        InputError: a column is missing, or several look like the images.
    """

    def __init__(self, path: Path, rows: Sequence[Mapping], mapped: Mapping[str, str | Sequence[str]]):
        self._path, self._mapped = path, {ours: _names_of(theirs) for ours, theirs in mapped.items()}
        self._seen: dict[str, None] = {}
        self._filled: set[str] = set()  # not empty in some row
        self._image_like: dict[str, bool] = {}
        self._looked_at: collections.Counter[str] = collections.Counter()
        for row in rows:
            self._note(row)
        self._check_mapped()
        self._choose()
        if "question" not in self._chosen:
            raise self._missing("question")
        if "answer" not in self._chosen:
            values = (_value(row, self._chosen["question"][0]) for row in rows)
            if not any(chat_messages.is_messages(value) for value in values if value):
                raise self._missing("answer")

    def see(self, row: Mapping) -> None:
        """Takes in the columns of a further row, which earlier ones may have lacked."""
        if self._note(row):
            self._choose()

    @property
    def used(self) -> set[str]:
        """The columns that are read."""
        more = {"change_needed", "history"} | ({"input"} if self._is("question", "instruction") else set())
        names = itertools.chain.from_iterable(self._chosen.values())
        return more | {name if name in self._filled else name.partition(".")[0] for name in names}

    def value(self, row: Mapping, ours: str) -> object:
        """The row's value of our column; images and choices as a list where they are in several."""
        names = self._chosen.get(ours, ())
        if ours == "images":
            return _in_series([hub_files.listed(_value(row, name)) for name in names], names)
        if ours == "choices" and len(names) > 1:
            return choices.of_columns([_value(row, name) for name in names], names)
        if ours == "question" and names == ("instruction",) and isinstance(row.get("input"), str):
            return f"{row['instruction']}\n{row['input']}".strip()
        return _value(row, names[0]) if names else None

    def _is(self, ours: str, theirs: str) -> bool:
        return self._chosen.get(ours) == (theirs,)

    def _note(self, row: Mapping) -> bool:
        """Notes a row's columns; whether something is new."""
        before = len(self._seen), len(self._filled), sum(self._image_like.values())
        self._seen.update(dict.fromkeys(_paths(row)))
        for name, value in row.items():
            if _is_empty(value):
                continue
            self._filled.add(name)
            if not self._image_like.get(name) and self._looked_at[name] < _LOOKED_AT:
                self._looked_at[name] += 1
                self._image_like[name] = hub_files.is_image(value)
        return before != (len(self._seen), len(self._filled), sum(self._image_like.values()))

    def _check_mapped(self) -> None:
        for ours, names in self._mapped.items():
            if ours not in COLUMNS:
                raise InputError(f"--map: {ours!r} is none of the columns {', '.join(COLUMNS)}")
            if len(names) > 1 and ours not in _SEVERAL:
                raise InputError(
                    f"--map: {ours} is given {len(names)} columns; only {' and '.join(_SEVERAL)} may have several"
                )
            for name in names:
                if name not in self._seen:
                    raise InputError(f"{self._path} has no column {name!r} for {ours}; it has {self._known()}")

    def _choose(self) -> None:
        chosen = {}
        for ours in COLUMNS:
            if name := _first(_NAMES.get(ours, (ours,)), self._seen):
                chosen[ours] = (name,)
        conversation = _first(_CONVERSATIONS, self._seen)
        if conversation and "answer" not in chosen and "answer" not in self._mapped:
            chosen["question"] = (conversation,)
        texts = [name for name in self._seen if not self._image_like.get(name)]
        if "choices" not in chosen and (lettered := choices.columns(texts)):
            chosen["choices"] = tuple(lettered)
        if "images" not in self._mapped and (images := self._image_columns(chosen)):
            chosen["images"] = images
        self._chosen = chosen | self._mapped

    def _image_columns(self, chosen: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """The columns with the images: `images`, `image`, a series such as image_1, image_2, or the only one."""
        series = _series([name for name in self._seen if "." not in name], self._image_like)
        own = _first(_NAMES["images"], [name for name in self._seen if name in self._filled])
        if own and not any(start == own for start, _, _ in series):
            return (own,)
        if own:
            series = [one for one in series if one[0] == own]
        looking = [name for name, looks in self._image_like.items() if looks and (name,) not in chosen.values()]
        if not series:
            if len(looking) > 1:
                raise self._ambiguous(looking)
            return tuple(looking)
        start, first, names = series[0]
        base = (start,) if start in self._filled else ()
        strays = [name for name in looking if not own and name not in base + names]
        if strays or first != (2 if base else min(first, 1)):
            raise self._ambiguous([*base, *names, *strays])
        return base + names

    def _ambiguous(self, names: Sequence[str]) -> InputError:
        options = ",".join(f"images={name}" for name in names)
        return InputError(
            f"{self._path}: {', '.join(names)} look like images, and their order is not clear: name them in order, "
            f"--map={options}"
        )

    def _missing(self, ours: str) -> InputError:
        return InputError(f"{self._path} has no column {ours}; it has {self._known()}: name it by --map {ours}=NAME")

    def _known(self) -> str:
        return ", ".join(name for name in self._seen if "." not in name) or "none"


def _is_empty(value: object) -> bool:
    return value is None or value == "" or value == []


def _first(wanted: Sequence[str], names: Iterable[str]) -> str | None:
    """The first wanted name that is among names, in the same letter case or, where it has none, in any other.

    >>> _first(("question", "problem"), ["Problem", "Question"]), _first(("id",), ["ID", "id"])
    ('Question', 'id')
    """
    folded = {name.casefold(): name for name in reversed(list(names))} | {name: name for name in names}
    return next((folded[name] for name in wanted if name in folded), None)


def _names_of(theirs: str | Sequence[str]) -> tuple[str, ...]:
    return (theirs,) if isinstance(theirs, str) else tuple(theirs)


def _series(names: Sequence[str], image_like: Mapping[str, bool]) -> list[tuple[str, int, tuple[str, ...]]]:
    """[(start, first number, columns)] of the columns that count images; one that starts with `image` comes first.

    >>> _series(["image_2", "image_1", "image_id"], {"image_1": True})
    [('image', 1, ('image_1', 'image_2'))]
    """
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _SERIES.fullmatch(name):
            number = int(match[2]) if match[2] else symbols.letter_place(match[3])
            groups.setdefault(match[1], {})[number] = name
    found = []
    for start, group in groups.items():
        numbers = sorted(group)
        counts = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] <= 2
        if counts and any(image_like.get(name) for name in group.values()):
            found.append((start, numbers[0], tuple(group[number] for number in numbers)))
    return sorted(found, key=lambda one: one[0].lower() != "image")


def _in_series(values: Sequence[list], names: Sequence[str]) -> list:
    """The images of a row's columns, up to the last one that is set; InputError for a gap."""
    values = list(values)
    while values and not values[-1]:
        values.pop()
    if [] in values:
        raise InputError(f"its {names[values.index([])]} is empty, but {names[len(values) - 1]} is not")
    return [image for value in values for image in value]


class _SharedImages:
    """Images of a TSV that rows share: VLMEvalKit gives another row's `index` in place of the image."""

    def __init__(self, path: Path):
        self._path = path if path.suffix.lower() == ".tsv" else None
        self._images: dict[str, object] | None = None

    def __call__(self, images: list) -> list:
        if self._path is None or len(images) != 1 or not isinstance(images[0], str) or not images[0].strip().isdigit():
            return images
        if self._images is None:
            rows = [row for _, row in hub_files.rows(self._path) if isinstance(row, dict)]
            referred = {row.get("image") for row in rows if str(row.get("image")).isdigit()}
            self._images = {row.get("index"): row.get("image") for row in rows if row.get("index") in referred}
        if (image := self._images.get(images[0].strip())) is None:
            raise InputError(f"its image is row {images[0]}, and no row has that index")
        return hub_files.listed(image)


def _paths(row: Mapping) -> Iterator[str]:
    """The names of the row's columns and, dotted, of the fields of its structs."""
    for name, value in row.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{field}" for field in value)


def _value(row: Mapping, name: str) -> object:
    if name in row:
        return row[name]
    column, _, field = name.partition(".")
    return row[column].get(field) if isinstance(row.get(column), dict) else None


def _row(
    columns: _Columns, row: Mapping, name: str, source: str, store: hub_files.ImageStore, shared: _SharedImages
) -> Row:
    values = {ours: columns.value(row, ours) for ours in COLUMNS}
    images = shared(values["images"])
    asked = _asked(values["question"])
    if asked.images and images:
        raise InputError("it has images both in its messages and in a column")
    images = images or asked.images
    if not images and (media := next((name for name in _MEDIA if not _is_empty(row.get(name))), None)):
        raise InputError(f"it shows {media}, not images; only images are read")
    answer = values["answer"] if values["answer"] not in (None, "", []) else asked.answer
    if chat_messages.is_messages(answer):
        answer = chat_messages.answer(answer)
    answer = _final(hub_files.text_or_number(answer, "answer"))
    if re.match(r"\[\s*['\"]", answer) and hub_files.listed(answer) != [answer]:
        raise InputError(f"its answer is a list of texts, {answer[:80]}: give one")
    listed, short = choices.read(values["choices"], answer)
    if listed and isinstance(values["answer"], int):
        _check_number(values["answer"], listed, short)
    answer = short
    question, *listed = _with_markers([asked.question, *listed])
    slots = sum(text.count(symbols.MARKER) for text in (question, *listed))
    if slots not in (0, len(images)):
        raise InputError(f"its text has {slots} {symbols.MARKER}, but it has {len(images)} images")
    history = row.get("history")
    return Row(
        id=hub_files.text_or_number(values["id"], "id") if values["id"] not in (None, "") else name,
        images=[store.reader(image) for image in images],
        question=question,
        answer=answer,
        source=hub_files.text_or_number(values["source"] or source, "source"),
        choices=[] if _in_question(listed, question) else listed,
        kind=_one_of(values["kind"], records_lib.KINDS, "kind"),
        turn=asked.turn + (len(hub_files.listed(history))),
        **{**_perl(row, len(images)), **_order_effect(values, len(images))},
    )


def _check_number(number: int, listed: Sequence[str], answer: str) -> None:
    """InputError where a number may count the choices, from 0 or 1, and may be the text of another one."""
    counted = {listed[place] for place in (number, number - 1) if 0 <= place < len(listed)}
    if answer == str(number) and counted - {answer}:
        raise InputError(f"its answer {number} may count the choices from 0 or 1, or be one's text: give its letter")


def _asked(question: object) -> chat_messages.Exchange:
    """The question of a text or of messages."""
    if chat_messages.is_messages(question) or isinstance(question, list):
        return chat_messages.exchange(question)
    return chat_messages.Exchange(hub_files.text(question, "question"), [], None, 0)


def _with_markers(texts: Sequence[str]) -> list[str]:
    """The texts with `<image>` for numbered markers such as `<image 1>` or `<|image_1|>`; a repeated one is a mention.

    >>> _with_markers(["<image 1> and <image 2>: is <image 1> red?"])
    ['<image> and <image>: is image 1 red?']
    """
    text = "\n".join(texts)
    if media := _OTHER_MEDIA.search(text):
        raise InputError(f"it shows {media[0]}; only images are read")
    numbers = list(dict.fromkeys(int(number) for number in _NUMBERED_MARKER.findall(text)))
    if not numbers:
        return list(texts)
    if symbols.MARKER in text or numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise InputError(f"its text shows the images {', '.join(map(str, numbers))}; number them in the order shown")
    shown = set()

    def marker(match: re.Match) -> str:
        number = int(match[1])
        if number in shown:
            return f"image {number - numbers[0] + 1}"
        shown.add(number)
        return symbols.MARKER

    return [_NUMBERED_MARKER.sub(marker, text) for text in texts]


def _in_question(listed: Sequence[str], question: str) -> bool:
    """Whether the question holds these choices, too, as lines `A. ...`."""
    return bool(listed) and all(
        re.search(rf"^\s*\(?{symbols.letter(place)}[.:)、．]\)?\s*{re.escape(text)}\s*$", question, re.MULTILINE)
        for place, text in enumerate(listed)
    )


def _order_effect(values: Mapping, count: int) -> dict:
    """The row's own fields about other orders; {} if it has none."""
    fields = {}
    if effect := _one_of(values.get("order_effect"), records_lib.ORDER_EFFECTS, "order_effect"):
        fields = {"order_effect": effect, "reason": "given in the file"}
    if values.get("movable") is not None:
        movable = values["movable"]
        movable = hub_files.listed(movable) if isinstance(movable, str) else _listed(movable, "movable")
        if not all(isinstance(place, int) and 0 <= place < count for place in movable):
            raise InputError(f"movable {movable!r} are not places of its {count} images, counted from 0")
        fields["movable"] = movable
    return fields


def _perl(row: Mapping, count: int) -> dict:
    """What `change_needed` means in PeRL's released rows: whether the answer letter moves with the images.

    The words never change.
    """
    if not isinstance(row.get("change_needed"), bool):
        return {}
    name = re.search(r"nlvr2|dreamsim|iconqa", str(row.get("data_source")))
    reference = bool(name) and name[0] != "nlvr2"  # image 0 stays: it is the reference, or the question's own image
    if not name or (row["change_needed"] and not reference):
        return {"order_effect": "fixed", "reason": "change_needed, and nothing says how"}
    effect = "rewrite" if row["change_needed"] else "invariant"
    return {"order_effect": effect, "reason": "change_needed", "movable": list(range(1, count)) if reference else None}


def _final(answer: str) -> str:
    r"""The final answer of a worked solution: in its answer tags or last box; else the text.

    >>> _final(r"<think>1 + 1</think><answer> 2 </answer>"), _final(r"So it is \boxed{2}."), _final("2")
    ('2', '2', '2')
    """
    if tagged := _ANSWER_TAG.search(answer):
        answer = tagged[1].strip()
    answer = _THOUGHTS.sub("", answer)
    return extract_boxed(answer) or answer


def _listed(value: object, name: str) -> Sequence:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} is a {type(value).__name__}, not a list")
    return list(value)


def _one_of(value: object, known: Sequence[str], name: str) -> str | None:
    if value in (None, ""):
        return None
    if value not in known:
        raise InputError(f"{name} {value!r} is none of {', '.join(known)}")
    return value

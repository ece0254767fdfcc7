"""Shared code of the benchmarks: published rows as items, and the `boxed` protocol.

One bad row does not end a run: it is yielded as a `Rejected`.
"""

import collections
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from models.errors import InputError
from perl_jax import symbols
from perl_jax.answers import compare
from perl_jax.benchmarks import Item, Score
from perl_jax.data import Rejected, Row
from perl_jax.records import hub_files
from perl_jax.rewards.boxed import extract_boxed
from perl_jax.symbols import MARKER

PROTOCOLS = ("boxed", "official")
SELECT = r"Select from the following (?:choices|options)[.:]?"  # what stands before the choices of a published prompt

_RUN_OF_SLOTS = re.compile(r"<image>(?:\s*<image>)*")
_JUDGED = re.compile(r"\(([A-Z])\)(?:(?!\([A-Z]\)).)*|([A-Z])[.:]?", re.S)
_JUDGE_EXAMPLES = (
    (
        "Question: What is on the table?\nOptions:\n(A) a loaf of bread\n(B) a cup\n(C) a bowl of pears",
        "There is a small white mug on it.",
        "B",
    ),
    ("Question: Which lamp is brighter?\nOptions:\n(A) lamp A\n(B) lamp B", "I am sorry, I cannot say that.", "Z"),
    (
        "Question: Where does the path end?\nOptions:\n(A) at a lake\n(B) at a gate",
        "(A) There is no lake. (B) There is no gate. So none of the two is right.",
        "Z",
    ),
)
_MARKED = re.compile(r"answer is:? \(?([A-Z])\b|(?<![A-Za-z'])\(?([A-Z])(?:[).:,}]|\s*$)")
_LABEL = re.compile(r"\(([A-Z])\)[.:]?|([A-Z])[.:)]")


def place_words(*more: str) -> re.Pattern:
    """A pattern of words that name an image by its place: "first", "second", "former", "left one", and `more`.

    If one is left after `references.to_symbols`, no rule can move it with its image.

    >>> place_words("third").findall("The Third is like the right one, unlike the fourth.")
    ['Third', 'right one']
    """
    return re.compile(rf"\b(?:{'|'.join(('first', 'second', 'former', *more))}|(?:left|right) one)\b", re.I)


def files(directory: str | Path, patterns: Sequence[str], repository: str) -> list[Path]:
    """The sorted files of the first glob pattern that matches; InputError, saying what to download, if none does."""
    for pattern in patterns:
        if paths := sorted(Path(directory).glob(pattern)):
            return paths
    raise InputError(f"{directory} holds no {' or '.join(patterns)}: download the data set {repository} there")


def read(
    paths: Iterable[Path],
    make: Callable[[dict, str], Item],
    published: int | Mapping[str, int],
    repository: str,
    allow_partial: bool = False,
) -> Iterator[Item | Rejected]:
    """Yields an item for each row of the files, from `make(row, name of the row)`. A row is rejected if `make` raises
    or if an earlier row had its id.

    Args:
        paths: files that `hub_files.rows` reads.
        make: raises InputError for an unusable row.
        published: expected number of rows, including rejected ones; or {category: rows}, where rejected rows may belong
            to any category.
        repository: for the error message.
        allow_partial: accept a different number of rows.

    Raises:
        InputError: after the last row, if the number of rows differs; stopping earlier raises nothing.
    """
    counts, rejected, seen = collections.Counter(), 0, set()
    paths = list(paths)
    for path in paths:
        for number, row in hub_files.rows(path):
            name = f"{path.stem}-{number}"
            item = _made(row, name, make)
            if isinstance(item, Item) and item.row.id in seen:
                counts[item.category] += 1  # a duplicate still counts as present
                item = Rejected(name, "duplicate id", item.row.id)
            elif isinstance(item, Rejected):
                rejected += 1
            else:
                seen.add(item.row.id)
                counts[item.category] += 1
            yield item
    if not allow_partial:
        _check(counts, rejected, published, f"{paths[0].parent} ({len(paths)} files)", repository)


def _made(row: dict | InputError, name: str, make: Callable[[dict, str], Item]) -> Item | Rejected:
    try:
        if isinstance(row, InputError):
            raise row
        item = make(row, name)
        slots = "\n".join((item.row.question, *item.row.choices)).count(MARKER)
        if slots not in (0, len(item.row.images)):
            raise InputError(f"{slots} slots, {len(item.row.images)} images")
        return item
    except InputError as error:
        return Rejected(name, "malformed row", str(error))


def _check(counts: Mapping[str, int], rejected: int, published: int | Mapping[str, int], where: str, repository: str):
    again = f"download {repository} again, or allow a partial set"
    total = published if isinstance(published, int) else sum(published.values())
    rows = sum(counts.values()) + rejected
    if rows != total:
        raise InputError(f"{where} hold {rows:,} rows, and {total:,} are published: {again}")
    if isinstance(published, int):
        return
    for category in sorted({*counts, *published}):
        present, expected = counts.get(category, 0), published.get(category, 0)
        if not present <= expected <= present + rejected:
            raise InputError(f"{where} hold {present:,} rows of {category}, and {expected:,} are published: {again}")


def column(row: Mapping[str, object], name: str, default: str | None = None) -> str:
    """A row's text, or its number as text; InputError if missing without a default."""
    value = row.get(name)
    return default if value is None and default is not None else hub_files.text_or_number(value, name)


def column_list(row: Mapping[str, object], name: str) -> list:
    """A row's list, [] if missing; InputError for anything else, also for a string."""
    value = row.get(name)
    if not isinstance(value or [], list):
        raise InputError(f"{name} is a {type(value).__name__}, not a list")
    return list(value or [])


def numbered_images(row: Mapping[str, object], store: hub_files.ImageStore, most: int) -> list:
    """The images of the columns `image_1`, `image_2`, ... that are set; InputError if there is none."""
    images = [store.reader(row[f"image_{i}"]) for i in range(1, most + 1) if row.get(f"image_{i}")]
    if not images:
        raise InputError("no image")
    return images


def unlabelled(choice: str, place: int) -> str:
    """A choice without its leading label, if that is the letter of its position.

    >>> unlabelled("(A) a cat", 0), unlabelled("B: a dog", 1), unlabelled("A. Lincoln", 1)
    ('a cat', 'a dog', 'A. Lincoln')
    """
    match = _LABEL.match(choice.strip())
    labelled = match and (match[1] or match[2]) == symbols.LETTERS[place]
    return choice.strip()[match.end() :].strip() if labelled else choice.strip()


def marked_letter(text: str, count: int) -> str | None:
    """The single choice letter that a reply marks as its answer, with punctuation after it or at the end; else None.

    Replaces the language models that benchmarks use to interpret a reply; those resolve more replies.

    >>> marked_letter("It is B.", 3), marked_letter(r"\\boxed{C}", 3), marked_letter("A cat", 3)
    ('B', 'C', None)
    >>> marked_letter("(A) or (B)", 3), marked_letter("The answer is B because A.", 1), marked_letter("D.", 3)
    (None, None, None)
    """
    letters = {first or second for first, second in _MARKED.findall(text)}
    return letters.pop() if len(letters) == 1 and letters <= {*symbols.LETTERS[:count]} else None


def choice_judge(question: str, options: str, text: str, none: str) -> list[dict]:
    """Messages that ask a judge which option a reply chooses: a letter in brackets, or (Z) for none of them.

    The instruction follows that of the benchmarks' authors, in our words and with our own examples.

    Args:
        question: the question without its options.
        options: a line for each option, with its letter.
        text: the reply.
        none: when the judge has to say (Z).
    """
    parts = [
        "An assistant answered a single-choice question. Find the option that is closest in meaning to its answer.",
        f"{none} Write nothing but one letter in brackets: that of an option, or (Z).",
    ]
    for example, answer, letter in _JUDGE_EXAMPLES:
        parts.append(f"{example}\nAnswer: {answer}\nYour output: ({letter})")
    parts.append(f"Question: {question}\nOptions:\n{options}\nAnswer: {text}\nYour output:")
    return user("\n\n".join(parts))


def judged_letter(reply: str, count: int) -> str | None:
    """The letter among `count` that a judge gives; None for (Z) and for a reply of another form.

    >>> judged_letter("(B)", 3), judged_letter("Your output: (B) the dog", 3), judged_letter("B.", 3)
    ('B', 'B', 'B')
    >>> judged_letter("(Z)", 3), judged_letter("(D)", 3), judged_letter("(A) or (B)", 3), judged_letter("A dog", 3)
    (None, None, None, None)
    """
    match = _JUDGED.fullmatch(reply.strip().removeprefix("Your output:").strip())
    letter = match and (match[1] or match[2])
    return letter if letter in symbols.LETTERS[:count] else None


def with_slots(question: str, count: int, shown: int = 0) -> str:
    """Prepends a slot for each of `count` images shown neither in the question nor in its choices (`shown`).

    >>> with_slots("Is it <image>?", 2)
    '<image>Is it <image>?'
    """
    missing = count - shown - question.count(MARKER)
    if missing < 0:
        raise InputError(f"{count - missing} slots, {count} images")
    return MARKER * missing + question


def inside_sentences(question: str) -> bool:
    """Whether several images are shown within sentences, whose meaning depends on them, rather than in one block.

    >>> inside_sentences("Is <image> older than <image>?"), inside_sentences("<image> <image>\\nWhich is older?")
    (True, False)
    """
    runs = list(_RUN_OF_SLOTS.finditer(question))
    ends = [run.start() == 0 or run.end() == len(question.rstrip()) for run in runs]
    return question.count(MARKER) > 1 and ends != [True]


def user(text: str) -> list[dict]:
    """Chat messages of one user turn."""
    return [{"role": "user", "content": text}]


def boxed_prompt(row: Row) -> list[dict]:
    """Question and lettered choices as in training, all images first if they have no slots; the policy's system text
    and instruction are not added."""
    from perl_jax.records import prompts  # imports JAX, which scoring workers must not

    shown = MARKER in "\n".join((row.question, *row.choices))
    question = row.question if shown or not row.images else f"{MARKER * len(row.images)}\n{row.question}"
    return user(prompts.text({"question": question, "choices": row.choices}))


def boxed_score(row: Row, text: str, golds: Sequence[str] = ()) -> Score:
    r"""Scores the last box outside the thinking against the row's answer or `golds`, by `compare.is_correct`.

    Like all grading, it may hang on a hostile answer.

    >>> row = Row("1", [None] * 2, "Which?", "B", "mine", choices=["left", "right"], kind="choice")
    >>> boxed_score(row, r"<think>\boxed{A}</think> \boxed{right}"), boxed_score(row, "B")
    (Score(correct=1.0, extracted='right'), Score(correct=0.0, extracted=None))
    """
    answer = extract_boxed(text) or None
    fields = {"id": row.id, "kind": row.kind, "choices": row.choices, "question": row.question}
    records = [{**fields, "answer": gold} for gold in golds or [row.answer]]
    right = answer is not None and any(compare.is_correct(record, answer) for record in records)
    return Score(float(right), answer)

"""Annotation by a language model: rephrases a question so that it is checkable, and labels its `order_effect`.

Implements the paper's stages "rephrase to checkable questions" and "label whether the order matters", with one request
per question to a `chat_endpoint.Endpoint`. A reply is used only as far as it can be verified here; the label comes with
quoted evidence, and has confidence 0 if the evidence is not in the text.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from perl_jax import records, symbols
from perl_jax.answers import compare
from perl_jax.curation import references, rules
from perl_jax.curation.checkable import checkable
from perl_jax.data import Row
from perl_jax.runtime.chat_endpoint import Endpoint, Failure, line

LONGEST_ANSWER = 60  # characters
NOT_CHECKABLE = "the model finds no answer that a rule can check"

_LONGEST_REPLY = 20_000  # characters
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MORE_WORDS = {0: ("zero", "no", "none"), 1: ("single",), 2: ("both", "pair"), 11: ("eleven",), 12: ("twelve",)}
# an answer may use these instead of the row's own words
_JUDGEMENTS = {"yes", "no", "true", "false", "none", "neither", "both", "image"}
_DASHES = str.maketrans(dict.fromkeys("−–—‐‑", "-"))
# A dash is the sign of the number that it touches, unless it touches what is before it, too ("3-5", "x-5").
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}.%])[-+](?=\.?\d)|(?:^|(?<=[=(\[{,:$])) ?[-+] (?=\.?\d)|\b(?:minus|negative) (?=\.?\d))?"
    r"(?<![\d.])(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<cent> ?(?:%|per ?cent\b))?"
)
_OPERATION = re.compile(r"\\|[*^<>≤≥√]|[\w)\]}]\s*[-+/:·×÷]\s*[\d({\[√]|\d\s*[-+/·×÷]\s*\w|\b\w\s*[-+/·×÷]\s*\w\b")


def _example(images: int, question: str, answer: str, choices: Sequence[str] = (), /, **reply) -> tuple[dict, dict]:
    """A row as `messages` shows it, and a good reply; fields missing from the reply are those of the row."""
    row = {"images": images, "question": question, "choices": list(choices), "answer": answer}
    same = {"checkable": True, "reason": ""} | {key: row[key] for key in ("question", "choices", "answer")}
    return row, same | reply


_EXAMPLES = (
    _example(3, "Which image shows a calmer place, image 1 or image 3, and why?",
             "Image 3 shows a calmer place, because three giraffes stand in an open field there.",
             question="Which image shows a calmer place, image 1 or image 3?", answer="Image 3", kind="text",
             evidence=["image 1 or image 3"], order_effect="rewrite", confidence=0.95),
    _example(2, "How many dogs do the two pictures show together?", "There are five dogs in all.", answer="5",
             kind="number", evidence=["the two pictures show together"], order_effect="invariant", confidence=0.95),
    _example(4, "Why did the boy bend down after he ran?\nA: tie shoe\nB: pick up ball", "B: pick up ball",
             question="Why did the boy bend down after he ran?", choices=["tie shoe", "pick up ball"], answer="B",
             kind="choice", evidence=["after he ran"], order_effect="fixed", confidence=0.9),
    _example(4, "Which of these has the same shape?", "C", ["<image>", "<image>", "<image>"], kind="choice",
             evidence=["Which of these"], order_effect="rewrite", confidence=0.8),
    _example(2, "What has changed between the pictures?", "The man at the gate has gone and one car has moved.",
             checkable=False, reason="a description; many wordings are right", question="", answer="", kind="text",
             evidence=["has changed between"], order_effect="fixed", confidence=0.9),
    _example(3, "Put the three pictures in the order in which they were taken.",
             "First picture 2, then picture 3, then picture 1.", answer="2, 3, 1", kind="order",
             evidence=["First picture 2, then picture 3"], order_effect="rewrite", confidence=0.85),
)  # fmt: skip

INSTRUCTIONS = """\
You prepare questions about images for reinforcement learning, where a program compares an answer with a reference. \
You get a question over several images and its reference answer, as JSON. Reply with one JSON object, and nothing \
else, with these keys in this order:

"checkable": true if a program can tell a right answer from a wrong one by comparing it with a short reference (a \
choice, a number, yes or no, a name or a few words that every careful viewer would use, an order), or if the question \
can be rephrased so that it can. false for opinions, reasons, plans, stories and descriptions, and wherever several \
different answers would be right.
"reason": if false, why, in a few words; else "".
"question": the question as it is if its answer is short already; else rephrased, with as few changes as possible, so \
that the reference answer settles it: leave out "and why", ask for one thing. Say nothing that the question and answer \
do not say, and do not give the answer away. Keep every <image> at its place, and mentions of images as they are \
written ("image 2", "the first picture"). A question with choices stays as it is.
"choices": the choices without their letters, in their order, if the question has some; leave them out of "question" \
then. Else []. Do not make up choices.
"answer": of one line and at most 60 characters, in words of the reference answer: "B", "3", "Yes", "Image 2", "red".
"kind": "choice" (the answer is a letter), "number", "order" (the answer lists places of images) or "text".
"evidence": a list of the words that decide order_effect, each quoted exactly from the question, choices or answer.
"order_effect": suppose the same images were shown in another order, so that image 1 became image 3, and so on.
  "invariant": the question and its answer would be true as they stand. No words point at one image by its place or \
number, and nothing depends on what comes first.
  "rewrite": words point at single images by place or number ("image 2", "the second picture", "the left picture" of \
two), or a letter stands for a choice that shows an image; once these follow their images, the question and its answer \
are true again.
  "fixed": the order itself carries meaning, so that no new numbers would help: moments of a film or a story, before \
and after, "next", "what has changed", a direction from one image to another that is not said in numbers.
"confidence": from 0 to 1, how sure you are of order_effect. An order that is changed wrongly does harm, one that is \
left alone does none: when in doubt, "fixed" or a low confidence.

Examples:

"""
REPAIR = "That cannot be used ({problem}). Send the whole JSON object again, mended, and nothing else."
PROMPT = INSTRUCTIONS + "\n\n".join(
    f"{json.dumps(row, ensure_ascii=False)}\n{json.dumps(reply, ensure_ascii=False)}" for row, reply in _EXAMPLES
)


class Annotation(NamedTuple):
    """A model's annotation of a row; if `reason` is not empty there is none, and the other fields are empty."""

    question: str = ""  # in plain text, with `<image>` where images are shown, as in the row
    answer: str = ""  # for a choice: its letter
    choices: Sequence[str] = ()
    kind: str = ""
    order_effect: str = ""
    evidence: str = ""  # the quotes that decide order_effect
    confidence: float = 0.0  # of order_effect, 0 to 1; 0 if the evidence is not in the text
    reason: str = ""  # why there is no usable annotation: one of a few categories, for counting
    detail: str = ""  # details for the reader


def annotate(endpoint: Endpoint, rows: Iterable) -> Iterator[tuple[object, Annotation | None]]:
    """Yields each item with its annotation, in the items' order, reading items lazily.

    The annotation is None if no request is needed: items that are not Rows, rows that the rule filter excludes, and
    single-image rows that are checkable as they are. An unusable reply is sent back once with the error. A failed
    request gives an Annotation with a reason that starts with "endpoint"; the next run retries it.

    Raises:
        InputError: the endpoint is unreachable, as in `Endpoint.ask`.
    """

    def work(row) -> Annotation | None:
        if not isinstance(row, Row) or rules.check(row):
            return None
        if len(row.images) < 2 and isinstance(checkable(row), Row):
            return None
        conversation = messages(row)
        reply = endpoint.ask(conversation, temperature=0)
        annotation = parse(reply, row)
        if annotation.reason in ("", NOT_CHECKABLE):
            return annotation
        repair = REPAIR.format(problem=f"{annotation.reason}: {annotation.detail}")
        conversation += [{"role": "assistant", "content": reply[:_LONGEST_REPLY]}, {"role": "user", "content": repair}]
        return parse(endpoint.ask(conversation, temperature=0), row)

    for row, annotation in endpoint.each(rows, work):
        if isinstance(annotation, Failure):
            annotation = Annotation(reason=f"endpoint: {annotation.reason}", detail=annotation.detail)
        yield row, annotation


def messages(row: Row) -> list[dict]:
    """The request for a row's annotation: one user message, because not every model has a system role."""
    request = {
        "images": len(row.images),
        "question": _split(row.question)[1],
        "choices": list(row.choices),
        "answer": row.answer,
    }
    text = f"{PROMPT}\n\nNow this one:\n\n{json.dumps(request, ensure_ascii=False)}"
    return [{"role": "user", "content": text}]


def parse(reply: str, row: Row) -> Annotation:
    """Parses and verifies a model's reply about a row; never raises.

    Uses the last JSON object in the reply, after any thinking, in a code fence or surrounded by text. If the row has
    choices, its question, choices and answer are kept unchanged.
    """
    try:
        fields = _last_object(reply)
        if fields["checkable"] is False:
            return Annotation(reason=NOT_CHECKABLE, detail=line(str(fields.get("reason") or "")))
        if fields["checkable"] is not True:
            raise Failure("reply misses a field", "checkable must be true or false")
        question, choices, answer, kind = _rephrased(fields, row)
        effect, evidence, confidence = _label(fields, "\n".join((row.question, *row.choices, row.answer, question)))
        return Annotation(question, answer, choices, kind, effect, evidence, confidence)
    except Failure as failure:
        return Annotation(reason=failure.reason, detail=failure.detail)


def _last_object(reply: str) -> dict:
    reply = reply[-_LONGEST_REPLY:].rpartition("</think>")[2]
    last, decoder = None, json.JSONDecoder()
    for brace in re.finditer("{", reply):
        try:
            value, _ = decoder.raw_decode(reply, brace.start())
        except (ValueError, RecursionError):
            continue
        last = value if "checkable" in value else last
    if last is None:
        raise Failure("reply is no JSON object", reply[:100] or "nothing")
    return last


def _rephrased(reply: dict, row: Row) -> tuple[str, tuple[str, ...], str, str]:
    """(question, choices, answer, kind), verified on their own and against the row."""
    lead, body = _split(row.question)
    if row.choices:
        question, choices, answer, kind = body, tuple(row.choices), row.answer, "choice"
    else:
        question, choices, answer, kind = _fields(reply)
        original = f"{body}\n{row.answer}".casefold()
        if made_up := [choice for choice in choices if choice.casefold().strip() not in original]:
            raise Failure("choices are made up", made_up[0])
        if len(question) > 2 * len(body) + 200:
            raise Failure("question is longer than it was", question)
    question = lead + question.strip()
    slots = sum(text.count(symbols.MARKER) for text in (question, *choices))
    if slots != sum(text.count(symbols.MARKER) for text in (row.question, *row.choices)) or symbols.MARKER in answer:
        raise Failure("image slots differ", f"{symbols.MARKER} {slots} times: {question}")
    if missing_image := references.missing_image("\n".join((question, *choices, answer)), len(row.images)):
        raise Failure("names a missing image", f"{missing_image} of {len(row.images)}")
    return question, choices, _short(answer.strip(), choices, kind, row), kind


def _fields(reply: dict) -> tuple[str, tuple[str, ...], str, str]:
    question, answer, kind = reply.get("question"), reply.get("answer"), reply.get("kind")
    choices = [] if reply.get("choices") is None else reply["choices"]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    texts = [question, answer, *(choices if isinstance(choices, list) else [None])]
    valid = all(isinstance(text, str) and not re.search("[\0\ud800-\udfff]", text) for text in texts)
    if not (valid and question.replace(symbols.MARKER, "").strip() and all(map(compare.normalized, choices))):
        raise Failure("reply misses a field", "question, answer and choices must be texts, none empty")
    if kind not in records.KINDS:
        raise Failure("unknown kind", f"{kind!r}, not one of {', '.join(records.KINDS)}")
    return question, tuple(choices), answer, "choice" if choices else kind


def _short(answer: str, choices: Sequence[str], kind: str, row: Row) -> str:
    """The answer, for a choice its letter; rejected if it does not fit its kind or states what the row does not."""
    if kind == "choice":
        chosen = _letters_meant(answer, choices)
        if len(chosen) != 1 or not 2 <= len(choices) <= len(_LETTERS):
            raise Failure("answer is not a choice", f"{answer} of {len(choices)} choices")
        if chosen[0] not in _letters_meant(row.answer, choices):
            raise Failure("answer is made up", f"{chosen[0]} is not what was answered: {row.answer}")
        return chosen[0]
    if not answer or len(answer) > LONGEST_ANSWER or not answer.isprintable():
        raise Failure("answer is not short", answer or "nothing")
    fits = {
        "number": re.search(r"\d|\\", answer),
        "text": compare.normalized(answer),
        "order": len(set(re.findall(r"\d+|\b[A-Za-z]\b", answer))) > 1,
    }
    if not fits[kind]:
        raise Failure("answer does not fit its kind", f"{answer} as {kind}")
    if new := _made_up(answer, f"{row.question}\n{row.answer}", kind == "order"):
        raise Failure("answer is made up", f"{new!r} is not in the question or its answer")
    return answer


def _made_up(answer: str, source: str, places: bool) -> str | None:
    """The first part of an answer that a source does not have: a word, a signed number, a formula; or None.

    >>> _made_up("-5", "It is 5.", False), _made_up("-5", "It is minus five.", False)
    ('-5', None)
    """
    answer, source = (text.casefold().translate(_DASHES) for text in (answer, source))
    if places:  # a dash between places is no sign
        answer = answer.replace("-", " ")
    words = re.findall(r"[^\W\d_]+", _NUMBER.sub(" ", answer))
    numbers = [_Number(match) for match in _NUMBER.finditer(answer)]
    if (_OPERATION.search(answer) or not (words or numbers)) and not _holds(source, answer):
        return answer
    in_source = {_Number(match) for match in _NUMBER.finditer(source)}
    new = [word for word in words if word not in _JUDGEMENTS and word not in source]
    new += [number.text for number in numbers if number not in in_source and not _named(number, source)]
    return new[0] if new else None


class _Number:
    """A number in a text: equal to another one of the same value, sign and per cent, in whatever spelling."""

    def __init__(self, match: re.Match):
        self.text = match[0].strip()
        self.negative = bool(match["sign"]) and "+" not in match["sign"]
        self.value = Decimal(match["digits"].replace(",", ""))
        self.per_cent = bool(match["cent"])

    def _key(self):
        return self.value, self.negative and self.value != 0, self.per_cent

    def __eq__(self, other):
        return self._key() == other._key()

    def __hash__(self):
        return hash(self._key())


def _named(number: _Number, source: str) -> bool:
    """Whether a source gives a whole number in words ("five", "minus five"), or a per cent without its sign."""
    if number.value != int(number.value):
        return False
    value = int(number.value)
    place = slice(value - 1, value) if value else slice(0, 0)
    words = (*_MORE_WORDS.get(value, ()), *symbols.NUMERALS[place], *symbols.ORDINALS[place])
    words += tuple(str(value) + suffix for suffix in ("st", "nd", "rd", "th")) if not number.negative else ()
    sign = r"(?:minus|negative) " if number.negative else r"(?<!minus )(?<!negative )"
    cent = r" ?per ?cent" if number.per_cent else ""
    return bool(words) and re.search(rf"{sign}\b(?:{'|'.join(words)}){cent}\b", source) is not None


def _holds(source: str, formula: str) -> bool:
    """Whether a source has a formula, whatever its spaces, and not as a part of a longer number or name."""
    plain_source, plain = (
        re.sub(r"[\s$]|\\left|\\right|\\[,;!]|(?<=\\)[dt](?=frac)", "", text) for text in (source, formula.strip(" ."))
    )
    places = (match.start() for match in re.finditer(re.escape(plain), plain_source))
    signed = r"[\d.,]$" if not plain[:1].isdigit() else r"[-+\d.,*/^]$"
    return any(
        not re.search(signed, plain_source[:at]) and not re.match(r"\d|[.,]\d", plain_source[at + len(plain) :])
        for at in places
    )


def _letters_meant(answer: str, choices: Sequence[str]) -> list[str]:
    """Letters of the choices that an answer may mean: by equality, else by contained text, else by contained letter."""
    letters, answer_text = list(zip(_LETTERS, choices)), compare.normalized(answer)
    return (
        [letter for letter, _ in letters if compare.is_correct({"answer": letter, "choices": list(choices)}, answer)]
        or [
            letter
            for letter, text in letters
            if (choice_text := compare.normalized(text)) and choice_text in answer_text
        ]
        or [letter for letter, _ in letters if re.search(rf"\b{letter}\b", answer)]
    )


def _label(reply: dict, text: str) -> tuple[str, str, float]:
    """(order_effect, evidence, confidence); the confidence is 0 if the evidence is not in the text."""
    effect, evidence, confidence = reply.get("order_effect"), reply.get("evidence"), reply.get("confidence")
    if effect not in records.ORDER_EFFECTS:
        raise Failure("unknown order_effect", f"{effect!r}, not one of {', '.join(records.ORDER_EFFECTS)}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        raise Failure("confidence is not a number from 0 to 1", repr(confidence))
    quotes = [evidence] if isinstance(evidence, str) else evidence if isinstance(evidence, list) else []
    quotes = [quote for quote in quotes if isinstance(quote, str) and _normalized(quote)]
    supported = bool(quotes) and all(_normalized(quote) in _normalized(text) for quote in quotes)
    return effect, line("; ".join(quotes)), float(confidence) if supported else 0.0


def _normalized(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split()).strip(" .\"'")


def _split(question: str) -> tuple[str, str]:
    """(slots, text): slots before and after a question moved to a first line; no slots if some are within the text."""
    words = question.replace(symbols.MARKER, "").strip()
    slots = question.count(symbols.MARKER)
    return (symbols.MARKER * slots + "\n", words) if slots and words in question else ("", question)

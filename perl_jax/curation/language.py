"""Whether the rules can read a text: English and Chinese are known; every other language is not.

English is recognised by its function words and its share of them, not by the absence of others: a text of a language
that nobody thought of is unknown. Sentences are judged one by one, so that a question in two languages is unknown too.
"""

import re
import unicodedata


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that are English alone, then words that other languages have too, then common words of such questions.
_ENGLISH_ALONE = _words_of(
    "the what which who whose where when why how does this that these those there they them their it its you your "
    "with from would could should both each any every between because than into while she he we our many much same "
    "other another one two three four five been being shown answer choose yes red blue green yellow black white "
    "brown dark bright darker brighter bigger smaller larger older younger taller"
)
_ENGLISH = _ENGLISH_ALONE | _words_of(
    "is are was were be am do did has have had can will may might must in on at of to for by as or and not no yes a "
    "an i all some more most less if then so but about after before over under up out only also just first second "
    "third last left right true false image images picture pictures photo photos photograph photographs answer "
    "choose select pick name describe count compare find identify list give tell look see show shows shown color "
    "colour number man woman men women people person animal animals object objects here following options choices "
    "i' none best likely brighter darker bigger smaller larger different similar its numbers letter"
)
_FOREIGN = _words_of(
    "der die das und ist sind nicht ein eine einen dem den des im auf mit welche welches welcher wie viele wer bild "
    "zeigt oder von zu hat le la les du de est sont dans une et quel quelle quelles combien sur avec ou où pour qui "
    "montre plus l' d' c' n' qu' el los las una uno que en es son del cuál cuántos qué con por hay más como il lo gli "
    "che di "
    "della nel nella quale quanti sono con più delle os um uma não qual quantos na no nas são mais em da het een "
    "van welke hoeveel zijn wat op met voor naar meer dan och att är som vilken hur på av den det bilden er hvor "
    "hvilken hvilket og ikke ve bir hangi kaç mi mı resimde w na jest który ile się z czy v je který kolik yang dan "
    "di pada apakah berapa mana gambar dengan ini ada az egy melyik hány van kuva kuvassa mikä monta on ja ce este"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_FORMULA = re.compile(r"\$[^$]*\$|\\[A-Za-z]+|<image(?::\d+)?>|\{images?:[^{}]*\}|\([A-Za-z]\)")
_HAN = re.compile(r"[\u3400-\u9fff]")
_SENTENCE_END = re.compile(r"(?<=\w\w[.!?;])\s|(?<=[?!。！？])|\n")
_READ = (
    "LATIN",
    "FULLWIDTH LATIN",
    "CJK",
    "IDEOGRAPHIC",
    "MATHEMATICAL",
    "GREEK",
    "MODIFIER",
    "SCRIPT",
    "DOUBLE-STRUCK",
)
_SHARE = 0.2  # of the words of an English question that are among the English words above, at least
_GREEK_WORD = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{3,}")


def unknown(question: str, others: tuple[str, ...] = ()) -> str | None:
    """Why the rules cannot read a question with its choices and answer, or None if it is English or Chinese.

    >>> unknown("Which of the two is darker?"), unknown("图2中有几个红色的球？"), unknown("Is it red?", ("不变",))
    (None, None, None)
    >>> unknown("Combien de balles y a-t-il ?"), unknown("2枚目の写真は何色ですか")
    ('a language that the rules do not know', 'letters that the rules do not know: の')
    """
    for text in (question, *others):
        if foreign := _foreign_letter(text):
            return f"letters that the rules do not know: {foreign}"
    question, whole = (_FORMULA.sub(" ", text) for text in (question, "\n".join((question, *others))))
    if not any(known(text) for known in (_chinese, _english) for text in (question, whole)):
        return "a language that the rules do not know"
    if any(foreign >= max(known, 1) for foreign, known in map(_counts, _sentences(question))):
        return "a sentence in a language that the rules do not know"
    if any(foreign > known for text in others for foreign, known in map(_counts, _sentences(_FORMULA.sub(" ", text)))):
        return "choices or an answer in a language that the rules do not know"
    return None


def _sentences(text: str) -> list[str]:
    return _SENTENCE_END.split(text)


def _foreign_letter(text: str) -> str | None:
    """The first letter of a script other than Latin and Chinese; Greek letters are symbols unless they make a word."""
    if greek := _GREEK_WORD.search(text):
        return greek[0]
    letters = (letter for letter in text if letter.isalpha() and ord(letter) > 0x24F)
    return next((letter for letter in letters if not unicodedata.name(letter, "").startswith(_READ)), None)


def _words(text: str) -> list[str]:
    """The words without what follows an apostrophe, "l'" for "l'image"."""
    words = (re.split("['’]", word) for word in _WORD.findall(_HAN.sub(" ", text).casefold()))
    return [head + "'" * (len(head) == 1 and bool(rest)) for head, *rest in words]


def _chinese(text: str) -> bool:
    return len(_HAN.findall(text)) > len(_words(text))


def _english(text: str) -> bool:
    """Whether a text is English, or has no words at all (a formula, a lone letter)."""
    words = [word for word in _words(text) if len(word) > 1 or word in ("a", "i")]
    known = sum(word in _ENGLISH for word in words)
    alone = any(word in _ENGLISH_ALONE for word in words) or known == len(words)
    return alone and known >= _SHARE * len(words)


def _counts(sentence: str) -> tuple[int, int]:
    """(words of other languages, words of English) of a sentence; four or more words without any of English are not."""
    words = [word for word in _words(sentence) if len(word) > 1 or word in ("a", "i", "é")]
    known = sum(word in _ENGLISH for word in words)
    foreign = sum((word in _FOREIGN and word not in _ENGLISH) or not word.isascii() for word in words)
    return (len(words) if len(words) > 3 and not known else foreign), known

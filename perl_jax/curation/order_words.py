"""Words of English text that may depend on the order of the images: of time, of place, lone numbers and letters.

The text is masked: each symbol is "@". A word counts where it may qualify an image or tell a sequence ("the next
picture", "what happened after that?"), not where it belongs to what an image shows ("after a day of fishing", "tilted
to the right"). The harmless uses are listed; any other use counts.
"""

import re

from perl_jax import symbols

NOUN = r"(?:image|picture|photograph|photo|pic|img|screenshot|snapshot)"
# Other things that an image may be called; "chart 2" may also be a name printed within an image.
_THING = (
    rf"(?:{NOUN}|chart|map|diagram|scan|slide|table|page|graph|plot|drawing|painting|sketch|figure|fig|frame|panel|"
    r"scene|view|illustration|poster|card|x-ray|option|sample|example|case|item|shot|sheet|document|plate|exhibit)"
)
ORDINAL = rf"(?:{'|'.join(symbols.ORDINALS)}|\d+(?:st|nd|rd|th)|last|final)"
_OWN = r"(?:his|her|their|its|my|your|our|[a-z]+['’]s)"
_STEP = rf"(?:step|action|move|moment|event|stage|thing|number|{_THING})"

# Cut out of the text before words are looked for.
_HARMLESS = re.compile(
    rf"\bnext to\b|\b{_OWN} next (?!{_STEP}\b)|\bnext (?:day|week|month|year|morning|door|generation)\b|"
    r"\bin order (?:to|for|that)\b|\border to\b|"
    r"\b(?:the|which|each|any|all|none|some|most|one|either) of the following\b|"
    r"\bfollowing (?:\w+ )?(?:images|pictures|photos|photographs|options|choices|statements|questions)\b|"
    r"\b(?:career|life|lifestyle|climate|season|seasonal|social|oil|gear) changes?\b|"
    r"\bchanging (?:seasons?|weather|lights?)\b|\b(?:can|could|may|might) be turned into\b|"
    r"\bchange of (?:clothes|clothing|attire|scenery|pace)\b|"
    r"\bfor the first time\b|\bat first (?:glance|sight)\b|\bfirst (?:aid|name|lady|place|prize|class|floor|person)\b|"
    r"\bsecond (?:floor|hand|language|class|place|prize)\b|\blast (?:name|night|week|month|year|century)\b|"
    r"\bfinal (?:answer|exam)\b|\b(?:first|second) world war\b|\b(?:1[5-9]|20|21)(?:th|st)[ -]century\b|"
    r"\b(?:one|two|a|an)[ -](?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?\b|"
    r"\b(?:window|door|picture|photo|bed|bike|bicycle|metal|wooden|golden?|silver|time) frames?\b(?! ?\d)|"
    r"\b(?:tilt|lean|fac|turn|look|point|mov|head|driv|walk|run|swim|gaz|slant|bend)(?:s|ed|ing|t|e|es)? "
    r"(?:slightly |directly |straight |away )?(?:to(?:wards?)? )?(?:the |its |their |his |her )?(?:left|right)\b"
    r"(?! (?:image|picture|photo|pic|one|hand|side)\b)|"
    r"\b(?:left|right)[ -](?:arm|leg|foot|eye|ear|turn|wing|wheel|shoe|shoulder|knee|paw|wrist|lane|angle|now)s?\b|"
    rf"\b{_OWN} (?:left|right) hands?\b|\bright angled?\b|\b(?:on|to|at|in) the (?:left|right)(?: side)? (?:in|of) @|"
    r"\b(?:to|on) the (?:left|right)(?:[ -](?:hand )?side)? of (?:the|a|an|his|her|their|its) "
    rf"(?!{NOUN}|one|two|three|other|pair|row|set|first|last)\w+|"
    r"\b(?:is|are|was|were) left\b(?! ?(?:of|or|to|\?))|\bstill life\b",
    re.I,
)
# Harmless only where the question names an image or asks for one.
_EVENT = re.compile(
    rf"\b(?:after|before) (?:(?:a|an|the|{_OWN}) (?!@|other|first|second|last|next|change|{_THING})|"
    r"(?!becoming|changing)[a-z]+ing\b)|"
    r"\b[a-z]+ing afterwards?\b|\bbefore[ -]and[ -]after\b(?! each)|[\"“'‘](?:before|after)[\"”'’]|"
    r"\b(?:to|might|could|would|can|should)(?: (?:he|she|they|you|one))? change (?:the|his|her|their|its|your|about)\b",
    re.I,
)
_TIME = re.compile(
    r"\b(?:next|previous|previously|preceding|following|before|after|afterwards?|earlier|later|sequence|order|"
    r"chronological(?:ly)?|temporal(?:ly)?|frames?|change|changed|changes|changing|appeared|disappeared|becomes?|became|"
    r"becoming|initial|initially|eventual|eventually|consecutive|successive|successively|subsequent|subsequently|"
    r"ascending|descending|(?:in|at|from) the (?:start|beginning|end)|turn(?:s|ed)? into|"
    r"(?:will|would|to|could|might|may) happen|happened|happens|in turn|up to now|so far|one by one|in a row)\b",
    re.I,
)
# A difference told from one image to another, in a question that names none and asks for none.
_DIRECTED = re.compile(
    r"\b(?:missing|added|removed|gone|moved|replaced|increased?|decreased?|increasing|decreasing|grown|grew|shrunk|"
    r"no longer|any ?more|transform\w*|evolv\w+|still|again|already|progress(?:es|ed|ion)?|"
    r"new (?:object|thing|item|element|person)s?|"
    r"(?:what|which)(?:['’]s| is| are)? new|did|how (?:has|have|had)|will|(?:about|going) to|now|then|"
    r"zoom\w*|rotated|(?:anti-?|counter-?)?clockwise|"
    r"alter(?:s|ed|ing)|modified|inserted|erased|swapped|substituted|outcome|"
    r"(?:(?:ris|fall|grow|dropp|shrink|melt|declin|improv|worsen|fad|expand)ing|"
    r"(?:rise|fall|grow|drop|shrink|melt|decline|improve|worsen|fade|expand)s?)"
    r"(?= ?(?:$|[?,;.]| (?:over|between|from|across|by)\b))|"
    rf"(?:this|that|the (?:given|current|shown|displayed|left|right)) (?:{NOUN}|one))\b"
    r"|^(?:do|does)\b(?![^?]*\b(?:both|either|each|any|all|every|none|neither|which|images|pictures|photos)\b)"
    r"[^?]*\b(?:turn|burst|open|close|break|fall|enter|leave|stop|start|begin|end|arrive|explode|collapse|spin|move|go|"
    r"come|get|become|pick up|put down|win|lose|finish|increase|decrease|happen|disappear|appear)\b"
    r"|^(?:has|have)\b[^?]*(?:ed|en|gone)\b"
    r"|^(?:is|are|was|were|does|do|did|has|have)\b(?![^?]*\b(?:than|one|both|either|each|any|all|which)\b)[^?]*"
    r"\b(?:(?:more|less) \w+(?=\?)|\w+ier|brighter|darker|bigger|larger|smaller|taller|older|younger|"
    r"closer|farther|higher|wider|longer|shorter|fewer|better|worse|faster|slower|warmer|colder|heavier|lighter)\b",
    re.I | re.M,
)
_ROLE = (
    "original|edited|reference|query|target|source|given|candidate|test|example|modified|updated|input|output|base|main|"
    "current|starting|opposite|remaining|top|bottom|upper|lower|middle|center|centre|leftmost|rightmost|topmost|bottommost|uppermost|lowermost|furthest|above|below|"
    "preceding|adjacent|neighbou?ring"
)
_DEFINED_ROLE = re.compile(
    rf"\b({_ROLE}) {NOUN} is (?:the )?@|@(?: {NOUN})? (?:is|as) (?:the |a )?({_ROLE})(?: {NOUN})?\b", re.I
)
_PLACE = re.compile(
    rf"\b(?:left|right|last|final|former|latter|respectively|{'|'.join(symbols.ORDINALS)}|\d+(?:st|nd|rd|th)|"
    rf"(?:{_ROLE}) (?:{NOUN}|one)\b|the (?:above|below)(?! (?:image|picture|photo|pic|photograph)s)|leftmost|rightmost|"
    r"(?:ante)?penultimate|every other|(?:even|odd)[ -]numbered|(?:top|bottom|upper|lower|middle) (?:row|column)s?|"
    r"(?:taken|shot|captured|recorded) (?:in|at|on) [^.?!]{0,20}[0-9][^.?!]{0,20}? and|"
    rf"(?:{_THING}|one|shown|given) (?:above|below|(?:at|on|to|in) (?:the )?(?:top|bottom|middle|end))|"
    r"in the middle(?! of)|"
    rf"{_THING}s?[ _-]?(?:no\.? ?|number |#|\(|\[)?(?:{'|'.join(symbols.NUMERALS[1:])}))\b|"
    rf"\b(?:{NOUN}|figure|fig\.|panel)s?[ #(]*\d+\b|[①-⑳]",
    re.I,
)
_THE_OTHER = re.compile(
    r"\bthe other\b(?! (?:images|pictures|photos|photographs|pics|ones|settings|scenes|\w+s)\b)", re.I
)
_ONE_OF_TWO = re.compile(r"\b(?:one|either|each|any|neither|which|both)\b", re.I)


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FUNCTION = _words_of(
    "a an the and or nor but than of in on at to for from by with as is are was were be been has have had do does "
    "did can could will would may might must should not that this these those which who what when where why how if "
    "so it they he she there then only also too more most less least very same different both respectively"
)
_VERBS = _words_of(
    "shows contains depicts looks displays features appears seems comes represents includes gets gives makes takes "
    "belongs matches resembles holds wears goes lies stands sits differs illustrates portrays presents captures was "
    "is has does this its his vs versus always perhaps"
)
_PLURALS = _words_of("people men women children feet teeth mice geese sheep fish deer dice percent cm mm km kg")
_LONE_NUMBER = re.compile(r"(?<![\w.,:/$=+*^×÷<>\\-])(?<![=+*^×÷<>] )#?(\d+)(?![\w/%°^-]|[.,:]\d| ?[=+*^×÷])")
_JOINED_NUMBER = re.compile(
    r"(?<![\w.])((?:[a-z]{3,}|(?!mp)(?-i:[A-Za-z][a-z]))[._:-]?|#|no\. ?|nr\. ?|№ ?)(\d+)(?![\w%]|[.,]\d)", re.I
)
_RANGE = re.compile(r"(?<![\w.,:/$-])(\d+)((?:[-–/,]\d+)+)(?![\w:/%-]|[.,]\d)")
_LONE_LETTER = re.compile(r"(?<![A-Za-z0-9'’.\\_{^-])([A-Za-z])(?![A-Za-z0-9'’_}^]|\.[A-Za-z])")
_LETTER_NAME = re.compile(
    r"\b(?:vitamin|hepatitis|points?|angles?|vertex|vertices|lines?|segments?|sides?|triangles?|circle|∠|△)"
    r"(?: [A-Z](?:,| and| or|, and)?)* ?$",
    re.I,
)
_ROMAN = re.compile(r"(?<![\w-])(?:III?|IV|VI{1,3}|IX|iii?|iv|vi{1,3}|ix)(?![\w-])")
_THING_ROMAN = re.compile(
    rf"\b(?i:{_THING})s? \(?(?:i{{1,3}}|iv|vi{{0,3}}|ix|"
    r"I(?=[?.,;:)]|$| and\b| or\b| is\b| has\b| than\b| show))(?![\w-])"
)
_NOUN_LETTER = re.compile(rf"\b(?i:{NOUN})s?[ #(]*[B-HJ-Z]\b(?!['’.]\w)")
_NUMERAL = re.compile(rf"\b(?:{'|'.join(symbols.NUMERALS[1:])})\b", re.I)
_COUNTS_OF = re.compile(
    r"\b(?:the|these|those|which|what|all|any|first|last|other|least|most|between|how|them|its|only|exactly|just|into|"
    r"my|your|his|her|our|their|every|about|by|top) $",
    re.I,
)


def time_words(text: str, anchored: bool) -> list[str]:
    """Words of time in masked text; `anchored`: it names an image or asks for one.

    >>> time_words("What happens next?", False), time_words("Is it next to a window after a day of rain, @?", True)
    (['happens', 'next'], [])
    """
    text = _HARMLESS.sub(" ", text)
    if anchored:
        return _found(_TIME, _EVENT.sub(" ", text))
    return _found(_TIME, text) + _found(_DIRECTED, text)


def place_words(text: str, count: int) -> list[str]:
    """Words of place in masked text, of `count` images.

    >>> place_words("Is the dog on the left?", 2), place_words("Is it tilted to the right?", 2)
    (['left'], [])
    """
    for role in {match[1] or match[2] for match in _DEFINED_ROLE.finditer(text)}:  # "the query image is image 1"
        text = re.sub(rf"\b{role} {NOUN}\b", " ", text)
    other = _THE_OTHER.search(text)
    one = other and (_ONE_OF_TWO.search(text[: other.start()]) or (count == 2 and "@" in text))
    return _found(_PLACE, _HARMLESS.sub(" ", text)) + ([other[0]] if other and not one else [])


def lone_names(text: str, count: int) -> list[str]:
    """Numbers up to `count` and letters in masked text that may be names of images: "1 or 2", "in B", "chart 2", "(a)".

    >>> lone_names("Which is brighter, 1 or 2?", 2), lone_names("Are there 2 cats and a dog?", 2)
    (['1', '2'], [])
    """
    text = re.sub(r"\$[^$]*\$", " ", text)
    numbers = [
        match[0]
        for match in _LONE_NUMBER.finditer(text)
        if _up_to(match[1], count) and not counts_something(text[match.start() :])
    ]
    joined = [
        match[0] for match in _JOINED_NUMBER.finditer(text) if _up_to(match[2], count) and match[0] not in numbers
    ]
    ranges = [
        match[0]
        for match in _RANGE.finditer(text)
        if all(_up_to(number, count) for number in re.findall(r"\d+", match[0]))
        and not _followed_by_things(text[match.end() :])
    ]
    letters = [match[1] for match in _LONE_LETTER.finditer(text) if _names_by_letter(text, match, count)]
    romans = [match[0] for match in _ROMAN.finditer(text) if not _name_before(text[: match.start()])]
    romans += _found(_THING_ROMAN, text) + _found(_NOUN_LETTER, text)
    numerals = [
        match[0]
        for match in _NUMERAL.finditer(text)
        if symbols.NUMERALS.index(match[0].lower()) < count
        and not _followed_by_things(text[match.end() :])
        and not re.match(r" of\b|-", text[match.end() :])
        and not _COUNTS_OF.search(text[: match.start()])
    ]
    return [*numbers, *joined, *ranges, *letters, *romans, *numerals]


def counts_something(text: str) -> bool:
    """Whether the number at the start of a text is a quantity: "3 red cats", "1 hour", not "1 is", "2 shows".

    >>> counts_something("3 red cats are there"), counts_something("2 shows cats"), counts_something("2, or 3.")
    (True, False, False)
    """
    number = re.match(r"#?(\d+)", text)
    rest = text[number.end() :]
    listed = re.match(r"(?:,? (?:or|to) |, )(\d+)(?= \w)", rest)
    if listed and counts_something(rest[listed.start(1) :]):
        return True
    if number[0].startswith("#"):
        return False
    return _followed_by_things(rest) or bool(
        re.match(r" (?:hour|minute|second|day|week|month|year|meter|metre|am|pm|cm|mm|km|kg|m|g|degree|%|°)\b", rest)
    )


def _followed_by_things(rest: str) -> bool:
    """Whether a plural noun follows, at most two words later."""
    words = re.match(r"(?:[ -][a-z][a-z-]*){1,3}", rest)
    for word in words[0].replace("-", " ").split() if words else ():
        if word in _FUNCTION or word in _VERBS:
            return False
        if word in _PLURALS or (word.endswith("s") and not word.endswith(("ss", "us", "is"))):
            return True
    return False


def _up_to(number: str, count: int) -> bool:
    return 1 <= int(number) <= count if len(number) < 4 else False


def _names_by_letter(text: str, match: re.Match, count: int) -> bool:
    """Whether a lone letter may name an image: not an article, not "I", not a point of geometry."""
    letter, before, after = match[1], text[: match.start()], text[match.end() :]
    if not letter.isascii() or symbols.letter_place(letter) >= count:
        return False
    if letter in "aA" and (word := re.match(r"(?: |, )[\"“'‘(]*([A-Za-z@-]+|\d)", after)):
        article = word[1].lower() not in _FUNCTION - {"very", "most", "different", "less", "more", "least"}
        starts = not before.strip() or before.rstrip()[-1] in ".!?:;\"“'‘("
        if article and word[1].lower() not in _VERBS and (letter == "a" or starts or before.endswith("\n")):
            return False
    if re.match(r" ?[=+*/^<>]", after) or re.search(r"[=+*/^<>] ?$", before):
        return False
    return not _LETTER_NAME.search(before)


def _name_before(before: str) -> bool:
    """Whether a capitalised word that is no name of a picture comes before: "World War II"."""
    word = re.search(r"\b([A-Z][a-z]+) $", before)
    return bool(word) and not re.fullmatch(_THING, word[1], re.I)


def _found(pattern: re.Pattern, text: str) -> list[str]:
    return list(dict.fromkeys(match[0] for match in pattern.finditer(text)))

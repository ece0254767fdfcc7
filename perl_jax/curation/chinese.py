"""References to images in Chinese ("图2", "第二张图", "左图", "最后一张照片"), and words that depend on the order."""

import re
from collections.abc import Callable

from perl_jax import symbols

Place = Callable[[int], int | None]  # index of an image by its number in the text, None past the last image

_NUMBER = rf"(?:[1-9]\d*(?![.,]?\d)|[{''.join(symbols.CHINESE)}](?![样樣起共些致直定般种種边邊旁切十百]))"
_MEASURE = "[张張幅个個]"
_NOUN = r"(?:(?<![地版企试試意草蓝藍拼构構插绘繪])[图圖](?:[片像])?|照片|相片|截[图圖])"
_AND = r"(?:[、,，和与與或及跟]|以及|还是|還是| ?& ?| ?/ ?)"
_STOP = r"(?![.:/]?\d|[二三四五六七八九十百][张張幅个個])"

# Group 1 is kept, group 2 holds the numbers, letters or words to replace.
_NUMBERED = re.compile(rf"({_NOUN} ?[(（]?)({_NUMBER}(?:{_AND}{_NUMBER})*){_STOP}(?!\d|[-–—~～至到])")
_LETTERED = re.compile(rf"({_NOUN} ?[(（]?)([A-Z](?:{_AND}[A-Z])*)(?![A-Za-z])")
_COUNTED = (
    r"(?:[张張幅](?=[图圖照相中里裏上的是比和与與还還更有吗嗎?？,，。.、]|$)|[个個](?=[图圖照相]))"  # not 第二张桌子
)
_NTH = re.compile(
    rf"()((?:(?<!倒[数數])第{_NUMBER}|最后一)(?={_COUNTED})|(?<!倒[数數])第{_NUMBER}(?:{_AND}第?{_NUMBER})+(?={_COUNTED}))"
)
_SIDE = re.compile(r"()([左右])(?=[图圖])")

ASKS_FOR_IMAGE = re.compile(rf"哪(?:一|几|幾|两|兩|些)?{_MEASURE}?(?:{_NOUN})|哪(?:一|几|幾|两|兩)?[张張幅]")
_BARE = re.compile(rf"()(第?{_NUMBER}|最后一)((?:{_MEASURE}(?:{_NOUN})?)?。?)")

# Words that may depend on the order, and what only looks like them: counts, parts of other words.
_HARMLESS = re.compile(
    r"一[样樣起共些致直定般种種旁切生下]|[唯同任每哪某统統单單其]一|第一[次印人]|以[上下]|下列|上述|先生|优先|祖先|"
    r"[向朝往][左右]|[左右](?:手|脚|腳|腿|眼|耳|转|轉)|[二三四五六七八九十](?:角|边形|邊形|维|維|方形|季)|十[分字]|百分之|"
    rf"(?<![前后後上下另第])(?:[\d两兩{''.join(symbols.CHINESE)}几幾多]|\d\d+) ?"
    r"(?:个|個|只|隻|条|條|本|位|人|辆|輛|朵|颗|顆|棵|块|塊|名|件|种|種|杯|头|頭|匹|座|架|支|把|双|雙|根|片|层|層|岁|歲|"
    r"年|月|日|点|點|米|厘米|千米|克|元|度|倍|次|处|處|者|张|張|幅)"
)
_WORDS = re.compile(
    r"另外|(?<!其)中[图圖]|倒[数數]|[前后後上下另][一两兩几幾]?[张張幅个個]?[图圖]|[前后後上下另][一两兩几幾]?[张張幅]|前者|后者|後者|另一个|另一個|"
    r"[上下左右][图圖面边邊侧側方]|[前后後]面|左|右|中间|中間|之前|之后|之後|以前|以后|以後|接下来|接下來|接着|接著|然后|然後|随后|"
    r"最后|最後|最初|最终|最終|首先|起初|开始|開始|结束|結束|先|后来|後來|已经|已經|顺序|順序|次序|依次|分别|分別|"
    r"变|變|发生|發生|过程|過程|阶段|階段|帧|幀|视频|視頻|动态|增加|减少|減少|缺少|少了|多了|消失|出现|出現|移动|移動|"
    r"[这這那该該本此][一]?(?:张|張|幅|个|個)?(?:图|圖|照片|相片|画面)|[这這那][张張幅]|原[图圖]|参考|參考|"
    rf"[甲乙丙丁]|第\s?{_NUMBER}|[①-⑳㈠-㈩]|其他|其它|其余|其餘"
)
_LONE_NUMBER = re.compile(rf"(?<![.\d]){_NUMBER}")
_SPEAKS = re.compile(
    rf"(?:{_NOUN})(?:\s?{_NUMBER}|[中里裏上]|所示)|[如下上][图圖]|哪[一几幾些]?[张張幅]|[两兩几幾{''.join(symbols.CHINESE)}\d]张(?:图|照片)|"
    r"[这這些]+[张張幅]?(?:图|圖|照片)"
)


def to_symbols(text: str, place: Place, count: int, sub: Callable) -> str:
    """Replaces Chinese references to images by symbols; `sub(pattern, replace, text)` spares what is a symbol already.

    A list with a missing image is left unchanged.
    """
    for pattern in (_NUMBERED, _LETTERED, _NTH):
        text = sub(pattern, lambda match: _listed(match, place) or match[0], text)
    if count == 2:
        text = sub(_SIDE, lambda match: symbols.mention("左右".index(match[2]), "chinese_side"), text)
    return text


def bare(answer: str, place: Place) -> str | None:
    """An answer that is a reference alone, "第二张" or "二", with its symbol; None if it is none."""
    match = _BARE.fullmatch(answer)
    return match and ((replaced := _replaced(match[2], place)) and replaced + match[3])


def missing_image(text: str, count: int) -> str | None:
    """The first reference to an image past the last one."""
    matches = [*_NUMBERED.finditer(text), *_NTH.finditer(text)]
    numbers = ((match[0], _value(item)) for match in matches for item in re.findall(_NUMBER, match[2]))
    return next((words for words, number in numbers if not 1 <= number <= count and "最后" not in words), None)


def speaks_of_images(text: str) -> str | None:
    """The first words that speak of an image."""
    match = _SPEAKS.search(text)
    return match and match[0]


def order_words(text: str, count: int) -> list[str]:
    """Words that may depend on the order of `count` images, in text whose symbols are masked by "@".

    >>> order_words("@中有3个红色的球，有一样的吗？", 3), order_words("后一张图中有什么？1还是2？", 3)
    ([], ['后一张图', '1', '2'])
    """
    if not re.search(r"[\u3400-\u9fff]", text):
        return []
    text = _HARMLESS.sub("，", text)
    numbers = [number for number in _LONE_NUMBER.findall(_WORDS.sub("，", text)) if 1 <= _value(number) <= count]
    return [match[0] for match in _WORDS.finditer(text)] + numbers


def _value(number: str) -> int:
    return int(number) if number.isdigit() else symbols.CHINESE.index(number) + 1


def _listed(match: re.Match, place: Place) -> str | None:
    replaced = _replaced(match[2], place)
    return None if replaced is None else match[1] + replaced


def _replaced(items: str, place: Place) -> str | None:
    """A list of numbers, numerals, letters or "最后一" with a symbol for each; None if an image is missing."""
    if items == "最后一":
        return symbols.mention(place(-1), "chinese_nth")
    places = []

    def symbol(match: re.Match) -> str:
        item = match[0]
        if item.isascii() and item.isalpha():
            number, style = symbols.letter_place(item) + 1, "letter"
        else:
            number, style = _value(item), "number" if item.isdigit() else "chinese"
        places.append(at := place(number) if number > 0 else None)
        return item if at is None else symbols.mention(at, style)

    replaced = re.sub(rf"\d+|[{''.join(symbols.CHINESE)}]|[A-Z]", symbol, items)
    return None if None in places else replaced

"""Chinese references become symbols that give the words back; words that depend on the order are found."""

import doctest

import pytest

from perl_jax import symbols
from perl_jax.curation import chinese
from perl_jax.curation.references import answer_to_symbols, label, missing_image, to_symbols


def test_examples():
    assert doctest.testmod(chinese).attempted and not doctest.testmod(chinese).failed


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("图2中有几只猫？", [1]),
        ("圖 3 是什麼？", [2]),
        ("图片二和图片三", [1, 2]),
        ("第二张图", [1]),
        ("第1幅图", [0]),
        ("图1、3", [0, 2]),
        ("图一和二一样吗？", [0, 1]),
        ("第一、三张图一样吗？", [0, 2]),
        ("最后一张照片", [2]),
        ("图B", [1]),
        ("照片（2）", [1]),
        ("如图2所示", [1]),
        ("第二张是猫吗？", [1]),
        ("图A和B", [0, 1]),
        ("两张图一样吗？", []),
        ("地图2", []),
        ("第二张桌子", []),
        ("倒数第二张图", []),
        ("图4", []),
        ("图中有3个人", []),
        ("图01", []),
        ("左图", []),
        ("图2.5", []),
        ("第二个人", []),
    ],
)
def test_to_symbols(text, places):
    stored = to_symbols(text, 3)
    assert symbols.mentioned(stored) == places and symbols.words(stored, 3) == text


def test_left_and_right_of_two():
    assert to_symbols("左图和右图", 2) == "{image:0|chinese_side}图和{image:1|chinese_side}图"
    assert symbols.words(symbols.move("{image:2|chinese_nth}张图", (1, 2, 0)), 3) == "第一张图"


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        ("2", "{image:1|number}"),
        ("二", "{image:1|chinese}"),
        ("第二张", "第{image:1|chinese}张"),
        ("图2。", "图{image:1|number}。"),
        ("猫", "猫"),
        ("四", "四"),
    ],
)
def test_answers(answer, stored):
    assert answer_to_symbols(answer, "哪张图更亮？", 3) == stored


@pytest.mark.parametrize(
    "text",
    [
        "后一张图是什么？",
        "下图中有什么？",
        "前两张图一样吗？",
        "另一张图是什么？",
        "1和2哪个更亮？",
        "一和二哪个更亮？",
        "前者是猫吗？",
        "左边的是什么？",
        "接下来会怎样？",
        "有什么变化？",
        "图②中是什么？",
        "甲图是什么？",
        "这张照片里有什么？",
        "A和B哪个更亮？",
        "2号是什么？",
        "第二个是什么？",
        "顺序是什么？",
        "地图2是什么？",
        "图1-3中有什么？",
        "倒数第二张是什么？",
    ],
)
def test_what_depends_on_the_order_is_fixed(text):
    assert label(to_symbols(text, 3), [], "猫", 3).order_effect == "fixed"


@pytest.mark.parametrize(
    "text",
    ["这些图片中一共有几只猫？", "所有图片里都有猫吗？", "两张图一样吗？", "有3个红色的球吗？", "以下图片中有猫吗？"],
)
def test_what_names_no_image_is_invariant(text):
    assert label(to_symbols(text, 3), [], "是", 3).order_effect == "invariant"


def test_missing_images_are_named():
    assert missing_image("图5是什么？", 3) and missing_image("第四张图呢？", 3) and not missing_image("图3是什么？", 3)


def test_what_speaks_of_images():
    assert chinese.speaks_of_images("哪张图更亮？") and not chinese.speaks_of_images("他拍了三天，一共几次？")

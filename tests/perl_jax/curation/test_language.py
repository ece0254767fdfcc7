"""English and Chinese are read; a text in any other language, or of two languages, is said to be unknown."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perl_jax.curation import language
from perl_jax.curation.language import unknown

ENGLISH = (
    "Is it red?",
    "Which of the two is darker?",
    "How many cats are there in total?",
    "Name the animal shown.",
    "Describe the café that the naïve painter Dvořák shows.",
    "Which sign says 'Ausgang'?",
    "What is $\\frac{1}{2}\\alpha$?",
    "",
    "x = 3 + 4",
    "Which image would be best for a person who likes hiking?",
)
OTHERS = (
    "Quelle est la couleur du chat ?",
    "Welche Farbe hat die Katze?",
    "¿De qué color es el gato?",
    "Di che colore è il gatto?",
    "Qual é a cor do gato?",
    "Welke kleur heeft de kat?",
    "Vilken färg har katten?",
    "Hangi kedi daha büyük?",
    "Jakiego koloru jest kot?",
    "Apa warna kucing itu?",
    "Con mèo màu gì?",
    "Milyen színű a macska?",
    "Minkä värinen kissa on?",
    "Ce culoare are pisica?",
    "Paka ana rangi gani?",
    "Какого цвета кошка?",
    "猫は何色ですか",
    "고양이는 무슨 색입니까?",
    "ما لون القطة؟",
    "מה צבע החתול?",
    "แมวสีอะไร",
    "बिल्ली का रंग क्या है?",
    "Τι χρώμα έχει η γάτα;",
)


def test_examples():
    assert doctest.testmod(language).attempted and not doctest.testmod(language).failed


@pytest.mark.parametrize("text", [*ENGLISH, "猫是什么颜色的？", "圖片裡有幾隻貓？", "LED灯亮了几个？"])
def test_known(text):
    assert unknown(text) is None


@pytest.mark.parametrize("text", OTHERS)
def test_unknown(text):
    assert unknown(text)
    assert unknown(f"{text} Is it true of the cat?") and unknown(f"Is it true of the cat? {text}")


@pytest.mark.parametrize(
    "choice", ["la segunda imagen", "das zweite Bild", "l'image de droite", "вторая", "二枚目の写真"]
)
def test_choices_of_other_languages_are_unknown(choice):
    assert unknown("Which one is it?", ("the first one", choice))
    assert unknown("Which one is it?", ("a golden retriever", "不变", "a café")) is None


@given(st.text(st.sampled_from("яжфほやハ한글ابدहपกขαβγ"), min_size=3))
def test_letters_of_other_scripts_are_unknown(text):
    assert unknown(f"Which of the two says {text}?")

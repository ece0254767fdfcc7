"""The README's picture is drawn from what a run logs."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import picture


def group(answers=("1", "2"), rewards=((1.0, 0.1), (0.1, 0.1)), images=3):
    return {
        "id": "q",
        "orders": [list(range(images)), [1, 0, *range(2, images)]],
        "questions": ["<image>" * images + "Which image shows 9?"] * 2,
        "answers": list(answers),
        "responses": [["\\boxed{1} for $5", "a long answer " * 9]] * 2,
        "rewards": [list(row) for row in rewards],
        "advantages": (np.array(rewards) - np.mean(rewards)).tolist(),
    }


def test_the_group_shows_what_permuting_does():
    silent, still, small, good = group(rewards=((1, 1), (1, 1))), group(answers=("1", "1")), group(images=2), group()
    assert picture.chosen(iter([silent, still, small, good])) is good
    with pytest.raises(SystemExit, match=r"run `bash launch/demo.sh` first"):
        picture.chosen(iter([silent, still, small]))


def test_it_is_drawn(tmp_path):
    shown = [Image.fromarray(np.full((28, 28, 3), 80 * i, np.uint8)) for i in range(3)]
    picture.draw(group(), shown, tmp_path / "docs" / "perl.png")
    with Image.open(tmp_path / "docs" / "perl.png") as drawn:
        assert drawn.width > 800 and len(drawn.convert("RGB").getcolors(1 << 20)) > 20

"""Published figures for the eight benchmarks, as data, each with its source.

Two models from the table in the authors' repository; it has no row trained by GRPO alone. It does not state the prompt,
judge and averaging behind its figures, so our figures are not measured in the same way.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

BENCHMARKS = {  # columns of the table, in its order: our name of the benchmark, and the table's
    "mantis_eval": "Mantis-Eval",
    "blink": "BLINK",
    "mmiu": "MMIU",
    "mathvista": "MathVista",
    "mathverse": "MathVerse",
    "mathvision": "MathVision",
    "remi": "ReMI",
    "mv_math": "MV-MATH",
}
SOURCES = {
    "readme": 'github.com/alchemistyzz/PeRL, README.md, table "Performance Summary"',
    "unplaced": "a second figure that is in circulation for this cell; where it was printed could not be checked",
    "blink report": "Qwen2.5-VL technical report (arXiv 2502.13923), quoted in github.com/QwenLM/Qwen3-VL/issues/1370",
    "mathverse report": "Qwen2.5-VL's own report, quoted in github.com/Fancy-MLLM/R1-Onevision/issues/16",
    "onevision": "R1-Onevision's table, quoted in github.com/Fancy-MLLM/R1-Onevision/issues/16",
}


class Figure(NamedTuple):
    """A figure as printed, in percent."""

    value: float
    source: str  # a key of SOURCES
    decimals: int = 2  # number printed

    def __str__(self) -> str:
        return f"{self.value:.{self.decimals}f}"


class Model(NamedTuple):
    """A row of the table; each cell has the table's own figure first, then those that disagree with it."""

    name: str
    cells: Mapping[str, tuple[Figure, ...]]
    mean: Figure  # as printed in the table

    def computed(self, benchmarks: Collection[str] = tuple(BENCHMARKS)) -> float:
        """The mean of the table's own figures for `benchmarks`, in percent; NaN for none.

        >>> [f"{model.computed():.2f}" for model in MODELS], [str(model.mean) for model in MODELS]
        (['46.80', '51.13'], ['47.90', '51.13'])
        """
        values = [self.cells[name][0].value for name in benchmarks]
        return math.fsum(values) / len(values) if values else math.nan


def _row(*values: float, **others: tuple[Figure, ...]) -> dict[str, tuple[Figure, ...]]:
    cells = {name: (Figure(value, "readme"),) for name, value in zip(BENCHMARKS, values, strict=True)}
    return {name: cell + others.get(name, ()) for name, cell in cells.items()}


MODELS = (
    Model(
        "Qwen2.5-VL-7B",
        _row(
            70.80,
            55.23,
            52.00,
            68.20,
            46.30,
            25.07,
            36.38,
            20.41,
            mantis_eval=(Figure(71.5, "unplaced", 1),),
            blink=(Figure(56, "blink report", 0),),
            mathverse=(Figure(49.2, "mathverse report", 1), Figure(37.35, "onevision")),
        ),
        Figure(47.90, "readme"),
    ),
    Model("PeRL-7B", _row(76.39, 58.53, 54.23, 73.00, 49.56, 28.26, 43.38, 25.68), Figure(51.13, "readme")),
)

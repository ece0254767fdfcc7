"""Plots of several models' results: accuracy, flip rates beside their control, and accuracy by position.

Each model has a colour, named in the legend beside the plots (`html.legend`). Plots contain no model or data text.
"""

from collections.abc import Mapping, Sequence

from perl_jax.evaluation import published
from perl_jax.evaluation.results import Key, Model
from perl_jax.evaluation.statistics import Estimate
from perl_jax.runtime import html
from perl_jax.runtime.html import COLOURS, Html, element

Dot = tuple[int, Estimate, bool]  # index of the model, value, filled marker or not


def figures(models: Sequence[Model], keys: Sequence[Key]) -> list[Html]:
    """The plots that have data, for the benchmarks and protocols `keys` in their order."""
    accuracy = {key: _dots(models, key, lambda result: [(result.headline, True)]) for key in keys}
    flips = {key: dots for key in keys if (dots := _dots(models, key, lambda result: _flips(result.consistency)))}
    printed = "".join(f", {mark} {model.name}" for mark, model in zip("◇◆", published.MODELS))
    grey = f"; grey: as printed{printed}" * any(name in published.BENCHMARKS for name, _ in keys)
    out = [(f"accuracy{grey}", _rows(accuracy, printed=True))]
    if flips:
        out.append(("flip rate ●, and of the same order asked again ○", _rows(flips)))
    for key in keys:
        consistencies = {i: model.results[key].consistency for i, model in enumerate(models) if key in model.results}
        if lines := {
            i: consistency["places"]
            for i, consistency in consistencies.items()
            if consistency and consistency["places"]
        }:
            out.append((f"accuracy by place of the decisive image: {', '.join(key)}", _places(lines)))
    return [element("figure", element("figcaption", title), plot) for title, plot in out]


def _dots(models: Sequence[Model], key: Key, read) -> list[Dot]:
    return [
        (i, estimate, filled)
        for i, model in enumerate(models)
        if key in model.results
        for estimate, filled in read(model.results[key])
        if estimate.questions
    ]


def _flips(consistency: Mapping | None) -> list[tuple[Estimate, bool]]:
    if not consistency:
        return []
    control = [(Estimate.from_json(consistency["control"]["flip"]), False)] if consistency["control"]["drawn"] else []
    return [(Estimate.from_json(consistency["flip"]), True), *control]


def _rows(dots: Mapping[Key, Sequence[Dot]], printed: bool = False) -> Html:
    """One line per benchmark, with each model's dots and intervals one below the other."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    count = 1 + max((i for each in dots.values() for i, _, _ in each), default=0)
    figure = Figure(figsize=(4.2, 0.7 + len(dots) * (0.25 + 0.15 * count)), layout="constrained")
    axes = figure.subplots()
    for place, (key, each) in enumerate(dots.items()):
        for i, (mean, low, high, _), filled in each:
            y, colour = place + 0.7 * ((i + 0.5) / count - 0.5) + (0 if filled else 0.2 / count), _colour(i)
            axes.plot([low, high], [y, y], color=colour, alpha=0.9 if filled else 0.4)
            axes.plot(mean, y, "o", markersize=5, color=colour, fillstyle="full" if filled else "none")
        for model, fill in zip(published.MODELS, ("none", "full")) if printed else ():
            at = [figure.value / 100 for figure in model.cells.get(key[0], ())[:1]]
            axes.plot(at, [place + 0.42] * len(at), "D", markersize=3.5, color="#8c959f", fillstyle=fill)
    axes.set_yticks(range(len(dots)), [", ".join(key) for key in dots], parse_math=False)
    axes.set_ylim(len(dots) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return _finished(figure, axes)


def _places(lines: Mapping[int, Sequence[Mapping]]) -> Html:
    """One line per model over the positions of the decisive image, from 1."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    axes = figure.subplots()
    for i, places in lines.items():
        estimates = [Estimate.from_json(place["accuracy"]) for place in places]
        at = [place["place"] + 1 + 0.06 * i for place in places]
        spread = [
            [estimate.mean - estimate.low for estimate in estimates],
            [estimate.high - estimate.mean for estimate in estimates],
        ]
        axes.errorbar(at, [estimate.mean for estimate in estimates], spread, marker="o", markersize=4, color=_colour(i))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("shown as image", fontsize=9)
    return _finished(figure, axes)


def _finished(figure, axes) -> Html:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=9)
    return html.plot(figure)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]

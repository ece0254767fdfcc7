"""What a comparison of training runs comes to: a sentence, and a plot of one order against the others.

A run may gain in the order that its data has, and lose in others, so both accuracies belong side by side.
"""

from collections.abc import Sequence

from perl_jax.evaluation import statistics
from perl_jax.runtime import html
from perl_jax.runtime.html import COLOURS, Html

IN_ORDERS = {"permuted": "in other orders of the images", "accuracy": "in the original order"}


def sentence(results: Sequence[statistics.Result]) -> str:
    """How the last run stands to the others, in other orders of the images and in the original one.

    A difference counts where its paired 95% interval over questions excludes 0. Empty where there is nothing to say:
    the last run has no questions in several orders.
    """
    measured = {result.name: statistics.measures(result.rows) for result in results}
    last, parts = results[-1].name, []
    for measure, where in IN_ORDERS.items():
        if not measured[last][measure]:
            return ""
        groups: dict[str, list[str]] = {"more than": [], "less than": [], "no different from": []}
        for name, values in measured.items():
            found = statistics.difference(measured[last][measure], values[measure])
            if name != last and found.questions:
                better = "more than" if found.mean > 0 else "less than"
                groups[better if found.separated else "no different from"].append(name)
        mean = statistics.proportion(measured[last][measure]).mean
        compared = [f"{words} {_listed(names)}" for words, names in groups.items() if names]
        parts.append(", ".join([f"{100 * mean:.1f}% {where}", *compared]))
    return f"{last} answers {'; and '.join(parts)}."


def plot(results: Sequence[statistics.Result]) -> Html | None:
    """Permuted accuracy against accuracy in the original order, with 95% intervals; None without such questions."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes, empty = figure.subplots(), True
    for i, result in enumerate(results):
        measured = statistics.measures(result.rows)
        if measured["accuracy"] and measured["permuted"]:
            x, y = (statistics.proportion(measured[name]) for name in ("accuracy", "permuted"))
            spreads = {f"{axis}err": [[of.mean - of.low], [of.high - of.mean]] for axis, of in (("x", x), ("y", y))}
            axes.errorbar(x.mean, y.mean, fmt="o", color=COLOURS[i % len(COLOURS)], elinewidth=0.8, **spreads)
            empty = False
    if empty:
        return None
    for axis, label in ((axes.xaxis, "accuracy, original order"), (axes.yaxis, "accuracy, other orders")):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_label_text(label, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=9)
    return html.plot(figure)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

"""How far two labellings of the same questions agree: the rules' `order_effect` and a language model's."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from perl_jax import records, statistics
from perl_jax.endpoint import line


def markdown(labels: Iterable[tuple[str, str, str]], examples: int = 2) -> str:
    """A table of the labels, Cohen's kappa, and examples of where they differ.

    Args:
        labels: (by the rules, by the model, the question) of each question that both have labelled.
        examples: most questions shown of each kind of difference.
    """
    counts, shown = Counter(), defaultdict(list)
    for rules, model, question in labels:
        counts[rules, model] += 1
        if rules != model and len(shown[rules, model]) < examples:
            shown[rules, model].append(line(question))
    effects, total = records.ORDER_EFFECTS, counts.total()
    if not total:
        return "No question was labelled both by the rules and by the model."
    rows = [[f"rules: {rules}", *(str(counts[rules, model]) for model in effects)] for rules in effects]
    equal = sum(counts[effect, effect] for effect in effects)
    parts = [statistics.Table(["", *(f"model: {model}" for model in effects)], rows).markdown(),
             f"{equal} of {total} labels agree ({equal / total:.0%}); Cohen's kappa {_kappa(counts)}."]  # fmt: skip
    for (rules, model), questions in sorted(shown.items(), key=lambda item: -counts[item[0]]):
        quoted = "; ".join(f'"{question}"' for question in questions)
        parts.append(f"{rules} by the rules, {model} by the model: {counts[rules, model]}, such as {quoted}")
    return "\n\n".join(parts)


def _kappa(counts: Counter) -> str:
    """Agreement beyond what the two labellings' shares alone would give (Cohen 1960)."""
    rules, model, equal = Counter(), Counter(), 0
    for (by_rules, by_model), number in counts.items():
        rules[by_rules] += number
        model[by_model] += number
        equal += number * (by_rules == by_model)
    total = counts.total()
    by_chance = sum(rules[label] * model[label] for label in rules) / total**2
    return "undefined (one label only)" if by_chance == 1 else f"{(equal / total - by_chance) / (1 - by_chance):.2f}"

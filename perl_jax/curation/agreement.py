"""Agreement between two labellings of the same questions: `order_effect` by rules and by a language model."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from perl_jax import records
from perl_jax.evaluation import statistics
from perl_jax.runtime.chat_endpoint import line


def markdown(labels: Iterable[tuple[str, str, str]], examples: int = 2) -> str:
    """A confusion matrix of the labels, Cohen's kappa, and examples of disagreements.

    Args:
        labels: (by rules, by the model, the question) for each question labelled by both.
        examples: most questions shown for each kind of disagreement.
    """
    from sklearn.metrics import cohen_kappa_score  # takes 1 s to import

    counts, disagreements = Counter(), defaultdict(list)
    for rules, model, question in labels:
        counts[rules, model] += 1
        if rules != model and len(disagreements[rules, model]) < examples:
            disagreements[rules, model].append(line(question))
    effects, total = records.ORDER_EFFECTS, counts.total()
    if not total:
        return "No question was labelled both by the rules and by the model."
    rows = [[f"rules: {rules}", *(str(counts[rules, model]) for model in effects)] for rules in effects]
    equal = sum(counts[effect, effect] for effect in effects)
    kappa = "undefined (one label only)"
    if len({label for pair in counts for label in pair}) > 1:
        kappa = f"{cohen_kappa_score(*zip(*counts), sample_weight=list(counts.values())):.2f}"
    parts = [
        statistics.Table(["", *(f"model: {model}" for model in effects)], rows).markdown(),
        f"{equal} of {total} labels agree ({equal / total:.0%}); Cohen's kappa {kappa}.",
    ]
    for (rules, model), questions in sorted(disagreements.items(), key=lambda item: -counts[item[0]]):
        quoted = "; ".join(f'"{question}"' for question in questions)
        parts.append(f"{rules} by the rules, {model} by the model: {counts[rules, model]}, such as {quoted}")
    return "\n\n".join(parts)

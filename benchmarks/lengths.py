"""The cost of prompts of all lengths in one call: `python -m benchmarks.lengths`.

Twenty short prompts of 20 to 60 tokens and one of 2,000, eight samples each: in one call, and in two, one for the short
prompts and one for the long one. Before commit 94cf8d1, all prompts of a call were padded to the longest.
"""

import numpy as np

from benchmarks import workload
from perl_jax import rollout

BEFORE = "10 to 21"  # times both apart
SHORT, LONG, SAMPLES, TOKENS, ROUNDS = 20, 2000, 8, 32, 5


def main() -> None:
    rng, model = np.random.default_rng(0), workload.model()
    short = [workload.prompt([], length, rng) for length in rng.integers(20, 61, SHORT).tolist()]
    long = [workload.prompt([], LONG, rng)]

    def call(prompts, first=0):
        return rollout.generate(model, prompts, SAMPLES, TOKENS, ids=first + np.arange(len(prompts)))

    together = call(short + long).tokens
    if not np.array_equal(together, np.concatenate([call(short).tokens, call(long, SHORT).tokens])):
        raise SystemExit("tokens differ")
    seconds = workload.alternate(
        {"short": lambda: call(short), "long": lambda: call(long), "together": lambda: call(short + long)}, ROUNDS
    )
    apart = seconds["short"] + seconds["long"]
    workload.table(("prompts", "seconds"), ((name, f"{value:.3f}") for name, value in seconds.items()))
    ratio = seconds["together"] / apart
    workload.conclude(f"prompts of 20 to 2,000 tokens in one call: {ratio:.2f} times both apart ({BEFORE} before)")


if __name__ == "__main__":
    main()

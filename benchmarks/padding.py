"""Share of padding in an update: `python -m benchmarks.padding` (counts tokens, computes nothing).

64 questions in two orders with six responses each, on two sets. Ragged: prompts of 60 to 200 tokens, responses
log-normal with median 33 (at most 256). Skewed: prompts of 60 to 90 tokens but 600 for one in ten, responses of 16 to
32 tokens but 256 for one in ten. Packed into rows of 2,048 tokens, two per micro-batch, compared with one row per
rollout, and with shared prompts whose responses are all padded to the longest.
"""

import numpy as np

from benchmarks import workload
from perl_jax.engine import tree_packing

QUESTIONS, ORDERS, ROLLOUTS, ROWS, ROW_TOKENS = 64, 2, 6, 2, 2048


def ragged(rng: np.random.Generator):
    """(prompt lengths [O], response lengths [O, G])"""
    responses = np.clip(rng.lognormal(3.5, 0.7, (ORDERS, ROLLOUTS)), 1, 256).astype(int)
    return rng.integers(60, 200, ORDERS), responses


def skewed(rng: np.random.Generator):
    prompt = 600 if rng.random() < 0.1 else rng.integers(60, 90)
    shape = (ORDERS, ROLLOUTS)
    return np.full(ORDERS, prompt), np.where(rng.random(shape) < 0.1, 256, rng.integers(16, 32, shape))


def main() -> None:
    table, shares = [], []
    for lengths in (ragged, skewed):
        rng, groups = np.random.default_rng(0), []
        lengths_drawn = [lengths(rng) for _ in range(QUESTIONS)]
        for prompts, responses in lengths_drawn:
            ids = [rng.integers(0, workload.WORDS, n) for n in prompts]
            answers = [[rng.integers(0, workload.WORDS, n) for n in row] for row in responses]
            groups.append(tree_packing.Group([], [()] * ORDERS, ids, answers, np.zeros((ORDERS, ROLLOUTS))))
        forest = tree_packing.pack(workload.CONFIG, groups, ROWS, ROW_TOKENS, None, None)
        prompt = np.array([prompts for prompts, _ in lengths_drawn])
        response = np.array([responses for _, responses in lengths_drawn])
        shared = prompt.sum() + response.sum()
        dense = prompt.size * (prompt.max() + ROLLOUTS * response.max())
        single = (prompt * ROLLOUTS).sum() + response.sum(), response.size * (prompt.max() + response.max())
        table.append(
            (
                lengths.__name__,
                f"{shared:,}",
                f"{forest.padding:.1%}",
                f"{1 - shared / dense:.1%}",
                f"{1 - single[0] / single[1]:.1%} of {single[1] / shared:.1f} times as many",
            )
        )
        shares.append(f"{forest.padding:.0%} of the {lengths.__name__} set")
    columns = ("set", "tokens", "packed trees", "responses padded on shared prompts", "a padded row a rollout")
    workload.table(columns, table)
    workload.conclude(f"an update's tokens that are padding: {', '.join(shares)}")


if __name__ == "__main__":
    main()

"""Number of compilations in a ragged run: `python -m benchmarks.compilations`.

60 ragged steps. Each samples responses to 24 prompts (12 questions in two orders, with one to three images with sides
of 28 to 84 pixels and 5 to 60 tokens of text), and takes an optimizer step on responses of 1 to 32 tokens. Lengths are
drawn anew for each step, but fall into few compiled shapes. The table shows, for every ten steps, the number of
programs compiled and the compile time.
"""

import time
from collections.abc import Iterator

import numpy as np
import optax

from benchmarks import workload
from models import qwen2_5_vl as qwen
from perl_jax import rollout, update
from perl_jax.runtime.compilations import Compilations

STEPS, QUESTIONS, ORDERS, ROLLOUTS, TOKENS = 60, 24, 2, 4, 32
MICRO_BATCH = {"rows": 4, "row_tokens": 256}
LIMITS = {"min_pixels": 28 * 28}


def question(config: qwen.Config, rng: np.random.Generator) -> update.Group:
    """A question with random images, text and responses."""

    def words(count):
        return rng.integers(config.text.vocab_size // 10, config.text.vocab_size * 9 // 10, count).tolist()

    sides = 28 * rng.integers(1, 4, (rng.integers(1, 4), 2))
    images = [rng.integers(0, 256, (*side, 3), np.uint8) for side in sides]
    orders = [rng.permutation(len(images)).tolist() for _ in range(ORDERS)]
    question_text = words(rng.integers(5, 61))
    tokens_of = [workload.image_tokens(config, image) for image in images]
    prompts = [[token for i in order for token in tokens_of[i]] + question_text for order in orders]
    responses = [[words(rng.integers(1, TOKENS + 1)) for _ in range(ROLLOUTS)] for _ in orders]
    return update.Group(images, orders, prompts, responses, rng.normal(size=(ORDERS, ROLLOUTS)))


def steps(model: qwen.Qwen2_5_VL, count: int) -> Iterator[dict[str, float]]:
    """Runs `count` steps; yields for each the number of programs compiled, compile time, and total time."""
    state, rng = update.init(model, optax.sgd(1e-3)), np.random.default_rng(0)
    with Compilations() as compilations:
        for step in range(count):
            start = time.perf_counter()
            groups = [question(model.config, rng) for _ in range(QUESTIONS)]
            prompts = [
                (ids, [group.images[i] for i in order])
                for group in groups
                for ids, order in zip(group.prompts, group.orders)
            ]
            rollout.generate(state.model, prompts, samples=ROLLOUTS, max_new_tokens=TOKENS, seed=step, **LIMITS)
            state, metrics = update.step(state, groups, **MICRO_BATCH, **LIMITS)
            compiled = compilations.take()
            yield {
                "programs": compiled["compile/count"],
                "compiling": compiled["compile/seconds"],
                "seconds": time.perf_counter() - start,
                "padding": metrics["padding"],
            }


def main() -> None:
    done = list(steps(workload.model(), STEPS))
    parts = [(first, done[first : first + 10]) for first in range(0, STEPS, 10)]
    workload.table(
        ("steps", "programs compiled", "s compiling", "s a step without", "padding"),
        (
            (
                f"{first + 1}-{first + len(part)}",
                f"{sum(one['programs'] for one in part)}",
                f"{sum(one['compiling'] for one in part):.1f}",
                f"{np.mean([one['seconds'] - one['compiling'] for one in part]):.2f}",
                f"{np.mean([one['padding'] for one in part]):.0%}",
            )
            for first, part in parts
        ),
    )
    last = max(number for number, one in enumerate(done, 1) if one["programs"])
    programs = sum(one["programs"] for one in done)
    workload.conclude(f"{STEPS} ragged steps: {programs} programs compiled, the last in step {last}")


if __name__ == "__main__":
    main()

"""The cost of unequal lengths of responses: `python -m benchmarks.long_tail`.

Each row compares skewed lengths with the same number of tokens in equal lengths, both by whole calls, prefill included:

- within one batch, 64 prompts x 8 samples at a time: 90% of the responses have 32 tokens, 10% have 256;
- over several batches, 128 prompts x 8 samples, 8 prompts at a time: geometric lengths of mean 64, at most 256.

Within one batch the ideal is more: a response of 256 tokens takes as many steps, however few streams are left. It is
the larger of two times, all tokens at the rate of a full batch and the longest response at that of a single stream.

Before commit 94cf8d1, a batch drained before the next one started.

A random model has no meaningful end of response, so each stream's length is drawn from its own key.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import workload
from perl_jax import rollout

BEFORE = "2.1 to 2.5"  # over several batches
SAMPLES, LONG, ROUNDS = 8, 256, 3
END = 1  # the end-of-response token


def tenth_long(place):
    """Lengths of 32 and, for a tenth, 256, from random numbers in 0..1."""
    return jnp.where(place < 0.9, 32, LONG)


def geometric(place):
    """Geometric lengths of mean 64, cut at 256."""
    return jnp.clip(jnp.ceil(jnp.log1p(-place) / np.log1p(-1 / 64)), 1, LONG).astype(int)


def length_of(key, lengths: Callable):
    """The length of a stream, from its key."""
    return lengths(jax.random.uniform(jax.random.fold_in(key, 2**31)))


def with_lengths(lengths: Callable):
    """`rollout.sample_token` with prescribed lengths."""
    original = rollout.sample_token

    def sample_token(model, options, keys, hidden, drawn):
        token, *logprobs = original(model, options, keys, hidden, drawn)
        ends = drawn + 1 == jax.vmap(lambda key: length_of(key, lengths))(keys)
        return jnp.where(ends, END, jnp.where(token == END, END + 1, token)), *logprobs

    return sample_token


def measured(count: int, batch: int, lengths: Callable) -> tuple[dict[str, float], np.ndarray]:
    """(median seconds of {skewed, equal}, the skewed lengths) of `count` prompts, `batch` at a time."""
    rng, model = np.random.default_rng(0), workload.model()
    prompts = [
        workload.prompt(workload.random_images(2, 84, rng), length, rng)
        for length in rng.integers(83, 98, count).tolist()
    ]
    keys = jax.vmap(
        lambda n: jax.vmap(lambda g: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), n), g))(
            jnp.arange(SAMPLES)
        )
    )(jnp.arange(count))
    drawn = np.asarray(jax.vmap(jax.vmap(lambda key: length_of(key, lengths)))(keys))
    mean = round(drawn.mean())
    sampler, patched = rollout.sample_token, with_lengths(lengths)

    def skewed():
        rollout.sample_token = patched
        out = rollout.generate(model, prompts, SAMPLES, LONG, eos_ids=[END], batch=batch)
        rollout.sample_token = sampler
        if not np.array_equal(out.lengths, drawn):
            raise SystemExit("the responses do not have the lengths that they were given")

    def equal():
        rollout.generate(model, prompts, SAMPLES, mean, batch=batch)

    return workload.alternate({"skewed": skewed, "equal": equal}, ROUNDS), drawn


def single_stream() -> float:
    """Seconds of a response of LONG tokens, alone."""
    rng, model = np.random.default_rng(0), workload.model()
    prompt = workload.prompt(workload.random_images(2, 84, rng), 90, rng)
    return workload.alternate({"": lambda: rollout.generate(model, [prompt], 1, LONG)}, ROUNDS)[""]


def main() -> None:
    within, lengths = measured(64, 0, tenth_long)
    ideal = max(within["equal"] * lengths.sum() / (lengths.size * round(lengths.mean())), single_stream())
    over, geometrics = measured(128, 8, geometric)
    workload.table(
        ("lengths", "responses", "mean", "longest", "seconds", "in equal lengths", "ratio"),
        (
            (
                name,
                str(x.size),
                f"{x.mean():.0f}",
                str(x.max()),
                *(f"{s:.2f}" for s in (pair["skewed"], pair["equal"])),
                f"{pair['skewed'] / pair['equal']:.2f}",
            )
            for name, pair, x in (
                ("a tenth eight times longer, one batch", within, lengths),
                ("geometric, sixteen batches", over, geometrics),
            )
        ),
    )
    print(f"\nWithin one batch: {within['skewed'] / ideal:.2f} times the ideal.")
    workload.conclude(
        f"unequal responses: {within['skewed'] / within['equal']:.2f} times the same tokens in equal lengths within a "
        f"batch, {over['skewed'] / over['equal']:.2f} over several ({BEFORE} before)"
    )


if __name__ == "__main__":
    main()

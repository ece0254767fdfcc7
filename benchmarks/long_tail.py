"""Decoding a batch with a long tail of lengths: `python -m benchmarks.long_tail`.

Of 64 prompts x 8 samples, 90% of the responses have 32 tokens, and 10% have 256. The ideal is the larger of two times:
all tokens at the rate of a full batch (every response 32 tokens), and the longest response at the rate of a single
stream. Both rates are measured in the same run, by whole calls, prefill included. With fewer responses, the tail's
batch is smaller and its rate lower: 256 responses take 1.2 to 1.5 times the ideal.

A random model has no meaningful end of response, so each stream's length is drawn from its own key.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import workload
from perl_jax import rollout

PROMPTS, SAMPLES, SHORT, LONG, SHARE, ROUNDS = 64, 8, 32, 256, 0.1, 5
END = 1  # the end-of-response token


def place(key):
    """A random number in 0..1 for each stream, from its key."""
    return jax.random.uniform(jax.random.fold_in(key, 2**31))


def with_lengths(longest: float):
    """`rollout.sample_token` with prescribed lengths: LONG where `place` is at least `longest`, else SHORT."""
    original = rollout.sample_token

    def sample_token(model, options, keys, hidden, t):
        token, *logprobs = original(model, options, keys, hidden, t)
        length = jnp.where(jax.vmap(jax.vmap(place))(keys) < longest, SHORT, LONG)
        return jnp.where(t + 1 == length, END, jnp.where(token == END, END + 1, token)), *logprobs

    return sample_token


def main() -> None:
    rng = np.random.default_rng(0)
    model = workload.model()
    prompts = [
        workload.prompt(workload.random_images(2, 84, rng), length, rng)
        for length in rng.integers(83, 98, PROMPTS).tolist()
    ]
    keys = [
        jax.random.fold_in(jax.random.fold_in(jax.random.key(0), n), g) for n in range(PROMPTS) for g in range(SAMPLES)
    ]
    rollout.sample_token = with_lengths(sorted(map(place, keys))[-round(SHARE * len(keys))])

    def tail():
        return rollout.generate(model, prompts, samples=SAMPLES, max_new_tokens=LONG, eos_ids=[END])

    def full():
        return rollout.generate(model, prompts, samples=SAMPLES, max_new_tokens=SHORT)

    def single():
        return rollout.generate(model, prompts[:1], samples=1, max_new_tokens=LONG)

    out = tail()
    tokens, longest = int(out.lengths.sum()), int(out.lengths.max())
    seconds = workload.alternate({"tail": tail, "full": full, "single stream": single}, ROUNDS)
    full_rate, single_rate = PROMPTS * SAMPLES * SHORT / seconds["full"], LONG / seconds["single stream"]
    ideal = max(tokens / full_rate, longest / single_rate)
    share = np.mean(out.lengths == LONG)
    print(
        f"{PROMPTS * SAMPLES} responses, {share:.0%} of {LONG} tokens, others of {SHORT}; tokens a second: "
        f"{full_rate:,.0f} in a full batch, {single_rate:,.0f} in a single stream; median of {ROUNDS}\n"
    )
    rows = {
        "ideal": ideal,
        "perl_jax": seconds["tail"],
        "a batch that waits for its longest": PROMPTS * SAMPLES * LONG / full_rate,
    }
    workload.table(
        ("", "seconds", "over the ideal"),
        ((name, f"{value:.2f}", f"{value / ideal:.2f}") for name, value in rows.items()),
    )
    workload.conclude(f"a tenth of the responses eight times longer: {seconds['tail'] / ideal:.2f} times the ideal")


if __name__ == "__main__":
    main()

"""What responses of unequal length cost at real sizes, simulated: `python -m benchmarks.refill`.

A step of the paper's run: 256 prompts, six responses each, of lognormal length (mean 600 tokens, sigma 0.6, at most
2,048). The sampler's own host side decides what each segment holds; a token takes what its program reads at 40% of an
H100's bandwidth: the weights, and all pages of its shape, used or not. The ideal is the larger of two times: as many
tokens in equal lengths by the plan, and the longest response alone. The column of before is of the sampler before
commit 94cf8d1, whose batches drained before the next started, on the same assumptions (November 2026).
"""

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import workload
from benchmarks.plans import ASSUMED, config_of
from models import qwen2_5_vl as qwen
from perl_jax.engine import decode_batch, flops, pages, prefill
from perl_jax.engine.decode_batch import DecodeBatch, Rung, Segment
from perl_jax.planning import roofline

SIZES, DEVICE, SIGMA = qwen.Config.published("7B"), flops.DEVICES["NVIDIA H100 80GB HBM3"], 0.6
PROGRAMS_BEFORE = 36
RUNS = (  # (config, H100, seconds before)
    ("perl_7b_8xh100.py", 8, 34),
    ("perl_7b_lora.py", 1, 330),
)


def lengths(config: ConfigDict) -> np.ndarray:
    """Tokens of each response, int [prompts, G]."""
    rng, shape = np.random.default_rng(0), (config.questions * (config.n_s + 1), config.rollouts)
    drawn = rng.lognormal(np.log(ASSUMED.response) - SIGMA**2 / 2, SIGMA, shape)
    return np.clip(np.ceil(drawn), 1, config.sampling.max_new_tokens).astype(int)


def seconds_of_token(rung: Rung, recent: int) -> float:
    """Seconds of a token of each slot, by what is read."""
    places = (rung.prompt_pages + rung.pages) * pages.page() + rung.slots * recent
    read = flops.decoded_bytes(SIZES.text, 1, 0, 0, places, 2)
    return read / (DEVICE.bandwidth * ASSUMED.efficiency)


def simulated(config: ConfigDict, devices: int) -> tuple[float, int, int]:
    """(seconds of decoding a step, programs of decoding and of prefill)."""
    ends = lengths(config)
    prompt = roofline.lengths(config, SIZES, ASSUMED)[1]
    prompts, longest = [range(prompt)] * len(ends), config.sampling.max_new_tokens
    at_once = roofline.decode_batch(config)
    shapes = decode_batch.shapes(
        [prompt], at_once, config.rollouts, longest, devices, at_once < len(prompts), of_call=False
    )
    batch = DecodeBatch(prompts, config.rollouts, longest, devices, shapes, None)
    seconds, starts, ids = 0.0, np.zeros(len(ends), np.int32), np.arange(len(ends), dtype=np.uint32)
    while batch.waiting or any(batch.live):
        while batch.fit():
            pass
        admitted = batch.admit()
        batch.fit(admitted)
        batch.allocate(admitted)
        segment, end = decoded(batch, batch.slots(starts, ids), ends, devices)
        seconds += (end - batch.at) * seconds_of_token(batch.rung, batch.recent)
        batch.add(segment, end)
    return seconds, len(shapes.rungs), len(prefill.row_lengths(config.prompt.max_tokens))


def decoded(batch: DecodeBatch, slots: decode_batch.Slots, ends: np.ndarray, shards: int) -> tuple[Segment, int]:
    """(a segment without tokens, the place where it ends), as `rollout` would decode it."""
    most, total = batch.limits()
    left = np.where(slots.done, 0, ends[slots.ids.astype(int), slots.rollouts] - slots.drawn)
    steps, places = 0, batch.recent - batch.at
    while steps < places and (live := (left > steps).reshape(shards, -1).sum(1)).max() > most and live.sum() > total:
        steps += 1
    done, counts = left <= steps, np.minimum(left, steps).astype(np.int32)
    values = np.zeros((3, len(left), batch.recent))
    return Segment(values[0].astype(np.int32), *values[1:], counts, done), batch.at + steps


def main() -> None:
    pages.TOKENS[jax.default_backend()] = pages.TOKENS["gpu"]  # shapes as on an H100
    prefill.FULL[jax.default_backend()] = prefill.FULL["gpu"]
    rows, ratios = [], []
    for name, devices, before in RUNS:
        config = config_of(name)
        now, decoding, prefilling = simulated(config, devices)
        on = config, SIZES, ASSUMED, DEVICE, devices, devices
        prompts = config.questions * (config.n_s + 1)
        tokens = lengths(config).mean() / ASSUMED.response
        plan = tokens * roofline.sampling(*on, prompts, config.rollouts, config.questions)["decode"]
        longest = lengths(config).max() * seconds_of_token(Rung(0, 0, 0, 0, 0), 0)
        cells = (plan, longest, before, now)
        rows.append((f"`{name}`, {devices} H100", *(f"{value:.0f}" for value in cells), f"{decoding} and {prefilling}"))
        ratios.append(f"{now / max(plan, longest):.2f} times the ideal on {devices} H100")
    workload.table(
        (
            "seconds to decode a step",
            "equal lengths, by plan",
            "the longest response alone",
            "before",
            "now",
            "programs of decoding and prefill",
        ),
        rows,
    )
    print(f"\nBefore, there were {PROGRAMS_BEFORE} programs of decoding, and as many again for each length of prompts.")
    workload.conclude(f"lognormal responses at 7B, simulated: {' and '.join(ratios)}")


if __name__ == "__main__":
    main()

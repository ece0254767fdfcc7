"""Shared workload of the benchmarks: a small random model and prompts with images, the same for every peer."""

import statistics
import time

import numpy as np
from flax import nnx

from models import qwen2_5_vl as qwen

CONFIG = qwen.Config(  # 4.3 million parameters with a vocabulary of 2,048
    qwen.VisionConfig(
        depth=4,
        hidden_size=128,
        intermediate_size=384,
        num_heads=4,
        out_hidden_size=192,
        window_size=112,
        fullatt_block_indexes=(1, 3),
    ),
    qwen.TextConfig(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        rope_theta=1e6,
        mrope_section=(4, 6, 6),
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    ),
    image_token_id=2040,
    video_token_id=2041,
    vision_start_token_id=2042,
    vision_end_token_id=2043,
)
WORDS = 2000  # smaller token ids are plain text


def model(seed: int = 0) -> qwen.Qwen2_5_VL:
    """The model with random float32 weights."""
    return qwen.Qwen2_5_VL(CONFIG, rngs=nnx.Rngs(seed))


def random_images(count: int, side: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random images, uint8 [side, side, 3]."""
    return [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]


def image_tokens(config: qwen.Config, image: np.ndarray) -> list[int]:
    """The tokens of an image whose sides are multiples of 28."""
    tokens = image.shape[0] * image.shape[1] // 28**2
    return [config.vision_start_token_id, *[config.image_token_id] * tokens, config.vision_end_token_id]


def prompt(images: list[np.ndarray], length: int, rng: np.random.Generator) -> tuple[list[int], list[np.ndarray]]:
    """(ids, images) of a prompt of `length` tokens: first the images, then random text."""
    ids = []
    for image in images:
        ids += image_tokens(CONFIG, image)
    return ids + rng.integers(0, WORDS, length - len(ids)).tolist(), images


def within(gaps, most: float) -> bool:
    """Whether all gaps are at most `most`; False for NaN."""
    return bool(np.all(np.asarray(gaps) <= most))


def table(columns, rows) -> None:
    """Prints a Markdown table, row by row."""
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def conclude(text: str) -> None:
    """Prints the one-line conclusion of a benchmark, which `benchmarks.readme` shows."""
    print(f"\n**{text}**")


def alternate(runs: dict, rounds: int, clock=time.perf_counter) -> dict[str, float]:
    """Median seconds by `clock` of each of {name: function}, run alternately after one warm-up round."""
    seconds = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if number:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}

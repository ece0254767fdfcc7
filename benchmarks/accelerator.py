"""How well a GPU or TPU is used: `python -m benchmarks.accelerator [--peer=vllm]` (80 GB; peers need torch with CUDA).

A model of Qwen2.5-VL-3B's shape with random weights. The update: a question with four images of 448x448 in two
orders, eight responses of 256 tokens to each order's prompt, as a share of the device's bfloat16 peak (MFU: the work
that the method needs, see `engine.flops`, so that a peer's is comparable). Decoding: 16 such prompts x 8 samples,
what each of the last 128 of 256 tokens takes, as a share of the rate at which the memory delivers what a step has to
read: the text tower's weights, each prompt's keys and values once, each stream's own. A row of the table is measured
by a process of its own, so that it has the device to itself. `--tiny` is the small model of the other benchmarks, to
try the program anywhere. Not yet run on a GPU or TPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import workload
from benchmarks.readme import REPOSITORY
from models import qwen2_5_vl as qwen
from perl_jax import rollout, update
from perl_jax.engine import flops

IMAGES, ORDERS, ROLLOUTS, PROMPTS, ROUNDS = 4, 2, 8, 16, 3


def question(config: qwen.Config, side: int, words: int, tokens: int) -> update.Group:
    """The update's question, with random images, text and responses; its first prompt is also used for decoding."""
    rng = np.random.default_rng(0)
    images = workload.random_images(IMAGES, side, rng)
    ids = [token for image in images for token in workload.image_tokens(config, image)]
    ids += rng.integers(0, workload.WORDS, words).tolist()
    orders = [np.roll(range(IMAGES), o).tolist() for o in range(ORDERS)]
    responses = rng.integers(0, workload.WORDS, (ORDERS, ROLLOUTS, tokens)).tolist()
    return update.Group(images, orders, [ids] * ORDERS, responses, rng.normal(size=(ORDERS, ROLLOUTS)))


def fastest(run: Callable) -> float:
    """The fastest of `ROUNDS` runs in seconds, after one run that compiles."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def a_token(generate: Callable[[int], object], tokens: int) -> float:
    """Seconds per token over the second half, from runs of two lengths, so that prefill and startup cancel out."""
    return (fastest(lambda: generate(tokens)) - fastest(lambda: generate(tokens // 2))) / (tokens - tokens // 2)


def perl_jax(config: qwen.Config, group: update.Group, tokens: int, dtype: str) -> tuple[float, float]:
    """(seconds per update, seconds per decode step over all streams) of perl_jax."""
    model = qwen.Qwen2_5_VL(config, rngs=nnx.Rngs(0), compute_dtype=dtype)
    prompts = [(group.prompts[0], group.images)] * PROMPTS
    decode = a_token(partial(rollout.generate, model, prompts, ROLLOUTS), tokens)
    state = update.init(model, optax.set_to_zero())
    del model  # as large as the state

    def step():
        nonlocal state
        state, _ = update.step(state, [group], remat=True)

    return fastest(step), decode


def transformers(config: qwen.Config, group: update.Group, tokens: int, dtype: str) -> tuple[float, float]:
    """As `perl_jax`, for transformers: one row per rollout, one or four rows at a time, and one batched `generate`."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from benchmarks import peer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(config.to_hf()))
    pixels = dict(zip(("pixel_values", "image_grid_thw"), peer.pixels(group.images)))

    def inputs(rows):
        ids = torch.tensor(rows)
        batch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == config.image_token_id).int(),
            **{name: x.repeat(len(rows), 1) for name, x in pixels.items()},
        }
        return {name: x.to(device) for name, x in batch.items()}

    @torch.inference_mode()
    def generate(count):
        model.generate(
            **inputs([group.prompts[0]] * PROMPTS),
            do_sample=True,
            num_return_sequences=ROLLOUTS,
            top_k=0,
            top_p=1.0,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
            eos_token_id=None,
            suppress_tokens=[config.image_token_id, config.video_token_id],
        ).cpu()

    def step(size):
        rows = [[*ids, *response] for ids, order in zip(group.prompts, group.responses) for response in order]
        model.zero_grad()
        for start in range(0, len(rows), size):
            batch = inputs(rows[start : start + size])
            logits = model(**batch, use_cache=False, logits_to_keep=tokens + 1).logits[:, :-1]
            picked = logits.float().log_softmax(-1).gather(2, batch["input_ids"][:, -tokens:, None])
            (-picked.mean()).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = []
    for size in (1, 4):
        with suppress(torch.cuda.OutOfMemoryError):
            seconds.append(fastest(partial(step, size)))
    model.zero_grad()
    return min(seconds), a_token(generate, tokens)


def vllm(config: qwen.Config, group: update.Group, tokens: int, dtype: str) -> tuple[None, float]:
    """As `perl_jax`, for vLLM, which only samples: the published model's config and processor, with random weights."""
    from PIL import Image
    from vllm import LLM, SamplingParams

    engine = LLM(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        load_format="dummy",
        dtype=dtype,
        max_model_len=4096,
        limit_mm_per_prompt={"image": IMAGES},
        enable_prefix_caching=True,
    )
    ids, expanded = [], group.prompts[0]
    for token in expanded:  # vLLM expects one placeholder per image
        if token != config.image_token_id or ids[-1] != config.image_token_id:
            ids.append(token)
    images = {"image": [Image.fromarray(image) for image in group.images]}
    prompts = [{"prompt_token_ids": ids, "multi_modal_data": images}] * PROMPTS

    def generate(count):
        engine.generate(
            prompts, SamplingParams(n=ROLLOUTS, max_tokens=count, ignore_eos=True, detokenize=False), use_tqdm=False
        )

    return None, a_token(generate, tokens)


def row(name: str, dtype: str, config: qwen.Config, group: update.Group, tokens: int, measured: dict) -> tuple:
    """A measurement as a row of the table."""
    lengths = [[len(response) for response in order] for order in group.responses]
    patches = flops.image_patches(config, group.prompts[0])
    work = 3 * flops.group(config, patches, map(len, group.prompts), lengths)
    needed = flops.decoded_bytes(
        config.text, PROMPTS * ROLLOUTS, PROMPTS, len(group.prompts[0]), 0.75 * tokens, jnp.dtype(dtype).itemsize
    )
    update_seconds, decode, peak, bandwidth = (measured[key] for key in ("update", "decode", "peak", "bandwidth"))
    return (
        name,
        dtype,
        "-" if update_seconds is None else f"{update_seconds:.3f}",
        f"{work / update_seconds / peak:.0%}" if peak and update_seconds else "-",
        f"{1e3 * decode:.2f}",
        f"{PROMPTS * ROLLOUTS / decode:,.0f}",
        f"{needed / decode / bandwidth:.0%}" if bandwidth else "-",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["vllm"], help="a further peer, where it is installed")
    parser.add_argument("--tiny", action="store_true", help="the small model")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)  # runs one row in a subprocess
    args = parser.parse_args()
    config = workload.CONFIG if args.tiny else qwen.Config.published("3B")
    side, words, tokens = (84, 30, 128) if args.tiny else (448, 100, 256)
    group = question(config, side, words, tokens)
    if args.row:
        name, dtype = args.row
        kind = jax.devices()[0].device_kind
        update_seconds, decode = globals()[name](config, group, tokens, dtype)
        device = flops.DEVICES.get(kind)
        print(
            json.dumps(
                {
                    "kind": kind,
                    "update": update_seconds,
                    "decode": decode,
                    "peak": device and device.peak,
                    "bandwidth": device and device.bandwidth,
                }
            )
        )
        return

    runs = [("perl_jax", "float32"), ("perl_jax", "bfloat16"), ("transformers", "bfloat16")]
    lines, results = [], {}
    for name, dtype in [*runs, ("vllm", "bfloat16")] if args.peer else runs:
        command = [sys.executable, "-m", "benchmarks.accelerator", "--row", name, dtype, *["--tiny"] * args.tiny]
        # else JAX would reserve the memory
        settings = {} if name == "perl_jax" else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=os.environ | settings)
        if run.returncode and name == "perl_jax":
            raise SystemExit(f"{' '.join(command)} ended with exit code {run.returncode}")
        if run.returncode:
            lines.append((name, dtype, "not measured", *["-"] * 4))
        else:
            results[name, dtype] = json.loads(run.stdout.splitlines()[-1])
            lines.append(row(name, dtype, config, group, tokens, results[name, dtype]))
    ours, theirs = results["perl_jax", "bfloat16"], results.get(("transformers", "bfloat16"))
    parameters = "4.3M" if args.tiny else "3B"
    print(f"{ours['kind']}, {parameters} parameters, prompts of {len(group.prompts[0]):,} tokens\n")
    workload.table(("", "dtype", "update s", "MFU", "decode ms", "tokens a second", "of the memory's rate"), lines)
    if not args.peer:
        print("\nvLLM: not measured; where it is installed: python -m benchmarks.accelerator --peer=vllm")
    _, _, _, mfu, _, _, memory = lines[1]
    ratios = theirs and [f"{theirs[key] / ours[key]:.1f}" for key in ("update", "decode")]
    than = f"{ratios[0]} and {ratios[1]} times as fast as transformers" if ratios else "transformers not measured"
    workload.conclude(f"bfloat16: the update's MFU {mfu}, decoding at {memory} of the memory's rate; {than}")


if __name__ == "__main__":
    main()

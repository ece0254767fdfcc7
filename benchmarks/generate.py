"""Sampling speed compared with transformers: `python -m benchmarks.generate` (needs torch).

Eight prompts of 83 to 97 tokens with two 84x84 images each, eight samples per prompt, 64 tokens per sample, float32, on
the same random checkpoint and prompts, alternating. transformers runs its fastest batched mode: one `generate` for all
prompts, left-padded, with `num_return_sequences=8`. Both use all cores: torch by threads, JAX on a CPU also by a device
for each core, over which a mesh shards the prompts. Fails unless the greedy tokens of both are equal.
"""

import jax
import numpy as np
import torch

from benchmarks import peer, workload
from models import qwen2_5_vl as qwen
from perl_jax import mesh, rollout

PROMPTS, SAMPLES, TOKENS, ROUNDS = 8, 8, 64, 5


def theirs_inputs(prompts) -> dict[str, torch.Tensor]:
    """The prompts in transformers' format: left-padded, images as patches."""
    longest = max(len(ids) for ids, _ in prompts)
    rows = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in prompts])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in prompts])
    values, grids = peer.pixels([image for _, images in prompts for image in images])
    return {
        "input_ids": rows,
        "attention_mask": mask,
        "mm_token_type_ids": (rows == workload.CONFIG.image_token_id).int(),
        "pixel_values": values,
        "image_grid_thw": grids,
    }


def main() -> None:
    jax.config.update("jax_num_cpu_devices", torch.get_num_threads())
    with jax.set_mesh(mesh.make()):
        compare()


def compare() -> None:
    """Measures both samplers on the current mesh, and prints their table."""
    rng = np.random.default_rng(0)
    model = workload.model()
    prompts = [
        workload.prompt(workload.random_images(2, 84, rng), length, rng)
        for length in rng.integers(83, 98, PROMPTS).tolist()
    ]
    theirs = peer.model(model).eval()
    inputs = theirs_inputs(prompts)
    settings = {
        "max_new_tokens": TOKENS,
        "min_new_tokens": TOKENS,
        "pad_token_id": 0,
        "eos_token_id": None,
        "suppress_tokens": [workload.CONFIG.image_token_id, workload.CONFIG.video_token_id],
    }

    def ours(**options):
        return rollout.generate(model, prompts, max_new_tokens=TOKENS, **options)

    @torch.inference_mode()
    def sampled(**options):
        return theirs.generate(**inputs, **{**settings, **options})[:, inputs["input_ids"].shape[1] :].numpy()

    greedy, expected = ours(samples=1, temperature=0.0).tokens[:, 0], sampled(do_sample=False)
    if not np.array_equal(greedy, expected):
        raise SystemExit(f"greedy tokens differ: {np.mean(greedy == expected):.1%} are equal")

    timed = {
        "transformers": lambda: sampled(do_sample=True, num_return_sequences=SAMPLES, top_k=0, top_p=1.0),
        "perl_jax": lambda: ours(samples=SAMPLES),
    }
    seconds = workload.alternate(timed, ROUNDS)
    tokens, base = PROMPTS * SAMPLES * TOKENS, seconds["transformers"]
    parameters = sum(value.size for value in qwen.named(model).values())
    print(
        f"{parameters / 1e6:.1f}M parameters, {jax.device_count()} {jax.default_backend()} device, "
        f"{torch.get_num_threads()} torch threads, median of {ROUNDS}, greedy tokens equal\n"
    )
    workload.table(
        ("sampler", "seconds", "tokens a second", "ratio"),
        ((name, f"{value:.2f}", f"{tokens / value:,.0f}", f"{base / value:.2f}") for name, value in seconds.items()),
    )
    workload.conclude(f"sampling: {base / seconds['perl_jax']:.1f} times transformers' tokens a second")


if __name__ == "__main__":
    main()

"""Writes tests/support/golden: small random Hugging Face checkpoints and transformers' outputs for them.

    python tests/support/make_golden.py [NAME ...]

By default all of `tiny.ALL`. Needs torch and transformers (made with torch 2.13 and transformers 5.23, on a CPU);
`test_network.py` compares with the files and needs neither. Of a family one checkpoint is stored in float32, the other
in bfloat16, one in shards; all outputs are float32.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import reference  # noqa: E402
import tiny  # noqa: E402

GOLDEN = Path(__file__).with_name("golden")
BFLOAT16, SHARDED = ("tied", "qwen3-tied"), ("qwen3-tied",)
GREEDY_TOKENS = 24
GRADIENT_SAMPLES = 128  # values kept of each gradient, in addition to its norm


def main() -> None:
    for seed, (name, config) in enumerate(tiny.ALL.items()):
        if name not in (sys.argv[1:] or tiny.ALL):
            continue
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
        theirs = reference.build(config)
        randomise(theirs, np.random.default_rng(seed + 1))
        shards = {"max_shard_size": "40KB"} if name in SHARDED else {}
        theirs.to(torch.bfloat16 if name in BFLOAT16 else torch.float32).save_pretrained(GOLDEN / name, **shards)
        (GOLDEN / name / "generation_config.json").unlink(missing_ok=True)
        # Reloaded, because a model cast to bfloat16 and back keeps rounded rotary frequencies.
        theirs = type(theirs).from_pretrained(GOLDEN / name, dtype=torch.float32).eval()
        np.savez_compressed(GOLDEN / f"{name}.npz", **expected(theirs, config))
    print(f"{sum(file.stat().st_size for file in GOLDEN.rglob('*')):,} bytes in {GOLDEN}")


def randomise(theirs, rng: np.random.Generator) -> None:
    """Randomises all weights, norms and biases included, at a scale that keeps activations near 1."""
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            noise = rng.normal(size=tuple(parameter.shape))
            if parameter.ndim == 1:
                noise = 0.1 * noise + (not name.endswith("bias"))
            else:
                noise *= 0.5 if "embed_tokens" in name else np.prod(noise.shape[1:]) ** -0.5
            parameter.copy_(torch.tensor(noise))


def expected(theirs, config) -> dict[str, np.ndarray]:
    """What is stored: the prompts (images as height, width, seed) and all outputs to compare."""
    out = {"max_pixels": np.int32(tiny.MAX_PIXELS)}
    prompts = []
    for number, parts in enumerate(tiny.LAYOUTS.values()):
        prompt = ids, pictures = tiny.prompt(config, parts, seed=number)
        prompts.append(prompt)
        seeds = [100 * number + place for place, part in enumerate(parts) if not isinstance(part, int)]
        out[f"ids/{number}"] = np.array(ids, np.int32)
        described = [(*picture.shape[:2], seed) for picture, seed in zip(pictures, seeds)]
        out[f"pictures/{number}"] = np.array(described, np.int32).reshape(-1, 3)
        with torch.no_grad():
            logits = reference.logits(theirs, prompt, tiny.MAX_PIXELS).numpy()
        out[f"at/{number}"] = np.unique(np.linspace(0, len(ids) - 1, 12).astype(np.int32))
        out[f"logits/{number}"] = logits[out[f"at/{number}"]]
        out[f"positions/{number}"] = reference.position_ids(theirs, prompt, tiny.MAX_PIXELS).astype(np.int32)
        out[f"greedy/{number}"] = reference.greedy(theirs, prompt, GREEDY_TOKENS, tiny.MAX_PIXELS).astype(np.int32)
        if pictures:
            out[f"features/{number}"] = reference.features(theirs, prompt, tiny.MAX_PIXELS)
    for name, gradient in reference.next_token_gradient(theirs, prompts, tiny.MAX_PIXELS).items():
        stride = -(-gradient.size // GRADIENT_SAMPLES)
        out[f"gradient/{name}"] = gradient.ravel()[::stride]
        out[f"norm/{name}"] = np.linalg.norm(gradient)
    return out


if __name__ == "__main__":
    main()

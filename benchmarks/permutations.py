"""The cost of further orders of the same images: `python -m benchmarks.permutations`.

Two questions with four images of 224x224 each, 12 rollouts of 64 tokens per question, divided among n_s + 1 orders with
a prompt of 303 tokens each. The images are encoded once for any n_s: the vision tower's work is constant, and the whole
step (sampling, then an update) grows only with the prompts.
"""

from functools import partial

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks import workload
from models import qwen2_5_vl as qwen
from perl_jax import rollout, update
from perl_jax.engine import flops, tree_packing

QUESTIONS, IMAGES, SIDE, PROMPT, ROLLOUTS, TOKENS, ROUNDS = 2, 4, 224, 303, 12, 64, 3


def questions(orders: int) -> list[update.Group]:
    """The questions in `orders` orders, with random responses."""
    groups = []
    for q in range(QUESTIONS):
        rng = np.random.default_rng(q)
        images = workload.random_images(IMAGES, SIDE, rng)
        image_orders = [tuple(np.roll(range(IMAGES), o).tolist()) for o in range(orders)]
        prompts = [workload.prompt([images[i] for i in order], PROMPT, rng)[0] for order in image_orders]
        responses = rng.integers(0, workload.WORDS, (orders, ROLLOUTS // orders, TOKENS)).tolist()
        advantages = rng.normal(size=(orders, ROLLOUTS // orders))
        groups.append(update.Group(images, image_orders, prompts, responses, advantages))
    return groups


def peak(state: update.State, groups: list[update.Group]) -> int:
    """Peak bytes held by a micro-batch's programs, excluding weights, gradients and optimizer state."""
    kept_bytes, sizes = 0, []
    embed, add_rows, add_pulled = update._embed, update._add_rows, update._add_pulled

    def measured(program, *args):
        nonlocal kept_bytes
        compiled = program.lower(*args).compile().memory_analysis()
        sizes.append(kept_bytes + compiled.temp_size_in_bytes)
        out = program(*args)
        if program is embed:
            kept_bytes = compiled.output_size_in_bytes  # embeddings, and the residuals of their gradient
        return out

    update._embed, update._add_rows, update._add_pulled = (partial(measured, f) for f in (embed, add_rows, add_pulled))
    try:
        update.step(jax.tree.map(jax.numpy.copy, state), groups)
    finally:
        update._embed, update._add_rows, update._add_pulled = embed, add_rows, add_pulled
    return max(sizes)


def main() -> None:
    model = workload.model()
    graph, weights = nnx.split(model.visual)
    tower = jax.jit(jax.grad(lambda weights, pack: (nnx.merge(graph, weights)(pack, np.float32) ** 2).sum()))
    states = {}
    columns = (
        "n_s",
        "vision GFLOPs",
        "vision s",
        "sampling s",
        "update s",
        "all s",
        "prompt cache MB",
        "response caches MB",
        "update's peak MB",
    )
    times = {}

    def measured(n_s):
        groups = questions(n_s + 1)
        G = ROLLOUTS // (n_s + 1)
        prompts = [
            (ids, [group.images[i] for i in order])
            for group in groups
            for ids, order in zip(group.prompts, group.orders)
        ]
        [batch] = tree_packing.pack(model.config, groups, None, None, None, None).batches

        def vision(batch=batch):
            jax.block_until_ready(tower(weights, batch.vision))

        def sampling(prompts=prompts, G=G):
            rollout.generate(model, prompts, samples=G, max_new_tokens=TOKENS)

        def step(groups=groups, n_s=n_s):
            states[n_s], _ = update.step(states.get(n_s) or update.init(model, optax.adamw(1e-6)), groups)

        seconds = workload.alternate({"vision": vision, "sampling": sampling, "update": step}, ROUNDS)
        patches = [n for group in groups for n in flops.image_patches(model.config, group.prompts[0])]
        text = model.config.text
        token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4 / 1e6
        ids = qwen.pack(model.config, prompts).ids
        times[n_s] = seconds["vision"], seconds["sampling"], seconds["update"], seconds["sampling"] + seconds["update"]
        return (
            str(n_s),
            f"{3 * model.config.vision.flops(patches) / 1e9:.1f}",
            *(f"{value:.2f}" for value in times[n_s]),
            f"{ids.size * token:.1f}",
            f"{len(prompts) * G * (TOKENS - 1) * token:.1f}",
            f"{peak(states[n_s], groups) / 1e6:.0f}",
        )

    workload.table(columns, map(measured, range(4)))
    vision, step_ratio = (times[3][i] / times[0][i] for i in (0, 3))
    workload.conclude(
        f"four orders for one: {vision:.1f} times the vision tower's time, {step_ratio:.1f} times the step's"
    )


if __name__ == "__main__":
    main()

"""Speed of an update compared with one row per rollout: `python -m benchmarks.update` (needs torch).

One question with four images of 224x224 in two orders, eight responses of 64 tokens to each order's prompt of 303
tokens: a gradient step on 16 rollouts, float32, on the same random checkpoint. The baselines compute each rollout as a
separate row, repeating its prompt and images: transformers (all rows in one batch or one at a time, whichever is
faster) and our own code with sharing off. Fails unless logprobs and gradient norms agree.
"""

import numpy as np
import optax
import torch

from benchmarks import peer, workload
from models import qwen2_5_vl as qwen
from perl_jax import update

PROMPT, ORDERS, ROLLOUTS, TOKENS, IMAGES, SIDE, ROUNDS = 303, 2, 8, 64, 4, 224, 5
NEAR = 1e-4


def question(rng: np.random.Generator) -> update.Group:
    """The benchmark's question."""
    images = workload.random_images(IMAGES, SIDE, rng)
    orders = [list(range(IMAGES)), list(range(IMAGES))[::-1]][:ORDERS]
    prompts = [workload.prompt([images[i] for i in order], PROMPT, rng)[0] for order in orders]
    responses = rng.integers(0, workload.WORDS, (ORDERS, ROLLOUTS, TOKENS)).tolist()
    return update.Group(images, orders, prompts, responses, rng.normal(size=(ORDERS, ROLLOUTS)))


def unshared(group: update.Group) -> list[update.Group]:
    """Each rollout as a separate question."""
    return [
        update.Group(group.images, [order], [ids], [[response]], np.array([[advantage]]))
        for order, ids, responses, advantages in zip(group.orders, group.prompts, group.responses, group.advantages)
        for response, advantage in zip(responses, advantages)
    ]


class Naive:
    """transformers' model, one row per rollout."""

    def __init__(self, model: qwen.Qwen2_5_VL, group: update.Group):
        self.model = peer.model(model)
        self.model.gradient_checkpointing_disable()
        single = unshared(group)
        self.rows = torch.tensor([[*one.prompts[0], *one.responses[0][0]] for one in single])
        self.advantages = torch.tensor([one.advantages[0, 0] for one in single], dtype=torch.float32)
        values, grids = zip(*(peer.pixels([one.images[i] for i in one.orders[0]]) for one in single))
        self.pixels, self.grids = torch.stack(values), torch.stack(grids)

    def step(self, rows: int) -> tuple[np.ndarray, float]:
        """The logprobs and the gradient norm, `rows` rollouts at a time."""
        self.model.zero_grad()
        logprobs = []
        for start in range(0, len(self.rows), rows):
            part = slice(start, start + rows)
            ids = self.rows[part]
            out = self.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=self.pixels[part].flatten(0, 1),
                mm_token_type_ids=(ids == workload.CONFIG.image_token_id).int(),
                image_grid_thw=self.grids[part].flatten(0, 1),
                use_cache=False,
                logits_to_keep=TOKENS + 1,
            )
            logp = torch.log_softmax(out.logits[:, :-1], -1).gather(2, ids[:, PROMPT:, None])[..., 0]
            (-(self.advantages[part, None] * logp).sum() / (len(self.rows) * TOKENS)).backward()
            logprobs.append(logp.detach().numpy())
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        return np.concatenate(logprobs), float(norm)


def main() -> None:
    model, group = workload.model(), question(np.random.default_rng(0))
    naive = Naive(model, group)
    frozen = optax.set_to_zero()  # computes the gradient but leaves the weights unchanged
    states = {}

    def step(name, groups, **options):
        states[name], metrics = update.step(states.get(name) or update.init(model, frozen), groups, **options)
        return float(metrics["grad_norm"])

    runs = {
        "transformers, one batch": lambda: naive.step(ORDERS * ROLLOUTS),
        "transformers, a row at a time": lambda: naive.step(1),
        "perl_jax, nothing shared": lambda: step("unshared", unshared(group), rows=1),
        "perl_jax": lambda: step("shared", [group]),
    }
    logp, norm = naive.step(1)
    gap = np.abs(update.logprobs(model, [group])[0].reshape(logp.shape) - logp).max()
    norms = np.abs([runs[name]() / norm - 1 for name in ("perl_jax, nothing shared", "perl_jax")])
    if not workload.within([gap, *norms], NEAR):
        raise SystemExit(f"log-probs differ by {gap:.1e}, gradient norms by {norms.max():.1e}")
    seconds = workload.alternate(runs, ROUNDS)
    base = min(value for name, value in seconds.items() if "transformers" in name)
    print(
        f"log-probs within {gap:.0e} and gradient norms within {norms.max():.0e} of transformers'; median of {ROUNDS}\n"
    )
    workload.table(
        ("update", "seconds", "ratio"),
        ((name, f"{value:.2f}", f"{base / value:.1f}") for name, value in seconds.items()),
    )
    ours, unshared_seconds = seconds["perl_jax"], seconds["perl_jax, nothing shared"]
    workload.conclude(
        f"an update: {base / ours:.1f} times as fast as transformers, {unshared_seconds / ours:.1f} times our own "
        "code with nothing shared"
    )


if __name__ == "__main__":
    main()

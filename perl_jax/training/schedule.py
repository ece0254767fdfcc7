"""What each step of a run does: its stage, the questions and orders it draws, what it teaches, its optimizer.

Pure functions of the config and the step's number, so that a run that is resumed does the same.
"""

import optax

from models.errors import InputError
from perl_jax import permute


def stage(config, step: int) -> str:
    return "warmup" if step <= config.warmup.steps and config.warmup.steps else "perl"


def draw(config, step: int) -> tuple[int, int, float, int]:
    """What a step takes from `batch.Questions`: how many, in how many more orders, permuted with which probability."""
    if step <= config.warmup.steps:
        return config.warmup.questions, 0, 0.0, step
    p = permute.probability(step - config.warmup.steps, config.total_steps, **config.permute)
    return config.questions, config.n_s, p, step


def taught_response(config, sample) -> str:
    """What the warm-up teaches to say to a rendered sample: `config.warmup.response`, filled in."""
    captions = "".join(
        config.warmup.caption.format(place=i + 1, caption=caption)
        for i, caption in enumerate(sample.get("captions", ()))
    )
    return config.warmup.response.replace("{captions}", captions).replace("{answer}", sample["answer"])


def taught_tokens(config, sample, processor) -> list[int]:
    """`taught_response` as token ids with an EOS; InputError where a rollout would have no room for it."""
    ids = [*processor.encode(taught_response(config, sample)), processor.eos_ids[0]]
    if len(ids) > config.sampling.max_new_tokens:
        raise InputError(
            f"record {sample['id']!r}: the warm-up's response has {len(ids)} tokens, more than "
            f"config.sampling.max_new_tokens = {config.sampling.max_new_tokens}; raise that"
        )
    return ids


def optimizer(config, step: int) -> optax.GradientTransformation:
    """AdamW with global clipping, at the stage's learning rate."""
    c = config.optimizer
    if stage(config, step) == "warmup":
        steps, peak = max(2, config.warmup.steps), config.warmup.learning_rate
        rate = optax.warmup_cosine_decay_schedule(0.0, peak, max(1, steps // 20), steps, peak / 10)
    else:
        rate = c.learning_rate
    adamw = optax.adamw(rate, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay, mu_dtype=c.mu_dtype)
    return optax.chain(optax.clip_by_global_norm(c.clip_norm), adamw)

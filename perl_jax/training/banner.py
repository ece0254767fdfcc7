"""What a run says of itself as it begins, and what to do once it has ended."""

from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from perl_jax.update import State


def lines(config: ConfigDict, state: State, kept: Mapping, excluded: Mapping, model: str, workdir: Path) -> list[str]:
    """Devices, model, data, the size of a step, and where the log is.

    `kept` {directory: indices} and `excluded` {directory: {reason: count}} are those of the training split.
    """
    devices = jax.devices()
    axes = ", ".join(f"{axis} {size}" for axis, size in jax.sharding.get_abstract_mesh().shape.items() if size > 1)
    trained, frozen = (sum(x.size for x in jax.tree.leaves(part)) for part in (state.trainable, state.frozen))
    left_out = sum(count for reasons in excluded.values() for count in reasons.values())
    orders, longest = config.n_s + 1, config.sampling.max_new_tokens
    responses = config.questions * orders * config.rollouts
    warm_up = f"{config.warmup.steps} of warm-up and " * bool(config.warmup.steps)
    return [
        f"devices  {len(devices)} x {devices[0].device_kind}" + f", mesh: {axes}" * bool(axes),
        f"model    {model}: {millions(trained + frozen)} parameters, {millions(trained)} trained, "
        f"{config.compute_dtype}",
        f"data     {sum(map(len, kept.values())):,} questions, {left_out:,} left out; {', '.join(kept)}",
        f"a step   {config.questions} questions x {orders} orders x {config.rollouts} rollouts = {responses:,} "
        f"responses of at most {longest:,} tokens",
        f"steps    {warm_up}{config.total_steps} of PeRL; the log is in {workdir}",
    ]


def next_commands(config: ConfigDict, workdir: Path) -> list[str]:
    """The commands for a run that has ended."""
    model, best = f"{workdir}-model", " --step=best" * bool(config.eval.sets and config.checkpoint.best)
    return [
        "done; what to do next:",
        f"  python -m perl_jax.report --workdir={workdir} --out={workdir}/report.html",
        f"  python -m perl_jax.export --workdir={workdir} --out={model}{best}",
        f"  python -m perl_jax.evaluate --model={model} --benchmark=NAME --data=DIR --out={model}-results --permute=3",
    ]


def millions(count: int) -> str:
    """A number of weights, such as 0.58M or 7.6B."""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"

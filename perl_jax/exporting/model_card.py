"""The model card of an exported directory: a README.md in Hugging Face format, with recorded facts only.

Facts that a run did not record are omitted. Text from other authors (names, prompts) is formatted as code, so that none
of it acts as markup, and of local paths only the last part is shown.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perl_jax.evaluation import statistics
from perl_jax.evaluation.statistics import Table, percent, proportion
from perl_jax.exporting import usage_snippets
from perl_jax.exporting.provenance import Base, Data, Evaluation, Result
from perl_jax.records import prompts

LONGEST = 2048  # response length limit in tokens, if the run did not record one
TOLD = {  # config keys shown, and their descriptions
    "questions": "questions a step",
    "n_s": "further orders of a question",
    "rollouts": "rollouts of an order",
    "permute.start": "probability of a permuted order, at first",
    "permute.end": "probability of a permuted order, at last",
    "sampling.temperature": "temperature of rollouts",
    "sampling.max_new_tokens": "longest response, tokens",
    "reward": "reward",
    "online_filter": "groups of equal rewards",
    "optimizer.learning_rate": "learning rate",
    "optimizer.steps_per_batch": "optimizer steps a batch",
    "loss.kl_coef": "KL coefficient",
    "loss.clip_low": "clip, low",
    "loss.clip_high": "clip, high",
    "loss.aggregate": "aggregation of the loss",
    "train_vision": "vision tower trained",
    "compute_dtype": "compute dtype",
    "seed": "seed",
}
SETTINGS = ("samples", "temperature", "permute", "max_new_tokens")  # of an evaluation, shown with its results


class Card(NamedTuple):
    """The contents of a model card; `str(card)` is the README.md."""

    asked: prompts.Prompts
    base: Base
    step: int
    lora: Mapping | None  # rank, alpha and targets
    run: Mapping  # the run's last start, as in run.json; may be empty
    parameters: int  # without adapters
    fingerprint: str  # of the exported weights
    adapter: bool  # exported as an adapter only
    data: Sequence[Data]
    evaluations: Sequence[Evaluation]
    results: Sequence[Result]

    def __str__(self) -> str:
        from huggingface_hub import ModelCard

        parts = [*_title(self), *_training(self), *_results(self), *_prompt(self.asked), *_use(self), *_limits(self)]
        body = "\n\n".join(part for part in parts if part)
        return str(ModelCard(f"---\n{metadata(self).to_yaml()}\n---\n\n{body}\n"))

    @property
    def config(self) -> dict[str, object]:
        """The run's config with dotted keys."""
        return dict(_flat(self.run.get("config") or {}))

    @property
    def longest(self) -> int:
        """Response length limit, in tokens."""
        return self.config.get("sampling.max_new_tokens", LONGEST)

    @property
    def method(self) -> str | None:
        """How the weights were trained from their base; None if the run did not record it."""
        config = self.config
        if not {"n_s", "warmup.steps", "total_steps"} <= config.keys():
            return None
        if self.step <= config["warmup.steps"]:
            return "a supervised warm-up"
        return "PeRL (GRPO whose groups span several orders of the images)" if config["n_s"] else "GRPO"


def metadata(card: Card):
    """The front matter, a `huggingface_hub.ModelCardData`: base only if on the hub, licence only if known."""
    from huggingface_hub import ModelCardData

    tags = ["qwen2_5_vl", "multi-image", "perl_jax"]
    tags += ["reinforcement-learning", "grpo"] if "GRPO" in (card.method or "") else []
    tags += ["lora"] if card.lora else []
    based = {"base_model": card.base.name, "base_model_relation": "adapter" if card.adapter else "finetune"}
    return ModelCardData(
        library_name="peft" if card.adapter else "transformers",
        pipeline_tag="image-text-to-text",
        tags=tags,
        **(based if card.base.hub else {}),
        **card.base.license,
    )


# Sections, as lists of paragraphs


def _title(card: Card) -> list[str]:
    size, word = (card.parameters / 1e9, "billion") if card.parameters >= 1e9 else (card.parameters / 1e6, "million")
    origin = f"trained from {code(card.base.name)}" if card.base.name else "trained from nothing"
    kind = "Adapters (LoRA) for a" if card.adapter else "A"
    how = f" with {card.method}" if card.method else ""
    name = re.sub(r"[^\w.-]+", " ", (card.base.name or "").split("/")[-1]).strip()
    return [
        "# A small model that looks at several images"
        if card.base.from_nothing or not name
        else f"# {name}, trained to reason over several images",
        f"{kind} Qwen2.5-VL of {size:,.2f} {word} parameters, {origin}{how} by perl_jax; step {card.step:,}.",
        "**A toy**: it started from random weights and knows only what its training set shows. It is there to look at "
        "the method, not for use."
        if card.base.from_nothing
        else "",
    ]


def _training(card: Card) -> list[str]:
    config, base, rows = card.config, card.base, []
    if card.method:
        warm = f", the first {config['warmup.steps']:,} supervised" if config["warmup.steps"] else ""
        rows.append(["method", card.method])
        rows.append(["steps", f"{card.step:,} of {config['warmup.steps'] + config['total_steps']:,}{warm}"])
    origin = code(base.name) if base.name else "random weights of a new model"
    revision = f", revision {code(base.revision)}" if base.revision else ""
    rows.append(["base model", f"{origin}{revision}, fingerprint {code(base.fingerprint)}"])
    if lora := card.lora:
        rows.append(["adapters", f"rank {lora['rank']}, alpha {lora['alpha']}, of {code(lora['targets'])}"])
    rows += [[words, code(config[key])] for key, words in TOLD.items() if key in config]
    for data in card.data:
        counts = ", ".join(f"{count:,} in {code(split)}" for split, count in data.counts.items())
        sources = f" (sources: {', '.join(map(code, data.sources))})" if data.sources else ""
        rows.append(
            [
                "records",
                f"{code(data.name)}{': ' * bool(counts)}{counts}{sources}, fingerprint {code(data.fingerprint)}",
            ]
        )
    rows += _environment(card.run)
    rows.append(["these weights", f"fingerprint {code(card.fingerprint)}"])
    return ["## How it was trained", Table(["", ""], rows).markdown()]


def _environment(run: Mapping) -> list[list[str]]:
    rows = []
    if commit := run.get("commit"):
        rows.append(["perl_jax", code(commit) + ", with uncommitted changes" * (run.get("clean") is False)])
    if versions := run.get("versions"):
        rows.append(["versions", ", ".join(code(f"{name} {version}") for name, version in versions.items())])
    if device := run.get("device"):
        processes = run.get("processes") or 1
        rows.append(["devices", code(device) + f", {processes:,} processes" * (processes > 1)])
    return rows + ([["started", code(run["time"])]] if run.get("time") else [])


def _results(card: Card) -> list[str]:
    parts = _held_out(card.evaluations)
    if card.results:
        header = ["benchmark", "protocol", "accuracy", "questions", "scored by", "settings"]
        parts += [
            "Benchmarks, by `perl_jax.evaluate`:",
            Table(header, [_benchmark(result) for result in card.results]).markdown(),
            "In brackets 95% intervals. Figures of another prompt, protocol or judge cannot be set beside these.",
        ]
    rows = [_consistency(result) for result in card.results if result.consistency]
    if rows:
        header = [
            "benchmark",
            "protocol",
            "questions",
            "permuted accuracy",
            "consistent accuracy",
            "flip rate",
            "flip rate, same order",
        ]
        parts += [
            "The same questions in several orders of their images:",
            Table(header, rows).markdown(),
            "Flip rate: the answers to the orders of a question do not all mean the same (lower is better); same "
            "order: asked as often, but never permuted. Bootstrap intervals by question: without width where all "
            "came out alike.",
        ]
    return ["## Results", *parts] if parts else []


def _held_out(evaluations: Sequence[Evaluation]) -> list[str]:
    rows = []
    for evaluation in evaluations:
        found = statistics.measures(evaluation.rows)
        questions = len({row["id"] for row in evaluation.rows})
        rows.append(
            [
                code(evaluation.name),
                f"{evaluation.step:,}",
                f"{questions:,}",
                *(percent(proportion(found[key])) for key in statistics.COLUMNS),
            ]
        )
    if not rows:
        return []
    return [
        "Held-out questions of the run, answered greedily:",
        Table(["set", "step", "questions", *statistics.COLUMNS.values()], rows).markdown(),
        "Accuracy: questions with several images in their original order. Permuted accuracy: mean over questions of "
        "the share of drawn orders answered right. Consistent accuracy: right in every order asked. Flip rate: the "
        "answer changes with the order (lower is better). In brackets Wilson's 95% intervals on the number of "
        "questions.",
    ]


def _benchmark(result: Result) -> list[str]:
    settings = ", ".join(f"{name} {code(result.settings[name])}" for name in SETTINGS if name in result.settings)
    return [
        code(result.benchmark) + ", **in part only**" * result.partial,
        code(result.protocol),
        percent(result.accuracy) + ", mean over categories" * result.macro,
        f"{result.questions:,}",
        f"rules, then {code(result.judge)}" if result.judge else "rules",
        settings,
    ]


def _consistency(result: Result) -> list[str]:
    found = result.consistency
    return [
        code(result.benchmark),
        code(result.protocol),
        f"{found.questions:,}",
        *map(percent, (found.mean, found.all, found.flip, found.control)),
    ]


def _prompt(asked: prompts.Prompts) -> list[str]:
    system = (
        ["System text:", fence(asked.system)]
        if asked.system
        else ["No system text of its own: the chat template puts in its default."]
    )
    then = ", then this instruction:" if asked.instruction else "; no instruction follows."
    return [
        "## The prompt",
        *system,
        f"User's turn: the question, its choices, a line each, as `A. ...`{then}",
        fence(asked.instruction) if asked.instruction else "",
        f"Pictures have {asked.min_pixels:,} to {asked.max_pixels:,} pixels, in sides that are multiples of "
        f"{usage_snippets.side(asked)}; others are resized so, nearly in shape. Several stand before the text, one "
        "after the other, or where the question has them; they have no numbers. Prompts had up to "
        f"{asked.max_tokens:,} tokens, room for {usage_snippets.most_pictures(asked):,} of the largest pictures. An "
        "example, `<|image_pad|>` standing for as many as the picture has tokens:",
        fence(usage_snippets.example(asked)),
    ]


def _use(card: Card) -> list[str]:
    asked, longest = card.asked, card.longest
    parts = [
        "## How to use it",
        "### transformers",
        f'In this directory, after `pip install "transformers>=5.23" torch pillow{" peft" * card.adapter}`; '
        "perl_jax's tests run this code on a small model:",
        fence(usage_snippets.transformers(asked, longest, card.adapter), "python"),
    ]
    if card.adapter:
        return [*parts, "For vLLM, lmms-eval and VLMEvalKit export merged weights, without `--adapter`."]
    return [
        *parts,
        "What follows needs a GPU and was not run by us. `$MODEL` is this directory; how figures so got differ from "
        "ours is told in perl_jax/benchmarks/README.md.",
        "### vLLM",
        fence(usage_snippets.vllm_server(asked, longest), "sh"),
        fence(usage_snippets.vllm_client(asked, longest), "python"),
        "### lmms-eval",
        fence(usage_snippets.lmms_eval(asked, longest), "sh"),
        "### VLMEvalKit",
        "`python run.py --config eval.json --judge exact_matching`, this directory being `models/perl-qwen2.5-vl`, and "
        "eval.json:",
        fence(usage_snippets.vlmevalkit(asked, longest), "json"),
    ]


def _limits(card: Card) -> list[str]:
    flips = [
        (evaluation.name, proportion(statistics.measures(evaluation.rows)["flip"])) for evaluation in card.evaluations
    ]
    flips += [(result.benchmark, result.consistency.flip) for result in card.results if result.consistency]
    told = [
        f"{percent(rate)} of the {rate.questions:,} questions of {code(name)} that were asked so"
        for name, rate in flips
        if rate.questions
    ]
    items = [
        "For research: beyond the results above nobody has checked what it says.",
        "A toy: of no use for other questions than those of its training." if card.base.from_nothing else "",
        "An answer can depend on the order of the pictures: "
        + (f"it changed in {', '.join(told)}." if told else "how often was not measured."),
        "Videos and languages other than those of its base and its training were not tried.",
        _license(card.base),
    ]
    return ["## Limits and licence", "\n".join(f"- {item}" for item in items if item)]


def _license(base: Base) -> str:
    text = "Whoever uses it or passes it on must keep to the licences of its training data"
    if base.license_file:
        return f"{text} and of its base model: {code(base.license_file)} in this directory."
    if base.license:
        return f"{text} and of its base model: {code(base.license.get('license_name') or base.license['license'])}."
    if base.from_nothing:
        return f"{text}; no base model's weights are in it."
    return f"{text} and of its base model, which is not told here: see the base model."


# Formatting


def code(value: object) -> str:
    """Any text as inline code on one line.

    >>> code("a`b\\nc")
    '``a`b c``'
    """
    text = " ".join(str(value).split()) or " "
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    edge = " " * (text[0] == "`" or text[-1] == "`")
    return f"{ticks}{edge}{text}{edge}{ticks}"


def fence(text: str, language: str = "") -> str:
    """Any text as a fenced code block."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def _flat(config: Mapping, prefix: str = ""):
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

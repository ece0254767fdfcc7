"""The model card of an exported directory: a README.md in Hugging Face format, with recorded facts only.

Facts that a run did not record are omitted. Text from other authors (names, prompts) is formatted as code, so that none
of it acts as markup, and of local paths only the last part is shown.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import models
from perl_jax.evaluation import statistics
from perl_jax.evaluation.statistics import Table, percent, proportion
from perl_jax.exporting import usage_snippets
from perl_jax.exporting.provenance import Base, Data, Evaluation, Result
from perl_jax.records import prompts

LONGEST = 2048  # response length limit in tokens, if the run did not record one
CONFIG_ROWS = {  # config keys shown, and their descriptions
    "questions": "questions a step",
    "n_s": "permuted orders a question",
    "rollouts": "rollouts an order",
    "permute.schedule": "permutation probability over the run",
    "permute.start": "permutation probability at the start",
    "permute.end": "permutation probability at the end",
    "sampling.temperature": "temperature of rollouts",
    "sampling.max_new_tokens": "longest response, tokens",
    "data.shuffle": "orders that stand for the original ones",
    "reward": "reward",
    "reward_consistency": "reward of consistency",
    "advantage_scope": "advantages normalised over",
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

    family: str  # the model_type
    prompts: prompts.Prompts
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

        parts = [*_title(self), *_training(self), *_results(self), *_prompt(self.prompts), *_use(self), *_limits(self)]
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

    tags = [card.family, "multi-image", "perl_jax"]
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
        f"{kind} {models.family({'model_type': card.family}).NAME} of {size:,.2f} {word} parameters, "
        f"{origin}{how} by perl_jax; step {card.step:,}.",
        "**A toy**: it started from random weights and knows only what its training set shows. It demonstrates "
        "the method and is not for use."
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
    rows += [[description, code(config[key])] for key, description in CONFIG_ROWS.items() if key in config]
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
            "Brackets hold 95% intervals. Do not compare with figures of another prompt, protocol or judge.",
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
            "Flip rate: the share of questions whose answers differ between orders (lower is better). Same order: the "
            "question is asked as often, but never permuted. Intervals are by bootstrap over questions; they have no "
            "width where all questions agree.",
        ]
    return ["## Results", *parts] if parts else []


def _held_out(evaluations: Sequence[Evaluation]) -> list[str]:
    rows = []
    for evaluation in evaluations:
        measures = statistics.measures(evaluation.rows)
        questions = len({row["id"] for row in evaluation.rows})
        rows.append(
            [
                code(evaluation.name),
                f"{evaluation.step:,}",
                f"{questions:,}",
                *(percent(proportion(measures[key])) for key in statistics.COLUMNS),
            ]
        )
    if not rows:
        return []
    return [
        "Held-out questions of the run, answered greedily:",
        Table(["set", "step", "questions", *statistics.COLUMNS.values()], rows).markdown(),
        "Accuracy: questions with several images in their original order. Permuted accuracy: mean over questions of "
        "the share of permuted orders answered right. Consistent accuracy: right in every order. Flip rate: the "
        "answer changes with the order (lower is better). Brackets hold Wilson's 95% intervals over questions.",
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
    consistency = result.consistency
    return [
        code(result.benchmark),
        code(result.protocol),
        f"{consistency.questions:,}",
        *map(percent, (consistency.mean, consistency.all, consistency.flip, consistency.control)),
    ]


def _prompt(settings: prompts.Prompts) -> list[str]:
    system = (
        ["System text:", fence(settings.system)]
        if settings.system
        else ["No system text: the chat template adds its default, if it has one."]
    )
    then = ", followed by this instruction:" if settings.instruction else "; no instruction follows."
    return [
        "## The prompt",
        *system,
        f"The user's turn is the question and its choices, one a line as `A. ...`{then}",
        fence(settings.instruction) if settings.instruction else "",
        f"Images have {settings.min_pixels:,} to {settings.max_pixels:,} pixels and sides that are multiples of "
        f"{usage_snippets.side(settings)}; others are resized, at nearly the same aspect ratio. Images come before the "
        "text, one after the other, or where the question places them; they are not numbered. Prompts had up to "
        f"{settings.max_tokens:,} tokens, enough for {usage_snippets.max_images(settings):,} of the largest images. An "
        "example, in which one `<|image_pad|>` stands for all tokens of an image:",
        fence(usage_snippets.example(settings)),
    ]


def _use(card: Card) -> list[str]:
    settings, longest = card.prompts, card.longest
    parts = [
        "## How to use it",
        "### transformers",
        f'In this directory, after `pip install "transformers>=5.23" torch pillow{" peft" * card.adapter}`; '
        "perl_jax's tests run this code on a small model:",
        fence(usage_snippets.transformers(settings, longest, models.FAMILIES[card.family], card.adapter), "python"),
    ]
    if card.adapter:
        return [*parts, "For vLLM, lmms-eval and VLMEvalKit export merged weights, without `--adapter`."]
    return [
        *parts,
        "The rest needs a GPU; we have not run it. `$MODEL` is this directory. perl_jax/benchmarks/README.md says how "
        "results from it differ from ours.",
        "### vLLM",
        fence(usage_snippets.vllm_server(settings, longest), "sh"),
        fence(usage_snippets.vllm_client(settings, longest), "python"),
        "### lmms-eval",
        fence(usage_snippets.lmms_eval(settings, longest, family=card.family), "sh"),
        "### VLMEvalKit",
        "`python run.py --config eval.json --judge exact_matching`, with this directory as "
        f"`models/{usage_snippets.model_name(card.family)}` and this eval.json:",
        fence(usage_snippets.vlmevalkit(settings, longest, card.family), "json"),
    ]


def _limits(card: Card) -> list[str]:
    flips = [
        (evaluation.name, proportion(statistics.measures(evaluation.rows)["flip"])) for evaluation in card.evaluations
    ]
    flips += [(result.benchmark, result.consistency.flip) for result in card.results if result.consistency]
    measured = [
        f"{percent(rate)} of the {rate.questions:,} questions of {code(name)} that were asked in several orders"
        for name, rate in flips
        if rate.questions
    ]
    items = [
        "For research only: beyond the results above its answers were not checked.",
        "A toy: it answers only questions like those of its training." if card.base.from_nothing else "",
        "An answer can depend on the order of the images: "
        + (f"it changed in {', '.join(measured)}." if measured else "how often was not measured."),
        "Videos, and languages other than those of its base model and its training, were not tested.",
        _license(card.base),
    ]
    return ["## Limits and licence", "\n".join(f"- {item}" for item in items if item)]


def _license(base: Base) -> str:
    text = "Use and redistribution must follow the licences of its training data"
    if base.license_file:
        return f"{text} and of its base model: {code(base.license_file)} in this directory."
    if base.license:
        return f"{text} and of its base model: {code(base.license.get('license_name') or base.license['license'])}."
    if base.from_nothing:
        return f"{text}; no base model's weights are in it."
    return f"{text} and of its base model; that licence is not recorded here: see the base model."


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

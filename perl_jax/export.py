"""Exports a checkpoint to Hugging Face format: `python -m perl_jax.export --workdir=DIR --out=DIR [--step=N|best]`.

The directory is complete: weights with the hub's names and the base model's dtypes, the unchanged tokenizer and chat
template, settings with which other software processes images and decodes as training did, and `perl_jax.json` with what
they cannot hold: prompt texts, base model and run. README.md is its model card, with the results in `--results=OUT` of
`python -m perl_jax.evaluate`. The directory appears only when complete. LoRA adapters are merged into the weights; with
`--adapter` they are written alone, in PEFT's format, and without results.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from absl import flags
from flax import nnx

import models
from models import lora
from models.errors import InputError
from models.weights import new_directory
from perl_jax import policy
from perl_jax.exporting import model_card, provenance, push
from perl_jax.records import prompts
from perl_jax.runtime import bucket, cli, logs
from perl_jax.training import checkpoint

FLAGS = flags.FLAGS
IMAGE_SETTINGS, PROCESSOR, GENERATION = "preprocessor_config.json", "processor_config.json", "generation_config.json"
TEMPLATE = "chat_template.jinja"


def export(workdir: Path, out: Path, step: str = "latest", adapter: bool = False, results: Sequence[Path] = ()) -> int:
    """Writes checkpoint `step` (its number, `latest` or `best`) of the run in `workdir` to `out`; returns its number.

    `results` are directories that `perl_jax.evaluate` wrote for an export of the same step. Raises InputError for a
    missing step, for base weights that are missing or not those that the run started from, for an `out` that is not
    empty, for `adapter` where a run has none, and for results that are invalid, of other weights, or given with
    `adapter` (they are of merged weights, which are not made then).
    """
    if adapter and results:
        raise InputError("--results belong to merged weights, which --adapter does not write; leave out one of the two")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; give a new directory with --out")
    checked_results = provenance.results(results)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        number = numbered(checkpoints, step, workdir)
        saved = checkpoints.run(number)
        base = base_directory(workdir, saved)
        model = models.load(base)
        parameters = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
        if saved.get("lora"):
            lora.add(model, **saved["lora"], seed=0)
        elif adapter:
            raise InputError(f"{workdir} trained without adapters (config.lora.rank = 0); export without --adapter")
        checkpoints.restore_weights(number, model)
    processor = models.Processor.from_pretrained(base)
    run_prompts = prompts.Prompts.of_json(processor, saved["prompt"], f"{workdir}, step {number}")
    name, run = base_name(workdir, base), last_start(workdir)
    origin = {"base": {key: saved[key] for key in ("model", "base")}, "step": number, "run": run}
    files = side_files(model, run_prompts, origin)
    with new_directory(out) as partial:
        if adapter:
            lora.save(model, partial, name)
            for file, data in files.items():
                (partial / file).write_bytes(data)
        else:
            model.source = dataclasses.replace(model.source, files=tuple(files.items()))
            models.save(lora.merge(model), partial)
        fingerprint = policy.fingerprint(partial)
        provenance.check(checked_results, fingerprint)
        card = model_card.Card(
            family=model.config.model_type,
            prompts=run_prompts,
            base=provenance.base(base, name, saved["base"], new=is_new(workdir, base, run)),
            step=number,
            lora=saved.get("lora"),
            run=run,
            parameters=parameters,
            fingerprint=fingerprint,
            adapter=adapter,
            data=provenance.data(saved["records"]),
            evaluations=provenance.evaluations(workdir, number),
            results=checked_results,
        )
        (partial / provenance.CARD).write_text(str(card), encoding="utf-8")
    return number


def side_files(model: models.Model, run_prompts: prompts.Prompts, origin: Mapping) -> dict[str, bytes]:
    """{name: content} of all files besides config, weights and model card."""
    written = {
        name: json.dumps(content, indent=2, ensure_ascii=False)
        for name, content in settings(model, run_prompts).items()
    }
    written[prompts.FILE] = run_prompts.to_json(**origin)
    files = dict(model.source.files) | {name: f"{text}\n".encode() for name, text in written.items()}
    return {TEMPLATE: run_prompts.processor.template.encode()} | files  # transformers' processors look for it only here


def numbered(checkpoints: checkpoint.Checkpoints, step: str, workdir: Path) -> int:
    """The number of the checkpoint that `step` names."""
    steps = {str(number): number for number in checkpoints.steps()}
    chosen = {"latest": checkpoints.latest(), "best": checkpoints.best(), **steps}.get(step)
    if chosen is None and step == "best" and steps:
        raise InputError(
            f"{workdir} has no best checkpoint: none of {', '.join(steps)} was saved with config.checkpoint.best of an "
            "evaluation (config.eval.sets); give --step=latest, or one of these"
        )
    if chosen is None:
        raise InputError(f"{workdir} has no checkpoint {step!r}; there are: {', '.join(steps) or 'none'}")
    return chosen


def base_directory(workdir: Path, saved: Mapping) -> Path:
    """The directory of a run's base model; finds a model made by the run itself even after its workdir was moved."""
    for path in (Path(saved["model"]), workdir / "init"):
        if path.is_dir() and policy.fingerprint(path) == saved["base"]:
            return path
    raise InputError(
        f"{saved['model']} does not hold the base weights ({saved['base']}) that {workdir} was trained "
        "from; restore them"
    )


def base_name(workdir: Path, base: Path) -> dict[str, str | None]:
    """PEFT's name of the base model: hub id and revision if the run's config has one, else its directory."""
    model = last_start(workdir).get("config", {}).get("model", "")
    if not Path(model).exists() and (hub_id := policy.HUB_ID.fullmatch(model)):
        return {"base_model_name_or_path": hub_id[1], "revision": hub_id[2]}
    return {"base_model_name_or_path": str(base.resolve())}


def is_new(workdir: Path, base: Path, run: Mapping) -> bool:
    """Whether the run made its base model itself, from random weights."""
    return base.resolve() == (workdir / "init").resolve() or (run.get("config") or {}).get("model") == ""


def last_start(workdir: Path) -> dict:
    """The last start in a run's run.json (config, command, commit, versions); {} without that file."""
    return (logs.starts(workdir) or [{}])[-1]


def settings(model: models.Model, run_prompts: prompts.Prompts) -> dict[str, dict]:
    """{file: content} of image processor limits and generation settings, as in training."""
    source = {name: json.loads(data) for name, data in model.source.files if name in (IMAGE_SETTINGS, PROCESSOR)}
    processor = source.get(PROCESSOR, {})
    nested = processor.get("image_processor")  # transformers 5 keeps it here, and prefers it to the other file
    vision = model.config.vision
    defaults = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": list(vision.image_mean),
        "image_std": list(vision.image_std),
    }
    files = {IMAGE_SETTINGS: limited(source.get(IMAGE_SETTINGS) or nested or defaults, run_prompts)}
    if nested:
        files[PROCESSOR] = processor | {"image_processor": limited(nested, run_prompts)}
    files[GENERATION] = {  # nothing else: a repetition penalty, for example, would change even greedy responses
        "do_sample": False,
        "eos_token_id": list(run_prompts.processor.eos_ids),
        "pad_token_id": run_prompts.processor.pad_id,
        "repetition_penalty": 1.0,
        "suppress_tokens": [model.config.image_token_id, model.config.video_token_id],  # as rollouts do
    }
    return files


def limited(image_settings: Mapping, run_prompts: prompts.Prompts) -> dict:
    """Image processor settings with the limits of training, in both formats of transformers."""
    size = (
        {"size": {"shortest_edge": run_prompts.min_pixels, "longest_edge": run_prompts.max_pixels}}
        if "size" in image_settings
        else {}
    )
    return {**image_settings, **run_prompts.limits, **size}


def main(_) -> None:
    out = Path(FLAGS.out)
    if FLAGS.push:
        push.check(FLAGS.push)
    workdir, results = bucket.brought(FLAGS.workdir), [Path(item) for item in FLAGS.results]
    number = export(workdir, out, FLAGS.step, FLAGS.adapter, results)
    print(f"wrote step {number} of {FLAGS.workdir} to {out}")
    if FLAGS.push:
        print(f"pushed to {push.push(out, FLAGS.push, f'step {number} by perl_jax')}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
    flags.DEFINE_string("out", None, "Directory to write; must be new or empty.", required=True)
    flags.DEFINE_string("step", "latest", "Checkpoint to export: its number, latest or best.")
    flags.DEFINE_bool("adapter", False, "Write only the adapters, for PEFT, instead of merged weights.")
    flags.DEFINE_multi_string(
        "results",
        [],
        "Results of perl_jax.evaluate (its --out) for an export of the same step, for the model card; may be repeated.",
    )
    flags.DEFINE_string("push", "", "Also upload it to this repository of the hub, OWNER/NAME; a new one is private.")
    cli.run(main)

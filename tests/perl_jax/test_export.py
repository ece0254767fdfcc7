"""Export: what transformers loads from an exported directory is the policy that was trained, and answers as it does."""

import json
import re
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tiny
import tiny_run
from PIL import Image

import models
from models import lora
from models.errors import InputError
from models.source import Source
from perl_jax import export, policy, rollout, sample
from perl_jax.exporting import provenance, usage_snippets
from perl_jax.records import prompts
from perl_jax.training import checkpoint

pytestmark = pytest.mark.slow

PIXELS = {"min_pixels": tiny.MIN_PIXELS, "max_pixels": tiny.MAX_PIXELS}

LAST = tiny_run.WARMUP + tiny_run.STEPS


@pytest.fixture(scope="module")
def family(request):
    return getattr(request, "param", "qwen2_5_vl")


BOTH_FAMILIES = pytest.mark.parametrize("family", tiny_run.FAMILIES, indirect=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, family):
    out = tmp_path_factory.mktemp("export") / "deep" / "model"
    assert export.export(tiny_run.trained(family), out) == LAST
    return out


def model_and_prompt(path):
    """(our model, its prompts, a prompt of two images, one too large)."""
    settings = prompts.Prompts.of_directory(path)
    record = {
        "id": "x",
        "question": "<image><image>Which image shows 3?",
        "images": [tiny.noise_image(40, 30, seed=1), tiny.noise_image(200, 120, seed=2)],
    }
    return models.load(path), settings, settings.encode(record)


def names(path):
    return sorted(file.name for file in path.iterdir())


@BOTH_FAMILIES
def test_the_directory_is_complete_and_nothing_else_is_left(exported, family):
    base = tiny_run.trained(family) / "init"
    assert names(exported) == sorted([*names(base), prompts.FILE, provenance.CARD])
    assert names(exported.parent) == ["model"]
    changed = {"model.safetensors", "generation_config.json", "preprocessor_config.json"}
    for name in set(names(base)) - changed:  # the chat template, for one
        assert (exported / name).read_bytes() == (base / name).read_bytes(), name


@BOTH_FAMILIES
def test_weights_are_those_of_the_checkpoint(exported, family):
    workdir = tiny_run.trained(family)
    base, model = models.load(workdir / "init"), models.load(exported)
    before = models.named(base)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        checkpoints.restore_weights(LAST, base)
    trained = models.named(base)
    assert all(np.array_equal(value, trained[name]) for name, value in models.named(model).items())
    [embedding] = [name for name in trained if name.endswith("embed_tokens.weight")]
    assert not np.array_equal(trained[embedding], before[embedding])


def test_perl_jax_json_says_where_the_model_comes_from(exported):
    about, config = json.loads((exported / prompts.FILE).read_text()), tiny_run.config()
    assert {name: about[name] for name in prompts.FIELDS} == config.prompt.to_dict()
    assert about["step"] == LAST
    assert about["base"]["base"] == policy.fingerprint(tiny_run.trained() / "init")
    assert about["run"]["config"]["total_steps"] == tiny_run.STEPS and about["run"]["versions"]["jax"]


@BOTH_FAMILIES
def test_transformers_loads_it_whole_and_gives_the_same_greedy_tokens(exported):
    torch = pytest.importorskip("torch")
    import transformers

    theirs, info = transformers.AutoModelForImageTextToText.from_pretrained(exported, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model, settings, (ids, images) = model_and_prompt(exported)
    processed = transformers.Qwen2VLImageProcessorPil.from_pretrained(exported)(images, return_tensors="pt")
    input_ids = torch.tensor([ids])
    count = 12
    tokens = theirs.generate(  # all else as the directory's generation_config.json says
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=count,
        mm_token_type_ids=(input_ids == model.config.image_token_id).int(),
        pixel_values=processed["pixel_values"],
        image_grid_thw=processed["image_grid_thw"],
    )[0, len(ids) :]
    out = rollout.generate(
        model,
        [(ids, images)],
        samples=1,
        max_new_tokens=count,
        temperature=0.0,
        eos_ids=settings.processor.eos_ids,
        **settings.limits,
    )
    assert tokens.tolist() == out.tokens[0, 0, : out.lengths[0, 0]].tolist()


def test_others_read_the_limits_and_how_to_generate(exported):
    pytest.importorskip("torch")
    import transformers

    config = tiny_run.config()
    processor = transformers.AutoImageProcessor.from_pretrained(exported, backend="pil")
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (
        config.prompt.min_pixels,
        config.prompt.max_pixels,
    )
    generation = transformers.GenerationConfig.from_pretrained(exported)
    generation.validate(strict=True)
    assert generation.do_sample is False and generation.repetition_penalty == 1.0
    assert generation.temperature in (None, 1.0) and generation.top_p in (None, 1.0)
    assert tuple(generation.eos_token_id) == models.Processor.from_pretrained(tiny_run.trained() / "init").eos_ids


def test_all_forms_of_settings_are_rewritten(exported):
    """Published settings: a repetition penalty, other limits in both forms, and transformers 5's nested processor."""
    model, settings, _ = model_and_prompt(exported)
    image_settings = {
        "min_pixels": 1,
        "max_pixels": 2,
        "size": {"shortest_edge": 1, "longest_edge": 2},
        "patch_size": 14,
    }
    files = {
        "preprocessor_config.json": image_settings,
        "processor_config.json": {"processor_class": "X", "image_processor": image_settings},
        "generation_config.json": {"repetition_penalty": 1.05, "temperature": 0.1, "top_k": 1, "do_sample": True},
    }
    source = Source(b"{}", (), tuple((name, json.dumps(content).encode()) for name, content in files.items()))
    written = export.settings(type("Model", (), {"source": source, "config": model.config}), settings)
    limits = settings.limits | {"size": {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}}
    assert written["preprocessor_config.json"] == image_settings | limits
    assert written["processor_config.json"] == {"processor_class": "X", "image_processor": image_settings | limits}
    assert written["generation_config.json"].keys() == {
        "do_sample",
        "eos_token_id",
        "pad_token_id",
        "repetition_penalty",
        "suppress_tokens",
    }


@pytest.mark.parametrize("step", ["best", "2"])
def test_a_named_step_is_exported(tmp_path, step):
    with checkpoint.Checkpoints(tiny_run.trained(), read_only=True) as checkpoints:
        best = checkpoints.best()
        scores = {n: checkpoints._manager.metrics(n) for n in checkpoints.steps()}
    number = export.export(tiny_run.trained(), tmp_path / "model", step)
    assert number == (best if step == "best" else 2)
    assert step != "best" or scores[best] == max((s for s in scores.values() if s), key=lambda s: max(s.values()))
    assert json.loads((tmp_path / "model" / prompts.FILE).read_text())["step"] == number


def test_a_step_that_is_not_there_lists_those_that_are(tmp_path):
    there = ", ".join(map(str, range(1, LAST + 1)))
    for step in ("99", "newest", "-1", ""):
        with pytest.raises(InputError, match=f"no checkpoint {step!r}; there are: {there}"):
            export.export(tiny_run.trained(), tmp_path / "model", step)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def moved(tmp_path):
    """A run whose base model and data are no longer where they were, but whole in its workdir."""
    workdir = tmp_path / "moved"
    shutil.copytree(tiny_run.trained(), workdir, ignore=shutil.ignore_patterns("data"))
    record = workdir / "checkpoints" / str(LAST) / "run" / "metadata"
    about = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"model": str(tmp_path / "gone")}))
    return workdir


def test_a_moved_run_without_its_data_is_exported(moved, exported, tmp_path):
    export.export(moved, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


def test_another_base_is_refused(moved, tmp_path):
    file = moved / "init" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="does not hold the base weights"):
        export.export(moved, tmp_path / "model")
    assert names(tmp_path) == ["moved"]


def test_a_directory_in_use_is_refused(exported, tmp_path):
    with pytest.raises(InputError, match="not empty"):
        export.export(tiny_run.trained(), exported)
    (tmp_path / "model").mkdir()
    export.export(tiny_run.trained(), tmp_path / "model")  # an empty one is not in use


def test_bfloat16_weights_stay_bfloat16(moved, tmp_path):
    """Training holds them in float32; an export writes each in the dtype that the base has on disk."""
    base = tmp_path / "base"
    models.save(models.load(moved / "init"), base, dtype="bfloat16")
    shutil.rmtree(moved / "init")
    shutil.copytree(base, moved / "init")
    record = moved / "checkpoints" / str(LAST) / "run" / "metadata"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"base": policy.fingerprint(base)}))
    export.export(moved, tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    written = models.load(tmp_path / "model")
    assert set(written.source.dtype_of.values()) == {"BF16"}
    trained = models.load(tiny_run.trained() / "init")
    with checkpoint.Checkpoints(tiny_run.trained(), read_only=True) as checkpoints:
        checkpoints.restore_weights(LAST, trained)
    for name, value in models.named(trained).items():
        assert np.array_equal(np.asarray(value).astype(ml_dtypes.bfloat16), models.named(written)[name]), name


# The model card


def run_card(directory, place, monkeypatch) -> dict:
    """What the card's code for transformers leaves, run as a person would: in (a copy of) the directory."""
    shutil.copytree(directory, place)
    for name, image in zip(("a.png", "b.png"), (tiny.noise_image(40, 30, seed=1), tiny.noise_image(200, 120, seed=2))):
        Image.fromarray(image).save(place / name)
    monkeypatch.chdir(place)
    [code, *_] = re.findall(r"^```python\n(.*?)^```$", (place / provenance.CARD).read_text(), re.DOTALL | re.MULTILINE)
    namespace = {}
    exec(code, namespace)
    return namespace


@BOTH_FAMILIES
def test_the_cards_code_answers_as_we_do(exported, tmp_path, monkeypatch):
    """The same prompt, logits within 5e-4, the same greedy tokens and words as perl_jax.sample."""
    torch = pytest.importorskip("torch")
    theirs = run_card(exported, tmp_path / "model", monkeypatch)
    model, settings = models.load(exported), prompts.Prompts.of_directory(exported)
    images = [Path(name).read_bytes() for name in ("a.png", "b.png")]
    question = {"id": "x", "question": f"<image><image>{usage_snippets.QUESTION}", "images": images}
    prompt = settings.encode(question)
    assert theirs["inputs"]["input_ids"][0].tolist() == prompt[0]
    with torch.inference_mode():
        logits = theirs["model"](**theirs["inputs"]).logits[0].numpy()
    np.testing.assert_allclose(
        logits, model(models.pack(model.config, [prompt], **settings.limits))[0, : len(prompt[0])], atol=5e-4
    )
    longest = tiny_run.config().sampling.max_new_tokens
    [answer] = sample.answers(exported, usage_snippets.QUESTION, images, max_new_tokens=longest)
    assert theirs["answer"] == answer
    out = rollout.generate(
        model,
        [prompt],
        samples=1,
        max_new_tokens=longest,
        temperature=0.0,
        eos_ids=settings.processor.eos_ids,
        **settings.limits,
    )
    assert theirs["tokens"].tolist() == out.tokens[0, 0, : out.lengths[0, 0]].tolist()


def test_the_card_tells_of_this_run(exported):
    text, config = (exported / provenance.CARD).read_text(), tiny_run.config()
    assert f"| steps | {LAST} of {LAST}, the first {config.warmup.steps} supervised |" in text
    assert policy.fingerprint(tiny_run.trained() / "init") in text and policy.fingerprint(exported) in text
    assert f"| `eval` | {LAST} | {config.data.options.eval_size} |" in text and "**A toy**" in text
    assert f"{config.data.options.train_size} in `train`" in text and str(tiny_run.trained()) not in text


def test_the_card_of_an_earlier_step_has_its_evaluation(tmp_path):
    export.export(tiny_run.trained(), tmp_path / "model", "4")
    assert "| `eval` | 3 |" in (tmp_path / "model" / provenance.CARD).read_text()


def test_the_bases_card_is_not_taken_for_ours(moved, tmp_path):
    """Its licence is; and a chat template is written where processors look for it, wherever the base has it."""
    base = moved / "init"
    template = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").unlink()
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# The base model\n")
    (base / "LICENSE").write_text("Apache License")
    export.export(moved, tmp_path / "model")
    text = (tmp_path / "model" / provenance.CARD).read_text()
    assert "license: apache-2.0\n" in text and "The base model" not in text
    assert (tmp_path / "model" / "LICENSE").read_text() == "Apache License"
    assert (tmp_path / "model" / "chat_template.jinja").read_text() == template


def test_results_of_these_weights_stand_in_the_card(exported, tmp_path):
    file = tmp_path / "results" / "blink-boxed" / "results.json"
    file.parent.mkdir(parents=True)
    share = {"mean": 0.5853, "low": 0.56, "high": 0.61, "questions": 1901}
    result = {
        "benchmark": "blink",
        "protocol": "boxed",
        "judge": None,
        "settings": {"samples": 1},
        "partial": False,
        "figures": {"questions": 1901, "headline": "micro", "micro": share},
        "consistency": None,
    }
    for fingerprint in (policy.fingerprint(exported), "another"):
        file.write_text(json.dumps(result | {"model": {"name": "m", "fingerprint": fingerprint}}))
        out = tmp_path / fingerprint
        if fingerprint == "another":
            with pytest.raises(InputError, match="blink-boxed is of the weights another"):
                export.export(tiny_run.trained(), out, results=[tmp_path / "results"])
        else:
            export.export(tiny_run.trained(), out, results=[tmp_path / "results"])
            assert "58.5% [56.0, 61.0] | 1,901 |" in (out / provenance.CARD).read_text()
    assert names(tmp_path) == sorted([policy.fingerprint(exported), "results"])


# Adapters


@pytest.fixture(scope="module")
def adapted(family):
    """(the policy that a run with adapters ended with, a prompt of two images, its logits [T, V])."""
    workdir = tiny_run.adapted(family)
    model = policy.adapted(tiny_run.config(**tiny_run.ADAPTERS), models.load(workdir / "init"))
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        checkpoints.restore_weights(tiny_run.STEPS, model)
    prompt = tiny.prompt(model.config, [(84, 84), 3, (56, 140), 6])
    assert np.abs(logits_of(models.load(workdir / "init"), prompt) - logits_of(model, prompt)).max() > 0.1
    return model, prompt, logits_of(model, prompt)


def logits_of(model, prompt):
    return np.asarray(model(models.pack(model.config, [prompt], **PIXELS))[0, : len(prompt[0])])


def theirs(path):
    """(tests/support/reference.py, transformers' model of a directory), or skips."""
    pytest.importorskip("torch")
    import reference
    import transformers

    return reference, transformers.AutoModelForImageTextToText.from_pretrained(path)


@BOTH_FAMILIES
def test_adapters_are_exported_merged(adapted, family, tmp_path):
    """In the base's dtypes; our logits and those of transformers are the adapted model's within 5e-4."""
    _, prompt, expected = adapted
    export.export(tiny_run.adapted(family), tmp_path / "model")
    written, base = models.load(tmp_path / "model"), tiny_run.adapted(family) / "init"
    assert written.source.dtypes == models.load(base).source.dtypes
    assert names(tmp_path / "model") == sorted([*names(base), prompts.FILE, provenance.CARD])
    np.testing.assert_allclose(logits_of(written, prompt), expected, atol=5e-4)
    reference, merged = theirs(tmp_path / "model")
    logits = reference.logits(merged, prompt, tiny.MAX_PIXELS).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=5e-4)


@BOTH_FAMILIES
def test_adapters_are_exported_for_peft(adapted, family, tmp_path):
    """Without the base's weights; PEFT loads them onto the base that they name: logits within 5e-4 of ours."""
    _, prompt, expected = adapted
    out, base = tmp_path / "adapter", tiny_run.adapted(family) / "init"
    assert export.export(tiny_run.adapted(family), out, adapter=True) == tiny_run.STEPS
    assert set(names(out)) == {*names(base), prompts.FILE, provenance.CARD, lora.CONFIG, lora.WEIGHTS} - {
        "config.json",
        "model.safetensors",
    }
    config = json.loads((out / lora.CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(base) and (config["r"], config["lora_alpha"]) == (3, 32)
    peft = pytest.importorskip("peft")
    reference, model = theirs(config["base_model_name_or_path"])
    model = peft.PeftModel.from_pretrained(model, str(out)).eval()
    logits = reference.logits(model, prompt, tiny.MAX_PIXELS).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=5e-4)


def test_the_adapters_card_runs_with_peft(tmp_path, monkeypatch):
    """And answers as the merged weights do."""
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    export.export(tiny_run.adapted(), tmp_path / "adapter", adapter=True)
    export.export(tiny_run.adapted(), tmp_path / "merged")
    alone = run_card(tmp_path / "adapter", tmp_path / "a", monkeypatch)
    merged = run_card(tmp_path / "merged", tmp_path / "b", monkeypatch)
    assert alone["answer"] == merged["answer"] and alone["tokens"].tolist() == merged["tokens"].tolist()
    assert "library_name: peft" in (tmp_path / "adapter" / provenance.CARD).read_text()


def test_the_base_of_an_adapter_has_its_hub_id(tmp_path):
    run = {"config": {"model": "Qwen/Qwen2.5-VL-3B-Instruct@main"}}
    (tmp_path / "run.json").write_text(json.dumps([run]))
    assert export.base_name(tmp_path, tmp_path) == {
        "base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct",
        "revision": "main",
    }
    (tmp_path / "run.json").write_text(json.dumps([{"config": {"model": str(tmp_path)}}]))
    assert export.base_name(tmp_path, tmp_path) == {"base_model_name_or_path": str(tmp_path)}


def test_results_are_not_put_on_the_card_of_adapters_unchecked(tmp_path):
    with pytest.raises(InputError, match=r"--results .* --adapter .* leave out one") as error:
        export.export(tiny_run.adapted(), tmp_path / "adapter", adapter=True, results=[tmp_path / "results"])
    assert "\n" not in str(error.value) and not (tmp_path / "adapter").exists()


def test_a_run_without_adapters_has_none_to_export(tmp_path):
    with pytest.raises(InputError, match="trained without adapters"):
        export.export(tiny_run.trained(), tmp_path / "adapter", adapter=True)
    assert names(tmp_path) == []

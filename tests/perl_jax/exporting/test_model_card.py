"""The model card: valid for the hub, nothing in it that is not known, and nothing of others' texts read as markup."""

import re

import pytest
import tiny_run
from huggingface_hub import ModelCard

from models import qwen2_5_vl as qwen
from models.qwen2_5_vl import from_scratch
from perl_jax.evaluation.statistics import Estimate
from perl_jax.exporting import model_card, provenance
from perl_jax.records.prompts import Prompts

HUB = provenance.Base("Qwen/Qwen2.5-VL-3B-Instruct", True, "main", "b4se", False, {}, None)
NEW = provenance.Base(None, False, None, "b4se", True, {}, None)
RUN = {
    "config": tiny_run.config().to_dict(),
    "commit": "c0ffee",
    "clean": False,
    "versions": {"jax": "0.10.2"},
    "device": "8 x TPU v5e",
    "processes": 2,
    "time": "2026-11-22T10:00:00+0000",
    "command": ["--workdir=/home/me"],
}
ROWS = [
    {
        "id": name,
        "source": "s",
        "order": order,
        "original": order == [0, 1],
        "images": 2,
        "text": "",
        "answer": "1",
        "meaning": "1" if right else "2",
        "correct": right,
    }
    for name, order, right in (("a", [0, 1], True), ("a", [1, 0], False), ("b", [0, 1], True), ("b", [1, 0], True))
]
FLIP = provenance.Consistency(40, *(Estimate(mean, 0.1, 0.9, 40) for mean in (0.61, 0.52, 0.33, 0.04)))
RESULT = provenance.Result(
    "blink",
    "boxed",
    "abc",
    Estimate(0.5853, 0.56, 0.61, 1901),
    True,
    1901,
    None,
    {"samples": 1, "temperature": 0.0, "seed": 3},
    False,
    None,
)
BLOCK = re.compile(r"^(`{3,})\w*\n.*?\n\1$", re.DOTALL | re.MULTILINE)  # of code


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    path = tmp_path_factory.mktemp("processor")
    from_scratch.make_processor(path, tiny_run.config().scratch.to_dict(), ["Which image shows a cat?"])
    return qwen.Processor.from_pretrained(path)


@pytest.fixture
def card(processor):
    """What is told of a run of which only the least is known."""
    settings = Prompts(
        processor, "Look.", "Think, then \\boxed{}.", min_pixels=3136, max_pixels=262144, max_tokens=8192
    )
    return model_card.Card(
        family="qwen2_5_vl",
        prompts=settings,
        base=HUB,
        step=6,
        lora=None,
        run={},
        parameters=3_750_000_000,
        fingerprint="f00d",
        adapter=False,
        data=[],
        evaluations=[],
        results=[],
    )


def everything(card):
    data = provenance.Data("mantis", "da7a", {"train": 22000, "eval": 300}, ["nlvr2"])
    evaluations = [provenance.Evaluation("eval", 6, ROWS)]
    return card._replace(
        run=RUN,
        data=[data],
        evaluations=evaluations,
        results=[RESULT._replace(consistency=FLIP)],
        lora={"rank": 64, "alpha": 32, "targets": "a|b"},
    )


def front(text: str) -> dict:
    return ModelCard(text).data.to_dict()


def test_the_front_matter_is_the_hubs(card):
    fields = front(str(everything(card)))
    assert fields["library_name"] == "transformers" and fields["pipeline_tag"] == "image-text-to-text"
    assert fields["base_model"] == "Qwen/Qwen2.5-VL-3B-Instruct" and fields["base_model_relation"] == "finetune"
    assert {"reinforcement-learning", "grpo", "lora", "multi-image"} <= set(fields["tags"])
    assert str(ModelCard(str(card))) == str(card)


def test_adapters_are_for_peft(card):
    text = str(card._replace(adapter=True))
    assert front(text)["library_name"] == "peft" and front(text)["base_model_relation"] == "adapter"
    assert "PeftModel" in text and "vllm serve" not in text


def test_a_base_that_is_not_on_the_hub_is_not_in_the_front_matter(card):
    for base in (NEW, HUB._replace(name="mine", hub=False, revision=None)):
        assert not {"base_model", "base_model_relation"} & front(str(card._replace(base=base))).keys()


def test_nothing_is_left_to_fill_in(card):
    for text in map(str, (card, everything(card), card._replace(base=NEW), card._replace(adapter=True))):
        assert not re.search(r"\bNone\b|\bnan\b|TODO|\{\}(?<!boxed\{\})|More Information|\[\]", text)
        assert "\n\n\n" not in re.sub(BLOCK, "x", text)


def test_what_is_not_known_is_left_out(card):
    text = str(card)
    for word in (
        "method",
        "| steps",
        "learning rate",
        "| records",
        "| perl_jax",
        "versions",
        "devices",
        "## Results",
        "| adapters",
    ):
        assert word not in text, word
    assert "how often was not measured" in text and "PeRL" not in text
    assert "reinforcement-learning" not in front(text)["tags"]


def test_the_run_is_told(card):
    text = str(everything(card))
    for words in (
        "| method | PeRL (GRPO",
        "| steps | 6 of 6, the first 2 supervised |",
        "3.75 billion parameters",
        "`Qwen/Qwen2.5-VL-3B-Instruct`, revision `main`, fingerprint `b4se`",
        "`mantis`: 22,000 in `train`, 300 in `eval`",
        "fingerprint `da7a`",
        "`c0ffee`, with uncommitted changes",
        "`jax 0.10.2`",
        "`8 x TPU v5e`, 2 processes",
        "| these weights | fingerprint `f00d` |",
        "rank 64, alpha 32",
        "| learning rate | `0.01` |",
    ):
        assert words in text, words
    assert "/home/me" not in text


@pytest.mark.parametrize(
    ("step", "n_s", "method"),
    [
        (2, 1, "a supervised warm-up"),
        (3, 0, "GRPO"),
        (3, 1, "PeRL (GRPO whose groups span several orders of the images)"),
    ],
)
def test_the_method_is_that_of_the_step(card, step, n_s, method):
    run = {"config": tiny_run.config(n_s=n_s).to_dict()}
    assert card._replace(step=step, run=run).method == method


def test_results_stand_in_tables(card):
    text = str(everything(card))
    half = "50.0% [9.5, 90.5]"
    assert f"| `eval` | 6 | 2 | 100.0% [34.2, 100.0] | {half} | {half} | {half} | – |" in text
    assert (
        "| `blink` | `boxed` | 58.5% [56.0, 61.0], mean over categories | 1,901 | rules | samples `1`, "
        "temperature `0.0` |"
    ) in text
    assert "| `blink` | `boxed` | 40 | 61.0% [10.0, 90.0] | 52.0% [10.0, 90.0] | 33.0% [10.0, 90.0] | 4.0%" in text
    assert (
        "it changed in 50.0% [9.5, 90.5] of the 2 questions of `eval` that were asked in several orders, 33.0%" in text
    )


def test_parts_and_judges_are_told(card):
    result = RESULT._replace(partial=True, judge="gpt-4o", macro=False)
    text = str(card._replace(results=[result]))
    assert "| `blink`, **in part only** | `boxed` | 58.5% [56.0, 61.0] | 1,901 | rules, then `gpt-4o` |" in text
    assert "several orders of their images:" not in text


@pytest.mark.parametrize(
    ("base", "words", "fields"),
    [
        (HUB, "see the base model", {}),
        (HUB._replace(license={"license": "apache-2.0"}), "base model: `apache-2.0`", {"license": "apache-2.0"}),
        (
            HUB._replace(license={"license": "other", "license_name": "own"}),
            "base model: `own`",
            {"license": "other", "license_name": "own"},
        ),
        (HUB._replace(license_file="LICENSE"), "`LICENSE` in this directory", {}),
        (NEW, "no base model's weights are in it", {}),
    ],
)
def test_the_licence_is_told_and_never_guessed(card, base, words, fields):
    text = str(card._replace(base=base))
    assert words in text and {key: value for key, value in front(text).items() if "license" in key} == fields


def test_toys_say_so(card):
    assert "**A toy**" in str(card._replace(base=NEW)) and "A toy:" in str(card._replace(base=NEW))
    assert "toy" not in str(card)


WEIRD = "a|b`c``d<script>\n# [x](y)**"


def test_names_are_no_markup(card, processor):
    """Whatever a name or text holds, it stays in its cell or its block of code."""
    settings = Prompts(processor, "```\n# system", "````\n---\n# x", 3136, 262144, 8192)
    full = everything(card)
    weird = full._replace(
        prompts=settings,
        base=HUB._replace(name=WEIRD, hub=False),
        data=[full.data[0]._replace(name=WEIRD)],
        evaluations=[full.evaluations[0]._replace(name=WEIRD)],
        results=[full.results[0]._replace(benchmark=WEIRD)],
    )
    text = str(weird)
    outside, tame = (re.sub(BLOCK, "", each) for each in (text, str(full)))
    headings, known = (re.findall(r"^#.*", each, flags=re.MULTILINE) for each in (outside, tame))
    assert len(headings) > 5 and headings[1:] == known[1:]
    for table in re.findall(r"(?:^\|.*\n)+", outside, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    spans = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert "<script>" not in spans and "**\n" not in spans.replace("**A toy**", "")
    assert front(text).keys() == {"library_name", "pipeline_tag", "tags"}


def test_the_prompt_is_shown_as_it_is(card):
    text = str(card)
    assert "```\nLook.\n```" in text and "```\nThink, then \\boxed{}.\n```" in text
    assert "<|im_start|>system\nLook.<|im_end|>" in text
    assert "3,136 to 262,144 pixels" in text and "up to 8,192 tokens, enough for 24 of the largest" in text
    assert "max_new_tokens=2048" in text  # where the run does not say it
    bare = card._replace(prompts=Prompts(card.prompts.processor, "", "", 3136, 262144, 8192))
    assert "its default" in str(bare) and "no instruction follows" in str(bare)

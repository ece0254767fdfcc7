"""Code and commands for other software: they parse, and carry the prompt that the model was trained with."""

import ast
import json
import shlex

import pytest
import tiny
import tiny_run
from environment import REPOSITORY
from fake_endpoint import FakeEndpoint
from PIL import Image

import models
from configs import base
from models import qwen2_5_vl as qwen
from models.qwen2_5_vl import from_scratch
from perl_jax.exporting import usage_snippets
from perl_jax.records.prompts import Prompts

SYSTEM, INSTRUCTION = 'It\'s "you", who\nlooks.', "Think in `<think>`, then\n\\boxed{} $(it)."
NETWORK = "Qwen2_5_VLForConditionalGeneration"
SIZES = tiny_run.config().scratch.to_dict()


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    path = tmp_path_factory.mktemp("processor")
    from_scratch.make_processor(path, SIZES, [usage_snippets.QUESTION])
    return qwen.Processor.from_pretrained(path)


@pytest.fixture
def settings(processor):
    return Prompts(processor, SYSTEM, INSTRUCTION, min_pixels=784, max_pixels=3136, max_tokens=300)


@pytest.fixture
def plain(processor):
    return Prompts(processor, "", "", min_pixels=784, max_pixels=3136, max_tokens=300)


def constants(code: str) -> set:
    return {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}


def words_of(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", ""))


@pytest.mark.parametrize("adapter", [False, True])
def test_code_for_transformers_holds_the_texts(settings, plain, adapter):
    code = usage_snippets.transformers(settings, 77, NETWORK, adapter)
    assert {SYSTEM, "\n" + INSTRUCTION, 77} <= constants(code)
    assert ("peft" in code) == adapter
    assert "system" not in constants(usage_snippets.transformers(plain, 77, NETWORK, adapter))


def test_the_example_is_the_prompt_of_training(settings, plain):
    """But that an image has as many tokens as its merged patches."""
    for prompts in (settings, plain):
        record = {
            "id": "x",
            "question": "<image><image>" + usage_snippets.QUESTION,
            "images": [tiny.noise_image(28, 28, 0)] * 2,
        }
        ids, _ = prompts.encode(record)
        encoded = prompts.processor.tokenizer.encode(usage_snippets.example(prompts), add_special_tokens=False)
        assert encoded == ids  # these pictures have one token each


def test_a_prompt_holds_as_many_images_as_it_has_tokens_for(settings):
    assert usage_snippets.max_images(settings) == 300 // 4
    assert usage_snippets.max_images(Prompts(settings.processor, "", "", 784, 10**9, 300)) == 1
    assert usage_snippets.max_images(Prompts(settings.processor, "", "", 1, 27 * 28, 300)) == 300


def test_the_vllm_server_gets_the_limits(settings):
    words = words_of(usage_snippets.vllm_server(settings, 50))
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[:3] == ["vllm", "serve", "$MODEL"]
    assert json.loads(flags["--mm-processor-kwargs"]) == settings.limits
    assert json.loads(flags["--limit-mm-per-prompt"]) == {"image": 75, "video": 0}
    assert int(flags["--max-model-len"]) == 350


def test_the_vllm_client_asks_greedily_with_the_texts(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.fromarray(tiny.noise_image(28, 28, 0)).save(name)
    with FakeEndpoint(lambda request: "2") as server:
        names = {}
        exec(usage_snippets.vllm_client(settings, 50).replace("http://localhost:8000/v1", server.url), names)
    [request] = server.requests
    system, user = request["messages"]
    assert names["answer"] == "2" and request["temperature"] == 0 and request["max_tokens"] == 50
    assert system == {"role": "system", "content": SYSTEM}
    assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
    assert user["content"][2]["text"] == f"{usage_snippets.QUESTION}\n{INSTRUCTION}"


def split(arguments: str) -> dict[str, str]:
    """As lmms-eval 0.7.3 reads --model_args: at commas outside quotes and brackets, which stay where they are."""
    parts, depth, quote = [""], 0, ""
    for before, sign in zip(" " + arguments, arguments):
        if sign in "\"'" and before != "\\":
            quote = "" if sign == quote else quote or sign
        elif not quote:
            depth += (sign in "{[") - (sign in "}]")
        if sign == "," and not quote and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return dict(part.split("=", 1) for part in parts)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_lmms_eval_gets_its_arguments_whole(settings, processor, family):
    words = words_of(usage_snippets.lmms_eval(settings, 50, family=family))
    assert words[:5] == ["python", "-m", "lmms_eval", "--model", family] and "--force_simple" in words
    arguments = split(words[words.index("--model_args") + 1])
    assert arguments == {
        "pretrained": "$MODEL",
        "min_pixels": "784",
        "max_pixels": "3136",
        "system_prompt": '"' + SYSTEM.replace('"', '\\"') + '"',
        "reasoning_prompt": rf'\n"{INSTRUCTION}"',
    }
    simple = Prompts(processor, "", "Answer in \\boxed{}.", 784, 3136, 300)
    words = words_of(usage_snippets.lmms_eval(simple, 50))
    arguments = split(words[words.index("--model_args") + 1])
    assert arguments["reasoning_prompt"] == "\\nAnswer in \\boxed{}." and "system_prompt" not in arguments


@pytest.mark.parametrize("family, name", zip(models.FAMILIES, ["qwen2.5-vl", "qwen3-vl"], strict=True))
def test_vlmevalkit_gets_limits_and_texts(settings, plain, family, name):
    [(directory, model)] = json.loads(usage_snippets.vlmevalkit(settings, 50, family))["model"].items()
    assert directory == f"perl-{name}" and model["class"] in ("Qwen2VLChat", "Qwen3VLChat")
    assert model["system_prompt"] == f"{SYSTEM}\n{INSTRUCTION}" and model["max_new_tokens"] == 50
    assert settings.limits.items() <= model.items() and not model["use_custom_prompt"]
    assert "system_prompt" not in json.loads(usage_snippets.vlmevalkit(plain, 50))["model"]["perl-qwen2.5-vl"]


def test_the_docs_show_what_a_card_does(processor):
    """Of a model that was trained as configs/base.py says."""
    config = base.get_config()
    settings, longest = Prompts(processor, **config.prompt), config.sampling.max_new_tokens
    text = (REPOSITORY / "perl_jax" / "benchmarks" / "README.md").read_text()
    for command in (usage_snippets.vllm_server, usage_snippets.lmms_eval, usage_snippets.vlmevalkit):
        assert command(settings, longest) in text, command.__name__

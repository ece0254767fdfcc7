"""Code and commands for the model card that prompt the exported model as in training, from other software.

Each snippet passes the system text, the instruction, the image size limits and greedy decoding, as far as the software
supports them; perl_jax/benchmarks/README.md lists the versions checked, and the differences.
"""

import json
import re
import shlex

import models
from perl_jax.records import prompts
from perl_jax.records.prompts import Prompts

QUESTION = "Which image shows a cat?"
FAMILY = next(iter(models.FAMILIES))
VLMEVALKIT = {"qwen2_5_vl": "Qwen2VLChat", "qwen3_vl": "Qwen3VLChat"}  # its class of each family
MIN_IMAGES = 8  # least image limit of a server: where one of the largest images fits, several smaller ones do

TRANSFORMERS = """\
import torch
from PIL import Image
{imports}

path = "."  # this directory
images = [Image.open(name).convert("RGB") for name in ("a.png", "b.png")]
question = {question!r}  # choices follow it, a line each, as "A. a cat"

tokenizer = AutoTokenizer.from_pretrained(path)
image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")  # resizes as in training
{model}
model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

messages = [{system}
    {{"role": "user", "content": [{{"type": "image"}} for _ in images] + [{{"type": "text", "text": {text}}}]}},
]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
pixels = image_processor(images, return_tensors="pt")
counts = (pixels["image_grid_thw"].prod(-1) // image_processor.merge_size**2).tolist()  # tokens of each image
first, *others = text.split("<|image_pad|>")
text = first + "".join("<|image_pad|>" * count + part for count, part in zip(counts, others, strict=True))
inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
inputs = {{name: value.to(model.device) for name, value in {{**inputs, **pixels}}.items()}}
with torch.inference_mode():  # greedy, as generation_config.json says
    tokens = model.generate(**inputs, max_new_tokens={longest})[0, inputs["input_ids"].shape[1] :]
answer = tokenizer.decode(tokens, skip_special_tokens=True)
print(answer)
"""
FULL_MODEL = """\
model = {network}.from_pretrained(path, dtype="auto")"""
ADAPTER = """\
adapter = PeftConfig.from_pretrained(path)  # names the base model
model = {network}.from_pretrained(
    adapter.base_model_name_or_path, revision=adapter.revision or "main", dtype="auto")
model = PeftModel.from_pretrained(model, path)
model.generation_config = GenerationConfig.from_pretrained(path)"""

CLIENT = """\
import base64
from pathlib import Path

from openai import OpenAI

question = {question!r}  # choices follow it, a line each, as "A. a cat"


def image(name):
    data = base64.b64encode(Path(name).read_bytes()).decode()
    return {{"type": "image_url", "image_url": {{"url": f"data:image/png;base64,{{data}}"}}}}


messages = [{system}
    {{"role": "user", "content": [image("a.png"), image("b.png"), {{"type": "text", "text": {text}}}]}},
]
client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
response = client.chat.completions.create(model="model", messages=messages, temperature=0, max_tokens={longest})
answer = response.choices[0].message.content
print(answer)
"""


def transformers(settings: Prompts, longest: int, network: str, adapter: bool = False) -> str:
    """A complete Python script that asks the model in the current directory about a.png and b.png as perl_jax does.

    `network` is the model's class in transformers.
    """
    names = ["AutoImageProcessor", "AutoTokenizer", network]
    imports = f"from transformers import {', '.join(sorted([*names, *['GenerationConfig'] * adapter]))}"
    return TRANSFORMERS.format(
        imports="from peft import PeftConfig, PeftModel\n" * adapter + imports,
        question=QUESTION,
        model=(ADAPTER if adapter else FULL_MODEL).format(network=network),
        system=_system(settings),
        text=_text(settings),
        longest=longest,
    )


def example(settings: Prompts) -> str:
    """A rendered chat template example: a question about two images."""
    text = prompts.text({"question": QUESTION}, settings.instruction)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
    chat = [{"role": "system", "content": settings.system}] * bool(settings.system) + [
        {"role": "user", "content": content}
    ]
    return settings.processor.tokenizer.apply_chat_template(
        chat, chat_template=settings.processor.template, tokenize=False, add_generation_prompt=True
    )


def side(settings: Prompts) -> int:
    """Side of a visual token in pixels: image sides are multiples of it."""
    return settings.processor.vision.patch_size * settings.processor.vision.spatial_merge_size


def max_images(settings: Prompts) -> int:
    """How many images of the largest size fit in a prompt."""
    return max(1, settings.max_tokens // max(1, settings.max_pixels // side(settings) ** 2))


def vllm_server(settings: Prompts, longest: int) -> str:
    """The command of an OpenAI-compatible server on port 8000."""
    images = max(max_images(settings), MIN_IMAGES)
    return "\n".join(
        [
            f'vllm serve "$MODEL" --served-model-name model --max-model-len {settings.max_tokens + longest} \\',
            f"    --limit-mm-per-prompt '{json.dumps({'image': images, 'video': 0})}' \\",
            f"    --mm-processor-kwargs '{json.dumps(settings.limits)}'",
        ]
    )


def vllm_client(settings: Prompts, longest: int) -> str:
    """A complete Python script that queries that server; greedy decoding must be passed explicitly."""
    return CLIENT.format(question=QUESTION, system=_system(settings), text=_text(settings), longest=longest)


def lmms_eval(settings: Prompts, longest: int, tasks: str = "mathvision_test", family: str = FAMILY) -> str:
    """The command of lmms-eval with its simple class of a family; the chat class ignores system and instruction."""
    arguments = [f"{name}={value}" for name, value in settings.limits.items()]
    if settings.system:
        arguments.append(f"system_prompt={_unsplit(settings.system)}")
    if settings.instruction:
        arguments.append(r"reasoning_prompt=\n" + _unsplit(settings.instruction))
    return "\n".join(
        [
            f"python -m lmms_eval --model {family} --force_simple --batch_size 1 --tasks " + tasks + " \\",
            f'    --model_args pretrained="$MODEL",{shlex.quote(",".join(arguments))} \\',
            f"    --gen_kwargs temperature=0,max_new_tokens={longest} --log_samples --output_path logs",
        ]
    )


def vlmevalkit(settings: Prompts, longest: int, family: str = FAMILY) -> str:
    """The file for VLMEvalKit's `python run.py --config`; the instruction has no field and joins the system text."""
    system = "\n".join(part for part in (settings.system, settings.instruction) if part)
    model = {
        "class": VLMEVALKIT[family],
        "model_path": f"models/{model_name(family)}",
        **settings.limits,
        "max_new_tokens": longest,
        "do_sample": False,
        "use_custom_prompt": False,
        **({"system_prompt": system} if system else {}),
        "post_process": True,
    }
    data = {"BLINK": {"class": "ImageMCQDataset", "dataset": "BLINK"}}
    return json.dumps({"model": {model_name(family): model}, "data": data}, indent=2, ensure_ascii=False)


def model_name(family: str) -> str:
    """What VLMEvalKit, which looks for the family in it, shall call the directory: such as perl-qwen2.5-vl."""
    return f"perl-{models.family({'model_type': family}).NAME.lower()}"


def _system(settings: Prompts) -> str:
    return f'\n    {{"role": "system", "content": {settings.system!r}}},' if settings.system else ""


def _text(settings: Prompts) -> str:
    return f"question + {chr(10) + settings.instruction!r}" if settings.instruction else "question"


def _unsplit(text: str) -> str:
    """Quotes a value so that lmms-eval, which splits arguments at commas outside quotes and brackets, keeps it whole.

    The added quotes remain part of the prompt.
    """
    if not re.search(r"""[,"'\[\]{}]""", text.replace("{}", "")):
        return text
    return '"' + text.replace('"', r"\"") + '"'

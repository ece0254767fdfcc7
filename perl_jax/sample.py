"""Asks a model about images: `python -m perl_jax.sample --model=DIR --image=a.png --image=b.png --prompt="..."`.

The images come before the text, or in its `<image>` slots if it has some. An exported directory is prompted as in
training: with its system text, instruction and image limits.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

import models
from models.errors import InputError
from models.image_files import open_image
from perl_jax import policy, rollout
from perl_jax.records.prompts import Prompts
from perl_jax.runtime import cli

FLAGS = flags.FLAGS


def answers(
    path: Path,
    question: str,
    images: Sequence,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    dtype: str = "float32",
) -> list[str]:
    """`samples` responses of the model in `path` to a question about images (encoded bytes, PIL or arrays).

    Raises InputError where the numbers of slots and images differ, and for an image that cannot be read.
    """
    if models.MARKER not in question:
        question = models.MARKER * len(images) + question
    prompts = Prompts.of_directory(path)
    prompt = prompts.encode({"id": "--prompt", "question": question, "images": images})
    out = rollout.generate(
        models.load(path, dtype=dtype),
        [prompt],
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        eos_ids=prompts.processor.eos_ids,
        **prompts.limits,
    )
    return [prompts.processor.decode(tokens[:length]) for tokens, length in zip(out.tokens[0], out.lengths[0])]


def main(_) -> None:
    images = [read_image(file) for file in FLAGS.image]
    texts = answers(
        policy.directory(FLAGS.model),
        FLAGS.prompt,
        images,
        samples=FLAGS.samples,
        temperature=FLAGS.temperature,
        max_new_tokens=FLAGS.max_new_tokens,
        seed=FLAGS.seed,
        dtype=FLAGS.dtype,
    )
    for number, text in enumerate(texts, start=1):
        print(text if len(texts) == 1 else f"[{number}] {text}")


def read_image(file: str):
    """The RGB image in a file."""
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"--image={file}: cannot be read ({error.strerror})") from error
    return open_image(data, f"--image={file}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "model", None, "A model's directory, or its hub id (owner/name or owner/name@revision).", required=True
    )
    flags.DEFINE_multi_string("image", [], "An image file; may be given several times.")
    flags.DEFINE_string(
        "prompt", None, f"The question, with {models.MARKER} where each image goes, or without any.", required=True
    )
    flags.DEFINE_integer("samples", 1, "Number of responses; at temperature 0 all are the same.", lower_bound=1)
    flags.DEFINE_float("temperature", 0.0, "0 always takes the most probable token.", lower_bound=0.0)
    flags.DEFINE_integer("max_new_tokens", 256, "Most tokens of a response.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of sampling.", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "Dtype of weights and activations.")
    cli.run(main)

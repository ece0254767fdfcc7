"""Data loading throughput per core: `python -m benchmarks.data` (needs no accelerator, takes a minute).

Synthetic records of two JPEG images, 224 x 224 and 14 KB each like photographs of that size, pass through the trainer's
own pipeline: read from ArrayRecord in shuffled order (`stream.Stream`), orders drawn (n_s = 1, p = 0.5), rendered and
tokenised, decoded and resized in threads (`batch.Questions`), and packed as patches for a rollout (`qwen.pack`). The
baseline is a straightforward loader for the same records: each image decoded and passed through transformers' image
processor, each prompt through chat template and tokenizer with its image tokens expanded, without packing; once for
each prompt, and once with images shared by a question's prompts. It normalises pixels, which we leave to the device.
All measurements run in processes pinned to one core, plus one pinned to two for comparison; core seconds are the
process's CPU time over all its threads.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import workload
from configs import base
from models import images
from models import qwen2_5_vl as qwen
from models.qwen2_5_vl import from_scratch
from perl_jax import permute, records
from perl_jax.records.prompts import Prompts, with_lazy_images
from perl_jax.records.stream import Stream
from perl_jax.training import batch

RECORDS, IMAGES, SIDE, STEP = 4096, 512, 224, 32  # records of two square images; questions per step
ROUNDS = 15
PACKING = "pack"  # the stage within the step; all others run ahead of it
SHARED = "transformers, images shared"
QUESTION = (
    "<image:0><image:1>In {image:0|lower} and {image:1|lower} there are two objects on a wooden table beside a "
    "window. Which of the two pictures shows the larger one, and how can you tell?"
)
CHOICES = ["{image:0}", "{image:1}", "both are equally large", "it cannot be said"]
SIZES = {
    "vision": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2},
    "text": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 1e4,
        "mrope_section": (2, 1, 1),
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
}


def jpeg(rng: np.random.Generator) -> bytes:
    """A JPEG of coarse shapes with slight noise."""
    shapes = Image.fromarray(rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8))
    smooth = np.asarray(shapes.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(smooth + rng.normal(0, 2, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def make(directory: Path) -> None:
    """Writes records to `directory`/records and a small model's tokenizer and config to `directory`/model."""
    rng = np.random.default_rng(0)
    image_bytes = [jpeg(rng) for _ in range(IMAGES)]
    rows = (
        {
            "id": str(i),
            "images": [image_bytes[i % IMAGES], image_bytes[7 * i % IMAGES - 1]],
            "question": QUESTION,
            "choices": CHOICES,
            "answer": "AB"[i % 2],
            "kind": "choice",
            "order_effect": "rewrite",
            "source": "made",
            "accuracy": None,
            "movable": None,
        }
        for i in range(RECORDS)
    )
    records.write({"train": rows}, str(directory / "records"))
    from_scratch.make(directory / "model", SIZES, [QUESTION, *CHOICES, base.get_config().prompt.instruction])


class Ours:
    """The trainer's pipeline for a step's questions, and its individual stages."""

    def __init__(self, directory: Path):
        self.config, self.step = base.get_config(), 0
        self.model = qwen.Config.from_hf(json.loads((directory / "model" / "config.json").read_text()))
        self.prompts = Prompts(qwen.Processor.from_pretrained(directory / "model"), **self.config.prompt)
        self.split = records.open_split(str(directory / "records"))
        stream = Stream(str(directory / "records"), seed=self.config.seed)
        self.questions = batch.Questions(self.config, stream, self.prompts)

    def prepare_step(self) -> None:
        """Prepares a step's questions, including packing."""
        self.step += 1
        questions = self.questions.take(STEP, 1, 0.5, self.step)
        self.pack([prompt for question in questions for prompt in question.prompts])

    def pack(self, prompts):
        """Packs the inputs of a rollout."""
        return qwen.pack(self.model, prompts, **self.prompts.limits)

    def stages(self) -> dict[str, float]:
        """Seconds per stage for a step's questions, run one stage after the other."""
        seconds, now = {}, time.process_time()

        def done(stage: str) -> None:
            nonlocal now
            seconds[stage], now = time.process_time() - now, time.process_time()

        read = [self.split[i] for i in range(STEP)]
        done("read the record")
        opened_records = [with_lazy_images(record) for record in read]
        done("open the image headers")
        orders = [permute.draw_orders(record, 1, 0.5, seed=0, epoch=0, step=1) for record in opened_records]
        samples = [
            permute.render(permute.apply(record, order))
            for record, drawn_orders in zip(opened_records, orders)
            for order in dict.fromkeys(drawn_orders)
        ]
        done("draw and render its orders")
        prompts = [self.prompts.encode(sample) for sample in samples]
        done("tokenise (1.5 prompts)")
        self.prompts.prepare([record["images"] for record in opened_records], 1, {0})
        done("hash, decode and resize")
        self.pack(prompts)
        done(PACKING)
        return seconds


class Peer:
    """The straightforward loader, on transformers only."""

    def __init__(self, ours: Ours):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.ours, self.step, vision = ours, 0, ours.model.vision
        self.processor = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size, merge_size=vision.spatial_merge_size, **ours.prompts.limits
        )
        self.per_token = vision.spatial_merge_size**2

    def step_of(self, shared: bool) -> None:
        """Prepares as many questions as one of our steps, in two prompts each; with `shared`, each image only once."""
        places = np.random.default_rng(self.step).choice(RECORDS, STEP, replace=False)
        self.step += 1
        for record in (self.ours.split[int(place)] for place in places):
            for number, order in enumerate(((0, 1), (1, 0))):
                sample = permute.render(permute.apply(record, order))
                if not (shared and number):
                    pixels = self.pixels(sample["images"])
                self.ids(sample, pixels["image_grid_thw"])

    def pixels(self, encoded):
        """Patches and grids of encoded images."""
        return self.processor([Image.open(io.BytesIO(data)).convert("RGB") for data in encoded], return_tensors="np")

    def ids(self, sample, grids) -> list[int]:
        """The token ids of a sample whose images have these grids."""
        tokenizer, token = self.ours.prompts.processor.tokenizer, "<|image_pad|>"
        *system, user = self.ours.prompts.messages(sample)
        parts = user["content"].split("<image>")
        content = [item for part in parts for item in ({"type": "text", "text": part}, {"type": "image"})][:-1]
        text = tokenizer.apply_chat_template(
            [*system, {"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        first, *others = text.split(token)
        expanded = [token * (int(grid.prod()) // self.per_token) + part for grid, part in zip(grids, others)]
        return tokenizer(first + "".join(expanded), add_special_tokens=False)["input_ids"]


def check(ours: Ours, peer: Peer) -> None:
    """Raises ValueError unless both loaders give equal results for a record."""
    sample = permute.render(ours.split[0])
    theirs = peer.pixels(sample["images"])
    ids, decoded = ours.prompts.encode(with_lazy_images(sample))
    patches = np.concatenate([images.patches(each, ours.model.vision, **ours.prompts.limits)[0] for each in decoded])
    if ids != peer.ids(sample, theirs["image_grid_thw"]) or not np.array_equal(patches, theirs["pixel_values"]):
        raise ValueError("the peer prepares another prompt")


def measure(directory: Path, cores: list[int]) -> dict:
    """On these cores: CPU seconds per step of each loader and of our stages, and our wall-clock time."""
    os.sched_setaffinity(0, cores)  # this thread, and those it starts
    ours = Ours(directory)
    peer = Peer(ours)
    check(ours, peer)
    loaders = {
        "perl_jax": ours.prepare_step,
        SHARED: lambda: peer.step_of(True),
        "transformers, each prompt by itself": lambda: peer.step_of(False),
    }
    stages = [ours.stages() for _ in range(ROUNDS + 1)][1:]
    return {
        "loaders": workload.alternate(loaders, ROUNDS, time.process_time),
        "stages": {name: statistics.median(run[name] for run in stages) for name in stages[0]},
        "clock": workload.alternate({"": ours.prepare_step}, ROUNDS)[""],
    }


def measure_in_process(directory: str, cores: list[int]) -> dict:
    """Runs `measure` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.data", directory, json.dumps(cores)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory(prefix="perl_jax-data-") as directory:
        make(Path(directory))
        one, two = measure_in_process(directory, cores[:1]), measure_in_process(directory, cores)
    print(f"{RECORDS} records of two images, steps of {STEP}; median of {ROUNDS}; ids and patches equal\n")
    ours = one["loaders"]["perl_jax"]
    rows = [*one["stages"].items(), ("all of it, as the trainer does it", ours)]
    workload.table(
        ("perl_jax, stage", "µs of a core a question"),
        [(name, f"{1e6 * seconds / STEP:.0f}") for name, seconds in rows],
    )
    print()
    workload.table(
        ("loader", "questions a second of a core", "of perl_jax's"),
        [(name, f"{STEP / seconds:.0f}", f"{ours / seconds:.2f}") for name, seconds in one["loaders"].items()],
    )
    print(
        f"\nBy the clock {STEP / one['clock']:.0f} a second on one core, "
        f"{one['clock'] / two['clock']:.1f} times that on {len(cores)}."
    )
    before_packing = sum(seconds for name, seconds in one["stages"].items() if name != PACKING)
    workload.conclude(
        f"a core makes {STEP / before_packing:.0f} two-image questions a second ready ahead of a step, in two "
        f"orders each; with their patches packed {STEP / ours:.0f}, {one['loaders'][SHARED] / ours:.1f} "
        "times transformers"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]), json.loads(sys.argv[2]))))
    else:
        main()

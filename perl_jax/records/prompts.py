"""Builds the policy's prompt from a record, and saves the prompt settings with an exported model."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import models
from models.errors import InputError
from models.image_files import Encoded
from models.images import resized
from models.source import read_json
from perl_jax import symbols
from perl_jax.runtime import processes

FILE = "perl_jax.json"  # in an exported directory: the prompt settings of training
FIELDS = {"system": str, "instruction": str, "min_pixels": int, "max_pixels": int, "max_tokens": int}


class Limits(TypedDict):
    """Limits on the size of an image."""

    min_pixels: int
    max_pixels: int


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Encodes records for one policy: its processor, the texts around a question, limits on image size and length."""

    processor: models.Processor
    system: str
    instruction: str
    min_pixels: int
    max_pixels: int
    max_tokens: int

    def messages(self, record) -> list[dict]:
        """Chat messages of a rendered record: system text, then question, lettered choices and instruction."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": text(record, self.instruction)}]

    def encode(self, record) -> tuple[list[int], list]:
        """(token ids, images) of a rendered record; InputError, naming the record, if the prompt is too long."""
        ids, images = self.encode_messages(self.messages(record), record["images"])
        if len(ids) > self.max_tokens:
            raise InputError(
                f"record {record['id']!r}: its prompt has {len(ids)} tokens, more than "
                f"config.prompt.max_tokens = {self.max_tokens}"
            )
        return ids, images

    def encode_messages(self, messages: Sequence[Mapping], images: Sequence) -> tuple[list[int], list]:
        """(token ids, images) of chat messages of any length; pixels are not decoded."""
        return self.processor(messages, images, **self.limits)

    def prepare(
        self, images: Sequence[Sequence[Encoded]], shards: int, local_shards: Container[int]
    ) -> list[str | None]:
        """Decodes and resizes, in threads, the images of each record that are packed on `local_shards`, of `shards`.

        Several processes thus check each image once, mostly on the process that packs it. Returns, for each record, the
        error of its first broken image, or None.
        """

        def fault(record: Sequence[Encoded]) -> str | None:
            try:
                for image in record:
                    if int(image.preferred_position * shards) in local_shards:
                        resized(image, self.processor.vision, **self.limits)
            except InputError as error:
                return str(error)
            return None

        return list(_threads().map(fault, images))

    @property
    def limits(self) -> Limits:
        """Keyword arguments for `pack`, `generate` and `step`."""
        return {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}

    def to_json(self, **more) -> str:
        """The content of `perl_jax.json`."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return json.dumps({**fields, "template_sha256": _digest(self.processor), **more}, indent=2, ensure_ascii=False)

    @classmethod
    def of_directory(cls, path) -> "Prompts":
        """The prompt settings a directory was trained with (its `perl_jax.json`), else the defaults of its processor.

        Raises InputError if the chat template or the image size limits differ from those of training.
        """
        processor = models.Processor.from_pretrained(path)
        file = Path(path) / FILE
        if not file.exists():
            return cls(processor, "", "", processor.min_pixels, processor.max_pixels, 1 << 20)
        prompts = cls.of_json(processor, read_json(file), str(file))
        if prompts.limits != {"min_pixels": processor.min_pixels, "max_pixels": processor.max_pixels}:
            raise InputError(
                f"{path}: its image processor limits images to {processor.min_pixels} and "
                f"{processor.max_pixels} pixels, {FILE} to {prompts.min_pixels} and {prompts.max_pixels}; "
                "make them equal"
            )
        return prompts

    @classmethod
    def of_json(cls, processor: models.Processor, saved: Mapping, where: str) -> "Prompts":
        """The prompts whose `to_json` gave `saved`; InputError, starting with `where`, if the chat template differs."""
        for name, kind in FIELDS.items():
            if not isinstance(saved.get(name), kind):
                raise InputError(f"{where}: {name} must be {kind.__name__}, not {saved.get(name)!r}")
        if saved.get("template_sha256") != _digest(processor):
            raise InputError(f"{where}: its chat template differs from the model's; restore that of training")
        return cls(processor, **{name: saved[name] for name in FIELDS})


def text(record, instruction: str = "") -> str:
    """The user turn of a rendered record: question, lettered choices, instruction."""
    choices = [f"{symbols.letter(i)}. {choice}" for i, choice in enumerate(record.get("choices") or ())]
    return "\n".join(part for part in (record["question"], *choices, instruction) if part)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Pillow decodes and resizes without the GIL. The pool is kept: new threads would allocate their memory again."""
    return ThreadPoolExecutor(processes.cores())


def _digest(processor: models.Processor) -> str:
    return hashlib.sha256(processor.template.encode()).hexdigest()


def with_lazy_images(record):
    """The record with lazily decoded images instead of encoded bytes."""
    images = [Encoded(data, f"record {record['id']!r}, image {i + 1}") for i, data in enumerate(record["images"])]
    return {**record, "images": images}

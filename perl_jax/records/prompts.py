"""From a record to the prompt that a policy sees, and what of it an exported model must carry to see the same."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models
from models.errors import InputError
from models.image_files import Encoded
from models.images import resized
from models.source import read_json
from perl_jax import symbols
from perl_jax.runtime import processes

FILE = "perl_jax.json"  # in an exported directory: what its prompts looked like in training
FIELDS = {"system": str, "instruction": str, "min_pixels": int, "max_pixels": int, "max_tokens": int}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Encodes records for one policy: its processor, the texts around a question, the limits of pictures and length."""

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
        """(token ids, pictures) of a rendered record; InputError, naming it, for a prompt that is too long."""
        ids, images = self.processor(self.messages(record), record["images"], **self.limits)
        if len(ids) > self.max_tokens:
            raise InputError(
                f"record {record['id']!r}: its prompt has {len(ids)} tokens, more than "
                f"config.prompt.max_tokens = {self.max_tokens}"
            )
        return ids, images

    def prepare(self, pictures: Sequence[Sequence[Encoded]], shards: int, own: Container[int]) -> list[str | None]:
        """Decodes and resizes, in threads, each record's pictures that are at home in the `own` ones of `shards`.

        So several processes look at each picture once, and mostly each at those that it packs. Returns for each record
        what is wrong with its first broken picture.
        """

        def fault(record: Sequence[Encoded]) -> str | None:
            try:
                for picture in record:
                    if int(picture.home * shards) in own:
                        resized(picture, self.processor.vision, **self.limits)
            except InputError as error:
                return str(error)
            return None

        return list(_threads().map(fault, pictures))

    @property
    def limits(self) -> dict[str, int]:
        """The keywords that `pack`, `generate` and `step` take."""
        return {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}

    def to_json(self, **more) -> str:
        """The content of `perl_jax.json`."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return json.dumps({**fields, "template_sha256": _digest(self.processor), **more}, indent=2, ensure_ascii=False)

    @classmethod
    def of_directory(cls, path) -> "Prompts":
        """The prompts that a directory was trained with (its `perl_jax.json`), else its processor's plain ones.

        Raises InputError where the chat template or the limits of pictures are no longer those of training.
        """
        processor = models.Processor.from_pretrained(path)
        file = Path(path) / FILE
        if not file.exists():
            return cls(processor, "", "", processor.min_pixels, processor.max_pixels, 1 << 20)
        prompts = cls.of_json(processor, read_json(file), str(file))
        if prompts.limits != {"min_pixels": processor.min_pixels, "max_pixels": processor.max_pixels}:
            raise InputError(
                f"{path}: its image processor limits pictures to {processor.min_pixels} and "
                f"{processor.max_pixels} pixels, {FILE} to {prompts.min_pixels} and {prompts.max_pixels}; "
                "make them equal"
            )
        return prompts

    @classmethod
    def of_json(cls, processor: models.Processor, saved: Mapping, where: str) -> "Prompts":
        """The prompts whose `to_json` was `saved`; InputError, beginning with `where`, for another chat template."""
        for name, kind in FIELDS.items():
            if not isinstance(saved.get(name), kind):
                raise InputError(f"{where}: {name} must be {kind.__name__}, not {saved.get(name)!r}")
        if saved.get("template_sha256") != _digest(processor):
            raise InputError(f"{where}: its chat template was another than the model has now; restore that one")
        return cls(processor, **{name: saved[name] for name in FIELDS})


def text(record, instruction: str = "") -> str:
    """The user's turn of a rendered record: question, lettered choices, instruction."""
    choices = [f"{symbols.letter(i)}. {choice}" for i, choice in enumerate(record.get("choices") or ())]
    return "\n".join(part for part in (record["question"], *choices, instruction) if part)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Pillow decodes and resizes without the GIL. They are kept: new ones ask the system for their memory anew."""
    return ThreadPoolExecutor(processes.cores())


def _digest(processor: models.Processor) -> str:
    return hashlib.sha256(processor.template.encode()).hexdigest()


def opened(record):
    """The record with its encoded images as pictures, decoded where it is asked for."""
    images = [Encoded(data, f"record {record['id']!r}, image {i + 1}") for i, data in enumerate(record["images"])]
    return {**record, "images": images}

"""From a record to the prompt that a policy sees, and what of it an exported model must carry to see the same."""

import dataclasses
import hashlib
import json

from models import qwen2_5_vl as qwen
from models.errors import InputError
from models.qwen2_5_vl.images import open_image

FILE = "perl_jax.json"  # in an exported directory: what its prompts looked like in training


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Encodes records for one policy: its processor, the texts around a question, the limits of pictures and length."""

    processor: qwen.Processor
    system: str
    instruction: str
    min_pixels: int
    max_pixels: int
    max_tokens: int

    def messages(self, record) -> list[dict]:
        """Chat messages of a rendered record: system text, then question, lettered choices and instruction."""
        choices = [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(record.get("choices") or ())]
        text = "\n".join(part for part in (record["question"], *choices, self.instruction) if part)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": text}]

    def encode(self, record) -> tuple[list[int], list]:
        """(token ids, pictures) of a rendered record; InputError, naming it, for a prompt that is too long."""
        ids, images = self.processor(self.messages(record), record["images"], **self.limits)
        if len(ids) > self.max_tokens:
            raise InputError(f"record {record['id']!r}: its prompt has {len(ids)} tokens, more than "
                             f"config.prompt.max_tokens = {self.max_tokens}")  # fmt: skip
        return ids, images

    @property
    def limits(self) -> dict[str, int]:
        """The keywords that `pack`, `generate` and `step` take."""
        return {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}

    def to_json(self, **more) -> str:
        """The content of `perl_jax.json`."""
        template = hashlib.sha256(self.processor.template.encode()).hexdigest()
        fields = ("system", "instruction", "min_pixels", "max_pixels", "max_tokens")
        return json.dumps({**{f: getattr(self, f) for f in fields}, "template_sha256": template, **more}, indent=2)

    @classmethod
    def of_directory(cls, path) -> "Prompts":
        """The prompts that a directory was trained with (its `perl_jax.json`), else its processor's plain ones.

        Raises InputError where the chat template is no longer the one of training.
        """
        processor = qwen.Processor.from_pretrained(path)
        plain = cls(processor, "", "", processor.min_pixels, processor.max_pixels, 1 << 20)
        try:
            with open(f"{path}/{FILE}", encoding="utf-8") as file:
                saved = json.load(file)
        except FileNotFoundError:
            return plain
        except ValueError as error:
            raise InputError(f"{path}/{FILE} is not JSON ({error}); export the model again") from error
        if saved.get("template_sha256") != hashlib.sha256(processor.template.encode()).hexdigest():
            raise InputError(f"{path}: its chat template is not the one that {FILE} names; restore it or remove {FILE}")
        names = ("system", "instruction", "min_pixels", "max_pixels", "max_tokens")
        return dataclasses.replace(plain, **{name: saved[name] for name in names if name in saved})


def decoded(record):
    """The record with its encoded images as RGB pictures, each decoded once for all orders."""
    images = [open_image(data, f"record {record['id']!r}, image {i + 1}") for i, data in enumerate(record["images"])]
    return {**record, "images": images}

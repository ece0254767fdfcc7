"""Converts chat messages with images to token ids; uses only the tokenizer of transformers (no torch)."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import models
from models import chat_template, image_files
from models import images as image_processing
from models.errors import InputError
from models.source import read_json

IMAGE_TOKEN = "<|image_pad|>"
MOST_PIXELS = (1 << 24, 1 << 28)  # of min_pixels, to which a picture is enlarged, and max_pixels
IMAGE_ITEM = {"type": "image"}  # an image in the chat template's input


@dataclasses.dataclass(frozen=True, eq=False)
class Processor:
    """A tokenizer, its chat template and its image size limits.

    `min_pixels` and `max_pixels` are those of the image processor settings, else of the model's config; pass the same
    limits to `pack`. `eos_ids` come from generation_config.json, else from the tokenizer.
    """

    tokenizer: Any
    template: str
    vision: models.VisionConfig
    min_pixels: int
    max_pixels: int
    eos_ids: tuple[int, ...]
    pad_id: int
    image_token_id: int

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "Processor":
        """Reads the tokenizer and processor files of a local directory; InputError for missing or inconsistent ones."""
        path = Path(path)
        tokenizer = _tokenizer(path)
        vision, limits = _image_settings(path)
        image_token_id = tokenizer.get_vocab().get(IMAGE_TOKEN)
        if image_token_id is None:
            raise InputError(f"{path}: the tokenizer has no {IMAGE_TOKEN!r}: give the model's own")
        if (path / "config.json").exists():
            expected = models.read_config(path).image_token_id
            if expected != image_token_id:
                raise InputError(
                    f"{path}: {IMAGE_TOKEN} is {image_token_id} in the tokenizer, {expected} in config.json"
                )
        eos_ids = _eos_ids(path, tokenizer)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (*eos_ids, 0)[0]
        return cls(tokenizer, chat_template.read(path, tokenizer), vision, *limits, eos_ids, pad_id, image_token_id)

    def __call__(
        self,
        messages: Sequence[dict[str, Any]],
        images: Sequence[Any] | None = None,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        add_generation_prompt: bool = True,
    ) -> tuple[list[int], list[Image.Image | image_files.Encoded]]:
        """Token ids, with one image token per merged patch, and the images in order: RGB, or still `Encoded`.

        A message is {"role", "content"}; content is text or a list of {"type": "text", "text"} and {"type": "image",
        "image": PIL, `Encoded`, encoded bytes, path or uint8 [H, W, 3]}. Each `<image>` in a text, and each image item
        without an image, is a slot for the next of `images`. Raises InputError where the numbers of slots and `images`
        differ, for special tokens written out in a text, for videos and for unreadable images.
        """
        if not messages:
            raise InputError("there are no messages: give at least one")
        content = _Content(() if images is None else images, self.tokenizer)
        chat = [content.message(number, message) for number, message in enumerate(messages)]
        all_images = content.all_images()
        text = self._render(chat, add_generation_prompt)
        counts = [self.image_tokens(image, min_pixels, max_pixels) for image in all_images]
        if (marks := text.count(IMAGE_TOKEN)) != len(all_images):
            raise InputError(f"the chat template shows {marks} of {len(all_images)} images: check the template")
        ids = self._encode_with_special_tokens(text)
        if ids.count(self.image_token_id) != len(all_images):  # a normaliser could turn other text into a special token
            raise InputError(f"the text holds a hidden {IMAGE_TOKEN!r}: remove it")
        at = [place for place, token in enumerate(ids) if token == self.image_token_id]
        for place, count in zip(reversed(at), reversed(counts)):
            ids[place : place + 1] = [self.image_token_id] * count
        return ids, all_images

    def _render(self, chat: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                chat, chat_template=self.template, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:  # a template may raise, for example on roles that do not alternate
            raise InputError(f"the chat template refuses the messages: {error}") from error

    def image_tokens(
        self, image: Image.Image | image_files.Encoded, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> int:
        """The number of tokens of an image: its merged patches."""
        limits = (
            self.min_pixels if min_pixels is None else min_pixels,
            self.max_pixels if max_pixels is None else max_pixels,
        )
        grid_h, grid_w = image_processing.grid((image.height, image.width), self.vision, *limits)
        return grid_h * grid_w // self.vision.spatial_merge_size**2

    def encode(self, text: str) -> list[int]:
        """The token ids of a text: no template; a special token written out in it is text like any other."""
        ids = self._encode_with_special_tokens(text)
        if self._special_ids.isdisjoint(ids):
            return ids
        return self._literal_backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def _encode_with_special_tokens(self, text: str) -> list[int]:
        backend = self.tokenizer.backend_tokenizer  # the wrapper also computes offsets, which take as long as the ids
        return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special)

    @functools.cached_property
    def _literal_backend(self) -> Any:
        """The tokenizer without special tokens; a copy, since threads share the other."""
        backend = copy.deepcopy(self.tokenizer.backend_tokenizer)
        backend.encode_special_tokens = True  # as text
        return backend

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        ids = [int(token) for token in ids]
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class _Content:
    """Converts messages to the template's input, and collects their images in order."""

    def __init__(self, images: Sequence[Any], tokenizer: Any):
        self._images = list(images)
        self._reserved = sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._collected: list[tuple[str, Any]] = []  # (where, image), _OPEN for a slot

    def message(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        where = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError(f"{where}: expected {{'role': ..., 'content': ...}}, not {_short(message)}")
        content = message["content"]
        if isinstance(content, str):
            items = self._text(content, where)
        elif isinstance(content, list | tuple):
            parts = (self._item(item, f"{where}.content[{place}]") for place, item in enumerate(content))
            items = [item for part in parts for item in part]
        else:
            raise InputError(f"{where}: content must be a text or a list, not {type(content).__name__}")
        # Adjacent texts are checked as one, since the template joins them.
        for text in (message["role"], "".join(item.get("text", models.MARKER) for item in items)):
            self._check_text(text, where)
        return {
            "role": message["role"],
            "content": content if isinstance(content, str) and models.MARKER not in content else items,
        }

    def all_images(self) -> list[Image.Image]:
        """All images, in the order in which the messages show them."""
        slots = sum(image is _OPEN for _, image in self._collected)
        if slots != len(self._images):
            raise InputError(f"the messages have {slots} slots for images, but {len(self._images)} images were given")
        remaining = iter(self._images)
        return [_to_image(next(remaining) if image is _OPEN else image, where) for where, image in self._collected]

    def _item(self, item: Any, where: str) -> list[dict[str, str]]:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text" and isinstance(item.get("text"), str):
            return self._text(item["text"], where)
        if kind == "image":
            self._collected.append((where, item.get("image", _OPEN)))
            return [IMAGE_ITEM]
        if kind == "video":
            raise InputError(f"{where}: videos are not supported: give single frames as images")
        raise InputError(f"{where}: expected an item of type 'text' or 'image', not {_short(item)}")

    def _text(self, text: str, where: str) -> list[dict[str, str]]:
        parts = text.split(models.MARKER)
        self._collected += [(where, _OPEN)] * (len(parts) - 1)
        items = [item for part in parts for item in ({"type": "text", "text": part}, IMAGE_ITEM)][:-1]
        return [item for item in items if item is IMAGE_ITEM or item["text"]]

    def _check_text(self, text: str, where: str) -> None:
        for token in self._reserved:
            if token in text:
                raise InputError(f"{where}: the text holds the special token {token!r}: remove it or rephrase")


_OPEN = object()


def _to_image(image: Any, where: str) -> Image.Image | image_files.Encoded:
    if isinstance(image, image_files.Encoded):
        return image
    if isinstance(image, str | Path):
        try:
            return image_files.open_image(Path(image).read_bytes(), str(image))
        except OSError as error:
            raise InputError(f"{where}: {_short(image)} is not an image file on this machine") from error
    if isinstance(image, bytes | bytearray | memoryview):
        return image_files.open_image(bytes(image), where)
    return image_files.to_rgb(image, where)


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."


def _tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer  # slow to import, and needed only here

    if not path.is_dir():
        raise InputError(f"{path}: no such directory: give a local Hugging Face directory")
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise InputError(f"{path}: no tokenizer.json or vocab.json: copy the tokenizer's files there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        return tokenizer
    except Exception as error:  # parsers raise various exceptions for broken files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: the tokenizer cannot be read ({reason}): download its files again") from error


def _image_settings(path: Path) -> tuple[models.VisionConfig, tuple[int, int]]:
    """The vision config and (min_pixels, max_pixels); InputError for unsupported image processor settings."""
    file, raw = _image_processor(path)
    if (path / "config.json").exists():
        vision = models.read_config(path).vision
    else:  # only a tokenizer: preprocess images as for the first published model
        vision = next(iter(models.published().values())).vision
    fixed = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(vision.image_mean),
        "image_std": list(vision.image_std),
        "resample": Image.Resampling.BICUBIC,
    }
    for key, value in fixed.items():
        if raw.get(key, value) is not None and not np.array_equal(raw.get(key, value), value):
            raise InputError(f"{file}: {key} is {raw[key]!r}, only {value!r} is supported with this model")
    size = raw.get("size") if isinstance(raw.get("size"), dict) else {}
    limits = (
        raw.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or vision.min_pixels,
        raw.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or vision.max_pixels,
    )
    if not all(isinstance(limit, int) for limit in limits):
        raise InputError(f"{file}: min_pixels and max_pixels must be whole numbers, not {limits}")
    if not (0 < limits[0] <= MOST_PIXELS[0] and 0 < limits[1] <= MOST_PIXELS[1]):
        raise InputError(f"{file}: min_pixels and max_pixels must be from 1 to {MOST_PIXELS}, not {limits}")
    return vision, limits


def _image_processor(path: Path) -> tuple[Path, dict]:
    """The image processor settings and their file; transformers 5 nests them, and prefers the nested ones."""
    for file, key in ((path / "processor_config.json", "image_processor"), (path / "preprocessor_config.json", None)):
        raw = read_json(file) if file.exists() else None
        raw = raw.get(key) if raw and key else raw
        if isinstance(raw, dict):
            return file, raw
    return file, {}


def _eos_ids(path: Path, tokenizer: Any) -> tuple[int, ...]:
    file = path / "generation_config.json"
    ids = read_json(file).get("eos_token_id") if file.exists() else None
    ids = tokenizer.eos_token_id if ids is None else ids
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(isinstance(token, int) for token in ids):
        raise InputError(f"{file}: eos_token_id must be a number or a list of numbers, not {ids!r}")
    size = models.read_config(path).text.vocab_size if (path / "config.json").exists() else len(tokenizer)
    if other := [token for token in ids if not 0 <= token < size]:
        raise InputError(f"{file}: eos_token_id {other[0]} is no token of a vocabulary of {size}: correct it")
    return tuple(dict.fromkeys(ids))

"""Creates a small model: random weights and a newly trained tokenizer, in a complete Hugging Face directory.

For demos and tests, where a published model is too large; transformers loads it. A family says what is its own by a
`Family`.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

import models
from models.atomic_directory import atomic_directory
from models.errors import InputError
from models.weights import save

SPECIAL_TOKENS = tuple(
    f"<|{name}|>"
    for name in (
        *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
        *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
)  # in the published order, after the learnt tokens
END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"

# Qwen2's pre-tokenisation: no token crosses these pieces. Each digit is one piece.
_PIECES = "|".join(
    (
        r"(?i:'(?:s|t|re|ve|m|ll|d))",  # English contractions
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one symbol or space in front
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # symbols, with the line breaks after them
        r"\s*[\r\n]+",
        r"\s+(?!\S)",  # white space except its last character, which belongs to the next piece
        r"\s+",
    )
)
_BYTES, _VOCAB_MULTIPLE = 256, 64

# Same output as the published templates: images numbered only with `add_vision_id`.
_CHAT_TEMPLATE = """\
{%- set seen = namespace(image=0, video=0) -%}
{%- if messages and messages[0]['role'] != 'system' -%}
{{- DEFAULT_SYSTEM -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' or 'image' in item or 'image_url' in item -%}
{%- set seen.image = seen.image + 1 -%}
{%- if add_vision_id -%}{{- 'Picture ' ~ seen.image ~ ': ' -}}{%- endif -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif item['type'] == 'video' or 'video' in item -%}
{%- set seen.video = seen.video + 1 -%}
{%- if add_vision_id -%}{{- 'Video ' ~ seen.video ~ ': ' -}}{%- endif -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in item -%}
{{- item['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


class Family(NamedTuple):
    """What is a family's own in a new model."""

    config: Any  # the classes
    vision: Any
    text: Any
    model: Any
    processor_class: str  # transformers'
    system: str  # what its chat template says where the messages have no system text

    @property
    def chat_template(self) -> str:
        """In Jinja."""
        return _CHAT_TEMPLATE.replace("DEFAULT_SYSTEM", repr(self.system))

    def make(
        self, path: str | os.PathLike, config: Mapping, texts: Iterable[str], seed: int = 0, vocab_size: int = 1000
    ) -> None:
        """Writes a complete model directory at `path`, atomically.

        Args:
            path: must not exist yet, or be an empty directory.
            config: `{"vision": {...}, "text": {...}}`, the fields of `VisionConfig` and `TextConfig` without
                `vocab_size` and `out_hidden_size`, which follow from the tokenizer and from `text.hidden_size`.
            texts: training texts of the tokenizer.
            seed: of the random weights; equal arguments give equal bytes.
            vocab_size: most tokens of the tokenizer, including the 256 bytes and the special ones; the network's
                vocabulary is the next multiple of 64.

        Raises:
            InputError: a missing, unknown or inconsistent size, or a `path` that is in use.
        """
        path = Path(path)
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise InputError(f"{path} exists and is not empty; give a new directory for the model")
        tokenizer = train_tokenizer(texts, vocab_size)
        model_config = _network_config(self, config, tokenizer)
        with atomic_directory(path) as partial:
            save(self.model(model_config, rngs=nnx.Rngs(seed)), partial)
            _write_processor(Path(partial), tokenizer, self, model_config)

    def make_processor(
        self, path: str | os.PathLike, config: Mapping, texts: Iterable[str], vocab_size: int = 1000
    ) -> None:
        """Writes the files of `make` except the weights to an existing directory: enough for prompts."""
        tokenizer = train_tokenizer(texts, vocab_size)
        model_config = _network_config(self, config, tokenizer)
        _write_json(Path(path, "config.json"), model_config.to_hf())
        _write_processor(Path(path), tokenizer, self, model_config)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1000):
    """A `tokenizers.Tokenizer`: byte-level BPE like Qwen2's, with Qwen-VL's special tokens at the end.

    Raises:
        InputError: `vocab_size` is too small for the bytes and the special tokens.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
    from tokenizers.models import BPE

    learnt = vocab_size - len(SPECIAL_TOKENS)
    if learnt < _BYTES:
        least = _BYTES + len(SPECIAL_TOKENS)
        raise InputError(f"vocab_size {vocab_size} must be at least {least}, for every byte and the special tokens")
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=learnt, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _network_config(family: Family, config: Mapping, tokenizer: Any) -> models.Config:
    size = tokenizer.get_vocab_size()
    sizes = {
        "text": {"vocab_size": -(-size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE},
        "vision": {"out_hidden_size": config["text"]["hidden_size"]} if "hidden_size" in config.get("text", {}) else {},
    }
    parts = {}
    if unknown := sorted(set(config) - {"vision", "text"}):
        raise InputError(f"{unknown[0]} cannot be set for a new model; its parts are vision and text")
    for section, kind in (("vision", family.vision), ("text", family.text)):
        settings = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in dict(config.get(section, {})).items()
        }
        fields = {field.name: field for field in dataclasses.fields(kind)}
        needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        if unknown := settings.keys() - fields.keys() | settings.keys() & sizes[section].keys():
            raise InputError(f"{section}.{min(unknown)} cannot be set for a new model; its sizes are {sorted(fields)}")
        if missing := needed - settings.keys() - sizes[section].keys():
            raise InputError(f"{section}.{min(missing)} is missing from the new model's sizes")
        parts[section] = kind(**settings, **sizes[section])
    ids = {
        name: tokenizer.token_to_id(f"<|{token}|>")
        for name, token in (
            ("image_token_id", "image_pad"),
            ("video_token_id", "video_pad"),
            ("vision_start_token_id", "vision_start"),
            ("vision_end_token_id", "vision_end"),
        )
    }
    # from_hf checks that the sizes are consistent.
    return family.config.from_hf(family.config(**parts, **ids).to_hf())


def _write_processor(path: Path, tokenizer: Any, family: Family, config: models.Config) -> None:
    _write_tokenizer(path, tokenizer)
    (path / "chat_template.jinja").write_text(family.chat_template, encoding="utf-8")
    _write_settings(path, tokenizer, family, config)


def _write_tokenizer(path: Path, tokenizer) -> None:
    tokenizer.save(str(path / "tokenizer.json"))
    tokenizer.model.save(str(path))  # vocab.json and merges.txt, for tools that do not read tokenizer.json
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    named = {"eos_token": END_OF_TURN, "pad_token": END_OF_TEXT, "additional_special_tokens": list(SPECIAL_TOKENS[1:])}
    _write_json(path / "special_tokens_map.json", named)
    _write_json(
        path / "tokenizer_config.json",
        {
            **named,
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(tokenizer.token_to_id(token)): {"content": token, **added} for token in SPECIAL_TOKENS
            },
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "model_max_length": 131072,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def _write_settings(path: Path, tokenizer: Any, family: Family, config: models.Config) -> None:
    _write_json(
        path / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": family.processor_class,
            "min_pixels": config.vision.min_pixels,
            "max_pixels": config.vision.max_pixels,
            "patch_size": config.vision.patch_size,
            "temporal_patch_size": config.vision.temporal_patch_size,
            "merge_size": config.vision.spatial_merge_size,
            "image_mean": list(config.vision.image_mean),
            "image_std": list(config.vision.image_std),
        },
    )
    end, turn = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(END_OF_TURN)
    _write_json(path / "generation_config.json", {"pad_token_id": end, "eos_token_id": [turn, end], "do_sample": False})


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

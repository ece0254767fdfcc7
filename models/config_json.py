"""Reads the values of a config.json: each is checked, and what is wrong is named in one line."""

from typing import Any

from models.errors import InputError

MOST, MOST_LAYERS = 1 << 24, 1 << 10  # of any size; larger ones are mistakes that would take all memory or time
VISION_ROPE_THETA = 10000.0  # the same in all published models, so a constant in the network


def require(holds: bool, message: str) -> None:
    """Raises InputError with the message, unless it holds."""
    if not holds:
        raise InputError(f"config.json: {message}")


def check_architecture(raw: dict[str, Any], model_type: str, architecture: str, name: str) -> None:
    """Raises InputError for a config.json of another architecture than the family `name`."""
    kind, architectures = raw.get("model_type"), raw.get("architectures")
    require(
        kind == model_type or (kind is None and architectures == [architecture]),
        f"model_type is {kind!r}, architectures {architectures!r}: only {name} ('{model_type}') is supported",
    )
    require(
        not architectures or architectures == [architecture],
        f"architectures is {architectures!r}: only ['{architecture}'] is supported",
    )


def section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at `key`, {} where it is absent or null."""
    value = {} if raw.get(key) is None else raw[key]
    require(isinstance(value, dict), f"{key} must be an object, not {value!r}")
    return value


def flag(raw: dict[str, Any], key: str, where: str = "") -> bool:
    """True or False; False where it is absent or null."""
    value = raw.get(key, False)
    require(value in (True, False, None), f"{where}{key} must be true or false, not {value!r}")
    return bool(value)


def integer(
    raw: dict[str, Any],
    key: str,
    default: int,
    where: str = "",
    *,
    least: int = 1,
    most: int = MOST,
    null: int | None = None,
) -> int:
    """A whole number from `least` to `most`; `null`, if given, stands for null."""
    value = raw.get(key, default)
    value = null if value is None and null is not None else value
    require(
        isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
        f"{where}{key} must be a whole number of at least {least} and at most {most:,}, not {value!r}",
    )
    return value


def number(raw: dict[str, Any], key: str, default: float) -> float:
    """A number above 0."""
    value = raw.get(key, default)
    require(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0,
        f"{key} must be a number above 0, not {value!r}",
    )
    return float(value)


def integers(raw: dict[str, Any], key: str, default: tuple[int, ...], what: str, where: str = "") -> tuple[int, ...]:
    """A list of whole numbers."""
    value = raw.get(key, default)
    require(
        isinstance(value, list | tuple) and all(type(part) is int for part in value),
        f"{where}{key} must be a list of {what}, not {value!r}",
    )
    return tuple(value)


def token_ids(raw: dict[str, Any], defaults: Any) -> dict[str, int]:
    """The ids of image, video, vision start and vision end, by default those of the class `defaults`."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: integer(raw, name, getattr(defaults, name), least=0) for name in names}


def rope(raw: dict[str, Any], theta: float, section: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    """(theta, M-RoPE sections) of a text config in either layout: `rope_scaling` with `rope_theta` beside it, or
    `rope_parameters`. The older key takes precedence, as in transformers. The arguments are defaults."""
    found = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    require(isinstance(found, dict), f"rope_scaling / rope_parameters must be an object, not {found!r}")
    kind = found.get("rope_type", found.get("type", "default"))
    require(kind in ("default", "mrope"), f"the rotary type {kind!r} is not supported: use 'default' or 'mrope'")
    given = found["rope_theta"] if found.get("rope_theta") is not None else raw.get("rope_theta")
    sections = integers(found, "mrope_section", section, "three sizes")
    return number({"rope_theta": theta if given is None else given}, "rope_theta", theta), sections


def check_text(raw: dict[str, Any]) -> None:
    """Raises InputError for what no family's decoder here does: other activations, sliding windows."""
    check_activation(raw, "silu")
    require(
        not raw.get("use_sliding_window") and "sliding_attention" not in (raw.get("layer_types") or ()),
        "use_sliding_window is true, and sliding windows are not supported: use a model without them",
    )


def check_activation(raw: dict[str, Any], expected: str, where: str = "") -> None:
    """Raises InputError for another activation than `expected`, which is also the default."""
    activation = raw.get("hidden_act", expected)
    require(activation == expected, f"{where}hidden_act is {activation!r}: only {expected!r} is supported")


def check_vision_rope(raw: dict[str, Any]) -> None:
    """Raises InputError for a vision tower with another rotary base."""
    require(
        (raw.get("rope_parameters") or {}).get("rope_theta") in (None, VISION_ROPE_THETA),
        f"vision_config.rope_parameters.rope_theta must be {VISION_ROPE_THETA:g}, as in every published model",
    )


def check_sizes(vision: Any, text: Any) -> None:
    """Raises InputError where the sizes that every family has do not fit together."""
    half, vision_head = text.head_dim // 2, vision.hidden_size // vision.num_heads
    require(
        text.num_attention_heads % text.num_key_value_heads == 0,
        f"num_attention_heads {text.num_attention_heads} is no multiple of num_key_value_heads "
        f"{text.num_key_value_heads}",
    )
    require(
        len(text.mrope_section) == 3 and min(text.mrope_section) >= 0 and sum(text.mrope_section) == half,
        f"mrope_section {list(text.mrope_section)} must be three sizes with the sum head_dim / 2 = {half}",
    )
    require(
        vision.hidden_size % vision.num_heads == 0 and vision_head % 4 == 0,
        f"vision_config.hidden_size {vision.hidden_size} is no multiple of {vision.num_heads} heads of a size "
        "divisible by 4",
    )
    require(
        vision.out_hidden_size == text.hidden_size,
        f"vision_config.out_hidden_size {vision.out_hidden_size} differs from the text hidden_size {text.hidden_size}",
    )
    require(vision.in_channels == 3, f"vision_config.in_channels is {vision.in_channels}: images have 3")

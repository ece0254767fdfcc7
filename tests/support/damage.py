"""What happens to files: damages of a file's bytes, None for one that is gone."""

from pathlib import Path


def _flipped(data: bytes) -> bytes:
    """One bit of a byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "flipped": _flipped,
}


def damage(file: Path, kind: str) -> None:
    """Damages a file in the way `kind`."""
    data = DAMAGES[kind](file.read_bytes())
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)

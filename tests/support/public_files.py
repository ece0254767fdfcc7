"""Writes small files in the formats of Hugging Face data sets."""

import io
import json
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])  # how `datasets` stores an image
MANTIS = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("images", pyarrow.list_(STRUCT)),
        ("conversation", pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))),
        ("source", pyarrow.string()),
    ]
)


def png(seed=0, size=(12, 10)):
    """A noise image that depends on the seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path, rows, schema=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
    return path


def jsonl(path, *rows):
    """Writes rows as lines; a bytes row is written unchanged."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def zipped(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def turns(*texts):
    """A conversation with alternating user and assistant turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]

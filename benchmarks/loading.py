"""Host memory while loading weights: `python -m benchmarks.loading` (2 GB in a temporary directory, 6 GB of memory).

Two processes with two CPU devices each load a bfloat16 checkpoint of several files, in bfloat16 and in float32, every
weight sharded in four (mesh fsdp=4). As in the 72B, most of it is three stacked weights of a quarter each. Device
memory is host memory here, so the minimum for a process is its half of the weights. Measured is the process's own
memory (RssAnon, polled every few milliseconds) above that before loading; mapped pages of files belong to the page
cache, which the system can reclaim, and are reported separately (RssFile).
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from benchmarks import workload
from models import qwen2_5_vl as qwen
from perl_jax import mesh
from perl_jax.runtime import processes

PROCESSES, DEVICES = 2, 4
FILE_BYTES = 500_000_000
BLOCK = 1 << 22  # random values, written repeatedly
GB = 1e9


def config() -> qwen.Config:
    """The 3B with 12 of its 36 layers, 1 of 32 in the vision tower, and a fifth of the vocabulary."""
    full = qwen.Config.published("3B")
    return dataclasses.replace(
        full,
        vision=dataclasses.replace(full.vision, depth=1, fullatt_block_indexes=(0,)),
        text=dataclasses.replace(full.text, num_hidden_layers=12, vocab_size=32000),
        image_token_id=31999,
        video_token_id=31998,
        vision_start_token_id=31997,
        vision_end_token_id=31996,
    )


def make(path: Path) -> int:
    """Writes a checkpoint of random weights, tensor by tensor; returns its size in bytes."""
    sizes = config()
    (path / "config.json").write_text(json.dumps(sizes.to_hf()))
    tensors = jax.eval_shape(lambda: qwen.named(qwen.Qwen2_5_VL(sizes, rngs=nnx.Rngs(0))))
    files, free = [], 0
    for name, tensor in tensors.items():
        if not files or tensor.size * 2 > free:
            files.append({})
            free = FILE_BYTES
        files[-1][name] = tensor
        free -= tensor.size * 2
    places = {}
    for number, content in enumerate(files, start=1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        write(path / file, content)
        places.update(dict.fromkeys(content, file))
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(tensor.size * 2 for tensor in tensors.values())


def write(file: Path, tensors) -> None:
    """Writes one safetensors file of random bfloat16 tensors, given as {name: shape}."""
    ends = np.cumsum([2 * tensor.size for tensor in tensors.values()]).tolist()
    header = {
        name: {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [end - 2 * tensor.size, end]}
        for (name, tensor), end in zip(tensors.items(), ends)
    }
    encoded = json.dumps(header).encode()
    noise = (0.02 * np.random.default_rng(0).standard_normal(BLOCK, np.float32)).astype(ml_dtypes.bfloat16).tobytes()
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for left in (2 * tensor.size for tensor in tensors.values()):
            while left:
                left -= stream.write(noise[:left])


class Memory:
    """Context manager that records this process's peak RssAnon and RssFile above their initial values, in bytes."""

    def __enter__(self):
        self._before, self.anon, self.file, self._stop = resident(), 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.002):
            self.anon, self.file = (max(pair) for pair in zip((self.anon, self.file), self._above()))

    def _above(self):
        return (now - before for now, before in zip(resident(), self._before))

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def resident() -> tuple[int, int]:
    """(RssAnon, RssFile) in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile"))


def load(path: Path, dtype: str, coordinator: str, index: int) -> dict[str, float]:
    """One process's part: weights, peak memory and time, in bytes and seconds."""
    processes.join(coordinator, PROCESSES, index)
    with jax.set_mesh(mesh.make(fsdp=DEVICES)):
        mesh.replicated(jnp.zeros(1)).block_until_ready()  # excludes memory used by startup
        started = time.monotonic()
        with Memory() as memory:
            model = qwen.load(path, dtype=dtype, sharding=mesh.sharding)
            weights = jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
        seconds = time.monotonic() - started
    weight_bytes = sum(shard.data.nbytes for weight in weights for shard in weight.addressable_shards)
    return {"held": weight_bytes, "anon": memory.anon, "file": memory.file, "seconds": seconds}


def measured(path: Path, dtype: str) -> list[dict[str, float]]:
    """The `load` results of all processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={DEVICES // PROCESSES}"
    command = [sys.executable, "-m", "benchmarks.loading", str(path), dtype, coordinator]
    loading = [
        subprocess.Popen(
            [*command, str(index)],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(PROCESSES)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in loading]
    finally:
        for process in loading:
            process.kill()
    if any(process.returncode for process in loading):
        raise SystemExit("a process that loads has failed; it says why above")
    return [json.loads(text.splitlines()[-1]) for text in outputs]


def main() -> None:
    table, shares = [], []
    with tempfile.TemporaryDirectory(prefix="perl_jax-loading-") as directory:
        size = make(Path(directory))
        for dtype in ("bfloat16", "float32"):
            for index, result in enumerate(measured(Path(directory), dtype)):
                share = result["anon"] / result["held"]
                table.append(
                    (
                        dtype,
                        str(index),
                        *(f"{result[name] / GB:.2f} GB" for name in ("held", "anon")),
                        f"{share:.2f}",
                        f"{result['file'] / GB:.2f} GB",
                        f"{result['seconds']:.0f}",
                    )
                )
                shares.append(share)
    columns = ("dtype", "process", "weights", "most process memory", "ratio", "mapped of the files", "seconds")
    workload.table(columns, table)
    workload.conclude(
        f"{size / GB:.1f} GB of weights on {PROCESSES} processes: loading takes at most "
        f"{max(shares):.2f} times a process's share"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(load(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from environment import REPOSITORY

from perl_jax.runtime import host_memory


def resident() -> int:
    """Bytes of this process in memory."""
    return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)


@glibc
def test_what_lies_between_pieces_in_use_is_given_back():
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    size = 64 << 10  # below what malloc maps on its own
    pieces = [library.malloc(size) for _ in range(2000)]
    for piece in pieces:
        ctypes.memset(piece, 1, size)
    for piece in pieces[:-1]:
        library.free(piece)  # the last one keeps the heap from shrinking
    before = resident()
    host_memory.give_back()
    assert before - resident() > 0.8 * 2000 * size
    library.free(pieces[-1])


ARENAS = """
import ctypes, re, threading
from perl_jax.runtime import host_memory
{call}
library = ctypes.CDLL(None)
together = threading.Barrier(6)
def hold():
    library.malloc(1000)
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(6)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
spans = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ---p 0+ 00:00 0 *$", open("/proc/self/maps").read(), re.MULTILINE)
print(sum((60 << 20) < int(end, 16) - int(start, 16) < (64 << 20) for start, end in spans))
"""  # prints how many threads have an arena of their own: each reserves 64 MiB


@glibc
@pytest.mark.parametrize("call, own", [("host_memory.one_arena()", False), ("", True)])
def test_threads_share_one_arena(call, own):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", ARENAS.format(call=call)]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=REPOSITORY
    ).stdout
    assert (int(printed) > 0) == own


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    host_memory.one_arena()
    host_memory.give_back()

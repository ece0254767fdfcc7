import ctypes
import re
import sys
from pathlib import Path

import pytest

from perl_jax.runtime import host_memory


def resident() -> int:
    """Bytes of this process in memory."""
    return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
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


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    host_memory.give_back()

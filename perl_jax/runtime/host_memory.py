"""Memory of the host that a run no longer uses, given back to the system; glibc's malloc keeps it otherwise.

It keeps freed pieces between others, in an arena for each thread: with the threads that write checkpoints a process
that saves every few seconds grew by a fifth in half an hour, while what it had in use did not.
"""

import ctypes
import os

M_ARENA_MAX = -8  # of malloc.h


def one_arena() -> None:
    """Lets all threads share one arena, where the C library is glibc and MALLOC_ARENA_MAX is not set.

    To be called before there are threads: an arena that is there stays.
    """
    library = ctypes.CDLL(None)
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(library, "malloc_trim"):  # other C libraries have no such
        library.mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Returns freed memory to the system, where the C library can (glibc). Takes milliseconds."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)

"""Memory of the host that a run no longer uses, given back."""

import ctypes


def give_back() -> None:
    """Returns freed memory to the system, where the C library can (glibc).

    Its malloc keeps freed pieces between others, in an arena for each thread. Those of the threads that write
    checkpoints add up: a process that saves every few seconds grew by a seventh in half an hour. Takes milliseconds.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)

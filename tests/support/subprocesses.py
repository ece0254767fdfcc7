"""Helpers for subprocesses started by tests: a free port, and their exit codes and output."""

import socket
import subprocess


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def finish(processes: list[subprocess.Popen], timeout=300) -> list[tuple[int, str]]:
    """(exit code, output) of each process."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, outputs)]

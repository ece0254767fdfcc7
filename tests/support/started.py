"""Programs that a test has started: where they meet, and what they said in the end."""

import socket
import subprocess


def free_port() -> int:
    """One that nothing listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def finish(started: list[subprocess.Popen], timeout=300) -> list[tuple[int, str]]:
    """(exit code, what it said) of each process."""
    try:
        said = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said)]

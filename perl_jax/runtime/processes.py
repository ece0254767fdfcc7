"""Multi-process (multi-host) runs: all processes run the same steps, each with a part of the devices.

Devices run one program together (mesh.py). On the host each process draws and tokenises the whole batch, for which it
reads only image sizes, but decodes, resizes and patches only the images of its own rows. It grades its share of the
responses. Process 0 alone writes a run's files; all write checkpoints. With one process all functions are no-ops.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from models.errors import InputError
from perl_jax.runtime import device_settings, peers

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

TIMEOUT = 120  # seconds to wait for the other processes at start-up
LOST = 60  # seconds without a sign of life after which a process is lost, and the others end

_shares: list[Callable[[], None]] = []  # of `sharing`


def join(coordinator: str = "", count: int = 0, index: int = -1) -> None:
    """Joins the run's other processes; must precede any use of devices.

    Uses the address HOST:PORT of process 0, the number of processes and this one's index; without an address, the
    cluster environment (SLURM, TPU VMs, GKE, Open MPI: as detected by `jax.distributed`); without a cluster, runs
    alone. Raises InputError where the others cannot be reached.
    """
    options = {}
    if coordinator:
        if not 0 <= index < count:
            raise InputError(f"--coordinator={coordinator} also needs --process_count, and --process_index below it")
        options = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
        logger.info("process %d of %d joins at %s; it waits %d s at most", index, count, coordinator, TIMEOUT)
        if index:
            _reach(coordinator)
    try:
        jax.distributed.initialize(
            **options, initialization_timeout=TIMEOUT, heartbeat_timeout_seconds=3 * LOST, shutdown_timeout_seconds=LOST
        )
    except (ValueError, RuntimeError) as error:
        single_process = (
            "coordinator_address should be defined",
            "must be called before",
        )  # no cluster; within a program
        if options or not any(text in str(error) for text in single_process):
            where, line = coordinator or "the address that the cluster gives", str(error).splitlines()[0]
            raise InputError(f"cannot join the other processes at {where}: {line}") from error
    if not first():
        logging.getLogger("perl_jax").setLevel(logging.WARNING)
    device_settings.log()
    if jax.process_count() > 1:
        peers.watch(LOST)


def _reach(address: str) -> None:
    """Waits until process 0 listens: XLA itself would abort without a helpful message."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return peers.reach(address, TIMEOUT)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or time.monotonic() > end:
                raise InputError(
                    f"--coordinator={address} cannot be reached ({error}); give HOST:PORT of process 0, "
                    "which must run and be reachable from here"
                ) from error
            time.sleep(0.5)


def first() -> bool:
    """Whether this is process 0, which writes logs."""
    return jax.process_index() == 0


def cores() -> int:
    """The number of CPU cores that this process may use, respecting CPU affinity where available."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_mine(number: int) -> bool:
    """Whether this process does the work item with this number, on which all processes agree."""
    return number % jax.process_count() == jax.process_index()


def after_first(make: Callable[[], Made]) -> Made:
    """Runs `make` in process 0, then in the others, which find what process 0 has written; each gets its own result.

    Raises InputError in all processes where process 0 does.
    """
    if not first():
        if failure := any_text(""):
            raise InputError(failure)
        for share in _shares:
            share()
        return make()
    try:
        made = make()
        for share in _shares:
            share()
    except InputError as error:
        any_text(str(error))
        raise
    any_text("")
    return made


@contextlib.contextmanager
def sharing(share: Callable[[], None]) -> Iterator[None]:
    """Where processes do not see each other's files: `share` hands on what process 0 makes in `after_first`.

    It is called in process 0 after it has made something, then in the others before they look for it.
    """
    _shares.append(share)
    try:
        yield
    finally:
        _shares.remove(share)


def exchange(value) -> list:
    """Gathers the JSON-able `value` of each process, by process index."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    padded = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(padded, sizes)]


def any_text(text: str) -> str:
    """The first text, by process index, that is not empty; the same in all processes, "" where all are empty."""
    return next(filter(None, exchange(text)), "")


def check_equal(value, what: str) -> None:
    """Raises InputError in every process unless all have the same JSON-able `value`."""
    values = exchange(value)
    for index, other in enumerate(values):
        if other != values[0]:
            raise InputError(f"process {index} has {what} different from process 0; start all with the same")

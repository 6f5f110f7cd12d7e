"""What an engine is, and how every engine starts a run: as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vpns_lightning.base.errors import UserError

# what tells a process that it is one of several of a job; a cell is a job of its own
_RANKS = ("SLURM_", "PMI_", "PMIX_", "OMPI_", "TORCHELASTIC_", "MASTER_")
THREADS = "OMP_NUM_THREADS"  # of torch on a CPU; another number of them rounds otherwise
POLL = 0.1  # seconds between two looks at the processes
_RANK_NAMES = {"RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what a cluster says of ranks.

    A cell started inside an allocation would else take the allocation's tasks for its own.
    """
    return {
        key: value
        for key, value in environment.items()
        if not key.startswith(_RANKS) and key not in _RANK_NAMES
    }


@dataclass(frozen=True)
class Job:
    """One process to run.

    Attributes:
        name: Unique in the grid.
        command: Program and arguments.
        log: File that its output is appended to.
        environment: Variables besides those of the grid's own process.
        cwd: Working directory.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = field(default_factory=Path.cwd)


def never() -> bool:
    """Return that there is no hurry."""
    return False


class Engine(Protocol):
    """Runs jobs side by side."""

    @property
    def slots(self) -> int:
        """Return how many jobs run at a time, now."""

    def start(self, job: Job) -> None:
        """Start a job; there is a free slot."""

    def wait(self, seconds: float) -> list[tuple[Job, int]]:
        """Wait up to ``seconds`` and return the jobs that ended, with their exit status.

        The status is negative for a signal, as in :mod:`subprocess`.
        """

    def stop(self, grace: float, hurry: Callable[[], bool] = never) -> None:
        """Ask all jobs to save and end, and return when they have.

        Args:
            grace: They are killed after so many seconds.
            hurry: They are killed as soon as this is true.
        """

    def close(self) -> None:
        """Give everything back."""


def check_counts(slots: int | None, gpus_per_cell: int, gpus: int) -> None:
    """Refuse counts that no machine has.

    Args:
        slots: Jobs at a time.
        gpus_per_cell: GPUs of one job.
        gpus: Those of one machine, the one that has most.

    Raises:
        UserError: One is below 1, or a job needs more GPUs than one machine has.
    """
    if slots is not None and slots < 1:
        raise UserError(f"--slots must be at least 1, got {slots}")
    if gpus_per_cell < 1:
        raise UserError(f"--gpus-per-cell must be at least 1, got {gpus_per_cell}")
    if gpus_per_cell > max(gpus, 1):
        raise UserError(
            f"--gpus-per-cell {gpus_per_cell} asks for more GPUs than a machine here has ({gpus}): "
            "a cell runs on one machine"
        )


def core_limits(cores: int, gpus: int) -> dict[str, str]:
    """Return the variables that keep a job to its cores.

    Args:
        cores: Those of the job.
        gpus: Its GPUs; each has a process of its own, and those divide the loaders' cores again.
    """
    threads = max(cores // max(gpus, 1), 1)
    # threads that compute, and processes that load images
    return {THREADS: str(threads), "LOKY_MAX_CPU_COUNT": str(max(cores, 1))}


def launch(job: Job, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, bound to the life of this thread's process.

    The terminal's Ctrl-C does not reach it: the grid decides how it ends. It gets SIGTERM when the
    thread that calls this dies, so it has to be the main thread.
    """
    bound = [sys.executable, "-m", "vpns_lightning.grid.engines.bound", str(os.getpid())]
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(job.command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [*bound, *job.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**alone(os.environ), **job.environment, **extra},
            cwd=job.cwd,
            start_new_session=True,
        )


def end(
    processes: Sequence[subprocess.Popen[bytes]],
    grace: float,
    hurry: Callable[[], bool] = never,
) -> None:
    """Send SIGTERM, wait up to ``grace`` seconds for all or for a hurry, then kill what is left."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(process.poll() is None for process in processes):
        if hurry() or time.monotonic() >= deadline:
            break
        time.sleep(POLL)
    for process in processes:
        # loaders and other ranks are in its session
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

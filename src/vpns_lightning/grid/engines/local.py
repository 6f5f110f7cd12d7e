"""The local engine: slots on this machine, by GPU or by core."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from vpns_lightning.grid.engines.base import (
    POLL,
    THREADS,
    Job,
    check_counts,
    core_limits,
    end,
    launch,
    never,
)


class LocalEngine:
    """Runs jobs on this machine.

    Args:
        slots: Jobs at a time; None takes one for each GPU or group of GPUs, or one where there is
            no GPU.
        gpus: What ``CUDA_VISIBLE_DEVICES`` may name; the slots take turns.
        gpus_per_cell: GPUs of one job, which trains on all of them.

    Raises:
        UserError: ``slots`` is below 1, or there are fewer GPUs than a job needs.
    """

    def __init__(
        self, slots: int | None = None, gpus: Sequence[str] = (), gpus_per_cell: int = 1
    ) -> None:
        check_counts(slots, gpus_per_cell, len(gpus))
        groups = grouped(gpus, gpus_per_cell)
        self._slots = slots or max(len(groups), 1)
        self.environments = [slot_environment(i, self._slots, groups) for i in range(self.slots)]
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}

    @property
    def slots(self) -> int:
        """Return how many jobs run at a time."""
        return self._slots

    def start(self, job: Job) -> None:
        """Start a job in the first free slot."""
        slot = next(i for i in range(self.slots) if i not in self._running)
        self._running[slot] = (job, launch(job, self.environments[slot]))

    def wait(self, seconds: float) -> list[tuple[Job, int]]:
        """Return the jobs that ended within ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            ended = [
                (slot, job, process.returncode)
                for slot, (job, process) in self._running.items()
                if process.poll() is not None
            ]
            for slot, _, _ in ended:
                del self._running[slot]
            if ended or time.monotonic() >= deadline:
                return [(job, status) for _, job, status in ended]
            time.sleep(POLL)

    def stop(self, grace: float, hurry: Callable[[], bool] = never) -> None:
        """Ask all jobs to save and end; kill them after ``grace`` seconds or in a hurry."""
        end([process for _, process in self._running.values()], grace, hurry)
        self._running.clear()

    def close(self) -> None:
        """Leave nothing behind."""
        self.stop(0)


def grouped(gpus: Sequence[str], size: int) -> list[list[str]]:
    """Return as many groups of ``size`` GPUs as there are, neighbours together."""
    return [list(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


def slot_environment(slot: int, slots: int, groups: Sequence[Sequence[str]]) -> Mapping[str, str]:
    """Return the variables that give a slot its GPUs and its share of the cores."""
    gpus = groups[slot % len(groups)] if groups else []
    # more threads than cores would wait for each other
    share = max(len(os.sched_getaffinity(0)) // slots, 1)
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    limits = core_limits(share, len(gpus))
    asked = os.environ.get(THREADS, "").split(",")[0].strip()  # OpenMP takes one for each level
    if asked.isdecimal() and int(asked) > 0:
        limits[THREADS] = str(min(int(asked), int(limits[THREADS])))
    return limits | visible


def visible_gpus() -> list[str]:
    """Return what names the GPUs that this process may use, without starting CUDA."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in {"", "-1"}]
    return [str(index) for index in range(torch.cuda.device_count())]

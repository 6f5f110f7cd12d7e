"""The local engine: slots on this machine, by GPU or by core."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from vpns_lightning.base.errors import UserError
from vpns_lightning.grid.engines.base import POLL, Job, end, launch, never


class LocalEngine:
    """Runs jobs on this machine.

    Args:
        slots: Jobs at a time; None takes one for each GPU, or one where there is none.
        gpus: What ``CUDA_VISIBLE_DEVICES`` may name; the slots take turns.

    Raises:
        UserError: ``slots`` is below 1.
    """

    def __init__(self, slots: int | None = None, gpus: Sequence[str] = ()) -> None:
        if slots is not None and slots < 1:
            raise UserError(f"--slots must be at least 1, got {slots}")
        self._slots = slots or max(len(gpus), 1)
        self.environments = [slot_environment(i, self._slots, gpus) for i in range(self.slots)]
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


def slot_environment(slot: int, slots: int, gpus: Sequence[str]) -> Mapping[str, str]:
    """Return the variables that give a slot its GPU and its share of the cores."""
    # more threads than cores would wait for each other
    cores = len(os.sched_getaffinity(0))
    share = str(max(cores // slots, 1))
    # threads that compute, and processes that load images
    limits = {"OMP_NUM_THREADS": share, "LOKY_MAX_CPU_COUNT": share}
    return limits | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})


def visible_gpus() -> list[str]:
    """Return what names the GPUs that this process may use, without starting CUDA."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in {"", "-1"}]
    return [str(index) for index in range(torch.cuda.device_count())]

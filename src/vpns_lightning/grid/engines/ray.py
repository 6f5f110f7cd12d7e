"""The Ray engine: the same processes on several machines (Ray core, the extra ``grid``).

Every machine needs this package in an environment at the same path, and the folders of the grid at
the same path. Ray runs what anyone who reaches its ports sends: use it on a trusted network only.
"""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.grid.engines.base import Job, check_counts, core_limits, end, launch, never
from vpns_lightning.runs.folder import RunFolder

# before ray is imported: no usage statistics, and jobs without a GPU keep their environment
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# the servers of a cluster listen on all interfaces, whatever address its machines are known by, so
# one that is started here always asks for a token; Ray reads these when it is imported
if not (
    {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    or (Path.home() / ".ray" / "auth_token").is_file()
):
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.setdefault("RAY_AUTH_MODE", "token")

try:
    import ray
except ModuleNotFoundError:
    raise UserError(
        "--engine ray needs Ray: pip install 'vpns-lightning[grid]', or use --engine local"
    ) from None

LOST_MACHINES = 8  # how often Ray may move one cell because its machine is gone
_LOOK = 0.5  # seconds between two looks at what is being stopped
_SAVING = 120.0  # seconds that a run has to save


class RayEngine:
    """Runs jobs on a Ray cluster, on GPUs, or on a share of the cores where there are none.

    Args:
        slots: Jobs at a time in the whole cluster; None takes one for each GPU or group of GPUs of
            a machine, or one for each machine where there are none.
        address: Of a running cluster (``HOST:PORT`` or ``auto``); None starts one on this machine,
            which ends with the grid and which other machines cannot reach.
        gpus_per_cell: GPUs of one job, all on one machine.

    Raises:
        UserError: ``slots`` is below 1, no cluster answers, or no machine has so many GPUs.
    """

    def __init__(
        self, slots: int | None = None, address: str | None = None, gpus_per_cell: int = 1
    ) -> None:
        check_counts(slots, gpus_per_cell, gpus_per_cell)
        _check_answers(address)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            options |= {"num_cpus": len(os.sched_getaffinity(0))}
        try:
            ray.init(address=address or "local", **options)
        except ConnectionError as error:
            raise UserError(f"no Ray cluster answers at {address!r}: {error}") from None
        self._wanted = slots
        self._gpus = gpus_per_cell
        self._running: dict[Any, Job] = {}
        most = max((int(machine.get("GPU", 0)) for machine in self._machines()), default=0)
        check_counts(slots, gpus_per_cell, most)

    @property
    def slots(self) -> int:
        """Return how many jobs the machines that are alive can run at a time."""
        return self._wanted or all_slots(self._machines(), self._gpus)

    def start(self, job: Job) -> None:
        """Queue a job; Ray finds the machine."""
        resources = self._share()
        limits = core_limits(int(resources["num_cpus"]), int(resources["num_gpus"]))
        task = _run.options(max_retries=LOST_MACHINES, **resources)
        self._running[task.remote(job, limits)] = job

    def wait(self, seconds: float) -> list[tuple[Job, int]]:
        """Return the jobs that ended within ``seconds``."""
        if not self._running:
            time.sleep(seconds)
            return []
        ended, _ = ray.wait(list(self._running), timeout=seconds)
        return [(self._running.pop(task), _status(task)) for task in ended]

    def stop(self, grace: float, hurry: Callable[[], bool] = never) -> None:
        """Ask all jobs to save and end; kill them after ``grace`` seconds or in a hurry."""
        for task in self._running:
            ray.cancel(task, force=grace == 0)
        left = list(self._running)
        deadline = time.monotonic() + grace + 5
        while left and time.monotonic() < deadline:
            if grace and hurry():
                return self.stop(0)
            left = ray.wait(left, num_returns=len(left), timeout=_LOOK)[1]
        self._running.clear()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if ray.is_initialized():
            self.stop(0)
            ray.shutdown()

    def _machines(self) -> list[Mapping[str, float]]:
        """Return the resources of every machine that runs jobs: those with GPUs, if any has one."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's
        machines = [resources for resources in alive if resources.get("CPU", 0) > 0]
        return [machine for machine in machines if machine.get("GPU")] or machines

    def _share(self) -> dict[str, float]:
        """Return what one job reserves."""
        return share(self._machines(), self.slots, self._gpus)


def all_slots(machines: Sequence[Mapping[str, float]], gpus_per_cell: int) -> int:
    """Return how many jobs of so many GPUs fit machines with these resources; one without GPUs."""
    with_gpus = any(machine.get("GPU") for machine in machines)
    fitting = [int(machine.get("GPU", 0)) // gpus_per_cell for machine in machines]
    return max(sum(fitting) if with_gpus else len(fitting), 1)


def share(
    machines: Sequence[Mapping[str, float]], slots: int, gpus_per_cell: int = 1
) -> dict[str, float]:
    """Return the cores and GPUs of one of ``slots`` jobs on machines with these resources.

    A share fits the smallest machine that has its GPUs; above one, Ray wants whole cores and GPUs.
    """
    machines = machines or [{"CPU": 1.0}]
    if gpus_per_cell > 1:
        fitting = [machine for machine in machines if machine.get("GPU", 0) >= gpus_per_cell]
        each = min(machine["CPU"] / (machine["GPU"] // gpus_per_cell) for machine in fitting)
        return {"num_cpus": _whole(each), "num_gpus": float(gpus_per_cell)}
    gpus = sum(machine.get("GPU", 0) for machine in machines)
    cores = sum(machine["CPU"] for machine in machines) / max(slots, gpus)
    cores = min(cores, *(machine["CPU"] for machine in machines))
    return {"num_cpus": _whole(cores), "num_gpus": min(int(gpus / slots * 1e4) / 1e4, 1.0)}


def _whole(cores: float) -> float:
    """Return cores rounded down, so that all shares of a machine fit."""
    return float(int(cores)) if cores >= 1 else int(cores * 1e4) / 1e4


@ray.remote
def _run(job: Job, environment: Mapping[str, str]) -> int:
    """Run a job on this machine, and return its exit status."""
    # Ray cancels by an interrupt, which a cluster started in a script's background would ignore
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = RunFolder(job.log.parent)
    # the same run on a machine that Ray has given up may still be saving
    while folder.in_use():
        time.sleep(1)
    process = launch(job, environment)
    try:
        while True:
            try:
                return process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:  # cancelled
            end([process], _SAVING)


def _check_answers(address: str | None) -> None:
    """Refuse an address where nothing listens, for which Ray would wait more than a minute."""
    host, colon, port = (address or "").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address!r}: {error}") from None


def _status(task: Any) -> int:
    """Return the exit status of a job that ended; 1 where Ray lost it."""
    try:
        return int(ray.get(task))
    except ray.exceptions.RayError as error:
        print(f"Ray could not run a cell: {str(error).splitlines()[0]}", flush=True)
        return 1

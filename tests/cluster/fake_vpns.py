"""A stand-in for ``vpns`` in a job: writes down how it was started, and waits for a signal once.

``fit`` waits in its first start for SIGUSR1; its first process then requeues the job, as a run
does. ``grid`` waits for SIGTERM likewise. Later starts end well, and ``data`` always does.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from vpns_lightning.base.stopping import requeue

WRITTEN = ("SLURM_PROCID", "SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "OMP_NUM_THREADS")


def main() -> None:
    folder = Path(os.environ["SLURM_LOG"]).parent
    rank = os.environ.get("SLURM_PROCID", "0")
    facts = {"vpns": sys.argv[1:], "env": {key: os.environ.get(key) for key in WRITTEN}}
    with open(os.environ["SLURM_LOG"], "a") as file:
        file.write(json.dumps(facts) + "\n")
    first = not (folder / f"started{rank}").exists()
    if sys.argv[1] == "data" or not first:
        return
    heard: list[int] = []
    awaited = signal.SIGTERM if sys.argv[1] == "grid" else signal.SIGUSR1
    signal.signal(awaited, lambda signum, _: heard.append(signum))
    (folder / f"started{rank}").touch()
    while not heard:
        time.sleep(0.01)
    (folder / f"heard{rank}").touch()
    if awaited == signal.SIGUSR1:
        if rank == "0":
            requeue()
        while not all((folder / f"heard{r}").exists() for r in range(8)):
            time.sleep(0.01)
        sys.exit(138 if rank == "0" else 0)
    sys.exit(143)


if __name__ == "__main__":
    main()

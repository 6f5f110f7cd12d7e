"""Stand-ins for sbatch, srun and scontrol: ``python slurm.py sbatch|srun|scontrol ...``.

They do what the scripts rely on and write down what they were asked, as lines of JSON, in the file
that ``SLURM_LOG`` names. ``sbatch`` runs a script in the foreground with the variables that its
``#SBATCH`` lines and its own options come to, again and again while the job is requeued. ``srun``
starts tasks, passes SIGUSR1 to all of them, and as soon as one ends with a status kills the others.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

JOB = "42"
VARIABLES = {
    "nodes": ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
    "ntasks-per-node": ("SLURM_NTASKS_PER_NODE",),
    "cpus-per-task": ("SLURM_CPUS_PER_TASK",),
    "gpus-per-node": ("SLURM_GPUS_ON_NODE",),
    "job-name": ("SLURM_JOB_NAME",),
}
MOST_STARTS = 3


def note(**facts: object) -> None:
    with open(os.environ["SLURM_LOG"], "a") as file:
        file.write(json.dumps(facts) + "\n")


def options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return leading options of the form --name=value, and the rest."""
    found = {}
    while arguments and arguments[0].startswith("--"):
        name, _, value = arguments[0][2:].partition("=")
        found[name] = value
        arguments = arguments[1:]
    return found, arguments


def sbatch(arguments: list[str]) -> int:
    asked, (script, *others) = options(arguments)
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", Path(script).read_text(), re.MULTILINE)
    settings = {**dict(lines), **asked}
    note(sbatch=settings)
    job = {"SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "localhost", "SLURM_NODELIST": "localhost"}
    for name, variables in VARIABLES.items():
        job |= dict.fromkeys(variables, settings[name])
    job["SLURM_NTASKS"] = str(int(settings["nodes"]) * int(settings["ntasks-per-node"]))
    status = 0
    for start in range(MOST_STARTS):
        before = requeued()
        batch = subprocess.Popen(["bash", script, *others], env={**os.environ, **job})
        note(batch=batch.pid, start=start)
        status = batch.wait()
        note(ended=status)
        if "requeue" not in settings or requeued() == before:
            break
    return status


def requeued() -> int:
    return Path(os.environ["SLURM_LOG"]).read_text().count('"requeue"')


def srun(arguments: list[str]) -> int:
    asked, command = options(arguments)
    tasks = int(asked.get("ntasks", os.environ["SLURM_NTASKS"]))
    nodes = int(asked.get("nodes", os.environ["SLURM_JOB_NUM_NODES"]))
    # as of Slurm 22.05 a step does not inherit the job's cores, and a task gets one
    own = {**os.environ, "SLURM_NTASKS": str(tasks)}
    own["SLURM_CPUS_PER_TASK"] = asked.get("cpus-per-task", "1")
    own["SLURM_NTASKS_PER_NODE"] = asked.get("ntasks-per-node", os.environ["SLURM_NTASKS_PER_NODE"])
    note(srun=asked, command=command, pid=os.getpid())
    running = []
    for task in range(tasks):
        node, local = divmod(task, max(tasks // nodes, 1))
        place = {"SLURM_PROCID": task, "SLURM_LOCALID": local, "SLURM_NODEID": node}
        place["SLURM_STEP_ID"] = 0
        env = own | {key: str(value) for key, value in place.items()}
        running.append(subprocess.Popen(command, env=env, start_new_session=True))

    def pass_on(signum: int, frame: object) -> None:
        for process in running:
            os.killpg(process.pid, signum)

    signal.signal(signal.SIGUSR1, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    statuses: list[int | None] = [None]
    while None in statuses:
        time.sleep(0.02)
        statuses = [process.poll() for process in running]
        if any(statuses) and asked.get("kill-on-bad-exit") == "1":
            for process in running:
                process.kill()
    # SLURM's word for a signal
    return max(128 - s if s < 0 else s for s in statuses if s is not None)


def scontrol(arguments: list[str]) -> int:
    note(scontrol=arguments)
    if arguments[:2] == ["show", "hostnames"]:
        print("localhost")
    return int(os.environ.get("SCONTROL_STATUS", "0"))


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))

"""The scripts in ``scripts/slurm``, run by stand-ins for SLURM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "scripts" / "slurm"
REAL = """
seed_everything: 3
network: {backbone: resnet18, mapping: IdentityMapping}
find: {pruner: Hydra, sparsity: 0.5, epochs: 6}  # time for a signal to arrive
tune: {epochs: 1}
data: {class_path: Digits, init_args: {input_size: 32, batch_size: 32}}
trainer: {limit_train_batches: 4, limit_val_batches: 1, log_every_n_steps: 1}
"""


class Cluster:
    """A folder to submit jobs from, and what its commands were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.jsonl"
        self.log.touch()
        self.bin = folder / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "activate").write_text(f'export PATH="{self.bin}:$PATH"\n')
        for name in ("srun", "scontrol"):
            self.command(name, f'exec "{sys.executable}" "{HERE / "slurm.py"}" {name} "$@"')
        self.command("vpns", f'exec "{sys.executable}" "{HERE / "fake_vpns.py"}" "$@"')

    def command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.bin / name).chmod(0o755)

    def submit(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(HERE / "slurm.py"), "sbatch", *arguments],
            cwd=self.folder,
            env={**os.environ, "SLURM_LOG": str(self.log), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return what was written down, of the lines that have this key."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if kind in line]

    def steps(self, *command: str) -> list[dict[str, Any]]:
        return [s for s in self.told("srun") if s["command"][: len(command)] == list(command)]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def wait_for(condition: Callable[[], Any], job: subprocess.Popen[str], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_run_gets_its_cores_is_signalled_requeued_and_started_again(cluster: Cluster) -> None:
    job = cluster.submit(str(SCRIPTS / "fit.sbatch"), "my config.yaml", "--find.sparsity", "0.8")
    wait_for(lambda: all((cluster.folder / f"started{r}").exists() for r in range(8)), job)
    os.kill(cluster.steps("vpns", "fit")[0]["pid"], signal.SIGUSR1)
    printed, _ = job.communicate(timeout=30)
    assert job.returncode == 0, printed
    assert [end["ended"] for end in cluster.told("ended")] == [138, 0]
    assert cluster.told("scontrol") == [{"scontrol": ["requeue", "42"]}]
    # every process of the step was told
    assert all((cluster.folder / f"heard{rank}").exists() for rank in range(8))

    settings = cluster.told("sbatch")[0]["sbatch"]
    assert settings["signal"].startswith("SIGUSR1@")  # the tasks', not the script's
    assert settings["open-mode"] == "append"
    prepared, *fits = (step["srun"] for step in cluster.told("srun")[:2])
    assert (prepared["nodes"], prepared["ntasks"], prepared["ntasks-per-node"]) == ("1", "1", "1")
    for step in (prepared, *fits):
        assert step["cpus-per-task"] == settings["cpus-per-task"]
        assert step["kill-on-bad-exit"] == "1"
    given = ["--config", "my config.yaml", "--find.sparsity", "0.8"]
    assert cluster.steps("vpns", "data")[0]["command"] == ["vpns", "data", "prepare", *given]
    command = cluster.steps("vpns", "fit")[0]["command"]
    assert command[: 2 + len(given)] == ["vpns", "fit", *given]
    own = dict(zip(command[6::2], command[7::2], strict=True))
    assert (own["--trainer.num_nodes"], own["--trainer.devices"]) == ("2", "4")
    assert own["--trainer.strategy"] == "ddp"
    # the same command again, so that it resumes
    assert cluster.steps("vpns", "fit")[1]["command"] == command

    tasks = [task["env"] for task in cluster.told("vpns") if task["vpns"][0] == "fit"]
    assert sorted(task["SLURM_PROCID"] for task in tasks[:8]) == [str(rank) for rank in range(8)]
    assert {task["SLURM_CPUS_PER_TASK"] for task in tasks} == {settings["cpus-per-task"]}
    assert {task["OMP_NUM_THREADS"] for task in tasks} == {"1"}


def test_a_signal_while_data_are_prepared_requeues(cluster: Cluster) -> None:
    slow = "import time; from vpns_lightning.base.stopping import listening\n"
    slow += "with listening(): print(flush=True); open('ready', 'w'); time.sleep(20)"
    (cluster.folder / "slow.py").write_text(slow)
    cluster.command("vpns", f'[ -e ready ] || exec "{sys.executable}" slow.py; echo "$@" >> calls')
    job = cluster.submit(str(SCRIPTS / "fit.sbatch"), "config.yaml")
    wait_for(lambda: (cluster.folder / "ready").exists(), job)
    os.kill(cluster.steps("vpns", "data")[0]["pid"], signal.SIGUSR1)
    printed, _ = job.communicate(timeout=30)
    assert job.returncode == 0, printed
    assert cluster.told("scontrol") == [{"scontrol": ["requeue", "42"]}]
    calls = (cluster.folder / "calls").read_text().splitlines()
    assert calls[0].startswith("data prepare")
    assert sum(call.startswith("fit") for call in calls) == 8


def test_a_failing_run_is_not_started_again(cluster: Cluster) -> None:
    cluster.command("vpns", '[ "$1" = data ] || exit 2')
    job = cluster.submit(str(SCRIPTS / "fit.sbatch"), "config.yaml")
    job.communicate(timeout=30)
    assert job.returncode == 2
    assert not cluster.told("scontrol")


def grid_job(cluster: Cluster, **environment: str) -> subprocess.Popen[str]:
    """Submit a grid to a cluster whose Ray is a listening port."""
    port = 20000 + 42
    listen = f"import socket, time; s = socket.create_server(('127.0.0.1', {port}));time.sleep(60)"
    cluster.command(
        "ray", f'[ "$1" = get-auth-token ] && exec echo t; exec {sys.executable} -c "{listen}"'
    )
    cluster.command("hostname", "echo 127.0.0.1")
    script = str(SCRIPTS / "grid.sbatch")
    return cluster.submit("--nodes=1", script, "grid.yaml", "--gpus-per-cell", "2", **environment)


def test_a_grid_saves_is_requeued_and_goes_on(cluster: Cluster) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 20042)) == 0:
            pytest.skip("the port of the job is taken on this machine")
    job = grid_job(cluster)
    wait_for(lambda: (cluster.folder / "started0").exists(), job)
    os.kill(cluster.told("batch")[0]["batch"], signal.SIGUSR1)
    printed, _ = job.communicate(timeout=30)
    assert job.returncode == 0, printed
    assert [end["ended"] for end in cluster.told("ended")] == [138, 0]
    asked = [told["scontrol"] for told in cluster.told("scontrol")]
    assert asked.count(["requeue", "42"]) == 1
    assert (cluster.folder / "heard0").exists()  # it saved before the job was requeued
    assert cluster.told("sbatch")[0]["sbatch"]["signal"].startswith("B:USR1@")
    ray = cluster.steps("ray", "start")[0]
    assert ray["srun"]["cpus-per-task"] == cluster.told("sbatch")[0]["sbatch"]["cpus-per-task"]
    calls = [task["vpns"] for task in cluster.told("vpns")]
    assert calls[0] == calls[1]
    assert calls[0][:4] == ["grid", "grid.yaml", "--gpus-per-cell", "2"]
    assert calls[0][4:] == ["--engine", "ray", "--address", "127.0.0.1:20042"]


@pytest.mark.slow
def test_a_real_run_of_two_processes_is_requeued_and_resumes(cluster: Cluster) -> None:
    real = Path(sys.executable).with_name("vpns")
    # this machine may have no GPU
    cluster.command("vpns", f'exec "{real}" "${{@/#gpu/cpu}}"')
    (cluster.folder / "config.yaml").write_text(REAL)
    run = cluster.folder / "run"
    job = cluster.submit(
        *("--nodes=1", "--ntasks-per-node=2", str(SCRIPTS / "fit.sbatch"), "config.yaml"),
        *("--trainer.default_root_dir", str(run)),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
    )
    wait_for(lambda: (run / "find" / "last.ckpt").exists(), job, 200)
    os.kill(cluster.steps("vpns", "fit")[0]["pid"], signal.SIGUSR1)
    printed, _ = job.communicate(timeout=300)
    assert job.returncode == 0, printed
    assert cluster.told("scontrol") == [{"scontrol": ["requeue", "42"]}]
    assert [end["ended"] for end in cluster.told("ended")] == [138, 0]
    assert "goes on from" in printed or "is done in" in printed
    assert "Traceback" not in printed
    result = json.loads((run / "result.json").read_text())
    assert result["stages"]["tune"]["processes"] == 2

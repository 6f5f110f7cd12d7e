"""``vpns grid`` from end to end: real runs, killed, stopped, resumed, sharing a warm-up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vpns_lightning.runs.folder import RunFolder

HERE = Path(__file__).parent
CONFIG = """
seed_everything: 3
network:
  backbone: squeezenet1_1
  prompt: null
  mapping: IdentityMapping
find: {pruner: Random, sparsity: 0.5, epochs: 1}
tune: {epochs: 1}
data: {class_path: Digits, init_args: {input_size: 32, batch_size: 32}}
trainer:
  accelerator: cpu
  limit_train_batches: 2
  limit_val_batches: 1
  log_every_n_steps: 1
"""
GRID: dict[str, Any] = {
    "name": "fig0_real",
    "about": "real cells",
    "methods": {
        "Random": [],
        "Uniform": [{"find.pruner.init_args": {"layout": "uniform"}}],
        "OMP": [{"find.pruner": "OMP"}],
    },
    "sparsities": [0.5, 0.9],
    "seeds": [7, 9],
}
TWELVE = 12
pytestmark = pytest.mark.slow


def write_grid(folder: Path, **changes: Any) -> Path:
    (folder / "base.yaml").write_text(CONFIG)
    content = {**GRID, "base": str(folder / "base.yaml"), "runs": str(folder / "runs"), **changes}
    (folder / "grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "grid.yaml"


def command(grid: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "vpns_lightning.cli", "grid", str(grid), *options]


def run(grid: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(grid, *options), capture_output=True, text=True, timeout=900, check=False
    )


def results(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(folder.glob("runs/*/result.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def calling(folder: Path, callback: str, **arguments: object) -> tuple[str, ...]:
    (folder / "flags").mkdir(exist_ok=True)
    arguments = {"stage": "tune", "flags": str(folder / "flags"), **arguments}
    callbacks = [{"class_path": f"cell_plugin.{callback}", "init_args": arguments}]
    return (
        *("--plugins", str(HERE / "cell_plugin.py")),
        *("--set", f"trainer.callbacks={json.dumps(callbacks)}"),
    )


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_twelve_cells_of_which_two_are_killed_are_finished(tmp_path: Path, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    grid = write_grid(tmp_path)
    options = ("--engine", engine, "--slots", "2")
    killed = ("digits_random_s0.50_seed7", "digits_omp_s0.90_seed9")
    killing = calling(tmp_path, "KillCells", cells=killed)
    done = run(grid, *options, *killing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "flags").iterdir())) == 2
    assert done.stdout.count("(attempt 2): the last one: killed by SIGKILL") == 2
    found = results(tmp_path)
    assert len(found) == TWELVE
    for name, result in found.items():
        assert result["grid"]["name"] == "fig0_real"
        assert result["grid"]["cell"] == name
        assert abs(result["sparsity"] - result["sparsity_requested"]) < 1e-3
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    # the other engine finds them all; callbacks are part of what a cell is, so they are named again
    again = run(grid, "--engine", "local", *killing)
    assert again.returncode == 0, again.stderr
    assert "12 of 12 cells are done" in again.stdout
    assert "started" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_reused_warm_up_gives_the_same_bits(tmp_path: Path) -> None:
    """VPNs and three baselines share what they may; one of them alone is bit-identical."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "alone").mkdir()
    warm = {"overrides": {"warmup.epochs": 1}, "seeds": [7]}
    methods = {"Hydra": [{"find.pruner": "Hydra"}], "OMP": [{"find.pruner": "OMP"}]}
    shared = run(write_grid(tmp_path / "shared", methods=methods, **warm), "--slots", "1")
    assert shared.returncode == 0, shared.stdout + shared.stderr
    assert "4 of 4 cells are done" in shared.stdout
    assert "3 of them with the warm-up of another cell" in shared.stdout
    found = results(tmp_path / "shared")
    by = [result["stages"]["warmup"].get("reused_from") for result in found.values()]
    first = next(name for name, reused in zip(found, by, strict=True) if reused is None)
    assert sorted(str(name) for name in by) == sorted([first] * 3 + ["None"])
    last = {"methods": {"OMP": methods["OMP"]}, "sparsities": [0.9]}
    alone = run(write_grid(tmp_path / "alone", **{**warm, **last}))
    assert alone.returncode == 0, alone.stdout + alone.stderr
    (name,) = results(tmp_path / "alone")
    own, reusing = (tmp_path / part / "runs" / name for part in ("alone", "shared"))
    assert "reused_from" in results(tmp_path / "shared")[name]["stages"]["warmup"]
    expected = load_file(own / "handoff.safetensors")
    for key, value in load_file(reusing / "handoff.safetensors").items():
        assert torch.equal(value, expected[key]), key
    assert (own / "metrics.csv").read_text() == (reusing / "metrics.csv").read_text()
    assert not (reusing / "warmup").exists()
    # its steps count as if it had taken them itself
    steps = [json.loads((f / "result.json").read_text())["gradient_steps"] for f in (own, reusing)]
    assert steps == [4, 4]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_grid_goes_on(tmp_path: Path, signum: signal.Signals, status: int) -> None:
    grid = write_grid(
        tmp_path,
        methods={"OMP": [{"find.pruner": "OMP", "tune.epochs": 400}]},
        seeds=[7],
        sparsities=[0.5],
    )
    running = subprocess.Popen(command(grid), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: bool(list(tmp_path.glob("runs/*/tune/last.ckpt"))))
    running.send_signal(signum)
    printed, _ = running.communicate(timeout=180)
    assert running.returncode == status, printed
    assert "stopped; the same command goes on" in printed
    (folder,) = tmp_path.glob("runs/*_s0.50_*")
    assert "Traceback" not in (folder / "grid.log").read_text()
    saved = torch.load(folder / "tune" / "last.ckpt", weights_only=True)
    assert saved["global_step"] > 0
    assert not results(tmp_path)


def test_a_cell_with_wrong_input_is_reported_with_its_log(tmp_path: Path) -> None:
    weights = "network.weights=none.safetensors"
    grid = write_grid(tmp_path, seeds=[7], sparsities=[0.5], methods={"OMP": []})
    failed = run(grid, "--set", weights)
    assert failed.returncode == 1
    assert "not tried again" in failed.stdout
    assert "vpns: error: weights file none.safetensors does not exist" in failed.stdout
    assert failed.stdout.count("started") == 1


def test_two_machines_of_which_one_is_lost(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        grid = write_grid(tmp_path, methods={"OMP": [{"find.pruner": "OMP"}]})
        options = ("--engine", "ray", "--address", cluster.address)
        holding = calling(tmp_path, "HoldCells")
        running = subprocess.Popen(
            command(grid, *options, *holding), stdout=subprocess.PIPE, text=True
        )
        flags = tmp_path / "flags"
        wait_for(lambda: len(list(flags.iterdir())) == 2)
        held = [RunFolder(tmp_path / "runs" / flag.name) for flag in flags.iterdir()]
        assert all(folder.in_use() for folder in held)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        wait_for(lambda: not all(folder.in_use() for folder in held))
        (flags / "go").touch()
        printed, _ = running.communicate(timeout=300)
    finally:
        cluster.shutdown()
    assert running.returncode == 0, printed
    assert "4 of 4 cells are done" in printed
    logs = [path.read_text().count("\n--- 20") + 1 for path in tmp_path.glob("runs/*/grid.log")]
    assert sorted(logs) == [1, 1, 1, 2]


def test_a_slurm_job_starts_ray_saves_and_requeues_itself(tmp_path: Path) -> None:
    """The script itself, with stand-ins for SLURM's commands."""
    pytest.importorskip("ray")
    programs = {
        "scontrol": f'[ "$1" = show ] && echo localhost || echo "$@" >> {tmp_path}/requeued',
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "hostname": "echo 127.0.0.1",
        "vpns": f'exec {sys.executable} -m vpns_lightning.cli "$@"',
    }
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, text in programs.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    path = f"{commands}:{Path(sys.executable).parent}:$PATH"
    (commands / "activate").write_text(f"export PATH={path}\n")
    methods = {"OMP": [{"find.pruner": "OMP", "tune.epochs": 400}]}
    grid = write_grid(tmp_path, methods=methods, seeds=[7], sparsities=[0.5])
    job = {"ID": "42", "NODELIST": "localhost", "NUM_NODES": "1"}
    slurm = {f"SLURM_JOB_{key}": value for key, value in job.items()}
    script = HERE.parents[1] / "scripts" / "slurm" / "grid.sbatch"
    running = subprocess.Popen(
        ["bash", str(script), str(grid)],
        cwd=tmp_path,
        env={**os.environ, **slurm, "SLURM_CPUS_PER_TASK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: bool(list(tmp_path.glob("runs/*/tune/last.ckpt"))))
        running.send_signal(signal.SIGUSR1)
        wait_for(lambda: (tmp_path / "requeued").exists())
        while running.poll() is None:  # as SLURM ends a job that it requeues
            running.terminate()
            time.sleep(0.001)
        assert running.returncode == 138
        printed, _ = running.communicate(timeout=120)  # Ray, which has the pipe too, is gone
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "42"]
    assert "stopped; the same command goes on" in printed
    assert not results(tmp_path)


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)

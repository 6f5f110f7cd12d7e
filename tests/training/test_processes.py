"""Real processes of ``vpns fit``: killed, asked to stop, requeued, and two of them at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]
# DDP starts its second process from the script's path
VPNS = str(Path(sys.executable).with_name("vpns"))
CONFIG = """
seed_everything: 3
network:
  backbone: resnet18
  prompt: {class_path: PadPrompt, init_args: {canvas_size: 32, pad_size: 4}}
  mapping: IdentityMapping
find: {pruner: Hydra, sparsity: 0.5, epochs: 2}
tune: {epochs: 2}
data: {class_path: Digits, init_args: {input_size: 32, batch_size: 32}}
trainer: {accelerator: cpu, limit_train_batches: 3, limit_val_batches: 1, log_every_n_steps: 1}
"""
pytestmark = pytest.mark.slow


def vpns(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VPNS, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        check=False,
    )


def fit(
    folder: Path, *more: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    config = folder.parent / "config.yaml"
    config.write_text(CONFIG)
    root = f"--trainer.default_root_dir={folder}"
    return vpns("fit", "--config", str(config), root, *more, environment=environment)


def signal_at(signum: int, place: tuple[str, int, int], flag: Path) -> tuple[str, ...]:
    stage, epoch, batch = place
    arguments = f"signum: {signum}, stage: {stage}, epoch: {epoch}, batch: {batch}, flag: {flag}"
    callback = f"[{{class_path: kill_plugin.SignalAt, init_args: {{{arguments}}}}}]"
    return ("--plugins", str(TESTS / "kill_plugin.py"), "--trainer.callbacks", callback)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = fit(folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_network(one: Path, other: Path) -> None:
    expected = load_file(other / "handoff.safetensors")
    for name, value in load_file(one / "handoff.safetensors").items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("signum", "place", "status"),
    [
        (signal.SIGKILL, ("find", 1, 1), -signal.SIGKILL),
        (signal.SIGKILL, ("tune", 1, 0), -signal.SIGKILL),
        (signal.SIGTERM, ("find", 0, 0), 143),
        (signal.SIGTERM, ("tune", 0, 2), 143),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(
    whole: Path, tmp_path: Path, signum: int, place: tuple[str, int, int], status: int
) -> None:
    # the flag lets the same command alone when it is given again
    at = signal_at(signum, place, tmp_path / "flag")
    stopped = fit(tmp_path / "run", *at)
    assert stopped.returncode == status, stopped.stderr
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = fit(tmp_path / "run", *at)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_network(tmp_path / "run", whole)
    assert "Traceback" not in stopped.stderr
    again = fit(tmp_path / "run", *at)
    assert (again.returncode, "is finished" in again.stdout) == (0, True)


def test_sigterm_loses_no_step(tmp_path: Path) -> None:
    stopped = fit(tmp_path / "run", *signal_at(signal.SIGTERM, ("find", 1, 0), tmp_path / "flag"))
    assert stopped.returncode == 143, stopped.stderr
    saved = torch.load(tmp_path / "run" / "find" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4


def test_a_slurm_job_requeues_itself(whole: Path, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    (commands / "scontrol").chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "42",
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NAME": "sparse",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "PATH": f"{commands}:{os.environ['PATH']}",
    }
    at = signal_at(signal.SIGUSR1, ("find", 1, 1), tmp_path / "flag")
    stopped = fit(tmp_path / "run", *at, environment=slurm)
    assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "42"]
    resumed = fit(tmp_path / "run", *at, environment=slurm)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_network(tmp_path / "run", whole)


DDP = ("--trainer.devices=2", "--trainer.strategy=ddp")


@pytest.mark.parametrize("views", ["[prompted]", "[prompted, plain]"])
def test_two_processes_end_with_one_network(tmp_path: Path, views: str) -> None:
    both = (f"--find.views={views}", f"--tune.views={views}")
    done = fit(tmp_path / "run", *DDP, *both)
    assert done.returncode == 0, done.stderr
    measured = vpns("test", "--run", str(tmp_path / "run"), "--accelerator", "cpu")
    assert measured.returncode == 0, measured.stderr
    reported = (tmp_path / "run" / "result.json").read_text()
    accuracy = next(line for line in measured.stdout.splitlines() if 'test_accuracy"' in line)
    assert accuracy.strip(" ,") in reported
    assert '"test_images": 360' in measured.stdout


@pytest.mark.parametrize("name", ["SNIP", "GraSP"])
def test_two_processes_score_the_images_that_one_scores(tmp_path: Path, name: str) -> None:
    pruner = (f"--find.pruner={name}", "--find.pruner.samples_per_class=3", "--tune.epochs=0")
    plain = ("--network.prompt=null", "--trainer.limit_train_batches=1.0")
    half = "--data.init_args.batch_size=16"
    alone, both = tmp_path / "alone" / "run", tmp_path / "both" / "run"
    for folder in (alone, both):
        folder.parent.mkdir()
    for folder, options in ((alone, ()), (both, (*DDP, half))):
        done = fit(folder, *pruner, *plain, *options)
        assert done.returncode == 0, done.stderr
    masks, expected = (load_file(folder / "masks.safetensors") for folder in (both, alone))
    differing = sum(int((masks[key] != expected[key]).sum()) for key in masks if "mask." in key)
    # sums of another order round otherwise, and swap scores at the threshold
    assert differing <= 1e-4 * sum(mask.numel() for mask in masks.values())


def test_two_processes_stop_together_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    assert fit(tmp_path / "whole", *DDP).returncode == 0
    at = signal_at(signal.SIGTERM, ("tune", 0, 1), tmp_path / "flag")
    stopped = fit(tmp_path / "run", *DDP, *at)
    assert stopped.returncode == 143, stopped.stderr
    assert fit(tmp_path / "run", *DDP, *at).returncode == 0
    assert_same_network(tmp_path / "run", tmp_path / "whole")


OPTIONS = (
    *("--find.accumulate=2", "--find.clip_norm=1.0", "--find.mixup=0.2"),
    *("--tune.accumulate=2", "--tune.cutmix=1.0", "--tune.average=EMA", "--tune.average.decay=0.8"),
    *("--tune.loss=torch.nn.CrossEntropyLoss", "--tune.loss.label_smoothing=0.1"),
    *("--tune.lr_scheduler=WarmupCosine", "--tune.lr_scheduler.warmup_epochs=1"),
    "--data.init_args.batch_size=8",
)


def test_two_processes_with_options_of_training_agree_and_resume_to_the_same_bits(
    tmp_path: Path,
) -> None:
    done = fit(tmp_path / "whole", *DDP, *OPTIONS)
    assert done.returncode == 0, done.stderr
    at = signal_at(signal.SIGTERM, ("tune", 1, 1), tmp_path / "flag")
    stopped = fit(tmp_path / "run", *DDP, *OPTIONS, *at)
    assert stopped.returncode == 143, stopped.stderr
    resumed = fit(tmp_path / "run", *DDP, *OPTIONS, *at)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_network(tmp_path / "run", tmp_path / "whole")


def test_two_runs_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    root = f"--trainer.default_root_dir={tmp_path / 'run'}"
    command = [VPNS, "fit", "--config", str(config), root]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = sorted((run.communicate()[1], run.returncode) for run in runs)
    codes = sorted(code for _, code in ends)
    # either the second found the folder in use, or it came so late that the run was finished
    assert codes in ([0, 2], [0, 0])
    assert (tmp_path / "run" / "result.json").is_file()

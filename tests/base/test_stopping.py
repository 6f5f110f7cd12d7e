"""Signals in real processes: what is heard from the first line, requeued, and left alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vpns_lightning.base.stopping import listening

# says that it listens, then works until a signal comes; "train" notes signals, and answers twice
WORK = """
import sys, time
from vpns_lightning.base.stopping import listening
with listening() as stop:
    stop.training = "train" in sys.argv
    print("ready", flush=True)
    while not stop.signum or "deaf" in sys.argv or "work" in sys.argv:
        time.sleep(0.01)
    print("noted", flush=True)
    stop.leave(stop.signum, wait=lambda: print("waited", flush=True))
"""
SLURM = {"SLURM_JOB_ID": "42", "SLURM_PROCID": "0"}


def scontrol(folder: Path, status: int = 0) -> dict[str, str]:
    """Return the environment of a job whose scontrol writes down what it is asked."""
    folder.mkdir()
    script = f'#!/bin/sh\necho "$@" >> "{folder}/asked"\necho "not  now" >&2\nexit {status}\n'
    (folder / "scontrol").write_text(script)
    (folder / "scontrol").chmod(0o755)
    return {**SLURM, "PATH": f"{folder}:{os.environ['PATH']}"}


def worker(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "RANK", "LOCAL_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *arguments],
        env={**clean, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], *signums: int) -> tuple[int, str, str]:
    for signum in signums:
        process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_outside_training_ends_at_once(signum: int) -> None:
    assert ended(worker("work"), signum) == (128 + signum, "", "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_training_is_noted(signum: int) -> None:
    assert ended(worker("train"), signum) == (128 + signum, "noted\nwaited\n", "")


def test_ctrl_c_is_an_interrupt_in_both_cases() -> None:
    for argument, out in (("work", ""), ("train", "noted\nwaited\n")):
        status, printed, said = ended(worker(argument), signal.SIGINT)
        # Python dies by the signal when nobody catches the interrupt
        assert (status, printed) == (-signal.SIGINT, out)
        assert said.rstrip().endswith("KeyboardInterrupt")


def test_what_is_heard_while_a_requeued_job_ends_is_left_alone(tmp_path: Path) -> None:
    env = scontrol(tmp_path / "bin")
    asked = tmp_path / "bin" / "asked"
    script = f'#!/bin/sh\necho "$@" >> "{asked}"\nkill -TERM $PPID\n'
    (tmp_path / "bin" / "scontrol").write_text(script)
    status, out, _ = ended(worker("train", env=env), signal.SIGUSR1)
    assert (status, out) == (138, "noted\nwaited\n")
    assert asked.read_text() == "requeue 42\n"


@pytest.mark.parametrize("argument", ["work", "train"])
def test_a_job_is_requeued_wherever_the_signal_arrives(tmp_path: Path, argument: str) -> None:
    env = scontrol(tmp_path / "bin")
    array = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
    assert ended(worker(argument, env=env), signal.SIGUSR1)[0] == 138
    assert ended(worker(argument, env=env | array), signal.SIGUSR1)[0] == 138
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 42\nrequeue 40_3\n"


def test_a_second_signal_still_requeues(tmp_path: Path) -> None:
    env = scontrol(tmp_path / "bin")
    process = worker("train", "deaf", env=env)
    status, out, _ = ended(process, signal.SIGUSR1, signal.SIGTERM)
    assert (status, out) in {(143, ""), (138, "")}  # two that come together are in no order
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 42\n"


def test_a_requeue_that_fails_is_one_line(tmp_path: Path) -> None:
    env = scontrol(tmp_path / "bin", status=1)
    status, _, said = ended(worker("work", env=env), signal.SIGUSR1)
    assert status == 138
    assert said == "vpns: job 42 is not requeued: not now; submit it again, and it resumes\n"
    env["PATH"] = "/nowhere"
    status, _, said = ended(worker("work", env=env), signal.SIGUSR1)
    assert status == 138
    assert "there is no scontrol on this machine; submit it again" in said
    assert said.count("\n") == 1


def test_another_process_of_a_job_leaves_the_answer_to_the_first(tmp_path: Path) -> None:
    env = scontrol(tmp_path / "bin") | {"SLURM_PROCID": "1"}
    # it goes on until its next batch, and ends without a status that would end the job
    status, out, _ = ended(worker("", env=env), signal.SIGUSR1)
    assert (status, out) == (0, "noted\nwaited\n")
    assert not (tmp_path / "bin" / "asked").exists()


def test_nohup_is_obeyed() -> None:
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", WORK, "work"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143


def test_handlers_are_those_of_before_afterwards() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with listening() as outer, listening() as inner:
        assert inner is outer
        assert signal.getsignal(signal.SIGTERM) == outer.handle
    after = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert after == before


def test_the_command_listens_while_libraries_are_imported(tmp_path: Path) -> None:
    # a stand-in for a library, whose import takes its time
    (tmp_path / "lightning.py").write_text("import time\nprint('importing', flush=True)\n")
    with (tmp_path / "lightning.py").open("a") as file:
        file.write("time.sleep(20)\n")
    env = scontrol(tmp_path / "bin") | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "vpns_lightning.cli", "fit", "--config=none.yaml"],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    assert ended(process, signal.SIGUSR1)[0] == 138
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 42\n"

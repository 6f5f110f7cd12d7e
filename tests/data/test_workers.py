"""Loader processes: their number, the signals they outlive, and what they leave behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import toy_data
from vpns_lightning.data import Digits, ImageFolder
from vpns_lightning.data.loaders import options
from vpns_lightning.data.workers import choose_workers, one_ahead

GROUP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for name in ("LOKY_MAX_CPU_COUNT", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("ranks", "loaders", "workers"),
    [(1, 1, 8), (2, 1, 6), (4, 1, 3), (4, 2, 1), (1, 2, 6), (16, 1, 1), (5, 1, 2)],
)
def test_ranks_and_loaders_share_the_cores_of_the_process(
    cores: pytest.MonkeyPatch, ranks: int, loaders: int, workers: int
) -> None:
    assert choose_workers(ranks, loaders) == workers


def test_a_slot_of_a_grid_has_its_share(cores: pytest.MonkeyPatch) -> None:
    cores.setenv("LOKY_MAX_CPU_COUNT", "4")
    assert choose_workers(1, 1) == 4
    assert choose_workers(2, 1) == 2


def test_cores_that_slurm_bound_to_a_task_are_divided_once(cores: pytest.MonkeyPatch) -> None:
    cores.setenv("SLURM_CPUS_PER_TASK", "12")  # all 12 of them are this task's own
    assert choose_workers(4, 1) == 8
    cores.setenv("SLURM_CPUS_PER_TASK", "3")  # not bound: four tasks see the same 12
    assert choose_workers(4, 1) == 3


def test_a_loader_that_decodes_asks_for_its_share(cores: pytest.MonkeyPatch) -> None:
    trainer = Trainer(accelerator="cpu", devices=3, strategy="ddp_spawn", logger=False)
    assert options(8, None, True, trainer, 2)["num_workers"] == 2
    assert options(8, None, False, trainer, 2)["num_workers"] == 0
    assert options(8, 5, True, trainer, 2)["num_workers"] == 5


def workers() -> list[multiprocessing.process.BaseProcess]:
    return [p for p in multiprocessing.active_children() if p.daemon]


def from_outside(signum: int, pids: list[int]) -> None:
    subprocess.run(["kill", f"-{int(signum)}", *map(str, pids)], check=True)


def test_signals_to_the_whole_group_leave_the_loaders_at_work(tmp_path: Path) -> None:
    root = str(toy_data.make_layout("ImageFolder", tmp_path, images_per_class=40))
    data = ImageFolder(root, input_size=16, cache="none", num_workers=2, batch_size=10)
    batches = iter(data.train_dataloader().iterables["prompted"])
    seen = [next(batches), next(batches)]  # of either: both ignore signals by now
    pids = [process.pid for process in workers() if process.pid]
    assert len(pids) == 2
    for signum in GROUP:
        from_outside(signum, pids)
    seen += list(batches)
    rows = [row for _, _, rows in seen for row in rows.tolist()]
    assert sorted(rows) == list(range(120))
    assert len(workers()) == 2


def test_a_loader_process_ends_when_its_parent_says_so(tmp_path: Path) -> None:
    root = str(toy_data.make_layout("ImageFolder", tmp_path, images_per_class=40))
    data = ImageFolder(root, input_size=16, cache="none", num_workers=1, batch_size=10)
    batches = iter(data.mapping_dataloader())
    next(batches)
    (process,) = workers()
    process.terminate()
    process.join(20)
    assert process.exitcode == 0


SCRIPT = """
import multiprocessing, os, signal, sys
from vpns_lightning.data import Digits
for signum in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(signum, lambda *_: None)
batches = iter(Digits(num_workers=2, batch_size=64).train_dataloader().iterables["prompted"])
next(batches), next(batches)
if sys.argv[1] == "group":
    os.killpg(0, signal.SIGUSR1)
    os.killpg(0, signal.SIGUSR1)
    print(sum(1 for _ in batches) + 2, flush=True)
print(*(p.pid for p in multiprocessing.active_children()), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
raise RuntimeError("leave with the loader half read")
"""


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [("error", 1), ("group", 1), ("killed", -9)])
def test_a_process_that_ends_takes_its_loaders_with_it(how: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:-1] == (["23"] if how == "group" else [])
    pids = [int(pid) for pid in lines[-1].split()]
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_the_next_item_is_made_while_one_is_in_use() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for item in range(4):
            made.append(item)
            if item == 1:
                second.set()
            yield item

    ahead = one_ahead(items())
    assert next(ahead) == 0
    assert second.wait(20)  # nobody asked for it yet
    assert list(ahead) == [1, 2, 3]
    assert made == [0, 1, 2, 3]


def test_an_error_in_the_thread_is_raised_where_the_item_is_wanted() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("damaged")

    ahead = one_ahead(items())
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="damaged"):
        next(ahead)


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    ahead = one_ahead(iter(range(100)))
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_batches_gathered_ahead_are_those_of_the_plain_loader() -> None:
    data = Digits(batch_size=300)
    plain = data.train_dataloader().iterables["prompted"]
    ahead = data.train_dataloader().iterables["prompted"]
    ahead.pin_memory = True
    for first, second in zip(plain, ahead, strict=True):
        assert [part.tolist() for part in first] == [part.tolist() for part in second]

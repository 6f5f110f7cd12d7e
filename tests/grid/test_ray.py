"""The Ray engine: real Ray, one machine or several on this one."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_grids import cells_of

from vpns_lightning.base.errors import UserError
from vpns_lightning.grid.schedule import GridRun, Stop

ray = pytest.importorskip("ray")
FAKE = (sys.executable, str(Path(__file__).with_name("fake_fit.py")))
pytestmark = [
    pytest.mark.slow,
    # inside Ray
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def silent(grid: GridRun) -> None:
    """Show nothing."""


def starts(folder: Path) -> list[str]:
    file = folder / "starts"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a cluster of a head without cores and two machines with one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_crashes_stops_and_a_lost_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test of three parts: a cluster takes seconds to start."""
    from vpns_lightning.grid.engines.ray import RayEngine

    def grid(plan: dict[str, list[str]], folder: Path, stop: Stop | None = None) -> GridRun:
        folder.mkdir(exist_ok=True)
        cells = cells_of(folder, methods={"A": []})
        for cell in cells:
            # workers keep the variables of their cluster: the plan travels with the folder
            cell.folder.mkdir(parents=True, exist_ok=True)
            (cell.folder / "plan.json").write_text(json.dumps(plan))
        engine = RayEngine(None, cluster.address)
        assert engine.slots == 2
        return GridRun(folder / "runs", cells, engine, FAKE, silent, stop=stop or Stop())

    crashing = grid({"s0.50_seed7": ["kill", "ok"], "s0.90_seed9": ["wrong"]}, tmp_path / "a")
    crashing.run()
    assert [(p.state, p.attempts) for p in crashing.progress] == [
        ("done", 2),
        ("done", 1),
        ("done", 1),
        ("failed", 1),
    ]
    # one core each
    assert {s.split()[1] for p in crashing.progress for s in starts(p.cell.folder)} == {"1"}

    stop = Stop()
    stopping = grid({"*": ["wait"]}, tmp_path / "b", stop)
    first, second, *_ = stopping.progress
    asker = threading.Thread(
        target=lambda: (
            wait_for(lambda: all(starts(p.cell.folder) for p in (first, second))),
            stop.handle(2, None),
        )
    )
    asker.start()
    stopping.run()
    asker.join()
    assert [p.state for p in stopping.progress] == ["stopped", "stopped", "waiting", "waiting"]
    wait_for(lambda: all((p.cell.folder / "saved").exists() for p in (first, second)))

    losing = grid({"*": ["wait"]}, tmp_path / "c")

    def lose() -> None:
        running = losing.progress[:2]
        wait_for(lambda: all(starts(p.cell.folder) for p in running))
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        # what ran there is gone with it, and is done again elsewhere
        pids = [starts(p.cell.folder)[0].split()[0] for p in running]
        wait_for(lambda: sum(Path(f"/proc/{pid}").exists() for pid in pids) == 1)
        (tmp_path / "c" / "runs" / "go").touch()

    killer = threading.Thread(target=lose)
    killer.start()
    losing.run()
    killer.join()
    assert [p.state for p in losing.progress] == ["done"] * 4
    assert sum(len(starts(p.cell.folder)) for p in losing.progress) == 5


@pytest.mark.parametrize(
    ("machines", "slots", "cores", "gpus"),
    [
        # this machine: all cores, a half, a third of a core each
        ([{"CPU": 8.0}], 1, 8.0, 0.0),
        ([{"CPU": 8.0}], 3, 2.0, 0.0),
        ([{"CPU": 1.0}], 3, 0.3333, 0.0),
        # one cell a machine fits the smaller one
        ([{"CPU": 8.0}, {"CPU": 2.0}], 2, 2.0, 0.0),
        # one GPU a cell, and a quarter of the cores
        ([{"CPU": 32.0, "GPU": 4.0}], 4, 8.0, 1.0),
        ([{"CPU": 32.0, "GPU": 4.0}], 2, 8.0, 1.0),
        # two cells share a GPU where more slots are asked for
        ([{"CPU": 32.0, "GPU": 4.0}], 8, 4.0, 0.5),
        ([], 1, 1.0, 0.0),
    ],
)
def test_jobs_share_what_the_machines_have(
    machines: list[dict[str, float]], slots: int, cores: float, gpus: float
) -> None:
    from vpns_lightning.grid.engines.ray import share

    assert share(machines, slots) == {"num_cpus": cores, "num_gpus": gpus}


@pytest.mark.parametrize(
    ("machines", "each", "slots", "cores"),
    [
        ([{"CPU": 32.0, "GPU": 4.0}], 2, 2, 16.0),
        ([{"CPU": 32.0, "GPU": 5.0}, {"CPU": 16.0, "GPU": 2.0}], 2, 3, 16.0),
        ([{"CPU": 9.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 8.0}], 4, 2, 4.0),
        ([{"CPU": 1.0, "GPU": 4.0}], 2, 2, 0.5),
    ],
)
def test_jobs_of_several_gpus_fit_their_machines(
    machines: list[dict[str, float]], each: int, slots: int, cores: float
) -> None:
    from vpns_lightning.grid.engines.ray import all_slots, share

    assert all_slots(machines, each) == slots
    assert share(machines, slots, each) == {"num_cpus": cores, "num_gpus": float(each)}


def test_a_cluster_that_does_not_answer_is_said_in_one_line() -> None:
    from vpns_lightning.grid.engines.ray import RayEngine

    with pytest.raises(UserError, match=r"no Ray cluster answers at '127.0.0.1:1'"):
        RayEngine(None, "127.0.0.1:1")

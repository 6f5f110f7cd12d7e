"""Cells that crash, are killed, are stopped or wait; real processes of a stand-in for a run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_fit import RESULT
from rich.console import Console
from small_grids import cells_of

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import lock
from vpns_lightning.grid.engines.base import Job
from vpns_lightning.grid.engines.local import LocalEngine, slot_environment
from vpns_lightning.grid.schedule import GridRun, Stop, held, last_lines, write_plan
from vpns_lightning.grid.show import Screen, headline, print_report, table

FAKE = (sys.executable, str(Path(__file__).with_name("fake_fit.py")))
Plan = dict[str, list[str]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GridRun]:
    """Return what makes a grid of two cells, whose runs do what a plan says."""

    def make(plan: Plan, slots: int = 2, stop: Stop | None = None, **changes: Any) -> GridRun:
        monkeypatch.setenv("FAKE_PLAN", json.dumps(plan))
        cells = cells_of(tmp_path, **{"seeds": [7], "methods": {"A": []}, **changes})
        engine = LocalEngine(slots)
        return GridRun(tmp_path / "runs", cells, engine, FAKE, silent, stop=stop or Stop())

    return make


def silent(grid: GridRun) -> None:
    """Show nothing."""


def starts(folder: Path) -> int:
    file = folder / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_every_cell_is_run_once_and_a_second_run_does_nothing(
    start: Callable[..., GridRun],
) -> None:
    grid = start({}, seeds=[7, 9])
    grid.run()
    assert [each.state for each in grid.progress] == ["done"] * 4
    again = start({"*": ["crash"]}, seeds=[7, 9])
    again.run()
    assert [each.state for each in again.progress] == ["done"] * 4
    assert [starts(cell.folder) for cell in grid.cells] == [1] * 4


def test_one_sparsity_is_done_for_all_methods_and_seeds_before_the_next(
    start: Callable[..., GridRun],
) -> None:
    methods = {"Dense": {"sparsities": [0], "seeds": [7]}, "A": [], "B": ["b.yaml"]}
    grid = start({}, slots=1, seeds=[7, 9], methods=methods, sparsities=[0.9, 0.5])
    grid.run()
    finished = sorted(grid.cells, key=lambda c: (c.folder / "result.json").stat().st_mtime_ns)
    assert [cell.sparsity for cell in finished] == [0, *[0.9] * 4, *[0.5] * 4]


def test_only_what_is_missing_is_run(start: Callable[..., GridRun]) -> None:
    grid = start({})
    grid.run()
    (grid.cells[0].folder / "result.json").unlink()
    start({}).run()
    assert [starts(cell.folder) for cell in grid.cells] == [2, 1]


@pytest.mark.parametrize("way", ["crash", "kill", "nothing"])
def test_a_cell_that_crashes_twice_is_finished_by_its_third_attempt(
    start: Callable[..., GridRun], way: str
) -> None:
    grid = start({"s0.50": [way, way, "ok"], "*": ["ok"]})
    grid.run()
    assert [(each.state, each.attempts) for each in grid.progress] == [("done", 3), ("done", 1)]


@pytest.mark.parametrize(
    ("way", "attempts", "reason"),
    [
        ("crash", 3, "exit status 1"),
        ("kill", 3, "killed by SIGKILL"),
        ("nothing", 3, "ended without a result"),
        ("wrong", 1, "wrong input (exit status 2), not tried again"),
    ],
)
def test_a_failing_cell_is_given_up_and_the_others_finish(
    start: Callable[..., GridRun], way: str, attempts: int, reason: str
) -> None:
    grid = start({"s0.50": [way], "*": ["ok"]}, slots=1)
    grid.run()
    failed, done = grid.progress
    assert (failed.state, failed.attempts, failed.reason) == ("failed", attempts, reason)
    assert done.state == "done"
    assert starts(failed.cell.folder) == attempts
    assert f"attempt {attempts - 1}: {way}" in failed.log.read_text()


def test_the_closing_report_ends_with_the_log_of_what_failed(
    start: Callable[..., GridRun],
) -> None:
    grid = start({"s0.50": ["wrong"], "*": ["ok"]})
    grid.run()
    console = Console(record=True, width=200, file=StringIO())
    print_report(console, grid)
    text = console.export_text()
    assert "1 of 2 cells are done" in text
    assert f"end of {grid.progress[0].log}" in text
    assert "vpns: error: the reason" in text
    assert "not tried again" in text


def test_a_stop_saves_what_runs_keeps_what_is_done_and_the_same_command_goes_on(
    start: Callable[..., GridRun], tmp_path: Path
) -> None:
    stop = Stop()
    grid = start({"s0.90": ["wait"], "*": ["ok"]}, stop=stop)
    done, stopped = grid.progress
    asker = threading.Thread(
        target=lambda: (
            wait_for(lambda: done.run.result.is_file() and starts(stopped.cell.folder) == 1),
            stop.handle(signal.SIGINT, None),
        )
    )
    asker.start()
    grid.run()
    asker.join()
    assert (done.state, stopped.state) == ("done", "stopped")
    assert (stopped.cell.folder / "saved").exists()
    (tmp_path / "runs" / "go").touch()
    again = start({"*": ["wait"]})
    again.run()
    assert [each.state for each in again.progress] == ["done", "done"]
    assert (starts(done.cell.folder), starts(stopped.cell.folder)) == (1, 2)


def test_a_second_signal_kills_what_is_still_saving(start: Callable[..., GridRun]) -> None:
    stop = Stop()
    grid = start({"*": ["deaf"]}, stop=stop)

    def ask_twice() -> None:
        wait_for(
            lambda: all(p.log.is_file() and "deaf" in p.log.read_text() for p in grid.progress)
        )
        stop.handle(signal.SIGINT, None)
        time.sleep(1.5)  # it is told once, and waits for the runs
        stop.handle(signal.SIGINT, None)

    asker = threading.Thread(target=ask_twice)
    asker.start()
    begun = time.monotonic()
    grid.run()
    asker.join()
    assert time.monotonic() - begun < 30
    assert [each.state for each in grid.progress] == ["stopped", "stopped"]
    pids = [int((p.cell.folder / "starts").read_text().split()[0]) for p in grid.progress]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("damage", ["result", "list", "config", "log", "lock", "file"])
def test_a_cell_with_a_damaged_folder_fails_alone(
    start: Callable[..., GridRun], tmp_path: Path, damage: str
) -> None:
    grid = start({})
    folder = grid.cells[0].folder
    folder.mkdir(parents=True)
    if damage in {"result", "list"}:
        (folder / "result.json").write_text("{" if damage == "result" else "[]")
    elif damage == "config":
        (folder / "config.yaml").write_text("find: {")
    elif damage == "file":
        folder.rmdir()
        folder.write_text("")
    else:
        (folder / {"log": "grid.log", "lock": ".lock"}[damage]).mkdir()
    again = start({})
    again.run()
    failed, done = again.progress
    assert (failed.state, done.state) == ("failed", "done")
    assert str(folder) in failed.reason
    console = Console(record=True, width=200, file=StringIO())
    print_report(console, again)
    assert "1 of 2 cells are done" in console.export_text()


def test_brackets_in_names_and_reasons_are_shown_as_they_are(
    start: Callable[..., GridRun], tmp_path: Path
) -> None:
    grid = start({})
    grid.runs = tmp_path / "[/runs]"
    failed, _ = grid.progress
    failed.state, failed.reason = "failed", "pad_size: [/a] there, [b] now"
    console = Console(record=True, width=200, file=StringIO())
    Screen(console)(grid)
    console.print(table(grid))
    print_report(console, grid)
    text = console.export_text()
    assert text.count("pad_size: [/a] there, [b] now") == 2
    assert "[/runs]" in text


def test_a_folder_in_use_is_waited_for(start: Callable[..., GridRun], tmp_path: Path) -> None:
    grid = start({})
    busy = grid.progress[0]
    busy.cell.folder.mkdir(parents=True)
    taken, released = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(busy.cell.folder / ".lock") as ours:
            assert ours
            taken.set()
            wait_for(lambda: grid.progress[1].state == "done")
            assert starts(busy.cell.folder) == 0
        released.set()

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(20)
    grid.run()
    holder.join()
    assert released.is_set()
    assert [each.state for each in grid.progress] == ["done", "done"]


def test_a_result_of_another_engine_is_found_while_the_grid_runs(
    start: Callable[..., GridRun], tmp_path: Path
) -> None:
    grid = start({"*": ["wait"]}, slots=1)
    first, second = grid.progress

    def finish() -> None:
        wait_for(lambda: starts(first.cell.folder) == 1)
        second.cell.folder.mkdir(parents=True)
        second.run.result.write_text(json.dumps(RESULT | {"test_accuracy": 0.25}))
        (tmp_path / "runs" / "go").touch()

    helper = threading.Thread(target=finish)
    helper.start()
    grid.run()
    helper.join()
    assert [each.state for each in grid.progress] == ["done", "done"]
    assert starts(second.cell.folder) == 0


def test_cells_with_one_warm_up_wait_for_the_first(start: Callable[..., GridRun]) -> None:
    grid = start({"*": ["wait"]}, overrides={"warmup.epochs": 1}, seeds=[7, 9])
    grid._fill()
    # seeds have warm-ups of their own, sparsities have not
    assert [each.cell.seed for each in grid.of("running")] == [7, 9]
    assert {each.cell.sparsity for each in grid.of("running")} == {0.5}
    grid.engine.stop(5)
    single = start({"*": ["wait"]}, overrides={"warmup.epochs": 1}, seeds=[17])
    single._fill()
    first, second = single.progress
    assert (first.state, second.state) == ("running", "waiting")
    shared = single.runs / "shared" / str(first.cell.warmup_key)
    shared.mkdir(parents=True)
    (shared / "handoff.safetensors").touch()
    single._fill()
    assert second.state == "running"
    single.engine.stop(5)


def test_an_edited_config_file_is_not_mixed_into_a_begun_run(
    start: Callable[..., GridRun],
) -> None:
    grid = start({})
    grid.progress[0].run.keep_config({"find": {"epochs": 99}})
    grid.run()
    failed, done = grid.progress
    assert (failed.state, done.state) == ("failed", "done")
    assert "holds a run with another config" in failed.reason


def test_one_command_holds_a_grid(tmp_path: Path) -> None:
    with (
        held(tmp_path / "runs"),
        pytest.raises(UserError, match="another vpns grid is running in"),
        held(tmp_path / "runs"),
    ):
        pass
    with held(tmp_path / "runs"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot hold run folders"), held(tmp_path / "file"):
        pass


DRIVER = """
from pathlib import Path
from vpns_lightning.grid.engines.base import Job
from vpns_lightning.grid.engines.local import LocalEngine
engine = LocalEngine(2)
for name in ("a", "b"):
    folder = Path({runs!r}) / name
    command = [*{fake!r}, f"--trainer.default_root_dir={{folder}}"]
    engine.start(Job(name, command, folder / "grid.log"))
engine.wait(60)
"""


def test_no_run_outlives_a_grid_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PLAN", json.dumps({"*": ["wait"]}))
    code = DRIVER.format(runs=str(tmp_path), fake=FAKE)
    driver = subprocess.Popen([sys.executable, "-c", code])
    folders = [tmp_path / "a", tmp_path / "b"]
    wait_for(lambda: all(starts(folder) for folder in folders))
    pids = [int((folder / "starts").read_text().split()[0]) for folder in folders]
    driver.kill()
    driver.wait()
    wait_for(lambda: all((folder / "saved").exists() for folder in folders))
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a shell that says nothing of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_a_slot_computes_with_as_many_threads_as_the_shell_asks_for_and_cores_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores = len(os.sched_getaffinity(0))
    many = str(4 * cores)
    for asked, threads in (("1", 1), ("1,4", 1), (many, cores), ("0", cores), ("", cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert slot_environment(0, 1, [])["OMP_NUM_THREADS"] == str(threads)


@pytest.mark.usefixtures("no_limit")
def test_slots_share_the_cores_and_take_turns_on_the_gpus() -> None:
    cores = len(os.sched_getaffinity(0))
    share = {"OMP_NUM_THREADS": str(cores), "LOKY_MAX_CPU_COUNT": str(cores)}
    assert slot_environment(0, 1, []) == share
    assert slot_environment(1, 4 * cores, [])["OMP_NUM_THREADS"] == "1"
    assert visible(LocalEngine(3, ["2", "5"])) == ["2", "5", "2"]
    assert [LocalEngine(None, gpus).slots for gpus in ([], ["0", "1"])] == [1, 2]
    assert LocalEngine(5, ["0", "1"]).slots == 5
    with pytest.raises(UserError, match="--slots must be at least 1"):
        LocalEngine(0)


def visible(engine: LocalEngine) -> list[str]:
    return [each["CUDA_VISIBLE_DEVICES"] for each in engine.environments]


@pytest.mark.usefixtures("no_limit")
def test_cells_of_several_gpus_take_neighbours_and_share_their_cores_again() -> None:
    gpus = ["0", "1", "4", "GPU-a", "GPU-b"]
    pairs = LocalEngine(None, gpus, gpus_per_cell=2)
    assert visible(pairs) == ["0,1", "4,GPU-a"]  # the fifth has no neighbour left
    assert visible(LocalEngine(3, gpus, gpus_per_cell=2)) == ["0,1", "4,GPU-a", "0,1"]
    assert visible(LocalEngine(None, gpus, gpus_per_cell=5)) == [",".join(gpus)]
    cores = len(os.sched_getaffinity(0))
    limits = LocalEngine(1, gpus, gpus_per_cell=2).environments[0]
    # loaders divide their share by the processes themselves
    assert limits["OMP_NUM_THREADS"] == str(max(cores // 2, 1))
    assert limits["LOKY_MAX_CPU_COUNT"] == str(cores)


@pytest.mark.parametrize(
    ("gpus", "each", "complaint"),
    [
        (["0", "1"], 3, r"--gpus-per-cell 3 asks for more GPUs than a machine here has \(2\)"),
        ([], 2, r"--gpus-per-cell 2 asks for more GPUs than a machine here has \(0\)"),
        (["0"], 0, "--gpus-per-cell must be at least 1, got 0"),
    ],
)
def test_cells_that_fit_no_machine_are_refused(gpus: list[str], each: int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        LocalEngine(None, gpus, gpus_per_cell=each)


def test_a_cell_does_not_take_the_allocation_s_tasks_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_a_cluster = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "RANK": "1", "WORLD_SIZE": "2"}
    for key, value in of_a_cluster.items():
        monkeypatch.setenv(key, value)
    script = f"import os; print(sorted(set({list(of_a_cluster)}) & set(os.environ)))"
    engine, log = LocalEngine(1), tmp_path / "log"
    engine.start(Job("cell", [sys.executable, "-c", script], log))
    ended = []
    while not ended:
        ended = engine.wait(1)
    assert [status for _, status in ended] == [0]
    assert log.read_text().splitlines()[-1] == "[]"


def test_a_cell_knows_its_grid(start: Callable[..., GridRun]) -> None:
    grid = start({}, axes={"network.prompt.init_args.pad_size": [8]}, sparsities=[0.5])
    grid.run()
    told = json.loads(grid.progress[0].run.result.read_text())["grid"]
    assert told == {
        "name": "fig0",
        "cell": grid.cells[0].name,
        "method": "A",
        "axes": {"network.prompt.init_args.pad_size": 8},
        "warmup": None,
    }


def test_the_plan_names_every_cell(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    write_plan(tmp_path / "runs", cells)
    plan = json.loads((tmp_path / "runs" / "grid.json").read_text())
    assert plan["grid"] == "fig0"
    assert [cell["cell"] for cell in plan["cells"]] == [cell.name for cell in cells]


def test_without_a_terminal_there_is_a_line_for_every_change(
    start: Callable[..., GridRun],
) -> None:
    grid = start({"s0.50": ["crash", "ok"], "*": ["ok"]}, slots=1)
    console = Console(record=True, width=80, file=StringIO())
    with Screen(console) as screen:
        grid.show = screen
        grid.run()
    lines = console.export_text().splitlines()
    names = [cell.name for cell in grid.cells]
    assert [line.partition("] ")[2].split(":")[0] for line in lines] == [
        f"started {names[0]}",
        f"started {names[0]} (attempt 2)",
        f"done {names[0]}",
        f"started {names[1]}",
        f"done {names[1]}",
    ]
    assert "test accuracy 0.5000" in lines[2]


def test_the_live_table_shows_stage_epoch_accuracy_and_time_left(
    start: Callable[..., GridRun], tmp_path: Path
) -> None:
    grid = start({}, seeds=[7, 9], overrides={"find.epochs": 3})
    done, running, failed, _ = grid.progress
    done.state, done.here, done.seconds = "done", True, 100.0
    running.state, running.started = "running", time.monotonic() - 40
    failed.state, failed.reason = "failed", "exit status 1"
    running.cell.folder.mkdir(parents=True)
    running.run.metrics.write_text(
        "stage,epoch,step,metric,value\nfind,0,3,find/acc,0.25\nfind,1,6,acc,0.625\n"
    )
    # one slot less 40 s of the running cell: (2 x 100 - 40) / 2 slots
    assert headline(grid) == "1/4 done, 1 running, 1 failed, 1 waiting, 0:01:20 left"
    console = Console(width=150, record=True, file=StringIO())
    console.print(table(grid))
    text = console.export_text()
    assert "find 2/3" in text
    assert "acc 0.6250" in text
    assert "exit status 1" in text


def test_the_end_of_a_long_log_is_read_without_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n\n".join(f"line {i}" for i in range(50_000)))
    assert last_lines(log, 2) == ["line 49998", "line 49999"]
    assert last_lines(tmp_path / "none") == []

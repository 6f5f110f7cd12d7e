"""The benchmark for GPUs runs where there is none, at its smallest sizes."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from emulated_cuda import emulated_cuda

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
gpu: Any = import_module("gpu")
CPU = gpu.Size(torch.device("cpu"))


def test_without_a_device_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    printed = capsys.readouterr()
    assert printed.err == "benchmarks/gpu.py needs a CUDA device, and torch sees none\n"
    assert not printed.out


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_part_runs(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    with emulated_cuda() if device == "cuda" else nullcontext():
        assert gpu.main(["--tiny"]) == 0
    table = capsys.readouterr().out.rpartition("\n\n")[2].splitlines()
    values = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in table[2:]}
    assert values["masks of squeezenet1_1 equal the CPU's"] == "yes"
    assert values["masks of two deterministic runs are equal"] == "yes"
    if device == "cuda":
        assert values.pop("kernels of the selection") == "operators"
        assert values.pop("waits for the device, a step of finding") == "0"
    assert len(values) == 18
    assert all(value.endswith(("yes", " ms", " images/s")) for value in values.values())


def three(size: Any) -> Iterator[Any]:
    for name in "abc":
        yield gpu.Row(name, "1 ms")


def failing(size: Any) -> Iterator[Any]:
    yield gpu.Row("a", "1 ms")
    raise torch.OutOfMemoryError("CUDA out of memory.\nat length")


def test_a_part_that_fails_keeps_its_rows_and_says_why() -> None:
    rows = list(gpu.guarded(gpu.Part("steps", failing, 10), CPU, 100))
    assert rows == [
        gpu.Row("a", "1 ms"),
        gpu.Row("steps", "FAILED", "OutOfMemoryError: CUDA out of memory."),
    ]


def test_no_part_begins_or_goes_on_after_the_time() -> None:
    (row,) = gpu.guarded(gpu.Part("steps", three, 10), CPU, 9)
    assert row == gpu.Row("steps", "not measured", "9 s were left of 520")
    seconds = iter([0, 8, 16, 24])
    rows = list(gpu.guarded(gpu.Part("steps", three, 10), CPU, 12, lambda: next(seconds)))
    assert [row.what for row in rows] == ["a", "b", "steps, the rest"]


def test_a_part_that_fails_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", [gpu.Part("steps", failing, 0), gpu.Part("more", three, 0)])
    assert [row.value for row in gpu.measured(CPU)] == ["1 ms", "FAILED", *["1 ms"] * 3]
    assert gpu.main(["--tiny"]) == 1

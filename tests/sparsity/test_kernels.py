"""The kernels for GPUs on machines without one: interpreted, and compiled."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vpns_lightning.sparsity import device_search

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_are_exact_in_tritons_interpreter(which: str) -> None:
    cases = str(Path(__file__).with_name("in_interpreter.py"))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", which, cases]
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=interpreted, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("capability", "absolute"),
    [
        (90, True),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in ((90, False), (80, True))),
    ],
)
def test_the_kernels_compile_for_gpus(
    capability: int, absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from vpns_lightning.sparsity import radix_select as radix, score_gradient as fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    block = {"ABSOLUTE": absolute, "BLOCK": radix.BLOCK}
    digits = [{"SHIFT": shift, "WIDTH": width} for shift, width in radix.DIGITS]
    kernels: list[tuple[Any, dict[str, Any]]] = [
        *((radix._count, digit | block) for digit in digits),
        *((radix._choose, digit | {"FIRST": first}) for digit in digits for first in (True, False)),
        (radix._mark, block),
        (radix._keep_ties, block),
        (fused._score_gradient, {"BLOCK": fused.BLOCK}),
    ]
    floats = dict.fromkeys(("threshold", "scores", "weight", "grad", "out"), "*fp32")
    types = floats | {"tensors": "*i64"} | dict.fromkeys(("n_blocks", "rank", "size"), "i32")
    for kernel, constants in kernels:
        names = [name for name in kernel.arg_names if name not in constants]
        signature = {name: types.get(name, "*i32") for name in names}
        source = ASTSource(
            kernel, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants
        )
        assert compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def test_without_a_compiler_operators_select_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def keep_by_radix(*args: object, **kwargs: object) -> Tensor:
        raise RuntimeError("no C compiler\nat length")

    from vpns_lightning.sparsity import radix_select

    monkeypatch.setattr(radix_select, "keep_by_radix", keep_by_radix)
    device_search.compiles.cache_clear()
    try:
        with pytest.warns(UserWarning, match="RuntimeError: no C compiler\\): masks are selected"):
            assert not device_search.compiles(torch.device("cpu"))
        assert not device_search.compiles(torch.device("cpu"))
    finally:
        device_search.compiles.cache_clear()

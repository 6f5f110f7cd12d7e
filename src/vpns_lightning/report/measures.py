"""What figures draw: numbers of a run, and what they are drawn against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vpns_lightning.report.runs import Run


@dataclass(frozen=True)
class Measure:
    """A number of a run that is drawn.

    Attributes:
        label: Of the axis, with its unit.
        value: The number; None where the run has none.
        suffix: Appended to the method's name, for two numbers of one run in one panel.
        decimals: Shown after the point.
        best: Which end is better, ``max`` or ``min``; empty where neither is.
    """

    label: str
    value: Callable[[Run], float | None]
    suffix: str = ""
    decimals: int = 2
    best: str = "max"


@dataclass(frozen=True)
class Axis:
    """What a panel varies from left to right.

    Attributes:
        label: With its unit.
        group: Value that runs of one point share: for sparsity, what was asked for.
        place: Where a run lies: for sparsity, what was measured.
        keys: Settings that therefore may differ along a curve.
    """

    label: str
    group: Callable[[Run], Any]
    place: Callable[[Run], Any]
    keys: tuple[str, ...] = ()


SPARSITY = Axis("sparsity (%)", lambda run: run.asked, lambda run: 100 * run.facts["sparsity"])
CHANNELS = Axis(
    "channels removed (%)", lambda run: run.asked, lambda run: 100 * run.facts["sparsity"]
)


def prompt_option(name: str) -> Callable[[Run], Any]:
    """Return a function that reads an option of the prompt, None where there is none."""
    return lambda run: (run.facts.get("prompt") or {}).get(name)


def _kind(run: Run) -> str | None:
    if "prompt" not in run.facts:
        return None
    return "none" if run.facts["prompt"] is None else str(run.facts["prompt"].get("name"))


INPUT_SIZE = Axis(
    "input size (px)",
    lambda run: run.facts.get("input_size"),
    lambda run: run.facts.get("input_size"),
    ("input_size",),
)
PAD_SIZE = Axis("pad size (px)", prompt_option("pad_size"), prompt_option("pad_size"), ("prompt",))
KIND = Axis("kind of prompt", _kind, _kind, ("prompt", "optimizers"))

ACCURACY = Measure("test accuracy (%)", lambda run: run.accuracy)


def before_prompt(run: Run) -> float | None:
    """Return the test accuracy in percent before a prompt was learned alone."""
    value = run.number("accuracy_before_prompt")
    return None if value is None else 100 * value


def saving(run: Run) -> float | None:
    """Return how many times fewer multiply-adds are left."""
    dense, after = run.number("macs"), run.number("effective_macs")
    return dense / after if dense and after else None


def per(run: Run, key: str, unit: float) -> float | None:
    """Return a number of the result in another unit."""
    value = run.number(key)
    return None if value is None else value / unit

"""What figures draw: numbers of a run, and what they are drawn against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import UnsetType

from vpns_lightning.report.runs import Run, number


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


def _asked(run: Run) -> float:
    return run.record.sparsity_requested


def _measured(run: Run) -> float:
    return 100 * run.record.sparsity


SPARSITY = Axis("sparsity (%)", _asked, _measured)
CHANNELS = Axis("channels removed (%)", _asked, _measured)


def prompt_option(name: str) -> Callable[[Run], Any]:
    """Return a function that reads an option of the prompt, None where there is none."""
    return lambda run: (run.record.prompt or {}).get(name)


def _kind(run: Run) -> str | None:
    prompt = run.record.prompt
    if isinstance(prompt, UnsetType):
        return None
    return "none" if prompt is None else str(prompt.get("name"))


INPUT_SIZE = Axis(
    "input size (px)",
    lambda run: run.record.input_size or None,
    lambda run: run.record.input_size or None,
    ("input_size",),
)
PAD_SIZE = Axis("pad size (px)", prompt_option("pad_size"), prompt_option("pad_size"), ("prompt",))
KIND = Axis("kind of prompt", _kind, _kind, ("prompt", "optimizers"))

ACCURACY = Measure("test accuracy (%)", lambda run: run.accuracy)


def _held_out(run: Run) -> float | None:
    """Return the last accuracy in percent on images held out of training, by which to choose."""
    if not number(run.record.validation):
        return None
    name = "acc_plain" if run.record.headline == "test_accuracy_plain" else "acc"
    for stage, record in reversed(run.record.stages.items()):
        value = number((record.metrics or {}).get(f"{stage}/{name}"))
        if value is not None:
            return 100 * value
    return None


VALIDATION = Measure("validation accuracy (%)", _held_out)


def before_prompt(run: Run) -> float | None:
    """Return the test accuracy in percent before a prompt was learned alone."""
    value = number(run.record.accuracy_before_prompt)
    return None if value is None else 100 * value


def saving(run: Run) -> float | None:
    """Return how many times fewer multiply-adds are left."""
    dense, after = number(run.record.macs), number(run.record.effective_macs)
    return dense / after if dense and after else None

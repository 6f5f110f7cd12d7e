"""A pruned network against the dense one: time, memory, file size and counted work."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vpns_lightning._version import __version__
from vpns_lightning.benchmarking.memory import training_memory
from vpns_lightning.benchmarking.runtimes import (
    RUNTIMES,
    Answer,
    Missing,
    Precision,
    first_line,
    fold,
    machine_name,
    runs_in,
)
from vpns_lightning.benchmarking.timing import interleave
from vpns_lightning.exporting import export
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.accounting import account
from vpns_lightning.sparsity import sparsity_report

SCHEMA = 1
FASTER = 1.1  # a smaller speed-up is not told from noise


class Plan(NamedTuple):
    """What to measure, and for how long.

    Attributes:
        devices: ``cpu``, ``cuda``.
        runtimes: Names in :data:`RUNTIMES`.
        batch_sizes: Images answered at once.
        memory_batch: Images in a training step; 0 leaves memory out.
        precision: Of eager and compiled networks and of the training step: ``"32-true"``, or
            ``"bf16-mixed"``, which autocasts. Other runtimes have their own.
        warmup: Calls before the clock counts.
        rounds: Timed calls of each network.
        seconds: Bound on the timed calls of one pair.
    """

    devices: Sequence[str]
    runtimes: Sequence[str]
    batch_sizes: Sequence[int] = (1, 64)
    memory_batch: int = 16
    warmup: int = 10
    rounds: int = 50
    seconds: float = 20.0
    precision: Precision = "32-true"


def measure(
    pruned: PromptedClassifier,
    dense: PromptedClassifier,
    input_size: int,
    plan: Plan,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Measure two finished networks side by side, in one process and in interleaved rounds.

    Args:
        pruned: The network of a run; left as it is.
        dense: The same without masks and cuts.
        input_size: Side of the images before prompting, px.
        plan: What to measure.
        say: Told what is being measured.

    Returns:
        The content of ``bench.json``: counts, bytes and seconds of both, and their ratios.
    """
    say("counting parameters and MACs, exporting both networks")
    counts = compare_counts(pruned, dense, input_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bytes_of = [
            _file_size(network, folder / f"{kind}.safetensors", input_size)
            for kind, network in (("dense", dense), ("pruned", pruned))
        ]
        timings, missing = _time_all(pruned, dense, input_size, plan, folder, say)
    for timing in timings:
        timing["realised"] = timing["speedup"] / counts["macs"]["ratio"]
    memory = _memory(pruned, dense, input_size, plan, say, missing)
    return {
        "schema": SCHEMA,
        "backbone": pruned.backbone_name,
        "input_size": input_size,
        "precision": plan.precision,
        **counts,
        "file_bytes": _pair(*bytes_of),
        "training_memory_bytes": memory,
        "timings": timings,
        "not_measured": missing,
        "remarks": remarks(timings, cut=counts["cut"]),
        "machine": {name: machine_name(torch.device(name)) for name in plan.devices},
        "versions": {"vpns_lightning": __version__, "torch": torch.__version__},
    }


def compare_counts(
    pruned: PromptedClassifier, dense: PromptedClassifier, input_size: int
) -> dict[str, Any]:
    """Return sparsity, whether channels were cut, and MACs and parameters of both networks.

    The ratio of MACs is dense over pruned, as a speed-up would be; that of parameters is pruned
    over dense, as a size would be.
    """
    before, after = account(dense, input_size), account(pruned, input_size)
    macs = {
        "dense": before.macs,
        "pruned": after.effective_macs,
        "ratio": before.macs / max(1, after.effective_macs),
    }
    return {
        "sparsity": sparsity_report(pruned.backbone).sparsity,
        "cut": _stored_values(pruned) < _stored_values(dense),
        "macs": macs,
        "parameters": _pair(before.parameters, after.parameters_kept),
    }


def _stored_values(network: PromptedClassifier) -> int:
    return sum(parameter.numel() for parameter in network.backbone.parameters())


def _pair(dense: int, pruned: int) -> dict[str, float]:
    return {"dense": dense, "pruned": pruned, "ratio": pruned / dense}


def _file_size(network: PromptedClassifier, path: Path, input_size: int) -> int:
    return export(network, path, input_size=input_size).stat().st_size


def _time_all(
    pruned: PromptedClassifier,
    dense: PromptedClassifier,
    input_size: int,
    plan: Plan,
    folder: Path,
    say: Callable[[str], object],
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the timings, and what could not be measured with the reason."""
    timings: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = []
    for device, runtime in product(plan.devices, plan.runtimes):
        where = {"device": device, "runtime": runtime}
        prepare = RUNTIMES[runtime].prepare
        place = torch.device(device)
        try:
            say(f"{runtime} on {device}: preparing both networks")
            answers = [
                prepare(fold(network), place, input_size, folder, network is pruned)
                for network in (dense, pruned)
            ]
            for count in plan.batch_sizes:
                say(f"{runtime} on {device}, batch {count}")
                timings.append(where | _time(answers, where, count, input_size, plan))
        except Missing as reason:
            missing.append({**where, "reason": str(reason)})
        # what a runtime raises is its own matter; what others measured is not lost by it
        except Exception as error:
            missing.append({**where, "reason": f"{type(error).__name__}: {first_line(error)}"})
    return timings, missing


@torch.inference_mode()
def _time(
    answers: Sequence[Answer], where: Mapping[str, str], count: int, size: int, plan: Plan
) -> dict[str, Any]:
    """Time both answers to one batch of ``count`` images of ``size`` px."""
    device = torch.device(where["device"])
    dtype = RUNTIMES[where["runtime"]].dtype
    images = torch.rand(count, 3, size, size).to(device, dtype)
    precision = plan.precision if RUNTIMES[where["runtime"]].autocasts else "32-true"

    def answer(network: Answer) -> Callable[[], object]:
        def call() -> object:
            with runs_in(precision, device):
                return network(images)

        return call

    timed = interleave(
        answer(answers[0]),
        answer(answers[1]),
        warmup=plan.warmup,
        rounds=plan.rounds,
        seconds=plan.seconds,
        wait=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
    )
    dense, pruned = timed.medians()
    dense_processor, pruned_processor = timed.processor()
    return {
        "batch_size": count,
        "dense_seconds": dense,
        "pruned_seconds": pruned,
        "dense_images_per_second": count / dense,
        "pruned_images_per_second": count / pruned,
        "speedup": timed.speedup(),
        "speedup_quartiles": timed.spread(),
        "dense_processor_seconds": dense_processor,
        "pruned_processor_seconds": pruned_processor,
        "rounds": len(timed.dense),
    }


def _memory(
    pruned: PromptedClassifier,
    dense: PromptedClassifier,
    input_size: int,
    plan: Plan,
    say: Callable[[str], object],
    missing: list[dict[str, str]],
) -> list[dict[str, Any]]:
    """Return the peak memory of a training step of both networks on every device.

    Where there is none, the reason goes into ``missing``: the timings before it are not lost.
    """
    found = []
    for name in plan.devices if plan.memory_batch else ():
        say(f"peak memory of a training step on {name}, batch {plan.memory_batch}")
        try:
            peaks = [
                training_memory(
                    network,
                    input_size,
                    plan.memory_batch,
                    torch.device(name),
                    precision=plan.precision,
                )
                for network in (dense, pruned)
            ]
        except ValueError as error:  # batch normalisation cannot train on one value of a channel
            reason = f"{error}: choose a larger memory_batch"
            missing.append({"device": name, "runtime": "training memory", "reason": reason})
            continue
        except torch.OutOfMemoryError as error:
            reason = f"{first_line(error)}: choose a smaller memory_batch"
            missing.append({"device": name, "runtime": "training memory", "reason": reason})
            continue
        found.append({"device": name, "batch_size": plan.memory_batch, **_pair(*peaks)})
    return found


def _is_faster(timing: Mapping[str, Any]) -> bool:
    lower, _ = timing["speedup_quartiles"]
    return bool(timing["speedup"] >= FASTER and lower > 1)


def remarks(timings: Sequence[Mapping[str, Any]], *, cut: bool) -> list[str]:
    """Return one line for every runtime on which the pruned network is not faster, with the reason.

    Args:
        timings: Of :func:`measure`.
        cut: Whether channels were removed, so that tensors are smaller.
    """
    lines = []
    for device, runtime in dict.fromkeys((each["device"], each["runtime"]) for each in timings):
        own = [each for each in timings if (each["device"], each["runtime"]) == (device, runtime)]
        if runtime == "2:4":
            lines.append(
                f"2:4 on {device}: linear layers got the 2:4 weights nearest to theirs, so this is "
                "the kernels' speed in half precision, not this run's accuracy"
            )
        if any(_is_faster(each) for each in own):
            continue
        seen = ", ".join(f"{each['speedup']:.2f}x at batch {each['batch_size']}" for each in own)
        if cut:
            why = "at this size moving data and starting operations cost more than the MACs saved"
        elif RUNTIMES[runtime].skips:
            why = "the linear layers that 2:4 kernels serve are a small part of this network"
        else:
            why = "unstructured zeros are multiplied like any other number, no MAC is skipped"
        lines.append(f"{runtime} on {device}: no speed-up ({seen}): {why}")
    return lines

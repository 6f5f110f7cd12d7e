"""Which runs may share a curve: those that differ in nothing but sparsity and seed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import UNSET

from vpns_lightning.report.runs import UNKNOWN, Run, describe, plain, setting as recorded

# what must be equal along one curve
CURVE_KEYS = (
    *("dataset", "classes", "train_images", "test_images", "limit_per_class"),
    *("limit_test_per_class", "backbone", "weights", "input_size"),
    *("batch_size", "prompt", "mapping", "pruner", "protocol", "views", "budget", "optimizers"),
    *("lr_schedulers", "training", "sparsity_by_layer", "parameters", "weights_prunable"),
    *("parts", "stages stopped early", "tuning steps"),
)
# what should be equal between the curves of one panel
PANEL_KEYS = ("weights", "train_images", "test_images", "input_size", "batch_size", "protocol")
# settings of each stage, compared where both runs state them
OF_STAGES = {"views", "budget", "optimizers", "lr_schedulers"}
# options of a pruner that may follow sparsity and seed
FREE_OPTIONS = {"path", "seed"}


def setting(run: Run, key: str) -> Any:  # any JSON
    """Return a setting of a run, :data:`UNKNOWN` where its result does not say."""
    if key == "tuning steps":  # in results of every version; finding may stop early, tuning not
        tune = run.record.stages.get("tune")
        if tune is not None and tune.stopped:
            return "until it was stopped"
        return UNKNOWN if tune is None or tune.gradient_steps is UNSET else tune.gradient_steps
    if key == "stages stopped early":
        return [name for name, stage in run.record.stages.items() if stage.stopped]
    value = recorded(run.record, key)
    if value == UNKNOWN and key.startswith("limit_"):  # versions that do not state it had none
        return None
    if key == "training":  # versions that did not record it had the defaults alone
        return {} if value == UNKNOWN else plain(value)
    if key == "sparsity_by_layer":  # versions that did not record it could not do it
        return {} if value == UNKNOWN else value
    if key == "pruner" and isinstance(value, Mapping):
        return {k: v for k, v in value.items() if k not in FREE_OPTIONS}
    if key in OF_STAGES and isinstance(value, Mapping):
        return _of_stages(run, key, value)
    return value


def _of_stages(run: Run, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting of each stage, left out where an older version did not record it."""
    known = {stage: plain(each) for stage, each in value.items() if each is not None}
    if key in {"optimizers", "lr_schedulers"}:
        # a pruner without epochs has none at any sparsity, but at 0 others may stop early too
        return {stage: each for stage, each in known.items() if each}
    return known


def difference(first: Run, second: Run, keys: Sequence[str]) -> tuple[str, str, str] | None:
    """Return the first key in which two runs differ, with both values as text.

    What one of them does not say is not held against the other.
    """
    for key in keys:
        here, there = setting(first, key), setting(second, key)
        if UNKNOWN in (here, there) or here == there:
            continue
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            inner = _inner(here, there, key)
            if inner is None:
                continue
            return inner
        return key, describe(here), describe(there)
    return None


def _inner(
    here: Mapping[str, Any], there: Mapping[str, Any], key: str
) -> tuple[str, str, str] | None:
    """Return the entry in which two mappings differ; those of stages are compared where known."""
    stages = key in OF_STAGES
    names = [n for n in here if n in there] if stages else list(dict.fromkeys([*here, *there]))
    for name in names:
        ours, theirs = here.get(name), there.get(name)
        if ours != theirs:
            return f"{key}.{name}", describe(ours), describe(theirs)
    return None


def mixture(runs: Sequence[Run], free: Collection[str] = ()) -> str | None:
    """Return why runs must not be one curve, naming two of them and the key; None if they may.

    Args:
        runs: The runs of the curve.
        free: Keys that the curve varies on purpose.
    """
    for key in (key for key in CURVE_KEYS if key not in free):
        known = [run for run in runs if setting(run, key) != UNKNOWN]
        for other in known[1:]:
            found = difference(known[0], other, [key])
            if found is not None:
                name, here, there = found
                return (
                    f"{name} is {here} in {known[0].path.parent} and {there} in "
                    f"{other.path.parent}: report them from separate folders, or repeat one with "
                    "the other's settings"
                )
    return None


def unstated(runs: Sequence[Run]) -> list[str]:
    """Return the keys that some runs state and others, of an older version, do not."""
    return [key for key in CURVE_KEYS if len({setting(run, key) == UNKNOWN for run in runs}) > 1]


def remarks(lines: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return what a reader of one panel has to know, for methods by name and their runs."""
    notes = []
    (first, ours), *others = lines.items()
    for label, theirs in others:
        found = difference(ours[0], theirs[0], PANEL_KEYS)
        if found is not None:
            notes.append(f"{first} and {label} differ in {found[0]}: {found[1]}, {found[2]}")
    for label, runs in lines.items():
        unsure = unstated(runs)
        if unsure:
            notes.append(
                f"{label}: some results were written before {', '.join(unsure)} was recorded, so "
                "whether all agree in it is unknown"
            )
    return notes

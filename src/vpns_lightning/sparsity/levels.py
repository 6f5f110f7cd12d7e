"""Sparsity that differs by layer: which layers are ranked together, and at what level each."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from vpns_lightning.base.errors import UserError, nearest

Scope = Literal["global", "layer"]


def check_sparsity(sparsity: float, name: str = "sparsity") -> float:
    """Return ``sparsity`` as a float.

    Args:
        sparsity: Fraction of weights removed.
        name: What it is called, for the message.

    Raises:
        UserError: It is not a number in [0, 1).
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise UserError(
            f"{name} must be a number in [0, 1), got {sparsity!r}: it is the fraction of "
            "weights removed; for no pruning use 0 or the Dense pruner"
        )
    return float(sparsity)


def layer_levels(patterns: Mapping[str, float], layers: Iterable[str]) -> dict[str, float]:
    """Return the sparsity of every layer that has its own.

    Args:
        patterns: Shell-style pattern over layer names (``conv1``, ``layer4.*``) to the fraction
            removed in each layer that it matches, in [0, 1).
        layers: Names of the layers that can be pruned.

    Raises:
        UserError: A pattern matches no layer, two match the same one, or a level is out of range.
    """
    names = list(layers)
    matched: dict[str, str] = {}
    for pattern, level in patterns.items():
        key = f"find.sparsity_by_layer: the level of {pattern!r}"
        check_sparsity(level, key)
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(
                f"find.sparsity_by_layer: {pattern!r} matches no layer that can be pruned"
                f"{nearest(pattern, [*names, *_parents(names)])}; layers are {_shown(names)}"
            )
        for name in found:
            if name in matched:
                raise UserError(
                    f"find.sparsity_by_layer: layer {name!r} matches both {matched[name]!r} and "
                    f"{pattern!r}: let one pattern alone match it"
                )
            matched[name] = pattern
    return {name: float(patterns[matched[name]]) for name in names if name in matched}


def _parents(names: list[str]) -> list[str]:
    """Return ``layer4.*`` and alike for everything that layers lie in."""
    parts = [name.split(".") for name in names]
    return [".".join([*p[:depth], "*"]) for p in parts for depth in range(1, len(p))]


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown}, ... ({len(names)} of them)" if len(names) > 6 else shown


def ranked_together(
    layers: Iterable[str],
    sparsity: float,
    *,
    scope: Scope = "global",
    levels: Mapping[str, float] | None = None,
) -> list[tuple[list[str], float]]:
    """Return groups of layers whose weights are ranked together, each with its sparsity.

    Args:
        layers: Names, in the network's order.
        sparsity: Of all layers without their own: together, or each by itself.
        scope: ``"global"`` ranks these together, ``"layer"`` each by itself.
        levels: Layer name to its own sparsity.

    Returns:
        The layers without their own level first, then each of the others alone; no empty group.
    """
    own = levels or {}
    names = list(layers)
    rest = [name for name in names if name not in own]
    groups = [rest] if scope == "global" else [[name] for name in rest]
    named = [([name], own[name]) for name in names if name in own]
    return [(group, sparsity) for group in groups if group] + named

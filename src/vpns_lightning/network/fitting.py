"""Which tensor of a state dict belongs where in a network: other projects' prefixes taken off."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network.weights import Weights

# what wrappers put before every name
PREFIXES = (
    *("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder."),
    *("state_dict.", "ema."),
)
DEEPEST = 5  # prefixes one within another
COUNTER = "num_batches_tracked"
# what averaging and profiling leave beside the weights
BY_THE_WAY = ("n_averaged", "total_ops", "total_params")
# heads that only training uses, which backbones are built without
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# names of older versions of torchvision, and today's
OLDER = (
    (re.compile(r"\.(norm|relu|conv)\.([12])\."), r".\1\2."),  # DenseNet
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),  # vision transformers
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


class Target(NamedTuple):
    """The network that weights are for.

    Attributes:
        name: For messages.
        state: Its own names and tensors; those of the head may have another first dimension.
        head: Name of its classifier.
        keeps_head: The classifier is used, so the weights must have it.
    """

    name: str
    state: Mapping[str, Tensor]
    head: str
    keeps_head: bool

    def of_head(self, key: str) -> bool:
        """Return whether a key belongs to the classifier."""
        return key.startswith(f"{self.head}.")


def fit_names(weights: Weights, target: Target) -> Weights:
    """Return weights under the names of a network, as far as wrappings explain the difference.

    Args:
        weights: As read.
        target: The network.
    """
    fitted = _stripped(weights, target.state)
    state = dict(fitted.state)
    dropped = [key for key in state if key.rpartition(".")[2] in BY_THE_WAY]
    if not target.keeps_head and not _has_head(state, target):
        dropped += [key for key in state if target.of_head(key)]
    for key in dropped:
        del state[key]
    if dropped:
        fitted = fitted.noting(state, f"without {_list(dropped)}")
    counters = [k for k in target.state if k.endswith(COUNTER) and k not in state]
    known = any(key in target.state for key in state)
    if counters and known:
        zeros = {key: torch.zeros((), dtype=torch.int64) for key in counters}
        fitted = fitted.noting(state | zeros, f"{len(counters)} {COUNTER} set to 0")
    return fitted


def _has_head(state: Mapping[str, Tensor], target: Target) -> bool:
    """Return whether a state dict has a classifier of the network's kind, of whatever classes."""
    own = {key for key in target.state if target.of_head(key)}
    given = {key for key in state if target.of_head(key)}
    return own == given and all(_same_shape(key, state[key], target) for key in given)


def _stripped(weights: Weights, own: Mapping[str, Tensor]) -> Weights:
    """Take off the prefixes that leave the most names of the network; fewest where it is equal."""
    best = weights
    found = _count(weights.state, own)
    candidates = [] if found == len(own) else [weights]
    for _ in range(DEEPEST):
        candidates = [each for given in candidates for each in _steps(given)]
        for each in candidates:
            count = _count(each.state, own)
            if count > found:
                best, found = each, count
    return best


def _steps(given: Weights) -> Iterable[Weights]:
    """Yield the state dict with one thing less in its names."""
    for prefix in PREFIXES:
        inside = {k.removeprefix(prefix): v for k, v in given.state.items() if k.startswith(prefix)}
        if inside:
            others = [key for key in given.state if not key.startswith(prefix)]
            notes = [f"prefix {prefix!r} taken off"]
            notes += [f"without {_list(others)}"] if others else []
            yield given.noting(inside, *notes)
    renames: dict[str, Callable[[str], str]] = {
        "'_orig_mod.' taken out of names": lambda key: key.replace("._orig_mod.", "."),
        "'module.' taken out of names": lambda key: key.replace(".module.", "."),
        "names of an older torchvision": _renamed,
    }
    for note, rename in renames.items():
        renamed = {rename(key): value for key, value in given.state.items()}
        if renamed.keys() != given.state.keys() and len(renamed) == len(given.state):
            yield given.noting(renamed, note)


def _renamed(key: str) -> str:
    for pattern, today in OLDER:
        key = pattern.sub(today, key)
    return key


def _count(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    return sum(key in own for key in state)


def _list(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return f"{shown} and {len(keys) - 3} more" if len(keys) > 3 else shown


def differing_key(state: Mapping[str, Tensor], target: Target) -> str | None:
    """Return what is wrong with the first key that does not fit; None if all do."""
    own = target.state
    # the head first: without it nothing else matters
    for key in [f"{target.head}.weight", *own, *state]:
        if key not in state and not target.keeps_head and target.of_head(key):
            continue
        if key not in state:
            problem = "is missing in the file"
        elif key not in own:
            problem = "is unknown to the network"
        elif not _same_shape(key, state[key], target):
            problem = f"is {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} here"
        else:
            continue
        return f"key {key!r} {problem}"
    return None


def _same_shape(key: str, value: Tensor, target: Target) -> bool:
    skipped = 1 if target.of_head(key) else 0
    own = target.state[key].shape
    return value.dim() == len(own) and value.shape[skipped:] == own[skipped:]


def without_auxiliary(target: Target, state: Mapping[str, Tensor]) -> Target:
    """Return the target without auxiliary heads, if the weights have none either."""
    if any(key.startswith(AUXILIARY) for key in state):
        return target
    own = {key: value for key, value in target.state.items() if not key.startswith(AUXILIARY)}
    return target._replace(state=own)


def refuse_misfit(
    where: str, state: Mapping[str, Tensor], target: Target, fits: Callable[[], str]
) -> None:
    """Refuse weights of another network.

    Args:
        where: Where they come from.
        state: Under the target's names, where they have them.
        target: The network.
        fits: Says what else they fit, as a phrase, or "".

    Raises:
        UserError: They differ from the target; the first differing key is named.
    """
    problem = differing_key(state, target)
    if problem is None:
        return
    missing = [key for key in target.state if key not in state]
    if missing and all(target.of_head(key) for key in missing):
        unknown = [key for key in state if key not in target.state]
        raise UserError(
            f"weights {where} have no classifier for {target.name}: key {missing[0]!r} is missing"
            f"{f' (there is {_list(unknown)})' if unknown else ''}; set network.mapping to "
            "LinearHead, which brings its own, or give weights with one"
        )
    raise UserError(f"weights {where} are not of {target.name}: {problem}{fits()}")

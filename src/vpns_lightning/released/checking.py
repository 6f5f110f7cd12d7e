"""Whether a checkpoint of the released code can be what it is taken for."""

import torch

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.tensors import all_finite
from vpns_lightning.released.reading import Released, refuse

AGREEING = 1e-4  # relative: rounding over the steps of tuning moves a decayed weight by less
BELOW, ABOVE = 0.99, 0.5  # fractions of pruned and of kept weights that only decayed
CLOSE = 1e-3  # of sparsity: a kept weight may have had no gradient either


def check_values(released: Released) -> None:
    """Refuse what no training of the released code leaves.

    Raises:
        UserError: A tensor is NaN or infinite, scores are in half precision, or two target classes
            have one source class.
    """
    for name, value in {**released.weights, **released.scores}.items():
        if value.is_floating_point() and not all_finite(value):
            refuse(released.path, f"{name!r} holds NaN or infinite values")
    halves = [n for n, score in released.scores.items() if score.dtype.itemsize < 4]
    if halves:
        refuse(
            released.path,
            f"the score of {halves[0]!r} is in half precision, where many are equal and masks "
            "come out wrong: convert the weights of the original, not its scores",
        )
    sequence = released.sequence.tolist()
    twice = next((source for source in sequence if sequence.count(source) > 1), None)
    if twice is not None:
        refuse(released.path, f"'mapping_sequence' names source class {twice} twice")


def derived_sparsity(released: Released) -> float | None:
    """Return the sparsity that a checkpoint was tuned at; None where it does not tell.

    A pruned weight has no gradient, so tuning only decays it: all pruned weights have one ratio of
    final to initial value. In order of their scores they come first.

    Args:
        released: The checkpoint, with initial weights.
    """
    names = [name for name in released.scores if name in released.initial]
    if len(names) < len(released.scores):
        return None
    scores = torch.cat([released.scores[name].float().abs().flatten() for name in names])
    final = torch.cat([released.weights[f"{name}.weight"].double().flatten() for name in names])
    initial = torch.cat([released.initial[name].double().flatten() for name in names])
    order = scores.argsort(stable=True)
    final, initial = final[order], initial[order]
    some = initial != 0
    if not bool(some.any()):
        return None
    ratios = (final / initial)[some]
    # of the lowest scores, which any sparsity above 1 % prunes
    ratio = ratios[: max(1, len(ratios) // 100)].median()
    decayed = (final - ratio * initial).abs() <= AGREEING * initial.abs()
    # the cut where most before it only decayed, and most after it did not
    balance = torch.where(decayed, 1, -1).cumsum(0)
    pruned = int(balance.argmax()) + 1
    before, after = decayed[:pruned].double().mean(), decayed[pruned:].double().mean()
    if pruned >= len(decayed) or not (before >= BELOW and after <= ABOVE):
        return None
    return pruned / len(decayed)


def check_sparsity_of(released: Released, sparsity: float) -> str | None:
    """Compare the sparsity asked for with the one a checkpoint was tuned at.

    Returns:
        A line for the user where the checkpoint does not tell it.

    Raises:
        UserError: It is another.
    """
    derived = derived_sparsity(released)
    if derived is None:
        return (
            f"whether {released.path} was tuned at sparsity {sparsity:g} cannot be told from it: "
            "it holds no initial weights that pruned ones have only decayed from"
        )
    if abs(derived - sparsity) > CLOSE:
        raise UserError(
            f"{released.path} was tuned at sparsity {derived:.4f}, not {sparsity:g}: below that, "
            f"weights only decayed from their initial values; give --sparsity {derived:.2f}"
        )
    return None

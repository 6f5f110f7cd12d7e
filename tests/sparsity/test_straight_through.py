"""Gradients of masked weights, compared with slow restatements and by differences."""

import pytest
import torch
from torch import Tensor

from reference.vpns_equations import masked_weight
from vpns_lightning.sparsity import Masked, MaskedGradient, StraightThrough


def tensors(seed: int, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight, scores, upstream = (torch.randn(shape, generator=generator) for _ in range(3))
    return weight, scores, upstream


def test_the_example_of_the_specification() -> None:  # T-1b
    weight = torch.tensor([2.0, -3.0], requires_grad=True)
    scores = torch.tensor([0.1, -0.4], requires_grad=True)
    output = StraightThrough.apply(weight, scores, scores.detach().abs() > 0.2).sum()
    output.backward()
    assert output.item() == -3
    assert scores.grad.tolist() == [2, 3]
    assert weight.grad.tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_bitwise_the_slow_estimator(seed: int) -> None:
    weight, scores, upstream = tensors(seed, 6, 4, 3, 3)
    ours, theirs = (scores.clone().requires_grad_(True) for _ in range(2))
    threshold = scores.abs().median()
    fast = StraightThrough.apply(weight, ours, scores.abs() > threshold)
    slow = masked_weight(weight, theirs, threshold)
    fast.backward(upstream)
    slow.backward(upstream)
    assert torch.equal(fast, slow)
    assert torch.equal(ours.grad, theirs.grad)


def test_pruned_scores_get_gradient_too() -> None:
    weight, scores, upstream = tensors(0, 5, 5)
    scores.requires_grad_(True)
    StraightThrough.apply(weight, scores, torch.zeros(5, 5, dtype=torch.bool)).backward(upstream)
    assert bool((scores.grad != 0).all())


def test_a_score_of_zero_gets_no_gradient() -> None:
    scores = torch.zeros(3, requires_grad=True)
    StraightThrough.apply(torch.ones(3), scores, torch.ones(3, dtype=torch.bool)).sum().backward()
    assert scores.grad.tolist() == [0, 0, 0]


def test_frozen_weights_get_no_gradient() -> None:
    weight, scores, upstream = tensors(0, 3, 3)
    scores.requires_grad_(True)
    StraightThrough.apply(weight, scores, scores > 0).backward(upstream)
    assert weight.grad is None


def test_the_score_gradient_is_that_of_the_surrogate_by_differences() -> None:
    weight, scores, _ = (t.double() for t in tensors(0, 4, 3))
    mask = scores.abs() > 0.5
    scores.requires_grad_(True)

    def surrogate(moved: Tensor) -> Tensor:  # the mask's step replaced by the identity
        return ((mask + moved.abs() - scores.detach().abs()) * weight).pow(2).sum()

    StraightThrough.apply(weight, scores, mask).pow(2).sum().backward()
    step = 1e-6
    for index in range(scores.numel()):
        moved = torch.zeros(scores.numel(), dtype=torch.float64)
        moved[index] = step
        moved = moved.view_as(scores)
        slope = (surrogate(scores + moved) - surrogate(scores - moved)) / (2 * step)
        assert scores.grad.view(-1)[index].item() == pytest.approx(slope.item(), abs=1e-7)


def test_gradients_of_weights_pass_gradcheck() -> None:
    weight, scores, _ = (t.double() for t in tensors(0, 3, 3))
    weight.requires_grad_(True)
    mask = scores > 0
    assert torch.autograd.gradcheck(lambda w: Masked.apply(w, mask), (weight,))
    assert torch.autograd.gradcheck(lambda w: StraightThrough.apply(w, scores, mask), (weight,))


@pytest.mark.parametrize("function", [Masked, MaskedGradient])
def test_pruned_weights_get_exactly_zero_gradient(function: type[Masked]) -> None:
    weight, scores, upstream = tensors(0, 4, 4)
    weight.requires_grad_(True)
    function.apply(weight, scores > 0).backward(upstream)
    assert torch.equal(weight.grad, upstream * (scores > 0))

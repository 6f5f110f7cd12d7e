"""What selecting weights and a step cost on the device, in launches and bytes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from emulated_cuda import counting
from emulated_cuda.test_steps import counted
from toy_run import Parts
from vpns_lightning.sparsity import keep_highest, mask_layers, masked_layers

pytestmark = pytest.mark.usefixtures("cuda")


def resnet_scores(form: torch.memory_format) -> tuple[list[Tensor], list[Tensor]]:
    """Return scores and masks of a ResNet-18 on the device."""
    network = mask_layers(torchvision.models.resnet18()).to("cuda", memory_format=form)
    layers = [layer for _, layer in masked_layers(network)]
    return [layer.weight.detach().clone() for layer in layers], [layer.mask for layer in layers]


@pytest.mark.parametrize(
    ("form", "operators", "bytes_a_score"),
    [(torch.contiguous_format, 13, 46), (torch.channels_last, 60, 61)],
)
def test_selecting_a_networks_weights_without_triton(
    form: torch.memory_format, operators: int, bytes_a_score: int
) -> None:
    scores, masks = resnet_scores(form)
    total = sum(score.numel() for score in scores)
    with counting() as counts:
        keep_highest(scores, int(0.9 * total), masks, absolute=True)
    launched, moved = counts.work()
    assert launched <= operators
    assert moved <= bytes_a_score * total
    assert not counts.waits
    assert sum(int(mask.sum()) for mask in masks) == total - int(0.9 * total)


def selected(scores: Sequence[Tensor], n_prune: int, tie_rule: str) -> list[Tensor]:
    masks = [torch.empty_like(score, dtype=torch.bool) for score in scores]
    keep_highest(scores, n_prune, masks, absolute=True, tie_rule=tie_rule)
    return masks


@pytest.mark.parametrize("tie_rule", ["exact", "threshold"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_masks_are_those_of_the_host(tie_rule: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 6, 3, 3), (7,), (5, 12)]
    here = [torch.randint(-9, 9, shape, generator=generator).to(dtype) for shape in shapes]
    here[0] = here[0].to(memory_format=torch.channels_last)
    for n_prune in (0, 1, 100, 400, 498, 499):
        there = selected([score.to("cuda") for score in here], n_prune, tie_rule)
        for mask, other in zip(there, selected(here, n_prune, tie_rule), strict=True):
            assert torch.equal(mask.cpu(), other)


# ResNet-18 of 11.2 million weights, six classes, 12 px, a batch of 8; without Triton
AT_MOST = {"find": (430, 130), "tune": (315, 36)}  # launches, bytes a weight


def test_a_hydra_step_of_a_resnet(tmp_path: Path) -> None:
    backbone = torchvision.models.resnet18(num_classes=6)
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    between = counted(Parts(backbone=backbone, epochs=1), tmp_path)
    for name, (operators, bytes_a_weight) in AT_MOST.items():
        launched, moved = between.counts[name].work()
        assert launched <= operators * between.steps
        assert moved <= bytes_a_weight * weights * between.steps

"""Masks on layers whose weights are used without calling the layer would be ignored."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vpns_lightning.network import PromptedClassifier


class Bypassing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Conv2d(3, 4, 3)
        self.bypassed = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.called(images).mean((2, 3))
        return self.head(functional.linear(features, self.bypassed.weight, self.bypassed.bias))


def test_a_layer_that_is_never_called_stays_dense_and_is_named() -> None:
    with pytest.warns(UserWarning, match="1 layers .* stay dense: bypassed"):
        network = PromptedClassifier(Bypassing(), 2)
    assert list(network.prunable()) == ["called", "head"]
    assert type(network.backbone.bypassed) is nn.Linear


def test_attention_projections_of_swin_stay_dense_and_the_rest_is_prunable() -> None:
    with pytest.warns(UserWarning, match="stay dense"):
        network = PromptedClassifier("swin_t", 5)
    names = list(network.prunable())
    assert not any(name.endswith(("qkv", "proj")) for name in names)
    assert any(".mlp." in name for name in names)
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 5)


def test_resnet_layers_are_all_called() -> None:
    assert len(PromptedClassifier("resnet18", 5).prunable()) == 21

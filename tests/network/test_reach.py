"""Masks on layers whose weights are used without calling the layer would be ignored."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reference.toy_networks import ToyNet, ToyViT
from vpns_lightning.network import PadPrompt, PromptedClassifier
from vpns_lightning.training.machine import tell_dense


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


def test_weights_that_no_mask_reaches_are_known() -> None:
    network = PromptedClassifier(ToyViT(), 4, exclude=["head"])
    assert network.dense_weights() == {"position": 32, "head.weight": 80}
    assert PromptedClassifier(ToyNet(), 4).dense_weights() == {}
    with pytest.warns(UserWarning, match="stay dense"):
        assert list(PromptedClassifier(Bypassing(), 2).dense_weights()) == ["bypassed.weight"]


def test_a_run_says_once_which_weights_stay_dense(capsys: pytest.CaptureFixture[str]) -> None:
    tell_dense(PromptedClassifier(ToyViT(), 4))
    line = "stays dense besides biases and normalisation: position (32 of 2,386 values)\n"
    assert capsys.readouterr().out == line
    tell_dense(PromptedClassifier(ToyNet(), 4))
    assert not capsys.readouterr().out


@pytest.mark.parametrize("backbone", ["vit_b_16", "timm/vit_tiny_patch16_224"])
def test_a_transformer_is_shown_images_of_the_size_it_is_built_for(backbone: str) -> None:
    key = "img_size" if backbone.startswith("timm") else "image_size"
    given = {"class_path": backbone, "init_args": {key: 32}}
    network = PromptedClassifier(given, 4)
    assert network.input_side() == 32
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 4)
    assert PromptedClassifier(ToyNet(), 4).input_side() == 224
    assert PromptedClassifier(ToyNet(), 4, prompt=PadPrompt(48, 2)).input_side() == 48

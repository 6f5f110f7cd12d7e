"""Transformers are exported with torch's own attention and its keys, zeros in place."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

import vpns_lightning as vpns
from contract_pruners import timm_vit
from reference.toy_networks import ToyViT
from vpns_lightning.network import IdentityMapping, PromptedClassifier
from vpns_lightning.sparsity import get_masks


def finished(backbone: nn.Module) -> PromptedClassifier:
    """Return a network of half of its weights."""
    network = PromptedClassifier(backbone, 10, mapping=IdentityMapping())
    network.fit_mapping()
    pruner = vpns.OMP()
    pruner.attach(network, 0.5)
    pruner.finish(network, 0.5)
    return network.eval()


@pytest.mark.parametrize("kind", ["torch", "timm"])
@pytest.mark.parametrize(
    "suffix", [".safetensors", ".pt2", pytest.param(".onnx", marks=pytest.mark.slow)]
)
def test_a_transformer_is_exported_in_every_format(kind: str, suffix: str, tmp_path: Path) -> None:
    network = finished(ToyViT() if kind == "torch" else timm_vit())
    path = vpns.export(network, tmp_path / f"net{suffix}", input_size=14)
    if suffix != ".safetensors":
        return  # export compares answers and zeros itself before a file appears
    plain = ToyViT(seed=1) if kind == "torch" else timm_vit()
    state = load_file(path)
    plain.load_state_dict(state)
    images = torch.rand(3, 3, 14, 14)
    shown = (images - network.mean) / network.std
    torch.testing.assert_close(plain.eval()(shown), network(images))
    if kind == "torch":
        mask = get_masks(network.backbone)["blocks.0.attention.in_proj"]
        assert bool((state["blocks.0.attention.in_proj_weight"][~mask] == 0).all())
        assert 0 < int((~mask).sum()) < mask.numel()


def test_torchvisions_transformer_keeps_the_keys_of_its_constructor() -> None:
    given = {"class_path": "vit_b_16", "init_args": {"image_size": 32, "num_layers": 1}}
    with pytest.raises(vpns.UserError, match="num_layers"):
        PromptedClassifier(given, 10)
    given["init_args"].pop("num_layers")
    with torch.device("meta"):
        network = PromptedClassifier(given, 10, mapping=IdentityMapping())
        plain = torchvision.models.vit_b_16(image_size=32, num_classes=10)
    keys = {key for key in network.backbone.state_dict() if not key.endswith(".mask")}
    assert keys == plain.state_dict().keys()

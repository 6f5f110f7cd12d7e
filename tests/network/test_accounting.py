"""Parameters and multiply-accumulates, against numbers known from elsewhere."""

import pytest
import torch
from torch import Tensor, nn

from reference.toy_networks import ToyNet
from vpns_lightning.network import FrequencyMapping, IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.network.accounting import account, effective_sparsity, layer_macs
from vpns_lightning.sparsity import unmask_layers


@pytest.mark.parametrize(
    ("name", "layers", "prunable", "macs"),
    [
        ("resnet18", 21, 11_678_912, 1_814_073_344),
        ("resnet50", 54, 25_502_912, 4_089_184_256),
        ("vgg16", 16, 138_344_128, 15_470_264_320),
        ("vgg16_bn", 16, 138_344_128, 15_470_264_320),
    ],
)
def test_the_papers_backbones_have_their_known_sizes(
    name: str, layers: int, prunable: int, macs: int
) -> None:
    with torch.device("meta"):
        network = PromptedClassifier(name, 1000, mapping=IdentityMapping())
    sizes = [weight.numel() for weight in network.prunable().values()]
    assert (len(sizes), sum(sizes)) == (layers, prunable)
    assert sum(layer_macs(network, 224).values()) == macs


def test_a_transformer_counts_the_projections_of_its_attention_masked_or_not() -> None:
    with torch.device("meta"):
        network = PromptedClassifier("vit_b_16", 1000, mapping=IdentityMapping())
    sizes = [weight.numel() for weight in network.prunable().values()]
    block = 4 * 768**2 + 2 * 768 * 3072
    assert (len(sizes), sum(sizes)) == (50, 768**2 + 12 * block + 768 * 1000)
    # 197 tokens pass through every block, 196 patches make them, one is classified
    expected = 196 * 768**2 + 12 * 197 * block + 768 * 1000
    macs = layer_macs(network, 224)
    assert sum(macs.values()) == expected
    unmask_layers(network.backbone)
    assert layer_macs(network, 224) == macs


def test_windows_of_one_image_count_as_that_image() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, images: Tensor) -> Tensor:
            windows = images.flatten(2).transpose(1, 2).reshape(4 * len(images), -1, 3)
            return self.head(self.inner(windows).reshape(len(images), -1, 5).mean(1))

    network = PromptedClassifier(Windows(), 2)
    assert layer_macs(network, 8) == {"inner": 64 * 15, "head": 10}


def half_pruned_head() -> PromptedClassifier:
    network = PromptedClassifier(ToyNet(), 10, prompt=PadPrompt(16, 2), mapping=IdentityMapping())
    network.fit_mapping()
    network.backbone.head.mask[:5] = False
    return network


def test_macs_are_those_of_the_canvas_and_of_what_is_kept() -> None:
    cost = account(half_pruned_head(), 10)
    convolutions = 16 * 16 * 216 + 8 * 8 * 576
    assert cost.macs == convolutions + 80
    assert cost.effective_macs == convolutions + 40


def test_parameters_count_everything_but_pruned_weights() -> None:
    cost = account(half_pruned_head(), 10)
    assert cost.parameters == sum(p.numel() for p in ToyNet().parameters())
    assert cost.parameters_kept == cost.parameters - 40
    assert cost.prompt_parameters == 3 * 4 * 2 * 14


def test_accounting_leaves_the_network_as_it_was() -> None:
    network = half_pruned_head().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    account(network, 10)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_effective_sparsity_leaves_out_rows_that_never_matter() -> None:
    network = PromptedClassifier(ToyNet(), 4, mapping=FrequencyMapping(slice_head=False))
    network.fit_mapping(torch.eye(10, 4, dtype=torch.int64))
    network.backbone.head.mask[4:] = False
    assert effective_sparsity(network) == 0
    network.backbone.head.mask[:2] = False
    assert effective_sparsity(network) == pytest.approx(16 / (216 + 576 + 32))

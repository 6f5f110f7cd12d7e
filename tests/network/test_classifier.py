"""One module for training, evaluation and export."""

import pytest
import torch
from torch import nn

from pruners.scoring_loop import Loop
from reference.toy_networks import ToyNet, toy_batches
from reference.vpns_equations import MEAN, STD, prompted, zero_padded
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import SNIP
from vpns_lightning.sparsity import sparsity_report

IMAGES = toy_batches(1)[0][0]  # (6, 3, 10, 10)


def network_with(prompt: PadPrompt | None, **options: bool) -> PromptedClassifier:
    network = PromptedClassifier(ToyNet(), 10, prompt=prompt, mapping=IdentityMapping(), **options)
    network.fit_mapping()
    return network.eval()


def test_prompted_images_are_padded_prompted_and_normalised() -> None:
    network = network_with(PadPrompt(15, 3))
    nn.init.uniform_(network.prompt.delta, -0.5, 0.5)
    expected = ToyNet().eval()(prompted(IMAGES, network.prompt.delta, 15, 3))
    torch.testing.assert_close(network(IMAGES), expected, rtol=1e-5, atol=1e-6)


def test_plain_images_are_padded_too() -> None:
    network = network_with(PadPrompt(15, 3))
    expected = ToyNet().eval()((zero_padded(IMAGES, 15) - MEAN) / STD)
    torch.testing.assert_close(network(IMAGES, prompted=False), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prompt", [None, PadPrompt(15, 3)])
def test_plain_images_can_keep_their_own_size(prompt: PadPrompt | None) -> None:
    network = network_with(prompt, pad_plain=False)
    expected = ToyNet().eval()((IMAGES - MEAN) / STD)
    torch.testing.assert_close(network(IMAGES, prompted=False), expected, rtol=1e-5, atol=1e-6)


def test_every_convolution_and_linear_layer_is_prunable() -> None:
    network = network_with(None)
    assert list(network.prunable()) == ["conv1", "conv2", "head"]


def test_excluded_layers_are_not_prunable() -> None:
    network = PromptedClassifier(ToyNet(), 4, exclude=["head"])
    assert list(network.prunable()) == ["conv1", "conv2"]


def test_the_memory_format_does_not_change_the_logits() -> None:
    first, second = (network_with(None, channels_last=value) for value in (True, False))
    assert first.backbone.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(first(IMAGES), second(IMAGES), rtol=1e-5, atol=1e-6)


def test_convolution_biases_can_be_dropped() -> None:
    network = PromptedClassifier(ToyNet(), 4, drop_conv_bias=True)
    assert network.backbone.conv2.bias is None
    assert network.backbone.head.bias is not None


def test_a_backbone_without_a_classifier_is_refused() -> None:
    with pytest.raises(UserError, match="no linear or convolution layer"):
        PromptedClassifier(nn.ReLU(), 4)


def test_the_compiled_state_dict_has_the_same_keys() -> None:
    compiled = PromptedClassifier(ToyNet(), 4, compile=True)
    assert list(compiled.state_dict()) == list(PromptedClassifier(ToyNet(), 4).state_dict())


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("prompt", [True, False])
def test_the_backbone_sees_images_in_the_networks_memory_format(
    channels_last: bool, prompt: bool
) -> None:
    network = network_with(PadPrompt(15, 3) if prompt else None, channels_last=channels_last)
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.train()  # evaluation calls forward itself, without hooks
    # as images come from every data set
    network(torch.rand(2, 3, 9, 9).contiguous(memory_format=torch.channels_last))
    (images,) = seen
    assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert images.is_contiguous() != channels_last


def test_means_and_deviations_may_be_whole_numbers() -> None:
    network = network_with(None, mean=(0, 0, 0), std=(1, 1, 1))
    assert network.mean.dtype == network.std.dtype == torch.float32
    loop = Loop(network)
    pruner = SNIP(samples_per_class=1)
    pruner.attach(network, 0.5)
    loop.run(pruner, toy_batches(2))
    pruner.finish(network, 0.5)
    assert sparsity_report(network).sparsity == pytest.approx(0.5, abs=1e-3)

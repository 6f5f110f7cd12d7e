"""Gates: closed channels send nothing on, and their scores still learn."""

import pytest
import torch
from torch import Tensor, nn

from vpns_lightning.sparsity import gate_layer, gated_layers, get_gates, mask_layers, open_gates
from vpns_lightning.sparsity.gates import GatedBatchNorm2d


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.bare = nn.Conv2d(4, 3, 1)
        self.linear = nn.Linear(3, 5)
        for name in ("weight", "bias", "running_mean", "running_var"):
            nn.init.uniform_(getattr(self.bn, name), 0.5, 1.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.bare(self.bn(self.conv(images))).mean((2, 3)))


def scores(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float32))


def close(layer: nn.Module, *channels: int) -> None:
    layer.channel_gate[list(channels)] = False


def test_a_gate_on_both_factors_by_hand() -> None:
    # one pixel of value 3, mean 1, variance 4: x = 1; gamma 2, beta 0.5 give 2.5
    norm = nn.BatchNorm2d(2, eps=0.0).eval()
    with torch.no_grad():
        norm.running_mean.fill_(1)
        norm.running_var.fill_(4)
        norm.weight.fill_(2)
        norm.bias.fill_(0.5)
    s = scores(0.3, -0.2)
    gated = GatedBatchNorm2d.from_dense(norm.requires_grad_(False), s)
    close(gated, 1)
    output = gated(torch.full((1, 2, 1, 1), 3.0))
    assert output.flatten().tolist() == [2.5, 0.0]
    # gradients 1 and 10 at the output: sign(s) * (gamma * x + beta) * gradient, the closed one too
    (output * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)).sum().backward()
    assert s.grad.tolist() == pytest.approx([2.5, -25.0])


@pytest.mark.parametrize("name", ["bare", "linear"])
def test_rows_and_bias_of_a_layer_without_normalisation_are_gated(name: str) -> None:
    net = mask_layers(Chain()).eval().requires_grad_(False)
    dense = net.get_submodule(name)
    shape = (2, 4, 1, 1) if name == "bare" else (2, 3)
    inputs = torch.rand(shape)
    expected = dense(inputs)
    s = nn.Parameter(-torch.ones(expected.shape[1]))
    gate_layer(net, name, s)
    gated = net.get_submodule(name)
    close(gated, 1)
    output = gated(inputs)
    assert not output[:, 1].any()
    assert torch.equal(output[:, 2:], expected[:, 2:])
    output.sum().backward()
    reduced = expected.transpose(0, 1).flatten(1).sum(1)
    torch.testing.assert_close(s.grad, -reduced)


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_open_gates_change_nothing_in_training_and_in_evaluation(momentum: float | None) -> None:
    plain, gated = mask_layers(Chain()), mask_layers(Chain())
    for net in (plain, gated):
        net.bn.momentum = momentum
    gate_layer(gated, "bn", scores(1, 1, 1, 1))
    gate_layer(gated, "bare", scores(1, 1, 1))
    images = torch.rand(3, 2, 6, 6)
    for _ in range(2):
        torch.testing.assert_close(gated(images), plain(images))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(gated.state_dict()[name], value)
    torch.testing.assert_close(gated.eval()(images), plain.eval()(images))


def test_opening_gates_gives_back_the_same_parameters() -> None:
    net = mask_layers(Chain())
    before = dict(net.named_parameters())
    s = scores(1, 1, 1, 1)
    gate_layer(net, "bn", s)
    gate_layer(net, "conv", s)
    gate_layer(net, "linear", scores(1, 1, 1, 1, 1))
    assert [name for name, _ in gated_layers(net)] == ["conv", "bn", "linear"]
    assert list(get_gates(net)) == ["conv", "linear"]
    open_gates(net)
    assert not list(gated_layers(net))
    assert {name: id(p) for name, p in net.named_parameters()} == {
        name: id(p) for name, p in before.items()
    }


def test_layers_of_a_group_learn_one_parameter() -> None:
    net = mask_layers(Chain()).requires_grad_(False)
    s = scores(1, 1, 1, 1)
    for name in ("conv", "bn"):
        gate_layer(net, name, s)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == [
        "conv.channel_scores"
    ]
    # state dicts repeat a shared parameter, and load strictly
    net.load_state_dict(net.state_dict())

"""Groups of channels, exact cuts, and the history that travels with a network."""

import copy

import pytest
import torch
from torch import Tensor, nn

from reference.structured_pruning import ShortcutNet
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import (
    FrequencyMapping,
    IdentityMapping,
    PadPrompt,
    PromptedClassifier,
    cut,
    find_groups,
)
from vpns_lightning.network.accounting import account, effective_sparsity, network_report
from vpns_lightning.sparsity import get_masks, masked_layers


def toy(seed: int = 0, **options: object) -> PromptedClassifier:
    network = PromptedClassifier(
        ShortcutNet(seed=seed), 4, prompt=PadPrompt(12, 2), mapping=IdentityMapping(), **options
    )
    network.fit_mapping()
    return network


# conv1's group loses channels 1 and 4, conv3's channel 0
KEPT = {
    "conv1": torch.tensor([True, False, True, True, False]),
    "conv3": torch.tensor([False, True, True, True]),
}


def cut_toy(seed: int = 0, **options: object) -> PromptedClassifier:
    network = toy(seed, **options)
    cut(network, find_groups(network), KEPT)
    return network


def test_a_shortcut_ties_channels_into_one_group() -> None:
    first, second = find_groups(toy())
    assert (first.name, first.channels, second.name, second.channels) == ("conv1", 5, "conv3", 4)
    assert {(m.layer, m.role) for m in first.members} == {
        *(("conv1", "rows"), ("bn1", "rows"), ("conv2", "columns")),
        *(("conv2", "rows"), ("bn2", "rows"), ("conv3", "columns")),
    }
    assert {(m.layer, m.role) for m in second.members} == {
        *(("conv3", "rows"), ("bn3", "rows"), ("head", "columns")),
    }
    assert not any(m.bare for m in (*first.members, *second.members))


def test_resnet18_has_the_groups_of_the_literature() -> None:
    network = PromptedClassifier("resnet18", 10, prompt=PadPrompt(32, 4))
    groups = find_groups(network)
    assert len(groups) == 12
    assert sum(group.channels for group in groups) == 2880
    shared = {g.name: g.channels for g in groups if len(g.members) > 4}
    assert list(shared.values()) == [64, 128, 256, 512]


def test_finding_groups_leaves_the_network_as_it_was() -> None:
    network = toy().train()
    network.backbone.conv2.eval()
    network.backbone.conv1.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    kinds = {name: (type(m), m.training) for name, m in network.named_modules()}
    find_groups(network)
    assert {name: (type(m), m.training) for name, m in network.named_modules()} == kinds
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.backbone.conv1.weight.requires_grad


def test_a_cut_takes_rows_columns_and_statistics_by_hand() -> None:
    network, dense = cut_toy(), ShortcutNet()
    backbone, a, b = network.backbone, [0, 2, 3], [1, 2, 3]
    assert torch.equal(backbone.conv1.weight, dense.conv1.weight[a])
    assert torch.equal(backbone.conv2.weight, dense.conv2.weight[a][:, a])
    assert torch.equal(backbone.conv3.weight, dense.conv3.weight[b][:, a])
    assert torch.equal(backbone.head.weight, dense.head.weight[:, b])
    assert torch.equal(backbone.head.bias, dense.head.bias)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(backbone.bn2, name), getattr(dense.bn2, name)[a])
    assert [layer for layer, _ in masked_layers(backbone)] == ["conv1", "conv2", "conv3", "head"]
    assert all(bool(mask.all()) for mask in get_masks(backbone).values())
    assert backbone.conv2.in_channels == backbone.conv2.out_channels == 3


def test_a_cut_keeps_modes_flags_and_excluded_layers() -> None:
    network = toy(exclude=["conv3"]).train()
    network.backbone.bn1.eval()
    network.backbone.head.weight.requires_grad_(False)
    groups = find_groups(network)
    assert [group.name for group in groups] == ["conv1"]
    cut(network, groups, KEPT)
    assert network.backbone.training
    assert not network.backbone.bn1.training
    assert not network.backbone.head.weight.requires_grad
    assert type(network.backbone.conv3) is nn.Conv2d
    assert network.backbone.conv3.weight.shape == (4, 3, 3, 3)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_dense_network_takes_the_shapes_of_a_cut_one(channels_last: bool) -> None:
    network = cut_toy(channels_last=channels_last)
    fresh = toy(seed=5, channels_last=channels_last)
    fresh.load_state_dict(network.state_dict())
    images = torch.rand(3, 3, 12, 12)
    assert torch.equal(fresh.eval()(images), network.eval()(images))
    own, theirs = dict(fresh.named_parameters()), dict(network.named_parameters())
    assert own.keys() == theirs.keys()
    assert all(own[name].stride() == theirs[name].stride() for name in own)
    assert fresh.backbone.conv3.in_channels == 3
    fresh.load_state_dict(network.state_dict())  # again changes nothing
    assert torch.equal(fresh(images), network(images))


def test_the_history_survives_a_plain_file(tmp_path: object) -> None:
    network = cut_toy()
    torch.save(network.state_dict(), tmp_path / "state.pt")  # type: ignore[operator]
    fresh = toy(seed=5)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))  # type: ignore[operator]
    assert {name: kept.tolist() for name, kept in fresh.cuts.groups().items()} == {
        name: kept.tolist() for name, kept in KEPT.items()
    }


def test_a_cut_after_the_head_was_sliced_loads_too() -> None:
    def mapped() -> PromptedClassifier:
        return PromptedClassifier(ShortcutNet(classes=9), 4, mapping=FrequencyMapping())

    network = mapped()
    network.fit_mapping(torch.randint(9, (9, 4)))
    cut(network, find_groups(network, 12), KEPT)
    fresh = mapped()
    fresh.load_state_dict(network.state_dict())
    images = torch.rand(3, 3, 12, 12)
    assert torch.equal(fresh.eval()(images), network.eval()(images))


def other_channels(state: dict[str, Tensor]) -> dict[str, Tensor]:
    swapped = {k: v.flip(0) if k == "cuts.conv1.channels" else v for k, v in state.items()}
    return swapped


def test_wrong_histories_are_refused() -> None:
    network = cut_toy()
    state = network.state_dict()
    with pytest.raises(UserError, match="other channels were cut"):
        network.load_state_dict(other_channels(state))
    longer = {
        k: torch.ones(9, dtype=torch.bool) if "conv1.rows" in k else v for k, v in state.items()
    }
    with pytest.raises(UserError, match="layer 'conv1' has 5 channels, not 9"):
        toy().load_state_dict(longer)
    foreign = {k.replace("cuts.conv1", "cuts.stem"): v for k, v in state.items()}
    with pytest.raises(UserError, match="names layer 'stem'"):
        toy().load_state_dict(foreign)
    floats = {k: v.float() if k == "cuts.conv1.rows" else v for k, v in state.items()}
    with pytest.raises(UserError, match=r"holds no 'conv1.rows' of torch\.float32"):
        toy().load_state_dict(floats)
    with pytest.raises(RuntimeError, match=r"Missing key.*cuts\."):
        network.load_state_dict(toy().state_dict())


def test_the_cost_of_a_cut_by_hand() -> None:
    network, dense = cut_toy(), toy()
    cost, before = account(network, 12), account(dense, 12)
    # 12 x 12 px, then (12 - 3) // 2 + 1 = 5
    assert before.macs == before.effective_macs == 144 * (5 * 27 + 5 * 45) + 25 * 4 * 45 + 16
    assert cost.macs == before.macs
    assert cost.effective_macs == 144 * (3 * 27 + 3 * 27) + 25 * 3 * 27 + 12
    assert (
        cost.parameters == before.parameters == sum(p.numel() for p in ShortcutNet().parameters())
    )
    weights = 3 * 27 + 3 * 27 + 3 * 27 + 12
    assert cost.parameters_kept == weights + 2 * (3 + 3 + 3) + 4
    report = network_report(network)
    assert report.sparsity == pytest.approx(3 / 9)
    assert (report.kept, report.total) == (weights, 135 + 225 + 180 + 16)
    assert report.per_layer["conv2"] == pytest.approx(1 - 81 / 225)
    assert effective_sparsity(network) == pytest.approx(1 - weights / 556)


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3)
        self.c = nn.Conv2d(10, 5, 3)
        self.head = nn.Linear(5 * 36, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.cat([self.a(images), self.b(images)], 1).relu()
        return self.head(self.c(hidden).relu().flatten(1))


def test_concatenation_and_flattening_are_followed() -> None:
    network = PromptedClassifier(Concatenated().eval(), 4, mapping=IdentityMapping())
    network.fit_mapping()
    dense = copy.deepcopy(network.backbone)
    kept = {n: torch.arange(c) % 2 == 0 for n, c in {"a": 4, "b": 6, "c": 5}.items()}
    cut(network, find_groups(network, 10), kept, 10)
    columns = torch.cat([kept["a"], kept["b"]])
    assert torch.equal(network.backbone.c.weight, dense.c.weight[kept["c"]][:, columns])
    flat = kept["c"].repeat_interleave(36)
    assert torch.equal(network.backbone.head.weight, dense.head.weight[:, flat])
    fresh = PromptedClassifier(Concatenated(), 4, mapping=IdentityMapping())
    fresh.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 10, 10)
    assert torch.equal(fresh.eval()(images), network.eval()(images))


def test_a_size_that_the_backbone_cannot_take_names_the_remedy() -> None:
    network = PromptedClassifier(Concatenated(), 4, mapping=IdentityMapping())
    with pytest.raises(UserError, match=r"takes no images of 224 px.*set find.pruner.input_size"):
        find_groups(network)


def test_a_backbone_that_cannot_be_followed_is_refused_in_one_line() -> None:
    network = PromptedClassifier("shufflenet_v2_x0_5", 4, prompt=PadPrompt(32, 4))
    with pytest.raises(UserError, match=r"cannot be followed .*remove single weights") as refusal:
        find_groups(network)
    assert "input_size" not in str(refusal.value)  # no size helps


class Nested(nn.Module):
    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        inner = ShortcutNet()
        self.add_module(part, nn.Sequential(nn.Conv2d(3, 3, 1), inner))
        self.fc = nn.Linear(inner.head.out_features, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.get_submodule(self.part)(images))


@pytest.mark.parametrize("part", ["layers", "groups", "take"])
def test_parts_of_a_backbone_may_have_any_name(part: str) -> None:
    network = PromptedClassifier(Nested(part), 4, mapping=IdentityMapping())
    network.fit_mapping()
    groups = find_groups(network, 12)
    cut(network, groups, {g.name: torch.arange(g.channels) > 0 for g in groups}, 12)
    assert {name: kept.numel() for name, kept in network.cuts.groups().items()} == {
        group.name: group.channels for group in groups
    }
    fresh = PromptedClassifier(Nested(part), 4, mapping=IdentityMapping())
    fresh.load_state_dict(copy.deepcopy(network).state_dict())
    images = torch.rand(2, 3, 12, 12)
    assert torch.equal(fresh.eval()(images), network.eval()(images))


class Normed(nn.Module):
    def __init__(self, norm: nn.Module, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = norm
        self.next = nn.Conv2d(8, 8, 3, groups=groups)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.next(self.norm(self.conv(images)).relu()).mean((2, 3)))


def test_depthwise_convolutions_are_cut_with_their_channels() -> None:
    network = PromptedClassifier(Normed(nn.BatchNorm2d(8), groups=8), 4, mapping=IdentityMapping())
    network.fit_mapping()
    (group,) = find_groups(network, 12)
    cut(network, (group,), {group.name: torch.arange(8) < 5}, 12)
    assert (network.backbone.next.groups, network.backbone.next.in_channels) == (5, 5)
    fresh = PromptedClassifier(Normed(nn.BatchNorm2d(8), groups=8), 4, mapping=IdentityMapping())
    fresh.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 12, 12)
    assert torch.equal(fresh.eval()(images), network.eval()(images))
    assert account(network, 12).macs == 100 * 8 * 27 + 64 * 8 * 9 + 32


@pytest.mark.parametrize(
    ("norm", "groups", "said"),
    [
        (nn.GroupNorm(2, 8), 1, r"'norm' \(GroupNorm\) cannot be cut"),
        (nn.BatchNorm2d(8), 2, r"'next' \(grouped convolution\) cannot be cut"),
    ],
    ids=["group norm", "grouped"],
)
def test_layers_that_cannot_be_cut_are_named(norm: nn.Module, groups: int, said: str) -> None:
    network = PromptedClassifier(Normed(norm, groups), 4, mapping=IdentityMapping())
    with pytest.raises(UserError, match=said):
        find_groups(network, 12)

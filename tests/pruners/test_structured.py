"""StructuredVPNs, Slim and DepGraph: what they rank by, learn, cut and refuse."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch_pruning as tp
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import (
    ConvNeXt,
    DenseNet,
    ShuffleNetV2,
    SwinTransformer,
    VisionTransformer,
)
from torchvision.models.convnext import CNBlockConfig

from pruners.scoring_loop import Loop
from reference.structured_pruning import (
    GROUPS,
    ShortcutNet,
    depgraph_gradients,
    depgraph_importance,
    kept_of,
    slim_importance,
    vpns_scores,
    vpns_start,
)
from reference.toy_networks import toy_batches
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import (
    ChannelGroup,
    IdentityMapping,
    PadPrompt,
    PromptedClassifier,
    find_groups,
)
from vpns_lightning.network.backbones import head_of
from vpns_lightning.network.channel_graph import read_group
from vpns_lightning.pruners import OMP, DepGraph, Pruner, Slim, Structured, StructuredVPNs
from vpns_lightning.pruners.depgraph import decay
from vpns_lightning.pruners.structured import group_energy
from vpns_lightning.sparsity import (
    gate_layer,
    gated_layers,
    get_gates,
    sparsity_report,
    unmask_layers,
)
from vpns_lightning.stages import MaskFinding
from vpns_lightning.training.machine import same_norms

METHODS: dict[str, Callable[..., Structured]] = {
    "vpns": StructuredVPNs,
    "vpns, inputs": partial(StructuredVPNs, gates="inputs"),
    "slim": Slim,
    "depgraph": DepGraph,
}
every_method = pytest.mark.parametrize("new", METHODS.values(), ids=list(METHODS))
PRUNED = {"conv1": 2, "conv3": 2}  # of 5 and of 4 channels at a sparsity of a half


def toy(prompt: bool = False, **options: object) -> PromptedClassifier:
    """Return the reference's network, images unchanged before it."""
    network = PromptedClassifier(
        ShortcutNet(),
        4,
        prompt=PadPrompt(12, 2) if prompt else None,
        mapping=IdentityMapping(),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        **options,
    )
    network.fit_mapping()
    return network


class Learning(Loop):
    """A stage that trains with SGD and lets the pruner change gradients."""

    def __init__(self, network: PromptedClassifier, pruner: Pruner, rate: float) -> None:
        super().__init__(network)
        build = lambda groups: torch.optim.SGD(groups, lr=rate)  # noqa: E731
        (self.optimizer,) = pruner.optimizers(network, build)
        self.optimizer.register_step_pre_hook(lambda *_: pruner.regularize(network))

    def optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer


def close_gates(network: PromptedClassifier, group: ChannelGroup, kept: Tensor) -> None:
    """Switch channels off where the network is, without any pruner."""
    for member in group.members:
        layer = network.backbone.get_submodule(member.layer)
        if member.bare or isinstance(layer, nn.BatchNorm2d):
            gate_layer(network.backbone, member.layer, nn.Parameter(torch.ones(group.channels)))
            network.backbone.get_submodule(member.layer).channel_gate.copy_(kept)


def unsettle(network: PromptedClassifier) -> None:
    """Give normalisations random factors and statistics, and linear layers larger weights."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in network.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.mul_(10)


# what refusals name in place of a backbone that cannot be cut
NAMED = ("resnet18", "resnet50", "mobilenet_v2", "vgg16_bn")
HEAVY = [pytest.param(n, marks=pytest.mark.slow) for n in (*NAMED[1:], "vgg16")]


@pytest.mark.parametrize("backbone", ["resnet18", *HEAVY])
def test_the_gated_network_answers_as_the_cut_one(backbone: str) -> None:  # T-4a
    images = torch.rand(3, 3, 32, 32)
    whole = PromptedClassifier(
        backbone, 10, prompt=PadPrompt(32, 4), mapping=IdentityMapping()
    ).eval()
    whole.fit_mapping()
    unsettle(whole)
    for name, new in METHODS.items():
        if (backbone, name) == ("vgg16", "slim"):
            continue
        network, pruner = copy.deepcopy(whole), new()
        pruner.attach(network, 0.4)
        kept = pruner.choose(pruner.importance(network), 0.4)
        if name.startswith("vpns"):
            gated, groups = network, pruner.groups
        else:
            gated, groups = copy.deepcopy(network), pruner.groups
            for group in groups:
                close_gates(gated, group, kept[group.name])
        with torch.no_grad():
            expected = gated(images)
            pruner.finish(network, 0.4)
            cut = network(images)
            dense = whole(images)
        scale = float(expected.abs().max())
        torch.testing.assert_close(cut / scale, expected / scale, atol=1e-5, rtol=0)
        assert float((dense - cut).abs().max()) > 1e-3 * scale
        assert not list(gated_layers(network))
        for group in groups:
            made = network.backbone.get_submodule(group.name).weight.shape[0]
            assert made == group.channels - math.floor(round(0.4 * group.channels, 6))
        del network, gated


@pytest.mark.parametrize("group", GROUPS)
def test_importances_are_those_of_the_slow_restatements(group: str) -> None:
    network, net = toy(), ShortcutNet()
    for pruner, reference in (
        (Slim(), slim_importance),
        (DepGraph(sparse_learning=False), depgraph_importance),
        (StructuredVPNs(), vpns_start),
    ):
        pruner.attach(network, 0.5)
        found = pruner.importance(network)[group]
        torch.testing.assert_close(found, torch.tensor(reference(net, group)))


def small(backbone: str) -> PromptedClassifier:
    if backbone == "densenet":
        return dense_blocks()
    network = PromptedClassifier(backbone, 10, prompt=PadPrompt(32, 4), mapping=IdentityMapping())
    network.fit_mapping()
    unsettle(network)
    return network


# of each a network whose channels meet in sums, in depthwise convolutions, in concatenations
MET = {"resnet18": 12, "mobilenet_v2": 25, "densenet": 12}


@pytest.mark.parametrize("backbone", MET)
@pytest.mark.parametrize("sparse_learning", [True, False])
def test_depgraph_ranks_as_torch_prunings_own_importance(
    backbone: str, sparse_learning: bool
) -> None:
    network = small(backbone)
    pruner = DepGraph(sparse_learning=sparse_learning, input_size=32)
    pruner.attach(network, 0.5)
    ours = pruner.importance(network)
    plain = unmask_layers(copy.deepcopy(network.backbone)).eval()
    head, layer = head_of(plain)
    graph = tp.DependencyGraph().build_dependency(plain, torch.zeros(1, 3, 32, 32))
    names = {module: name for name, module in plain.named_modules()}
    # as its harness sets it up for either method
    normalizer = "max" if sparse_learning else "mean"
    score = tp.importance.GroupMagnitudeImportance(p=2, normalizer=normalizer)
    seen = set()
    for group in graph.get_all_groups(ignored_layers=[layer]):
        (name,) = {names.get(group[0].dep.target.module)} & ours.keys() or {
            read_group(graph, group, names).name
        }
        torch.testing.assert_close(ours[name], score(group), rtol=1e-5, atol=1e-6)
        seen.add(name)
    assert seen == ours.keys()
    assert head not in seen
    assert len(seen) == MET[backbone]


@pytest.mark.parametrize("backbone", MET)
def test_depgraph_decays_as_torch_prunings_own_pruner(backbone: str) -> None:
    network, pruner = small(backbone), DepGraph(reg=0.1, input_size=32)
    pruner.attach(network, 0.5)
    plain = unmask_layers(copy.deepcopy(network.backbone)).eval()
    for parameter in [*network.backbone.parameters(), *plain.parameters()]:
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize(network)
    images = torch.zeros(1, 3, 32, 32)
    theirs = tp.pruner.GroupNormPruner(
        plain,
        images,
        importance=tp.importance.GroupMagnitudeImportance(p=2, normalizer="max"),
        reg=0.1,
        ignored_layers=[head_of(plain)[1]],
        in_channel_groups={},
        out_channel_groups={},
    )
    for parameter in plain.parameters():
        parameter.grad = torch.zeros_like(parameter)
    theirs.regularize(plain)
    expected = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in network.backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)
    assert sum(bool(gradient.any()) for gradient in expected.values()) > 10


def test_depgraph_counts_depthwise_weights_where_asked_to() -> None:
    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1, bias=False)
            self.deep = nn.Conv2d(2, 2, 1, groups=2, bias=False)
            self.head = nn.Linear(2, 4)
            with torch.no_grad():
                self.conv.weight.copy_(torch.tensor([[1.0, 2, 2], [0, 3, 4]]).view(2, 3, 1, 1))
                self.deep.weight.copy_(torch.tensor([5.0, 1]).view(2, 1, 1, 1))
                self.head.weight.copy_(torch.tensor([[1.0, 1]] * 4))

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.deep(self.conv(images)).mean((2, 3)))

    # 9 + 4 = 13 and 25 + 4 = 29 without, 13 + 25 = 38 and 29 + 1 = 30 with them
    for depthwise, energies, counted in ((False, [13, 29], 2), (True, [38, 30], 3)):
        network = PromptedClassifier(Depthwise(), 4, mapping=IdentityMapping())
        network.fit_mapping()
        pruner = DepGraph(depthwise=depthwise, input_size=8, reg=1.0)
        pruner.attach(network, 0.5)
        energy, parts = group_energy(network, pruner.groups[0], depthwise=depthwise)
        assert (energy.tolist(), parts) == (energies, counted)
        assert pruner.importance(network)["conv"].tolist() == pytest.approx(
            [value / max(energies) for value in energies]
        )
        for parameter in network.backbone.parameters():
            parameter.grad = torch.zeros_like(parameter)
        pruner.regularize(network)
        assert bool(network.backbone.deep.weight.grad.any()) == depthwise


@pytest.mark.parametrize(
    ("options", "ranked_by"),
    [
        ({}, "max"),
        ({"sparse_learning": False}, "mean"),
        ({"normalizer": "mean"}, "mean"),
        ({"sparse_learning": False, "normalizer": "max"}, "max"),
    ],
    ids=str,
)
def test_groups_are_ranked_together_relative_to_their_strongest_or_mean_channel(
    options: dict[str, Any], ranked_by: str
) -> None:
    network, pruner = toy(), DepGraph(scope="global", **options)
    pruner.attach(network, 0.5)
    for group in GROUPS:
        expected = depgraph_importance(ShortcutNet(), group, ranked_by)
        torch.testing.assert_close(pruner.importance(network)[group], torch.tensor(expected))


def test_importances_by_hand() -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1, bias=False)
            self.bn = nn.BatchNorm2d(2)
            self.head = nn.Linear(2, 2)
            with torch.no_grad():
                self.conv.weight.copy_(torch.tensor([[1.0, 2, 2], [0, 3, 4]]).view(2, 3, 1, 1))
                self.bn.weight.copy_(torch.tensor([-2.0, 1.0]))
                self.head.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.bn(self.conv(images)).mean((2, 3)))

    network = PromptedClassifier(Line(), 2, mapping=IdentityMapping())
    network.fit_mapping()
    # 9 + 4 + 5 = 18 and 25 + 1 + 1 = 27, over three parts, over the largest
    expected = {
        Slim: [2.0, 1.0],
        DepGraph: [6 / 9, 9 / 9],
        StructuredVPNs: [math.sqrt(2) * math.sqrt(18 / 27), math.sqrt(2)],
    }
    for kind, values in expected.items():
        pruner = kind(input_size=8)
        pruner.attach(network, 0.5)
        assert pruner.importance(network)["conv"].tolist() == pytest.approx(values)


def test_scores_of_channels_learn_as_restated() -> None:
    network, pruner = toy().train(), StructuredVPNs()
    batches = toy_batches(4)
    pruner.attach(network, 0.5)
    Learning(network, pruner, rate=8.0).run(pruner, batches)
    expected = vpns_scores(ShortcutNet().train(), batches, PRUNED, rate=8.0)
    start = {group: vpns_start(ShortcutNet(), group) for group in GROUPS}
    gates = get_gates(network.backbone)
    assert kept_of(start["conv1"], 2) != kept_of(expected["conv1"], 2)  # the test can fail
    scores = {name: layer.channel_scores for name, layer in gated_layers(network.backbone)}
    for layer, group in (("bn1", "conv1"), ("bn2", "conv1"), ("bn3", "conv3")):
        torch.testing.assert_close(
            scores[layer].detach(), torch.tensor(expected[group]), rtol=1e-4, atol=1e-5
        )
    assert gates["bn1"].tolist() == kept_of(expected["conv1"], 2)
    assert gates["bn3"].tolist() == kept_of(expected["conv3"], 2)


def closed_gradients(gates: str) -> list[bool]:
    """Return whether each closed channel's score has a gradient, after one backward pass."""
    network, pruner = toy().train(), StructuredVPNs(gates=gates)
    pruner.attach(network, 0.5)
    images, labels = toy_batches(1)[0]
    functional.cross_entropy(network(images), labels).backward()
    return [
        bool(value)
        for _, layer in gated_layers(network.backbone)
        for value in layer.channel_scores.grad[~layer.channel_gate]
    ]


def test_gates_at_the_inputs_let_closed_channels_learn_behind_a_relu() -> None:
    assert all(closed_gradients("inputs"))
    assert not any(closed_gradients("factors"))


def test_scores_at_the_inputs_get_the_sum_over_their_weights() -> None:
    network, pruner = toy().train(), StructuredVPNs(gates="inputs")
    pruner.attach(network, 0.5)
    images, labels = toy_batches(1)[0]
    net = ShortcutNet().train()
    kept = {group: torch.tensor(kept_of(vpns_start(net, group), PRUNED[group])) for group in GROUPS}
    columns = {"conv2": "conv1", "conv3": "conv1", "head": "conv3"}
    masked = {}
    for layer, group in columns.items():
        weight = net.get_submodule(layer).weight
        masked[f"{layer}.weight"] = (
            weight.detach() * kept[group].view(1, -1, *[1] * (weight.dim() - 2))
        ).requires_grad_()
    logits = torch.func.functional_call(net, masked, (images,))
    functional.cross_entropy(logits, labels).backward()
    expected = {group: torch.zeros(count) for group, count in GROUPS.items()}
    for layer, group in columns.items():
        product = net.get_submodule(layer).weight.detach() * masked[f"{layer}.weight"].grad
        for channel in range(GROUPS[group]):
            expected[group][channel] += product[:, channel].sum()
    functional.cross_entropy(network(images), labels).backward()
    for layer, group in columns.items():
        found = network.backbone.get_submodule(layer).channel_scores.grad
        torch.testing.assert_close(found, expected[group], rtol=1e-4, atol=1e-6)


def test_finding_channels_leaves_weights_biases_and_factors_bit_identical() -> None:
    network, pruner = toy(prompt=True).train(), StructuredVPNs()
    own = {name: p.detach().clone() for name, p in network.backbone.named_parameters()}
    pruner.attach(network, 0.5)
    learned = [n for n, p in network.named_parameters() if p.requires_grad]
    assert learned == ["prompt.delta", "backbone.bn1.channel_scores", "backbone.bn3.channel_scores"]
    Learning(network, pruner, rate=1.0).run(pruner, toy_batches(3))
    after = dict(network.backbone.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in own.items())
    assert bool(network.prompt.delta.any())
    pruner.finish(network, 0.5)
    assert all(p.requires_grad for p in network.parameters())


def test_gates_always_have_exactly_the_requested_sparsity() -> None:
    network, pruner = toy().train(), StructuredVPNs()
    pruner.attach(network, 0.5)
    stage = Learning(network, pruner, rate=3.0)
    for batch in toy_batches(3):
        assert [int(gate.sum()) for gate in get_gates(network.backbone).values()] == [3, 2]
        pruner.step(stage, "plain", batch)


def test_depgraph_adds_the_restated_gradients() -> None:
    network, pruner = toy(), DepGraph(reg=0.1)
    pruner.attach(network, 0.5)
    for parameter in network.backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    pruner.regularize(network)
    expected = depgraph_gradients(ShortcutNet(), 0.1)
    for name, parameter in network.backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, 1 + expected[name].float())


def test_decay_is_sixteen_times_stronger_for_the_weakest_and_safe_where_all_are_equal() -> None:
    assert decay(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([16, 4, 1])
    assert decay(torch.tensor([2.0, 2.0])).tolist() == [1, 1]
    assert decay(torch.zeros(3)).tolist() == [1, 1, 1]


def test_slim_adds_the_sign_of_gamma_and_nothing_else() -> None:
    network, pruner = toy(), Slim(reg=0.5)
    pruner.attach(network, 0.5)
    for parameter in network.backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    pruner.regularize(network)
    for name, parameter in network.backbone.named_parameters():
        gamma = name in {"bn1.weight", "bn2.weight", "bn3.weight"}
        added = 0.5 * parameter.detach().sign() if gamma else torch.zeros_like(parameter)
        assert torch.equal(parameter.grad, 1 + added), name


def dense_blocks() -> PromptedClassifier:
    """Return a small DenseNet: every normalisation sees what several layers before it made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = DenseNet(4, (3, 2), num_init_features=8, num_classes=4)
    network = PromptedClassifier(backbone, 4, mapping=IdentityMapping())
    network.fit_mapping()
    unsettle(network)
    return network


def test_slim_penalises_a_normalisation_behind_a_concatenation_once() -> None:
    network, pruner = dense_blocks(), Slim(reg=0.5, input_size=32)
    pruner.attach(network, 0.25)
    norms = {n: m for n, m in network.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    sharing = [member.layer for group in pruner.groups for member in group.members]
    assert any(sharing.count(name) > 3 for name in norms)
    for parameter in network.backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    pruner.regularize(network)
    for name, parameter in network.backbone.named_parameters():
        layer, _, leaf = name.rpartition(".")
        gamma = layer in norms and leaf == "weight"
        added = 0.5 * parameter.detach().sign() if gamma else torch.zeros_like(parameter)
        assert torch.equal(parameter.grad, 1 + added), name


class Operators(TorchDispatchMode):
    """Counts what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.names[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


class Flattened(nn.Module):
    """A channel reaches 25 columns of the head, and a normalisation two groups."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 4, 3)
            self.norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 8, 3)
            self.head = nn.Linear(8 * 25, 4)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(torch.cat([self.left(images), self.right(images)], 1)).relu()
        return self.head(self.last(hidden).relu().flatten(1))


def flattened() -> PromptedClassifier:
    network = PromptedClassifier(Flattened(), 4, mapping=IdentityMapping())
    network.fit_mapping()
    for parameter in network.backbone.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return network


UNORDERED = {"aten::index_add", "aten::index_add_", "aten::scatter_add", "aten::scatter_add_"}


@pytest.mark.parametrize("new", [Slim, DepGraph, StructuredVPNs], ids=str)
def test_sums_over_channels_have_an_order_on_every_device(new: Callable[..., Structured]) -> None:
    network, pruner = flattened(), new(input_size=9)
    if new is StructuredVPNs:
        network = toy()
    operators = Operators()
    with operators:
        pruner.attach(network, 0.5)
        pruner.regularize(network)
        pruner.importance(network)
    assert not UNORDERED & operators.names.keys()


def test_energies_of_flattened_channels_are_the_sum_of_their_columns_one_by_one() -> None:
    network, pruner = flattened(), DepGraph(input_size=9)
    pruner.attach(network, 0.5)
    (group,) = [group for group in pruner.groups if group.name == "last"]
    energy, parts = group_energy(network, group)
    net = network.backbone
    expected = net.last.weight.detach().square().sum((1, 2, 3))
    for column, values in enumerate(net.head.weight.detach().square().sum(0)):
        expected[column // 25] += values
    assert torch.equal(energy, expected)
    assert parts == 2


@pytest.mark.parametrize("new", [Slim, DepGraph], ids=str)
def test_indices_stay_where_the_network_is(new: Callable[..., Structured]) -> None:
    network, pruner = flattened(), new(input_size=9)
    pruner.attach(network, 0.5)
    network.to("meta")  # attached before the network moves, as in a run
    for parameter in network.backbone.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize(network)
    operators = Operators()
    with operators:
        pruner.regularize(network)
        pruner.regularize(network)
    assert operators.names
    assert (
        not {"aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense"} & operators.names.keys()
    )


def test_gates_are_refreshed_without_a_read_from_the_device() -> None:
    network, pruner = toy(), StructuredVPNs(scope="global", round_to=2)
    pruner.attach(network, 0.4)
    network.to("meta")
    pruner.refresh(network)


@pytest.mark.parametrize(("reg", "kind"), [(0.5, Slim), (0.05, DepGraph)])
def test_penalties_reach_the_weights_through_a_step(reg: float, kind: Callable) -> None:
    norms = []
    for strength in (0.0, reg):
        network, pruner = toy().train(), kind(reg=strength)
        pruner.attach(network, 0.5)
        Learning(network, pruner, rate=0.1).run(pruner, toy_batches(6))
        norms.append(float(network.backbone.bn1.weight.detach().abs().sum()))
    assert norms[1] < 0.95 * norms[0]


@pytest.mark.parametrize("pruner", [Slim(), DepGraph()])
def test_gradients_that_float16_scales_are_refused(pruner: Structured) -> None:
    stage = MaskFinding(toy(), pruner, sparsity=0.5)
    stage._trainer = type("Half", (), {"precision": "16-mixed"})()
    with pytest.raises(UserError, match=r"combines gradients that trainer\.precision 16-mixed"):
        stage.make_optimizers()
    assert DepGraph(sparse_learning=False).scaled_gradients
    assert StructuredVPNs().scaled_gradients


def test_depgraph_without_sparse_learning_takes_no_epoch() -> None:
    assert DepGraph(sparse_learning=False).epochs(30) == 0
    assert DepGraph().epochs(30) == StructuredVPNs().epochs(30) == Slim().epochs(30) == 30


@pytest.mark.parametrize(
    ("pruner", "prompted", "plain"),
    [
        (StructuredVPNs(), "VPNs (structured)", "HYDRA (structured)"),
        (Slim(), "VPNs w. Slim", "Slim"),
        (DepGraph(), "VPNs w. DepGraph", "DepGraph"),
        (
            DepGraph(sparse_learning=False),
            "VPNs w. DepGraph (no sparse learning)",
            "DepGraph (no sparse learning)",
        ),
    ],
)
def test_methods_have_the_papers_names(pruner: Structured, prompted: str, plain: str) -> None:
    assert pruner.method(prompted=True) == prompted
    assert pruner.method(prompted=False) == plain


@every_method
@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, [3, 2]),
        ({"min_keep": 4}, [4, 4]),
        ({"round_to": 4}, [4, 4]),
        ({"scope": "global", "min_keep": 2}, None),
    ],
    ids=str,
)
def test_cuts_are_exact_to_the_channel(
    new: Callable[..., Structured], options: dict[str, object], channels: list[int] | None
) -> None:
    network, pruner = toy(), new(**options)
    pruner.attach(network, 0.5)
    pruner.finish(network, 0.5)
    made = [network.backbone.conv1.weight.shape[0], network.backbone.conv3.weight.shape[0]]
    assert made == channels if channels else sum(made) == 9 - 4
    assert min(made) >= options.get("min_keep", 1)
    assert network(torch.rand(2, 3, 12, 12)).shape == (2, 4)


def test_slim_leaves_groups_without_normalisation_whole() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.hidden(self.bn(self.conv(images)).mean((2, 3))).relu())

    network = PromptedClassifier(Mixed(), 4, mapping=IdentityMapping())
    network.fit_mapping()
    assert [g.name for g in find_groups(network, 8)] == ["conv", "hidden"]
    pruner = Slim(input_size=8)
    pruner.finish(network, 0.5)
    assert list(network.cuts.groups()) == ["conv"]
    assert network.backbone.hidden.weight.shape == (6, 2)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: Slim(scope="layer"), "scope group or global, got 'layer'"),
        (lambda: StructuredVPNs(gates="rows"), "factors or inputs, got 'rows'"),
        (
            lambda: StructuredVPNs(gates="inputs").attach(toy(exclude=["head"]), 0.5),
            "layer 'head' cannot carry a gate",
        ),
        (lambda: Slim(min_keep=0), "min_keep is a number of channels, at least 1, got 0"),
        (lambda: DepGraph(round_to=-1), "round_to is a number of channels"),
        (lambda: Slim(reg=-1.0), "at least 0, got -1.0"),
        (lambda: DepGraph(reg=-1.0), "at least 0, got -1.0"),
        (lambda: DepGraph(normalizer="sum"), "normalizer must be 'mean' or 'max', got 'sum'"),
        (
            lambda: Slim(input_size=8).attach(without_norms(), 0.5),
            "which those of Sequential have not: use vgg16_bn or a ResNet, or the DepGraph pruner",
        ),
        (lambda: StructuredVPNs().attach(zeros(), 0.5), "channels of 'conv3' are zero"),
        (lambda: DepGraph().attach(toy(exclude=["conv"]), 0.5), "finds no group of channels"),
        (
            lambda: DepGraph(scope="global", min_keep=4).attach(toy(), 0.8),
            "7 of 9 channels cannot be removed",
        ),
        (lambda: DepGraph().attach(cut_once(), 0.5), "channels of this network were cut before"),
        (
            lambda: StructuredVPNs(input_size=8).attach(without_factors(), 0.5),
            "layer '1' cannot carry a gate",
        ),
    ],
    ids=str,
)
def test_wrong_input_is_refused(act: Callable[[], None], said: str) -> None:
    with pytest.raises(UserError, match=said):
        act()


def shuffled(blocks: int) -> nn.Module:
    return ShuffleNetV2([blocks] * 3, [8, 16, 32, 32, 32], num_classes=4)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=4)


def transformer() -> nn.Module:
    return VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=4)


def swin() -> nn.Module:
    return SwinTransformer([2, 2], 8, [1, 1], [1, 1], [4, 4], num_classes=4)


class Mixing(nn.Module):
    """Channels change places, or become as many more, between two layers."""

    def __init__(self, mix: Callable[[Tensor], Tensor], channels: int = 12) -> None:
        super().__init__()
        self.mix = mix
        self.first, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.second, self.head = nn.Conv2d(channels, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.mix(self.norm(self.first(images)).relu())
        return self.head(self.second(hidden).relu().mean((2, 3)))


def heads(hidden: Tensor) -> Tensor:
    parts = hidden.unflatten(1, (4, 3))
    return (parts * parts.softmax(1)).flatten(1, 2)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (partial(shuffled, 2), "cannot be followed"),
        (partial(shuffled, 1), "cannot be followed"),
        (convnext, r"\(LayerNorm\) cannot be cut"),
        (transformer, r"\(LayerNorm\) cannot be cut"),
        (swin, "cannot be followed"),
        (partial(Mixing, nn.ChannelShuffle(3)), "cannot be followed"),
        (partial(Mixing, partial(torch.flip, dims=(1,))), "cannot be followed"),
        (partial(Mixing, nn.PixelShuffle(2), 3), "cannot be followed"),
        (partial(Mixing, heads), "does not run without some of its channels"),
    ],
    ids=["shuffle", "one shuffle", "convnext", "vit", "swin", "groups", "flip", "pixels", "heads"],
)
@pytest.mark.filterwarnings("ignore:.*not called as layers:UserWarning")
@pytest.mark.filterwarnings("error")  # Torch-Pruning's, that nobody can act on
def test_backbones_whose_channels_cannot_be_cut_are_pruned_as_the_refusal_says(
    build: Callable[[], nn.Module], said: str
) -> None:
    network = PromptedClassifier(build(), 4, mapping=IdentityMapping())
    network.fit_mapping()
    way = r"remove single weights of it .OMP.*, or take {}, {}, {} or {}$".format(*NAMED)
    for new in METHODS.values():
        with pytest.raises(UserError, match=f"{said}.*{way}"):
            new(input_size=32).attach(network, 0.5)
    OMP().finish(network, 0.5)
    assert sparsity_report(network).sparsity == pytest.approx(0.5, abs=1e-3)


def test_a_trial_cut_leaves_network_and_random_numbers_as_they_are() -> None:
    network = toy()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    find_groups(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())


def test_channels_that_an_operation_takes_together_are_cut_where_zeros_do_nothing_there() -> None:
    unit = partial(functional.normalize, dim=1)
    network = PromptedClassifier(Mixing(unit), 4, mapping=IdentityMapping())
    network.fit_mapping()
    DepGraph(input_size=32).finish(network, 0.5)
    assert network.backbone.first.weight.shape[0] == 6


def test_layers_that_read_several_groups_are_cut_by_the_pruner_that_the_refusal_names() -> None:
    for gates in ("factors", "inputs"):
        with pytest.raises(UserError, match=r"several groups.*: use DepGraph"):
            StructuredVPNs(gates=gates, input_size=32).attach(dense_blocks(), 0.25)
    network = dense_blocks()
    DepGraph(input_size=32).finish(network, 0.25)
    assert network.backbone.features.conv0.out_channels == 6
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def without_norms() -> PromptedClassifier:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    return PromptedClassifier(nn.Sequential(*layers), 5, mapping=IdentityMapping())


def zeros() -> PromptedClassifier:
    network = toy()
    with torch.no_grad():
        for layer, part in (("conv3", ...), ("bn3", ...), ("head", ...)):
            network.backbone.get_submodule(layer).weight[part] = 0
    return network


def without_factors() -> PromptedClassifier:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, 5))
    return PromptedClassifier(nn.Sequential(*layers), 5, mapping=IdentityMapping())


def cut_once() -> PromptedClassifier:
    network = toy()
    DepGraph().finish(network, 0.5)
    return network


def test_replaced_normalisation_is_noticed() -> None:
    network, pruner = toy(), StructuredVPNs()
    pruner.attach(network, 0.5)
    network.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(network.backbone)
    with pytest.raises(UserError, match=r"trainer\.sync_batchnorm replaces"):
        pruner.optimizers(network, torch.optim.SGD)


def test_slim_ranks_synchronised_normalisation_as_any_other() -> None:
    networks = toy(), toy()
    for network in networks:
        pruner = Slim()
        pruner.attach(network, 0.5)
        if network is networks[1]:  # as Lightning does under DDP, behind the pruner's back
            network.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(network.backbone)
        pruner.finish(network, 0.5)
    own, synchronised = (network.cuts.groups() for network in networks)
    assert own.keys() == synchronised.keys()
    assert all(torch.equal(own[name], synchronised[name]) for name in own)


@pytest.mark.parametrize("pruner", [StructuredVPNs, Slim, DepGraph])
def test_channels_are_cut_after_a_stage_that_synchronised_normalisation(
    pruner: type[Structured],
) -> None:
    network = toy()
    before = network.state_dict()
    kinds = [type(module) for module in network.modules()]
    with same_norms(network):
        sync = TorchSyncBatchNorm()
        sync.revert(sync.apply(network))
        assert [type(module) for module in network.modules()] != kinds
    assert [type(module) for module in network.modules()] == kinds
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    pruner().finish(network, 0.5)
    assert network.cuts.groups()


def test_bad_importances_are_named() -> None:
    network = toy()
    with torch.no_grad():
        network.backbone.bn3.weight[1] = math.nan
    with pytest.raises(UserError, match="layer 'conv3' has scores that are NaN"):
        Slim().finish(network, 0.5)


def test_a_loss_of_a_cut_network_trains_all_that_is_left() -> None:
    network = toy().train()
    DepGraph().finish(network, 0.5)
    images, labels = toy_batches(1)[0]
    functional.cross_entropy(network(images), labels).backward()
    assert all(p.grad is not None for p in network.parameters())

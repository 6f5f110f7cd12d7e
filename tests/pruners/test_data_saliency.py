"""SNIP, GraSP and Wanda: scores against slow references, images of each class, two processes."""

import copy
import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model

from pruners.scoring_loop import Loop, found, new_network
from reference import saliency_methods as slow
from reference.selection import keep_by_sorting
from reference.toy_networks import toy_batches
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PromptedClassifier
from vpns_lightning.pruners import SNIP, DataSaliency, GraSP, Wanda
from vpns_lightning.pruners.base import Batch
from vpns_lightning.pruners.grasp import hessian_times
from vpns_lightning.pruners.wanda import best_of, blocks, four_by_four, squares_seen
from vpns_lightning.sparsity import MaskedConv2d, MaskedLinear, mask_layers, masked_layers

WEIGHT, INPUT = torch.tensor([[1.0, 3.0, -1.0]]), torch.tensor([[1.0, 0.5, 2.0]])


class Squared(Loop):
    """The loss 0.5 (w x - 1)^2 of the hand-worked example."""

    def loss(self, view: str, batch: Batch) -> Tensor:
        weight = self.network.backbone[0].weight
        return 0.5 * ((weight * INPUT).sum() - 1) ** 2


def hand_worked() -> PromptedClassifier:
    backbone = nn.Sequential(nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        backbone[0].weight.copy_(WEIGHT)
    return PromptedClassifier(backbone, 1, mapping=IdentityMapping())


@pytest.mark.parametrize(("keep", "kept"), [(1, [2]), (2, [1, 2])])
def test_snip_by_hand(keep: int, kept: list[int]) -> None:  # T-2
    network, pruner = hand_worked(), SNIP(samples_per_class=1)
    pruner.attach(network, 0.5)
    Squared(network).run(pruner, [(INPUT, torch.tensor([0]))])
    assert pruner.scores(network)["0"].tolist() == [[0.5, 0.75, 1.0]]
    assert pruner.masks(network, 1 - keep / 3)["0"].flatten().nonzero().flatten().tolist() == kept


def test_grasp_by_hand() -> None:  # T-2
    weight = WEIGHT.clone().requires_grad_(True)
    loss = 0.5 * ((weight * INPUT).sum() - 1) ** 2
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    (product,) = hessian_times(loss, [weight], [gradient.detach()])
    assert gradient.tolist() == [[-0.5, -0.25, -1.0]]
    assert (WEIGHT * product).tolist() == [[-2.625, -3.9375, 5.25]]


def weights_of(network: PromptedClassifier) -> dict[str, Tensor]:
    return {
        f"backbone.{name}.weight": weight.detach().double()
        for name, weight in network.prunable().items()
    }


def reference_loss(
    network: PromptedClassifier, examples: Sequence[Batch], temperature: float = 1.0
) -> Callable[[slow.Weights], Tensor]:
    return slow.summed_loss(copy.deepcopy(network).double().eval(), examples, temperature)


def assert_close(scores: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, score in scores.items():
        reference = expected[f"backbone.{name}.weight"]
        scale = reference.abs().max()
        torch.testing.assert_close(score.double() / scale, reference / scale, atol=2e-5, rtol=0)


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_snip_is_the_derivative_with_respect_to_the_mask(prompt: bool, chunk: int) -> None:
    network, pruner = new_network(prompt), SNIP(samples_per_class=3, chunk=chunk)
    batches = toy_batches(4)
    loop = found(pruner, network, batches)
    examples = slow.balanced(batches, 3)
    expected = slow.snip(reference_loss(network, examples), weights_of(network))
    assert_close(pruner.scores(network), expected)
    if chunk == 1:
        assert loop.passes == len(examples)
    layers = [expected[f"backbone.{name}.weight"] for name in network.prunable()]
    masks = pruner.masks(network, 0.8)
    total = sum(layer.numel() for layer in layers)
    for mask, reference in zip(
        masks.values(), keep_by_sorting(layers, int(0.8 * total)), strict=True
    ):
        assert int((mask != reference).sum()) <= 1  # float32 may swap two scores at the threshold


def grasp_loss(
    network: PromptedClassifier, examples: Sequence[Batch], temperature: float, bn_mode: str
) -> Callable[[slow.Weights], Tensor]:
    """Return the loss that GraSP differentiates twice: of chunks of up to 3 images in all."""
    if bn_mode == "eval":
        return reference_loss(network, examples, temperature)
    chunks = slow.in_chunks(examples, -(-len(examples) // 3))
    return slow.training_loss(copy.deepcopy(network).double().train(), chunks, temperature)


@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
@pytest.mark.parametrize("prompt", [True, False])
def test_grasp_is_weight_times_the_change_of_the_gradient(
    temperature: float, bn_mode: str, prompt: bool
) -> None:
    network = new_network(prompt)
    pruner = GraSP(samples_per_class=2, chunk=3, temperature=temperature, bn_mode=bn_mode)
    batches = toy_batches(4)
    loop = found(pruner, network, batches)
    examples = slow.balanced(batches, 2)
    loss = grasp_loss(network, examples, temperature, bn_mode)
    expected = slow.grasp_by_differences(loss, weights_of(network))
    assert_close(pruner.scores(network), expected)
    assert pruner.held == []
    # of all images together 3 chunks: one pass for the gradient, three for the product
    assert (len(examples), loop.passes) == (8, 4 * 3)
    masks = slow.grasp_masks(expected, 600)
    for name, mask in pruner.masks(network, 600 / 824).items():
        assert int((mask != masks[f"backbone.{name}.weight"]).sum()) <= 1  # float32 may swap two


@pytest.mark.slow  # the Hessian of all 872 weights takes its time
@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_grasp_is_weight_times_hessian_times_gradient(temperature: float, bn_mode: str) -> None:
    network = new_network()
    pruner = GraSP(samples_per_class=2, chunk=3, temperature=temperature, bn_mode=bn_mode)
    batches = toy_batches(4)
    found(pruner, network, batches)
    loss = grasp_loss(network, slow.balanced(batches, 2), temperature, bn_mode)
    assert_close(pruner.scores(network), slow.grasp(loss, weights_of(network)))


def test_grasp_scores_in_training_mode_as_its_authors_do_unless_told_otherwise() -> None:
    def scores(**options: str) -> dict[str, Tensor]:
        network, pruner = new_network(), GraSP(samples_per_class=2, **options)
        found(pruner, network, toy_batches(4))
        return pruner.scores(network)

    default, train, stored = scores(), scores(bn_mode="train"), scores(bn_mode="eval")
    assert all(torch.equal(default[name], train[name]) for name in default)
    assert not any(torch.equal(default[name], stored[name]) for name in default)


@pytest.mark.parametrize("build", [SNIP, GraSP])
def test_statistics_of_chunks_do_not_depend_on_batches(build: type[DataSaliency]) -> None:
    images, labels = toy_batches(1, images=24)[0]
    sums = []
    for size in (5, 24):
        pruner, network = build(samples_per_class=4, chunk=8, bn_mode="train"), new_network()
        parts = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        found(pruner, network, list(parts))
        sums.append(pruner.sums)
    assert torch.equal(sums[0], sums[1])


class Pooled(nn.Module):
    """Normalises one value an image and channel: one image alone has no variance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(images).mean((2, 3), keepdim=True)).relu().flatten(1))


@pytest.mark.parametrize("build", [SNIP, GraSP, Wanda])
def test_an_image_that_comes_alone_is_normalised_with_others(build: type[DataSaliency]) -> None:
    network = PromptedClassifier(Pooled(), 4, mapping=IdentityMapping())
    images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    batches = [(images[:6], labels[:6]), (images[6:], labels[6:])]
    pruner = build(samples_per_class=2, chunk=2, bn_mode="train")
    found(pruner, network, batches)
    assert bool(torch.isfinite(pruner.sums).all())
    assert int(pruner.taken.sum()) == 7


def test_snip_in_training_mode_differentiates_the_loss_of_its_chunks() -> None:
    network, batches = new_network(), toy_batches(4)
    pruner = SNIP(samples_per_class=3, chunk=4, bn_mode="train")
    found(pruner, network, batches)
    chunks = slow.in_chunks(slow.balanced(batches, 3), 3)
    loss = slow.training_loss(copy.deepcopy(network).double().train(), chunks)
    assert_close(pruner.scores(network), slow.snip(loss, weights_of(network)))


class Attentive(nn.Module):
    """Patches of 4 px that attend to each other in torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patches, self.qkv = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 24)
            self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))


def test_grasp_differentiates_attention_twice() -> None:
    network = PromptedClassifier(Attentive(), 4, mapping=IdentityMapping())
    pruner, batches = GraSP(samples_per_class=2, temperature=1.0), toy_batches(4, size=12)
    found(pruner, network, batches)
    loss = reference_loss(network, slow.balanced(batches, 2))
    assert_close(pruner.scores(network), slow.grasp_by_differences(loss, weights_of(network)))


def test_grasp_can_score_a_classifier_drawn_anew() -> None:
    network = new_network()
    before = copy.deepcopy(network.state_dict())
    pruner = GraSP(samples_per_class=2, reinit_linear=True, temperature=2.0, bn_mode="eval")
    pruner.run_seed = 3
    batches = toy_batches(4)
    found(pruner, network, batches)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    drawn = copy.deepcopy(network)
    draws = torch.Generator().manual_seed(3)
    linear = [layer for _, layer in masked_layers(drawn.backbone) if isinstance(layer, nn.Linear)]
    for layer in linear:
        layer.weight.data = nn.init.xavier_normal_(torch.empty(layer.weight.shape), generator=draws)
    assert linear
    loss = reference_loss(drawn, slow.balanced(batches, 2), 2.0)
    assert_close(pruner.scores(network), slow.grasp_by_differences(loss, weights_of(drawn)))


@pytest.mark.parametrize("build", [SNIP, Wanda])
def test_state_of_version_0_1_0_is_read(build: type[DataSaliency]) -> None:
    pruner = build(samples_per_class=2)
    found(pruner, new_network(), toy_batches(4))
    state = pruner.state_dict()
    assert state.pop("_extra_state") == []  # what these pruners did not store then
    fresh = build(samples_per_class=2)
    fresh.attach(new_network(), 0.5)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.sums, pruner.sums)


def test_grasp_keeps_what_is_signed_highest() -> None:
    network, pruner = new_network(), GraSP(samples_per_class=2)
    found(pruner, network, toy_batches(4))
    scores = pruner.scores(network)
    kept = pruner.masks(network, 0.5)
    lowest_kept = min(float(s[kept[n]].min()) for n, s in scores.items() if kept[n].any())
    assert all(bool((s[~kept[n]] <= lowest_kept).all()) for n, s in scores.items())
    assert any(bool((s < 0).any()) for s in scores.values())


LAYERS = [
    nn.Conv2d(4, 6, 3, bias=False),
    nn.Conv2d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(1, 2)),
    nn.Conv2d(4, 6, 3, padding=1, groups=2),
    nn.Conv2d(4, 4, 5, stride=3, padding=2, groups=4),
    nn.Conv2d(4, 6, 1, stride=2),
]


@pytest.mark.parametrize("dense", LAYERS, ids=str)
def test_wanda_meets_the_inputs_of_unfolded_patches(dense: nn.Conv2d) -> None:
    inputs = torch.rand(3, 4, 11, 10, generator=torch.Generator().manual_seed(0))
    seen = squares_seen(MaskedConv2d.from_dense(dense), inputs).expand(dense.weight.shape)
    torch.testing.assert_close(seen, slow.wanda_squares(dense, inputs))


def test_wanda_of_a_linear_layer_is_the_norm_of_its_features() -> None:
    dense, inputs = nn.Linear(5, 3), torch.rand(7, 5)
    seen = squares_seen(MaskedLinear.from_dense(dense), inputs).expand(3, 5)
    torch.testing.assert_close(seen, slow.wanda_squares(dense, inputs))


def test_wanda_of_a_network_row_by_row() -> None:
    network, pruner, batches = new_network(), Wanda(samples_per_class=2), toy_batches(4)
    found(pruner, network, batches)
    inputs: dict[str, list[Tensor]] = {name: [] for name in network.prunable()}
    layers = dict(masked_layers(network.backbone))
    handles = [
        layer.register_forward_pre_hook(lambda _, args, to=inputs[name]: to.append(args[0]))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        network.eval()
        for image, _ in slow.balanced(batches, 2):
            network(image)
    for handle in handles:
        handle.remove()
    masks, scores = pruner.masks(network, 0.75), pruner.scores(network)
    for name, layer in layers.items():
        squares = slow.wanda_squares(layer, torch.cat(inputs[name]))
        expected = layer.weight.detach().abs() * squares.sqrt()
        torch.testing.assert_close(scores[name], expected)
        for row, mask in zip(expected.flatten(1), masks[name].flatten(1), strict=True):
            keep = int(mask.sum())
            assert abs(keep - 0.25 * len(row)) < 1
            assert mask.tolist() == slow.best_in_row(row.tolist(), keep)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.second(self.first(images).relu())).relu()


class Staged(nn.Module):
    """A stem, two stages of residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 8, 3)
            self.stages = nn.Sequential(
                nn.Sequential(Residual(8), Residual(8)), nn.Sequential(Residual(8))
            )
            self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images).relu()).mean((2, 3)))


BLOCKS = [
    ["stem"],
    *[[f"stages.{at}.first", f"stages.{at}.second"] for at in ("0.0", "0.1", "1.0")],
    ["head"],
]


def test_wanda_looks_behind_pruned_blocks_where_asked_to() -> None:
    masks = {}
    for sequential in (True, False):
        network = PromptedClassifier(Staged(), 4, mapping=IdentityMapping())
        pruner = Wanda(samples_per_class=2, chunk=3, sequential=sequential)
        loop = found(pruner, network, toy_batches(4))
        assert all(bool(layer.mask.all()) for _, layer in masked_layers(network.backbone))
        masks[sequential] = pruner.masks(network, 0.5)
        if sequential:
            assert loop.passes == 3 * len(BLOCKS)
    examples = torch.cat([image for image, _ in slow.balanced(toy_batches(4), 2)])
    images = (examples - network.mean) / network.std
    keep = {name: mask.flatten(1).sum(1).tolist() for name, mask in masks[True].items()}
    reference = slow.wanda_sequential(Staged().eval(), images, BLOCKS, keep)
    for name, mask in masks[True].items():
        assert torch.equal(mask, reference[name]), name
        assert torch.equal(mask.flatten(1).sum(1), masks[False][name].flatten(1).sum(1)), name
    assert torch.equal(masks[True]["stem"], masks[False]["stem"])
    same = [torch.equal(mask, masks[False][name]) for name, mask in masks[True].items()]
    assert same.count(False) >= 2


def test_blocks_of_known_backbones() -> None:
    with torch.device("meta"):
        networks = {n: get_model(n, weights=None) for n in ("resnet18", "vgg11", "vit_b_16")}
    sizes = {n: [len(names) for names in blocks(mask_layers(m))] for n, m in networks.items()}
    assert sizes["resnet18"] == [1, 2, 2, 3, 2, 3, 2, 3, 2, 1]
    assert sizes["vgg11"] == [1] * 11
    assert len(sizes["vit_b_16"]) == 1 + 12 + 1


def test_ties_in_a_row_are_kept_by_index() -> None:
    row = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    assert best_of(row, torch.tensor([2])).tolist() == [[True, True, False, False]]


def test_two_of_every_four_are_kept() -> None:
    row = torch.tensor([[4.0, 1, 2, 3, 0, 9, 8, 7], [1, 1, 1, 1, 5, 4, 3, 2]])
    assert four_by_four(row).long().tolist() == [[1, 0, 0, 1, 0, 1, 1, 0], [1, 1, 0, 0, 1, 1, 0, 0]]


def test_the_pattern_leaves_rows_of_other_lengths_dense() -> None:
    network, pruner = new_network(), Wanda(samples_per_class=2, pattern="2:4")
    found(pruner, network, toy_batches(4))
    masks = pruner.masks(network, 0.5)
    assert bool(masks["conv1"].all())  # 27 weights a row
    for name in ("conv2", "head"):
        assert set(masks[name].reshape(-1, 4).sum(1).tolist()) == {2}


def test_the_pattern_is_found_block_by_block_too() -> None:
    network = PromptedClassifier(Staged(), 4, mapping=IdentityMapping())
    pruner = Wanda(samples_per_class=2, pattern="2:4", sequential=True)
    found(pruner, network, toy_batches(4))
    masks = pruner.masks(network, 0.5)
    assert bool(masks.pop("stem").all())  # 27 weights a row
    assert all(set(mask.reshape(-1, 4).sum(1).tolist()) == {2} for mask in masks.values())


def test_the_pattern_needs_a_sparsity_of_one_half() -> None:
    with pytest.raises(UserError, match=r"removes half of the weights, but find.sparsity is 0\.9"):
        Wanda(pattern="2:4").attach(new_network(), 0.9)


def test_ratios_of_snip_are_kept_at_other_positions() -> None:
    def masks(**options: object) -> dict[str, Tensor]:
        network, pruner = new_network(), SNIP(samples_per_class=2, **options)
        found(pruner, network, toy_batches(4))
        return pruner.masks(network, 0.8)

    score, ratio, other = masks(), masks(positions="ratio"), masks(positions="ratio", seed=8)
    for name in score:
        assert score[name].sum() == ratio[name].sum() == other[name].sum()
    assert any(not torch.equal(score[name], ratio[name]) for name in score)
    assert any(not torch.equal(other[name], ratio[name]) for name in score)


def test_each_class_gives_as_many_images_and_no_more() -> None:
    network, pruner = new_network(), SNIP(samples_per_class=3)
    labels = torch.tensor([0, 0, 0, 0, 0, 1]), torch.tensor([1, 2, 2, 2, 2, 3])
    batches = [(toy_batches(1, seed=i)[0][0], part) for i, part in enumerate(labels)]
    pruner.attach(network, 0.5)
    loop = Loop(network)
    loop.run(pruner, batches)
    assert pruner.taken.tolist() == [[3, 2, 3, 1], [0, 0, 0, 0]]
    assert not pruner.done
    loop.run(pruner, [(batches[0][0], torch.tensor([3, 3, 1, 3, 0, 0]))])
    assert pruner.done
    passes = loop.passes
    pruner.step(loop, "prompted", batches[0])
    assert loop.passes == passes


def test_both_views_give_their_own_images() -> None:
    network, pruner = new_network(), SNIP(samples_per_class=1)
    pruner.attach(network, 0.5)
    loop, batch = Loop(network), (torch.rand(4, 3, 10, 10), torch.arange(4))
    pruner.step(loop, "prompted", batch)
    prompted = pruner.sums.clone()
    pruner.step(loop, "plain", batch)
    assert pruner.taken.tolist() == [[1] * 4] * 2
    assert not torch.equal(pruner.sums, 2 * prompted)
    assert pruner.done


def test_a_pruner_that_saw_no_image_says_so() -> None:
    network, pruner = new_network(), SNIP()
    pruner.attach(network, 0.5)
    with pytest.raises(UserError, match="SNIP has scored no image"):
        pruner.finish(network, 0.5)


class Rank(Loop):
    """One of two processes, as a thread; every sum waits for the other."""

    world_size = 2

    def __init__(self, network: PromptedClassifier, rank: int, meeting: "Meeting") -> None:
        super().__init__(network)
        self.global_rank = rank
        self.meeting = meeting

    def loss(self, view: str, batch: Batch) -> Tensor:
        loss = super().loss(view, batch)
        self.reduce(torch.zeros(()))  # a stage looks for bad losses everywhere
        return loss

    def reduce(self, tensor: Tensor) -> Tensor:
        return self.meeting.summed(self.global_rank, tensor)


class Meeting:
    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.parts: list[Tensor] = [torch.zeros(())] * 2

    def summed(self, rank: int, tensor: Tensor) -> Tensor:
        self.parts[rank] = tensor
        self.barrier.wait()
        total = self.parts[0] + self.parts[1]
        self.barrier.wait()
        return total


@pytest.mark.parametrize(
    "build",
    [
        lambda: SNIP(samples_per_class=3, chunk=4),
        lambda: GraSP(samples_per_class=3, chunk=2),
        lambda: GraSP(samples_per_class=3, chunk=2, bn_mode="eval"),
        lambda: SNIP(samples_per_class=3, chunk=4, bn_mode="train"),
        lambda: Wanda(samples_per_class=3, chunk=4),
        lambda: Wanda(samples_per_class=3, chunk=4, sequential=True),
    ],
)
def test_two_processes_find_what_one_finds(build: Callable[[], DataSaliency]) -> None:
    network, batches = new_network(), toy_batches(5, images=12)
    alone = build()
    found(alone, network, batches)
    pruners = [build(), build()]
    networks = [new_network(), new_network()]
    meeting = Meeting()

    def run(rank: int) -> None:
        pruners[rank].attach(networks[rank], 0.5)
        mine = [(images[rank::2], labels[rank::2]) for images, labels in batches]
        Rank(networks[rank], rank, meeting).run(pruners[rank], mine)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(pruners[0].sums, pruners[1].sums)
    assert torch.equal(pruners[0].taken, alone.taken)
    scale = alone.sums.abs().max()
    torch.testing.assert_close(pruners[0].sums / scale, alone.sums / scale, atol=1e-5, rtol=0)


def test_a_process_without_an_image_does_not_hold_up_the_others() -> None:
    meeting, pruners = Meeting(), [SNIP(samples_per_class=1), SNIP(samples_per_class=1)]
    networks = [new_network(), new_network()]
    images = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))

    def run(rank: int) -> None:
        pruners[rank].attach(networks[rank], 0.5)
        # the first has all four classes, the second only repeats one
        labels = torch.arange(4) if rank == 0 else torch.zeros(4, dtype=torch.int64)
        Rank(networks[rank], rank, meeting).run(pruners[rank], [(images, labels)])

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = SNIP(samples_per_class=1)
    batches = [(images, torch.arange(4))]
    # in a thread as well: those have a number of cores of their own, and sums their order
    thread = threading.Thread(target=found, args=(alone, new_network(), batches))
    thread.start()
    thread.join()
    assert torch.equal(pruners[1].sums, alone.sums)


def test_scores_do_not_depend_on_the_size_of_batches() -> None:
    images, labels = toy_batches(1, images=24)[0]
    sums = []
    for size in (6, 24):
        pruner, network = SNIP(samples_per_class=4), new_network()
        parts = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        found(pruner, network, list(parts))
        sums.append(pruner.sums)
    torch.testing.assert_close(sums[0], sums[1], atol=1e-4, rtol=1e-4)


def test_the_networks_own_loss_is_not_softened() -> None:
    network, pruner = new_network(), GraSP(samples_per_class=1)
    batch = toy_batches(1)[0]
    network.eval()
    before = functional.cross_entropy(network(batch[0]), batch[1])
    found(pruner, network, [batch])
    assert torch.equal(functional.cross_entropy(network(batch[0]), batch[1]), before)

"""SynFlow: by hand, against plain matrices, conservation, and what cannot be computed."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruners.scoring_loop import new_network
from reference import saliency_methods as slow
from toy_run import Parts
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import SynFlow
from vpns_lightning.sparsity import get_masks


class Pixels(nn.Module):
    """Takes single values of the image as features of linear layers without activation."""

    def __init__(self, *matrices: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(*reversed(matrix.shape), bias=False) for matrix in matrices)
        )
        with torch.no_grad():
            for layer, matrix in zip(self.layers, matrices, strict=True):
                layer.weight.copy_(matrix)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(1)[:, : self.layers[0].in_features])


def network_of(*matrices: Tensor) -> PromptedClassifier:
    backbone = Pixels(*matrices)
    return PromptedClassifier(backbone, len(matrices[-1]), mapping=IdentityMapping())


FIRST, SECOND = torch.tensor([[1.0, -2.0], [0.5, 0.0]]), torch.tensor([[3.0, -1.0]])


def test_the_hand_worked_scores() -> None:  # T-2.6
    scores = SynFlow(input_size=2).scores(network_of(FIRST, SECOND))
    assert scores["layers.0"].tolist() == [[3.0, 6.0], [0.5, 0.0]]
    assert scores["layers.1"].tolist() == [[9.0, 0.5]]
    assert [float(score.sum()) for score in scores.values()] == [9.5, 9.5]


def test_the_hand_worked_rounds() -> None:  # T-2.6
    network = network_of(FIRST, SECOND)
    after_one = SynFlow(rounds=1, input_size=2).masks(network, 0.5)
    assert after_one["layers.0"].tolist() == [[True, True], [False, False]]
    assert after_one["layers.1"].tolist() == [[True, False]]
    after_two = SynFlow(rounds=2, input_size=2).masks(network, 0.75)
    # 1.5 of 6 weights: one and a half are no count, so four are removed
    assert after_two["layers.0"].tolist() == [[False, True], [False, False]]
    assert after_two["layers.1"].tolist() == [[True, False]]


@pytest.mark.parametrize("rounds", [1, 3, 7])
def test_masks_are_those_of_plain_matrices(rounds: int) -> None:
    generator = torch.Generator().manual_seed(rounds)
    shapes = [(6, 5), (4, 6), (3, 4)]
    matrices = [torch.randn(*shape, generator=generator) for shape in shapes]
    total = sum(matrix.numel() for matrix in matrices)
    keep = [total - int(round((1 - 0.2 ** (t / rounds)) * total, 6)) for t in range(1, rounds + 1)]
    expected = slow.synflow([matrix.double() for matrix in matrices], keep)
    masks = SynFlow(rounds=rounds, input_size=3).masks(network_of(*matrices), 0.8)
    for mask, reference in zip(masks.values(), expected, strict=True):
        assert torch.equal(mask, reference.bool())


class Chain(nn.Module):
    """A sequential network without biases: convolutions, normalisation, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1, bias=False),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 8, 3, stride=2, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )
            self.head = nn.Linear(8, 4, bias=False)
            for bn in (self.body[1], self.body[4]):
                for tensor in (bn.weight, bn.bias, bn.running_mean):
                    nn.init.normal_(tensor)
                nn.init.uniform_(bn.running_var, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def test_flow_is_conserved_with_linear_normalisation() -> None:
    network = PromptedClassifier(Chain(), 4, mapping=IdentityMapping())
    sums = [float(s.sum()) for s in SynFlow(bn="linear", input_size=12).scores(network).values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    sums = [float(s.sum()) for s in SynFlow(input_size=12).scores(network).values()]
    assert sums[2] > 1.01 * sums[0]


def test_magnitudes_are_taken_of_running_means_too() -> None:
    network = PromptedClassifier(Chain(), 4, mapping=IdentityMapping())
    positive = SynFlow()._positive(network)
    own = dict(network.backbone.named_buffers())
    for name, buffer in positive.named_buffers():
        if buffer.is_floating_point():
            assert torch.equal(buffer, own[name].double().abs())


def test_the_canvas_of_the_prompt_is_what_flows() -> None:
    network = new_network()
    ours, told = SynFlow().scores(network), SynFlow(input_size=12).scores(network)
    other = SynFlow(input_size=20).scores(network)
    assert all(torch.equal(ours[name], told[name]) for name in ours)
    assert not torch.equal(ours["conv1"], other["conv1"])


def test_without_a_prompt_the_datas_own_size_flows() -> None:
    network, pruner = new_network(prompt=False), SynFlow()
    pruner.image_size = 20
    ours, told = pruner.scores(network), SynFlow(input_size=20).scores(network)
    assert all(torch.equal(ours[name], told[name]) for name in ours)


def test_no_size_is_made_up() -> None:
    with pytest.raises(UserError, match=r"SynFlow.* size of the images.* find\.pruner\.input_size"):
        SynFlow().masks(new_network(prompt=False), 0.5)


def masks_of_a_run(tmp_path: Path, prompt: bool) -> dict[str, Tensor]:
    parts = Parts(prompt=prompt, pruner=SynFlow(rounds=20), sparsity=0.7)
    if prompt:  # as large as the images
        parts.network.prompt = PadPrompt(parts.data.input_size, 2)
    parts.warmup, parts.tune.epochs = None, 0
    parts.fit(tmp_path / str(prompt))
    return get_masks(parts.network.backbone)


def test_runs_with_and_without_a_prompt_of_equal_size_find_the_same_mask(tmp_path: Path) -> None:
    prompted, plain = masks_of_a_run(tmp_path, True), masks_of_a_run(tmp_path, False)
    assert all(torch.equal(plain[name], mask) for name, mask in prompted.items())


def huge() -> PromptedClassifier:
    return network_of(*(torch.full((3, 3), 1e15) for _ in range(4)))


def test_overflow_of_float32_names_float64() -> None:
    with pytest.raises(UserError, match=r"layer 'layers\.0' are NaN or .* set dtype: float64"):
        SynFlow(dtype="float32", input_size=2).masks(huge(), 0.5)
    assert SynFlow(input_size=2).masks(huge(), 0.5)["layers.0"].dtype == torch.bool


def test_overflow_of_float64_is_refused_too() -> None:
    network = network_of(*(torch.full((3, 3), 1e38) for _ in range(9)))
    with pytest.raises(UserError, match="infinite in float64: check the weights"):
        SynFlow(input_size=2).masks(network, 0.5)


def test_rounds_are_counted_as_passes() -> None:
    pruner, network = SynFlow(rounds=7), new_network()
    pruner.finish(network, 0.5)
    assert pruner.finish_passes == 7


def test_layers_can_be_ranked_each_by_itself() -> None:
    masks = SynFlow(rounds=3, scope="layer").masks(new_network(), 0.75)
    assert {float(mask.double().mean()) for mask in masks.values()} == {0.25}


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SynFlow(rounds=2).finish(new_network(), 0.5)

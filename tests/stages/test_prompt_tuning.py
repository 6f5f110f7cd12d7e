"""The prompt alone learns; all else stays bit for bit, or is measured again where asked."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.toy_training import QUIET, ROWS, ToyData, fit, new_network, views_of
from toy_run import KillAt, Killed, Parts
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import FrequencyMapping, IterativeMapping, PromptedClassifier
from vpns_lightning.pruners import Hydra, Pruner, Stored
from vpns_lightning.runs.evaluation import evaluate
from vpns_lightning.stages import PromptTuning, SubnetworkTuning

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]


def sparse_network(**options: bool) -> PromptedClassifier:
    network, pruner = new_network(**options), Hydra()
    pruner.attach(network, 0.5)
    pruner.finish(network, 0.5)
    return network


def state(network: PromptedClassifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.backbone.state_dict().items()}


def masked(network: PromptedClassifier) -> dict[str, Tensor]:
    """Return the state with pruned weights zero: their values never matter."""
    values = state(network)
    for name in list(values):
        if name.endswith(".mask"):
            weight = name.removesuffix("mask") + "weight"
            values[weight] = values[weight] * values[name]
    return values


def test_only_the_prompt_learns() -> None:
    network = sparse_network()
    before = masked(network)
    trainer = fit(PromptTuning(network, epochs=2), ToyData(**views_of(3)))
    assert trainer.global_step == 6
    assert all(torch.equal(value, before[name]) for name, value in masked(network).items())
    region = network.prompt.region
    assert bool((network.prompt.delta[:, region] != 0).all())
    assert not bool(network.prompt.delta[:, ~region].any())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_its_gradient_is_that_of_the_network_in_evaluation() -> None:
    network = sparse_network()
    data = ToyData(**views_of(1))
    images, labels = data.views["prompted"][0]
    network.eval()
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    (gradient,) = torch.autograd.grad(loss, network.prompt.delta)
    network.train()
    stage = PromptTuning(network, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    fit(stage, data)
    torch.testing.assert_close(network.prompt.delta.detach(), -gradient, rtol=1e-4, atol=1e-7)


def test_a_network_without_a_prompt_is_refused() -> None:
    network = PromptedClassifier("resnet18", 4, mapping=FrequencyMapping())
    with pytest.raises(UserError, match=r"set network\.prompt"):
        PromptTuning(network, epochs=1)


def test_refitting_needs_the_whole_head() -> None:
    with pytest.raises(UserError, match="slice_head to false"):
        PromptTuning(new_network(), epochs=1, refit_mapping=True)


def pilot() -> Parts:
    return Parts(
        tune_views=("plain",),
        views=("plain",),
        mapping=FrequencyMapping(slice_head=False),
        prompt_stage={"epochs": 2, "refit_mapping": True, "recalibrate": True},
    )


def test_the_pilot_study_ends_with_the_prompt_and_resumes_exactly(tmp_path: Path) -> None:
    whole = pilot()
    result = whole.fit(tmp_path / "whole")
    assert list(result["stages"]) == ["warmup", "find", "tune", "prompt_tuning"]
    assert result["method"] == "HYDRA"  # found without its prompt
    assert result["test_accuracy"] == result["stages"]["prompt_tuning"]["accuracy"]["test_accuracy"]
    assert result["accuracy_before_prompt"] == result["stages"]["tune"]["accuracy"]["test_accuracy"]
    assert bool(whole.network.prompt.delta.any())
    KillAt.fired = False
    with pytest.raises(Killed):
        pilot().fit(tmp_path / "cut", KillAt("prompt_tuning", 1, 0))
    resumed = pilot()
    resumed.fit(tmp_path / "cut")
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_only_the_prompt_learns_though_the_mapping_is_refitted(tmp_path: Path) -> None:
    parts = Parts(views=("plain",), mapping=IterativeMapping(), prompt_stage={"epochs": 3})
    parts.fit(tmp_path / "with")
    without = Parts(views=("plain",), mapping=IterativeMapping())
    without.fit(tmp_path / "without")
    before = masked(without.network)
    assert all(torch.equal(value, before[name]) for name, value in masked(parts.network).items())


def unshown(pruner: Pruner | None = None) -> Parts:
    """Return a pilot study in which no stage before the last one learns the prompt."""
    parts = pilot()
    parts.warmup = SubnetworkTuning(parts.network, epochs=2, views=("plain",), name="warmup")
    if pruner is not None:
        parts.find.pruner = pruner
    return parts


def test_the_arm_without_a_prompt_has_the_mapping_and_statistics_of_that_with_it(
    tmp_path: Path,
) -> None:
    parts = unshown()
    parts.fit(tmp_path / "arm")
    parts.network.prompt.delta.data.zero_()
    arm = evaluate(parts.network, parts.data).test_accuracy
    result = unshown().fit(tmp_path / "pilot")
    assert arm != result["stages"]["tune"]["accuracy"]["test_accuracy"]
    assert result["accuracy_before_prompt"] == arm


def test_a_prompt_that_was_inherited_is_there_before_it_is_tuned(tmp_path: Path) -> None:
    pilot().fit(tmp_path / "source")
    result = unshown(Stored(str(tmp_path / "source" / "masks.safetensors"))).fit(tmp_path / "run")
    assert result["accuracy_before_prompt"] == result["stages"]["tune"]["accuracy"]["test_accuracy"]


def test_the_mapping_is_fitted_on_the_sparse_network(tmp_path: Path) -> None:
    parts = pilot()
    parts.fit(tmp_path)
    network, data = parts.network, parts.data
    network.eval()
    loader = data.mapping_dataloader()
    batches = ((data.mapping_transform(images, rows), labels) for images, labels, rows in loader)
    counts = network.count_predictions(batches)
    assert torch.equal(
        network.mapping.sequence, network.mapping.assign(counts, network.source_classes)
    )


def test_recalibration_measures_the_mean_of_the_batches(tmp_path: Path) -> None:
    parts = pilot()
    parts.fit(tmp_path)
    network, data = parts.network, parts.data
    network.train()
    first = network.backbone.get_submodule("conv1")
    norm = network.backbone.get_submodule("bn1")
    means = []
    for images, _, rows in data.mapping_dataloader():
        plain = data.mapping_transform(images, rows)
        inputs = (torch.nn.functional.pad(plain, (2, 2, 2, 2)) - network.mean) / network.std
        means.append(first(inputs).detach().mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    assert len(ROWS) == network.num_classes

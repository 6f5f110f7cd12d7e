"""What was done to a network can be done again: in a notebook, on folders, on loaded networks."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import vpns_lightning as vpns
from reference.toy_networks import ToyNet
from toy_run import Parts


class Sized(ToyNet):
    """A backbone that cannot be built without its argument."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes


def tracked(network: nn.Module) -> set[int]:
    """Return how many batches the layers of batch normalisation have averaged over."""
    norms = (m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    return {int(m.num_batches_tracked) for m in norms if m.num_batches_tracked is not None}


def test_a_network_in_evaluation_mode_is_trained_like_any(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.OMP(), sparsity=0.5)
    parts.fit(tmp_path / "one")
    once = tracked(parts.network)
    assert min(once) > 0
    parts.network.eval()
    parts.fit(tmp_path / "two")
    assert tracked(parts.network) == {2 * count for count in once}


def test_a_finished_folder_fills_the_network_that_it_is_given(tmp_path: Path) -> None:
    first = Parts(pruner=vpns.OMP(), sparsity=0.5)
    result = first.fit(tmp_path / "run")
    again = Parts(pruner=vpns.OMP(), sparsity=0.5)
    assert again.fit(tmp_path / "run") == result
    state = first.network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in again.network.state_dict().items())


def test_a_folder_of_fit_stages_needs_the_network_only_where_it_was_built_by_hand(
    tmp_path: Path,
) -> None:
    def built() -> Parts:
        parts = Parts(pruner=vpns.OMP(), sparsity=0.5)
        parts.network.backbone.__class__ = Sized
        parts.network.backbone_name = "Sized"
        return parts

    parts = built()
    parts.fit(tmp_path / "run")
    images = torch.rand(2, 3, parts.data.input_size, parts.data.input_size)
    expected = parts.network.eval()(images)
    with pytest.raises(vpns.UserError, match=r"vpns\.load\(.*network=\.\.\.\)"):
        vpns.load(tmp_path / "run")
    fresh = built().network
    torch.testing.assert_close(
        vpns.load(tmp_path / "run", network=fresh)(images), expected, rtol=1e-4, atol=1e-5
    )


def test_a_network_by_name_is_built_again_from_its_folder(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.OMP(), sparsity=0.5)
    network = vpns.PromptedClassifier(
        "resnet18",
        parts.data.num_classes,
        prompt=vpns.PadPrompt(canvas_size=32, pad_size=8),
        mapping=vpns.RandomMapping(seed=3, slice_head=False),
        source_classes=7,
        exclude=["conv1"],
    )
    find = vpns.MaskFinding(network, vpns.OMP(), sparsity=0.5, epochs=0)
    tune = vpns.SubnetworkTuning(network, epochs=1)
    options = {"accelerator": "cpu", "limit_train_batches": 1, "enable_progress_bar": False}
    run = tmp_path / "run"
    vpns.fit_stages(network, parts.data, find=find, tune=tune, run_dir=str(run), trainer=options)
    images = torch.rand(2, 3, parts.data.input_size, parts.data.input_size)
    torch.testing.assert_close(vpns.load(run)(images), network.eval()(images), rtol=1e-4, atol=1e-5)
    stored = yaml.safe_load((run / "config.yaml").read_text())["network"]
    assert stored["prompt"]["init_args"]["pad_size"] == 8
    assert stored["exclude"] == ["conv1"]


def test_a_folder_of_version_0_1_0_goes_on(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.OMP(), sparsity=0.5)
    result = parts.fit(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    # names of classes, without their arguments
    network = {k: stored["network"][k] for k in ("backbone", "weights", "prompt", "mapping")}
    network["backbone"] = type(parts.network.backbone).__name__
    network["mapping"] = type(parts.network.mapping).__name__
    prompt = parts.network.prompt
    network["prompt"] = None if prompt is None else type(prompt).__name__
    stored["network"] = network
    stored["data"] = {"class_path": parts.data.name, "input_size": parts.data.input_size}
    stored["find"]["pruner"] = "OMP"
    path.write_text(yaml.safe_dump(stored))
    assert parts.fit(tmp_path / "run") == result
    other = Parts(pruner=vpns.OMP(), sparsity=0.25)
    with pytest.raises(vpns.UserError, match=r"find\.sparsity"):
        other.fit(tmp_path / "run")

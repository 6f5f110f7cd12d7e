"""Whole runs of a vision transformer: masks on attention survive kills, hand-offs and loading."""

from functools import partial
from pathlib import Path

import pytest
import torch

import vpns_lightning as vpns
from reference.toy_networks import ToyViT
from toy_run import KillAt, Killed, Parts
from vpns_lightning.runs.handoff import load_network
from vpns_lightning.sparsity import get_masks, prune_count

# the patches of so small a transformer rank below all else
pytestmark = pytest.mark.filterwarnings("ignore:layer collapse")


def new_parts(pruner: vpns.Pruner) -> Parts:
    return Parts(pruner=pruner, sparsity=0.5, epochs=1, backbone=ToyViT(classes=6, size=16))


@pytest.mark.parametrize("place", [("find", 0, 1), ("tune", 0, 0)], ids=str)
@pytest.mark.parametrize("pruner", [vpns.Hydra, vpns.BiP, partial(vpns.LTH, snap="clip")], ids=str)
def test_killed_and_resumed_equals_uninterrupted(
    pruner: type[vpns.Pruner], place: tuple[str, int, int], tmp_path: Path
) -> None:
    whole = new_parts(pruner())
    result = whole.fit(tmp_path / "whole")
    total = result["weights_prunable"]
    assert result["weights_kept"] == total - prune_count(total, 0.5)
    assert "blocks.0.attention.in_proj" in result["sparsity_per_layer"]
    KillAt.fired = False
    with pytest.raises(Killed):
        new_parts(pruner()).fit(tmp_path / "cut", KillAt(*place))
    resumed = new_parts(pruner())
    resumed.fit(tmp_path / "cut")
    expected = whole.network.state_dict()
    for key, value in resumed.network.state_dict().items():
        assert torch.equal(value, expected[key]), key
    loaded = new_parts(pruner()).network
    load_network(tmp_path / "whole" / "handoff.safetensors", loaded)
    images = torch.rand(2, 3, 12, 12)
    assert torch.equal(loaded.eval()(images), whole.network.eval()(images))
    stored = new_parts(vpns.Stored(str(tmp_path / "whole" / "masks.safetensors")))
    stored.network.fit_mapping(torch.eye(6, 4, dtype=torch.int64))
    stored.find.pruner.attach(stored.network, result["sparsity"])
    masks = get_masks(whole.network.backbone)
    for layer, mask in get_masks(stored.network.backbone).items():
        assert torch.equal(mask, masks[layer]), layer

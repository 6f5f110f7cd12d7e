"""The pruner that removes nothing, and what the methods are called."""

import pytest
import torch

from reference.toy_networks import ToyNet
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners import LTH, BiP, Dense, GradualMagnitude, Hydra, Pruner, RigL
from vpns_lightning.sparsity import get_masks


def test_dense_refuses_a_sparsity() -> None:
    with pytest.raises(UserError, match=r"removes nothing, but find.sparsity is 0\.9"):
        Dense().attach(PromptedClassifier(ToyNet(), 4), 0.9)


def test_dense_keeps_every_weight() -> None:
    network = PromptedClassifier(ToyNet(), 4)
    network.backbone.conv1.mask.fill_(False)
    Dense().attach(network, 0)
    Dense().finish(network, 0)
    assert all(bool(torch.all(mask)) for mask in get_masks(network.backbone).values())


def test_dense_needs_no_epochs() -> None:
    assert Dense().epochs(30) == 0
    assert Hydra().epochs(30) == 30


@pytest.mark.parametrize(
    ("pruner", "prompted", "name"),
    [
        (Hydra(), True, "VPNs"),
        (Hydra(), False, "HYDRA"),
        (LTH(), True, "VPNs w. LTH"),
        (LTH(), False, "LTH"),
        (BiP(), True, "VPNs w. BiP"),
        (BiP(), False, "BiP"),
        (GradualMagnitude(), True, "VPNs w. GMP"),
        (GradualMagnitude(), False, "GMP"),
        (RigL(), True, "VPNs w. RigL"),
        (RigL(), False, "RigL"),
        (Dense(), True, "VPNs w. Dense"),
        (Dense(), False, "Dense"),
    ],
)
def test_methods_are_called_as_in_the_paper(pruner: Pruner, prompted: bool, name: str) -> None:
    assert pruner.method(prompted=prompted) == name

"""Which channels are kept: exact counts in every group, or over all."""

import pytest
import torch

from vpns_lightning.base.errors import UserError
from vpns_lightning.sparsity import keep_channels

SCORES = {"a": torch.tensor([0.4, 0.1, 0.3, 0.2]), "b": torch.tensor([0.9, 0.8, 0.7])}


def kept(**options: object) -> dict[str, list[int]]:
    chosen = keep_channels(SCORES, **options)
    return {name: mask.nonzero().flatten().tolist() for name, mask in chosen.items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sparsity": 0.5}, {"a": [0, 2], "b": [0, 1]}),
        ({"sparsity": 0.0}, {"a": [0, 1, 2, 3], "b": [0, 1, 2]}),
        ({"sparsity": 0.9}, {"a": [0], "b": [0]}),
        ({"sparsity": 0.9, "min_keep": 2}, {"a": [0, 2], "b": [0, 1]}),
        ({"sparsity": 0.9, "min_keep": 9}, {"a": [0, 1, 2, 3], "b": [0, 1, 2]}),
        ({"sparsity": 0.5, "round_to": 3}, {"a": [0, 2, 3], "b": [0, 1, 2]}),
        # three of seven: those of the first group, which keeps one
        ({"sparsity": 0.5, "scope": "global"}, {"a": [0], "b": [0, 1, 2]}),
        ({"sparsity": 0.6, "scope": "global"}, {"a": [0], "b": [0, 1]}),
        ({"sparsity": 0.5, "scope": "global", "min_keep": 2}, {"a": [0, 2], "b": [0, 1]}),
        ({"sparsity": 0.5, "scope": "global", "round_to": 2}, {"a": [0, 2], "b": [0, 1, 2]}),
    ],
    ids=str,
)
def test_channels_by_hand(options: dict[str, object], expected: dict[str, list[int]]) -> None:
    assert kept(**options) == expected


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("channels", [1, 7, 10, 64])
def test_counts_are_exact_with_ties(sparsity: float, channels: int) -> None:
    mask = keep_channels({"a": torch.zeros(channels)}, sparsity)["a"]
    removed = min(int(sparsity * channels + 1e-6), channels - 1)
    assert mask.tolist() == [True] * (channels - removed) + [False] * removed


def test_too_little_to_remove_names_the_remedy() -> None:
    with pytest.raises(UserError, match=r"5 of 7 channels.*at most 3 can; lower find.sparsity"):
        kept(sparsity=0.8, scope="global", min_keep=2)

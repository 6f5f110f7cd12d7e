"""Which channels are kept: exact counts in every group, or over all."""

import pytest
import torch

from vpns_lightning.base.errors import UserError
from vpns_lightning.sparsity import keep_channels

SCORES = {"a": torch.tensor([0.4, 0.1, 0.3, 0.2]), "b": torch.tensor([0.9, 0.8, 0.7])}


SIZES = {"a": 8, "b": 3, "c": 16}


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


@pytest.mark.parametrize("round_to", [1, 2, 3])
@pytest.mark.parametrize("min_keep", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_channels_of_all_groups_are_ranked_together(
    seed: int, min_keep: int, round_to: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # few values, so that many tie
    scores = {n: torch.randint(0, 5, (c,), generator=generator).float() for n, c in SIZES.items()}
    kept = keep_channels(scores, 0.6, scope="global", min_keep=min_keep, round_to=round_to)
    entries = [
        (-(9.0 if place < min_keep else value), name, place, channel)
        for name, score in scores.items()
        for place, channel in enumerate(score.argsort(descending=True, stable=True).tolist())
        for value in [float(score[channel])]
    ]
    order = {name: index for index, name in enumerate(SIZES)}
    entries.sort(key=lambda entry: (entry[0], order[entry[1]], entry[3]))
    chosen = entries[: sum(SIZES.values()) - int(0.6 * sum(SIZES.values()))]
    for name, mask in kept.items():
        count = sum(entry[1] == name for entry in chosen)
        rounded = min(SIZES[name], -(-count // round_to) * round_to)
        best = scores[name].argsort(descending=True, stable=True)[:rounded]
        assert mask.nonzero().flatten().tolist() == sorted(best.tolist()), name


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("round_to", [1, 4])
def test_nothing_is_read_from_the_device(scope: str, round_to: int) -> None:
    # a tensor without values, as every read would fail
    scores = {name: torch.empty(count, device="meta") for name, count in SIZES.items()}
    kept = keep_channels(scores, 0.5, scope=scope, round_to=round_to)
    assert {name: mask.shape for name, mask in kept.items()} == {n: (c,) for n, c in SIZES.items()}


def test_too_little_to_remove_names_the_remedy() -> None:
    with pytest.raises(UserError, match=r"5 of 7 channels.*at most 3 can; lower find.sparsity"):
        kept(sparsity=0.8, scope="global", min_keep=2)

"""Orders with one rank and with several."""

from typing import Any

import pytest

from vpns_lightning.data import EvalSampler, ViewSampler

IMAGES = range(23)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_together_see_each_image(ranks: int) -> None:
    parts = [list(ViewSampler(IMAGES, num_replicas=ranks, rank=rank)) for rank in range(ranks)]
    assert {len(part) for part in parts} == {-(-23 // ranks)}
    seen = [index for part in parts for index in part]
    assert set(seen) == set(IMAGES)
    assert len(seen) - 23 < ranks


def test_ranks_share_the_order_of_a_single_rank() -> None:
    alone = list(ViewSampler(range(24)))
    shared = [list(ViewSampler(range(24), num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert alone[0::2] == shared[0]
    assert alone[1::2] == shared[1]


@pytest.mark.parametrize("other", [{"view": "plain"}, {"stage": "tune"}, {"seed": 8}, {"epoch": 1}])
def test_view_stage_seed_and_epoch_each_change_the_order(other: dict[str, object]) -> None:
    base: dict[str, Any] = {"view": "prompted", "stage": "find", "seed": 7, "epoch": 0}
    first, again = (list(ViewSampler(IMAGES, **base)) for _ in range(2))
    changed = list(ViewSampler(IMAGES, **(base | other)))
    assert first == again
    assert first != changed


def test_a_resumed_epoch_yields_the_rest_and_keeps_its_length() -> None:
    whole = list(ViewSampler(IMAGES, epoch=2))
    sampler = ViewSampler(IMAGES, epoch=2, start=8)
    assert list(sampler) == whole[8:]
    assert len(sampler) == 23


def test_start_leaves_the_next_epochs_whole() -> None:
    sampler = ViewSampler(IMAGES, epoch=2, start=8)
    sampler.set_epoch(3)
    assert list(sampler) == list(ViewSampler(IMAGES, epoch=3))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_evaluation_counts_each_image_once(ranks: int) -> None:
    parts = [list(EvalSampler(IMAGES, num_replicas=ranks, rank=rank)) for rank in range(ranks)]
    assert sorted(index for part in parts for index in part) == list(IMAGES)
    assert all(part == sorted(part) for part in parts)
    assert [len(EvalSampler(IMAGES, num_replicas=ranks, rank=r)) for r in range(ranks)] == [
        len(part) for part in parts
    ]

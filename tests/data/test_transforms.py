"""Batched transforms against torchvision's own, image by image."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

import toy_data
from vpns_lightning.base.seeds import stream_key
from vpns_lightning.data import EvalTransform, TrainTransform
from vpns_lightning.data.images.decode import Pixels, resize
from vpns_lightning.data.images.transforms import _gather

KEY = stream_key(7, "find", "prompted", 3)


def images_of(size: tuple[int, int], count: int = 12) -> list[Image.Image]:
    return [toy_data.noise(seed, size) for seed in range(count)]


def batch_of(arrays: Sequence[Image.Image | Pixels]) -> Tensor:
    pixels = np.stack([np.asarray(array) for array in arrays])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def torchvision_train(images: list[Image.Image], transform: TrainTransform, key: int) -> Tensor:
    """Resize, crop and flip each PIL image at the offsets of `transform`."""
    top, left, flip = transform.offsets(torch.arange(len(images)), key)
    side, out = transform.input_size, []
    for image, y, x, flipped in zip(
        images, top.tolist(), left.tolist(), flip.tolist(), strict=True
    ):
        large = F.resize(image, [transform.resized] * 2, InterpolationMode.BILINEAR)
        crop = F.crop(large, y, x, side, side)
        out.append(F.to_tensor(F.hflip(crop) if flipped else crop))
    return torch.stack(out)


@pytest.mark.parametrize(("size", "side"), [((50, 37), 32), ((20, 90), 32), ((300, 260), 224)])
def test_cropping_resized_images_equals_torchvision_exactly(
    size: tuple[int, int], side: int
) -> None:
    images = images_of(size)
    transform = TrainTransform(side)
    stored = batch_of([resize(image, transform.resized) for image in images])
    ours = transform(stored, torch.arange(len(images)), KEY)
    assert torch.equal(ours, torchvision_train(images, transform, KEY))


def test_gathering_and_copying_crops_are_the_same() -> None:
    transform = TrainTransform(32)
    stored = batch_of(images_of((36, 36)))
    copied = transform(stored, torch.arange(12), KEY)
    top, left, flip = transform.offsets(torch.arange(12), KEY)
    steps = torch.arange(32)
    columns = left[:, None] + torch.where(flip[:, None] == 1, steps.flip(0), steps)
    gathered = _gather(stored, top[:, None] + steps, columns)
    assert torch.equal(copied, gathered)


@pytest.mark.parametrize(("size", "side"), [((32, 32), 224), ((64, 64), 224), ((48, 40), 32)])
def test_resizing_on_the_device_is_within_one_level_of_torchvision(
    size: tuple[int, int], side: int
) -> None:
    images = images_of(size)
    transform = TrainTransform(side)
    ours = transform(batch_of(images), torch.arange(len(images)), KEY)
    reference = torchvision_train(images, transform, KEY)
    assert (ours - reference).abs().max() <= 1 / 255 + 1e-5
    assert (ours - reference).abs().mean() < 0.35 / 255


@pytest.mark.parametrize(("size", "side"), [((32, 32), 224), ((32, 32), 32), ((48, 40), 32)])
def test_evaluation_is_within_one_level_of_torchvision(size: tuple[int, int], side: int) -> None:
    images = images_of(size)
    ours = EvalTransform(side)(batch_of(images))
    reference = torch.stack(
        [F.to_tensor(F.resize(image, [side, side], InterpolationMode.BILINEAR)) for image in images]
    )
    assert (ours - reference).abs().max() <= 1 / 255 + 1e-5


@pytest.mark.parametrize("channels_last", [True, False])
def test_results_are_float_images_in_the_asked_memory_format(channels_last: bool) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    train = TrainTransform(24, channels_last=channels_last)
    evaluate = EvalTransform(24, channels_last=channels_last)
    for side in (16, 24, 27, 32):
        batch = batch_of(images_of((side, side), 5))
        for out in (train(batch, torch.arange(5), KEY), evaluate(batch)):
            assert out.shape == (5, 3, 24, 24)
            assert out.dtype == torch.float32
            assert out.is_contiguous(memory_format=memory_format)
            assert out.min() >= 0
            assert out.max() <= 1 + 1e-6


def test_offsets_and_flips_are_uniform_and_independent() -> None:
    top, left, flip = TrainTransform(224).offsets(torch.arange(58_000), KEY)
    for offset in (top, left):
        counts = torch.bincount(offset, minlength=29).double()
        # chi-square with 28 degrees of freedom: 56.9 is exceeded once in a thousand
        assert len(counts) == 29
        assert ((counts - 2000) ** 2 / 2000).sum() < 56.9
    assert abs(flip.double().mean() - 0.5) < 0.01
    correlation = torch.corrcoef(torch.stack([top, left, flip]).double())
    assert (correlation - torch.eye(3)).abs().max() < 0.02


def test_an_images_augmentation_does_not_depend_on_its_batch() -> None:
    transform = TrainTransform(32)
    batch = batch_of(images_of((40, 40)))
    whole = transform(batch, torch.arange(100, 112), KEY)
    part = transform(batch[[7, 2]], torch.tensor([107, 102]), KEY)
    assert torch.allclose(part, whole[[7, 2]], atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        (8, "find", "prompted", 3),
        (7, "tune", "prompted", 3),
        (7, "find", "plain", 3),
        (7, "find", "prompted", 4),
    ],
)
def test_seed_stage_view_and_epoch_each_change_the_augmentation(other: tuple[object, ...]) -> None:
    transform, indices = TrainTransform(224), torch.arange(1000)
    here = torch.stack(transform.offsets(indices, KEY))
    there = torch.stack(transform.offsets(indices, stream_key(*other)))
    assert (here == there).double().mean() < 0.25


def splitmix64(word: int) -> int:
    """Mix one 64-bit word, in plain integers (Steele et al., 2014)."""
    mask = (1 << 64) - 1
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & mask
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & mask
    return word ^ (word >> 31)


def test_offsets_are_the_splitmix64_of_key_and_index() -> None:
    offsets = TrainTransform(224).offsets(torch.tensor([0, 5, 49_999]), KEY)
    for draw, (values, high) in enumerate(zip(offsets, (29, 29, 2), strict=True)):
        expected = []
        for index in (0, 5, 49_999):
            word = (KEY + (3 * index + draw + 1) * 0x9E3779B97F4A7C15) % (1 << 64)
            expected.append((splitmix64(word) >> 33) * high >> 31)
        assert values.tolist() == expected


def test_stream_keys_never_change() -> None:
    assert stream_key(7, "find", "prompted", 3) == -7209958791676341338


class _NoScalarReads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        assert "_local_scalar_dense" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("side", [32, 36])
def test_no_value_is_read_back_from_the_device(side: int) -> None:
    batch = batch_of(images_of((side, side)))
    with _NoScalarReads():  # type: ignore[no-untyped-call]  # untyped in torch
        TrainTransform(32)(batch, torch.arange(len(batch)), KEY)
        EvalTransform(32)(batch)


def test_a_first_call_in_inference_mode_does_no_harm_later() -> None:
    batch = batch_of(images_of((29, 29)))
    with torch.inference_mode():
        EvalTransform(31)(batch)
    out = EvalTransform(31)(batch)
    assert not out.is_inference()
    (out * torch.ones((), requires_grad=True)).sum().backward()


def test_nothing_is_drawn_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    TrainTransform(32)(batch_of(images_of((32, 32))), torch.arange(12), KEY)
    assert torch.equal(before, torch.get_rng_state())

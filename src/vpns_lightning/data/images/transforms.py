"""Resize, crop, flip and scale whole batches on whatever device they are on.

Every random number is a hash of (seed, stage, view, epoch, image): how an image is augmented does
not depend on the batch it comes in, on the rank, on the worker or on where a run was resumed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pixels: TypeAlias = npt.NDArray[Any]

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def random_integers(key: int, indices: Tensor, draw: int, high: int) -> Tensor:
    """Return one number in [0, high) for each index: the splitmix64 generator as a hash.

    Args:
        key: Stream to draw from, see ``stream_key``.
        indices: int64 tensor of shape (N,).
        draw: Which number of each index's sequence, 0, 1, 2, ...
        high: Exclusive upper bound, at most 2^31.

    Returns:
        int64 tensor of shape (N,).
    """
    # three draws an index; int64 arithmetic wraps around, as the generator wants
    bits = (indices * 3 + draw + 1) * _signed(_GAMMA) + key
    bits = (bits ^ _shift(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shift(bits, 27)) * _signed(_MIX_2)
    bits = bits ^ _shift(bits, 31)
    return (_shift(bits, 33) * high) >> 31


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(bits: Tensor, by: int) -> Tensor:
    # >> on int64 copies the sign bit; the mask makes it a logical shift
    return (bits >> by) & ((1 << (64 - by)) - 1)


def train_size(input_size: int) -> int:
    """Return the side in pixels from which crops of ``input_size`` are cut (9/8 of it)."""
    return round(input_size * 9 / 8)


@lru_cache(maxsize=16)
def resize_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """Return the matrix of shape (target, source) that resizes one axis bilinearly.

    Rows sum to one and are non-negative, so values stay in their range. Antialiased as in PIL.
    """
    # kept for later calls, which may need gradients: the first may come from a validation
    with torch.inference_mode(False):
        identity = torch.eye(source, dtype=torch.float64, device="cpu")[None, None]
        weights = F.interpolate(identity, (target, source), mode="bilinear", antialias=True)
        return weights[0, 0].float().to(device)


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize by matrices, one for all images or one for each.

    Args:
        images: uint8 tensor of shape (N, 3, h, w).
        rows: Weights of shape (i, h) or (N, i, h).
        columns: Weights of shape (i, w) or (N, i, w).

    Returns:
        float32 tensor of shape (N, 3, i, i) in channels_last order, values in [0, 1].
    """
    count, channels, height, width = images.shape
    side = rows.shape[-2]
    with torch.autocast(images.device.type, enabled=False):
        pixels = images.float().div_(255).reshape(count, channels * height, width)
        narrow = torch.matmul(pixels, columns.transpose(-1, -2))
        # height first, then (column, channel): the second product is channels_last as it comes
        narrow = narrow.view(count, channels, height, side).permute(0, 2, 3, 1)
        wide = torch.matmul(rows, narrow.reshape(count, height, side * channels))
    return wide.view(count, side, side, channels).permute(0, 3, 1, 2)


class EvalTransform(nn.Module):
    """Resizes to a square and scales to [0, 1], with nothing random.

    Args:
        input_size: Height and width of the result in pixels.
        channels_last: Memory format of the result.
    """

    def __init__(self, input_size: int, *, channels_last: bool = True) -> None:
        super().__init__()
        self.input_size = input_size
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Transform a batch.

        Args:
            images: uint8 tensor of shape (N, 3, h, w).

        Returns:
            float32 tensor of shape (N, 3, i, i), values in [0, 1].
        """
        height, width = images.shape[-2:]
        if height == width == self.input_size:
            out = images.float().div_(255)
        else:
            rows = resize_matrix(height, self.input_size, images.device)
            columns = resize_matrix(width, self.input_size, images.device)
            out = _resample(images, rows, columns)
        return out.contiguous(memory_format=_memory_format(self.channels_last))


class TrainTransform(nn.Module):
    """Resizes to 9/8 of the input size, crops at random, flips at random, scales to [0, 1].

    Images that already have 9/8 of the input size are cropped by copying: the result is exactly
    that of torchvision's Resize, RandomCrop and flip at the same offsets. All others are resized,
    cropped and flipped by two matrix products, within 1/255 of it.

    Args:
        input_size: Height and width of the result in pixels.
        channels_last: Memory format of the result.
        flip: Mirror half of the images; not for classes that a mirror changes, such as digits.
    """

    def __init__(self, input_size: int, *, channels_last: bool = True, flip: bool = True) -> None:
        super().__init__()
        self.input_size = input_size
        self.channels_last = channels_last
        self.flip = flip
        self.resized = train_size(input_size)

    def offsets(self, indices: Tensor, key: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return top, left (pixels of the resized image) and flip (0 or 1) for each image."""
        room = self.resized - self.input_size + 1
        top = random_integers(key, indices, 0, room)
        left = random_integers(key, indices, 1, room)
        return top, left, random_integers(key, indices, 2, 2 if self.flip else 1)

    def forward(self, images: Tensor, indices: Tensor, key: int) -> Tensor:
        """Transform a batch.

        Args:
            images: uint8 tensor of shape (N, 3, h, w).
            indices: int64 tensor of shape (N,) that identifies the images.
            key: ``stream_key(seed, stage, view, epoch)``.

        Returns:
            float32 tensor of shape (N, 3, i, i), values in [0, 1].
        """
        top, left, flip = self.offsets(indices, key)
        steps = torch.arange(self.input_size, device=images.device)
        rows = top[:, None] + steps
        columns = left[:, None] + torch.where(flip[:, None] == 1, steps.flip(0), steps)
        height, width = images.shape[-2:]
        if height == width == self.resized:
            crop = _copy if images.device.type == "cpu" else _gather
            out = crop(images, rows, columns)
        else:
            row_weights = resize_matrix(height, self.resized, images.device)[rows]
            column_weights = resize_matrix(width, self.resized, images.device)[columns]
            out = _resample(images, row_weights, column_weights)
        return out.contiguous(memory_format=_memory_format(self.channels_last))


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return pixels (rows, columns) of each image, scaled to [0, 1], shape (N, 3, i, i)."""
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def _copy(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Do as ``_gather``, image by image in threads: several times as fast, on a CPU."""
    side = rows.shape[1]
    source = images.permute(0, 2, 3, 1).numpy()
    # numpy asks for huge pages, which spares most page faults of a fresh batch
    out = np.empty((len(images), side, side, 3), np.float32)
    places = zip(rows[:, 0].tolist(), columns[:, 0].tolist(), columns[:, -1].tolist(), strict=True)

    def one(image: Pixels, target: Pixels, place: tuple[int, int, int]) -> None:
        top, first, last = place
        left = min(first, last)
        crop = image[top : top + side, left : left + side]
        np.divide(crop if first <= last else crop[:, ::-1], np.float32(255), out=target)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(one, source, out, places):
            pass  # errors are raised here
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format

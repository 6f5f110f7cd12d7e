"""Reading image files as RGB pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import InterpolationMode, functional as F

from vpns_lightning.base.errors import UserError

Pixels: TypeAlias = npt.NDArray[np.uint8]
OnBadImage: TypeAlias = Literal["error", "skip"]

MAX_BAD_FRACTION = 0.01
# of grey images with more than 8 bits, which PIL would cut off at 255
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


class BadImageError(UserError):
    """An image file that is missing, empty, truncated or no image at all."""


def decode(path: Path, index: int | None = None, *, exif_rotation: bool = False) -> Image.Image:
    """Return the image in ``path`` as RGB, whatever its mode on disk.

    Of several frames it is the first. Grey values of more than 8 bits are scaled so that the
    file's smallest becomes 0 and its largest 255.

    Args:
        path: File in any format and mode PIL reads (grey, palette, CMYK and RGBA included).
        index: Position of the file in its split, for the message; None for a file of no data set.
        exif_rotation: Whether to turn and mirror the image as its EXIF data say.

    Raises:
        BadImageError: The file cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return as_rgb(image, exif_rotation=exif_rotation)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, MemoryError) as error:
        reason = "the file does not exist" if not path.exists() else str(error) or repr(error)
    except Image.DecompressionBombError as error:
        reason = str(error)
    if index is None:
        raise BadImageError(
            f"cannot decode image {path}: {reason}; restore the file, or take it away"
        )
    raise BadImageError(
        f"cannot decode image {index}, {path}: {reason}; restore the file, or continue without "
        f"such images with --data.on_bad_image skip"
    )


def as_rgb(image: Image.Image, *, exif_rotation: bool = False) -> Image.Image:
    """Return an image of any mode as RGB; grey values of more than 8 bits are scaled.

    Args:
        image: An image, which need not be decoded yet.
        exif_rotation: Whether to turn and mirror the image as its EXIF data say.

    Raises:
        ValueError: It holds values that are not finite.
    """
    upright = ImageOps.exif_transpose(image) if exif_rotation else image
    return (_scaled(upright) if upright.mode in DEEP_MODES else upright).convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds values that are not finite")
    if high == low:
        return Image.new("L", image.size)
    return Image.fromarray(np.rint((values - low) * (255 / (high - low))).astype(np.uint8))


def resize(image: Image.Image, size: int) -> Pixels:
    """Return ``image`` resized as torchvision resizes a PIL image.

    Args:
        image: RGB image of any size.
        size: Height and width of the result in pixels; the aspect ratio is not kept (r_i(x)).

    Returns:
        Array of shape (size, size, 3).
    """
    return np.asarray(F.resize(image, [size, size], InterpolationMode.BILINEAR, antialias=True))


def refuse_too_many_bad(bad: int, total: int) -> None:
    """Stop when skipping bad images would change the data set noticeably.

    Raises:
        UserError: More than 1 % of the images cannot be decoded.
    """
    if bad > MAX_BAD_FRACTION * total:
        raise UserError(
            f"{bad} of {total} images cannot be decoded, more than the {MAX_BAD_FRACTION:.0%} "
            f"that on_bad_image=skip allows; extract or download the data set again"
        )

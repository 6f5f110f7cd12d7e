"""What a sample of image files shows that a user should know before training on them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image, UnidentifiedImageError

from vpns_lightning.data.images.decode import DEEP_MODES
from vpns_lightning.data.split import Split

SAMPLE = 64
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright


def remarks(split: Split, sample: int = SAMPLE) -> list[str]:
    """Return a line for each thing about some files that changes how images are read.

    Args:
        split: The images; only of files there is something to say.
        sample: How many files to open, from the first to the last; images are not decoded.
    """
    counts: Counter[str] = Counter()
    if not split.files:
        return []
    rows = np.unique(np.linspace(0, len(split) - 1, min(sample, len(split))).astype(int))
    for row in rows.tolist():
        try:
            with Image.open(split.files[row]) as image:
                counts["turned"] += image.getexif().get(_ORIENTATION, 1) not in {0, 1}
                counts["deep"] += image.mode in DEEP_MODES
                counts["frames"] += getattr(image, "n_frames", 1) > 1
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError):
            continue  # decoding will name it
        except Image.DecompressionBombError:
            continue
    turning = (
        "and are turned"
        if split.exif_rotation
        else "and are used as they are stored; --data.exif_rotation true turns them"
    )
    texts = {
        "turned": f"say in their EXIF data that they are to be turned, {turning}",
        "deep": "have grey values of more than 8 bits; each is scaled to 8 bits, its smallest "
        "value to 0 and its largest to 255",
        "frames": "have several frames, of which the first is used",
    }
    return [
        f"{counts[what]} of {len(rows)} files looked at {text}"
        for what, text in texts.items()
        if counts[what]
    ]

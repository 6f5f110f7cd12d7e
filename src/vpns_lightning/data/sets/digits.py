"""Handwritten digits that come with scikit-learn: real images, no download, no files."""

from __future__ import annotations

import numpy as np

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class Digits(ImageData):
    """1,797 grey images of 8 x 8 px in 10 classes.

    A fixed fifth of each class are the test images. The root is not used.
    """

    num_classes = 10
    counts = Counts(train=1_437, test=360)
    layout = Layout(())
    mirrored = False

    def read(self, split: SplitName) -> Split:
        """Return the pixels of one split."""
        # sklearn takes a second to import, which only this data set needs
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        parts = train_test_split(
            np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target
        )
        rows = parts[0] if split == "train" else parts[1]
        grey = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
        return Split(
            digits.target[rows].tolist(),
            [str(name) for name in digits.target_names],
            pixels=np.repeat(grey[..., None], 3, axis=-1),
        )

"""Which images of a split are used: a fixed number of each class, and a part held out."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.processes import say
from vpns_lightning.data.split import Split


def limited(split: Split, per_class: int | None, where: str) -> Split:
    """Return at most ``per_class`` images of each class, in the order they have.

    Those come first whose names have the smallest hashes, so the part is the same on every machine,
    for every seed, in whatever order a folder is listed, and a smaller number is a part of a larger
    one.

    Args:
        split: The images.
        per_class: Images of a class; None for all of them.
        where: Data set and split, for the line that says which classes have fewer.
    """
    if per_class is None:
        return split
    ranked = sorted(range(len(split)), key=lambda row: _rank(split, row))
    counts: Counter[int] = Counter()
    rows = []
    for row in ranked:
        label = split.labels[row]
        if counts[label] < per_class:
            rows.append(row)
        counts[label] += 1
    short = [label for label, count in counts.items() if count < per_class]
    if short:
        smallest = min(short, key=lambda label: counts[label])
        say(
            f"{where}: {len(short)} of {len(split.class_names)} classes have fewer than "
            f"{per_class} images, the fewest {split.class_names[smallest]!r} with "
            f"{counts[smallest]}; all of theirs are used"
        )
    return split.take(sorted(rows))


def _rank(split: Split, row: int) -> tuple[bytes, str]:
    """Return what images are ranked by: a hash of the file's name, or of the image without files.

    Not of the folders, which one data set has in several forms; they decide between equal names.
    """
    if split.pixels is not None:
        return hashlib.blake2b(split.pixels[row].tobytes(), digest_size=8).digest(), ""
    if split.images is not None:
        return hashlib.blake2b(split.image(row).tobytes(), digest_size=8).digest(), ""
    file = split.files[row]
    # some file systems store accents apart from their letters
    name = unicodedata.normalize("NFC", file.name).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(name, digest_size=8).digest(), file.as_posix()


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return which images are held out: ``fraction`` of each class, rounded, by a seeded draw.

    Args:
        labels: int64 class indices of shape (N,).
        fraction: Fraction to hold out, in [0, 1).
        seed: Seed of the draw.

    Returns:
        bool tensor of shape (N,).

    Raises:
        UserError: It would hold out no image, or all.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    if fraction == 0:
        return held_out
    shuffled = torch.randperm(len(labels), generator=generator, device="cpu")
    for label in range(int(labels.max()) + 1):
        members = shuffled[labels[shuffled] == label]
        held_out[members[: round(fraction * len(members))]] = True
    if not held_out.any() or held_out.all():
        raise UserError(
            f"validation={fraction} holds out {int(held_out.sum())} of {len(labels)} training "
            f"images; choose a fraction that leaves some images on either side"
        )
    return held_out

"""Random streams that are pure functions of what they are for."""

import hashlib

from vpns_lightning.base.errors import UserError

SEEDS = 2**32  # as many as NumPy takes


def check_seed(seed: int) -> int:
    """Return ``seed``.

    Raises:
        UserError: It is not in [0, 2^32).
    """
    if not 0 <= seed < SEEDS:
        raise UserError(f"a seed must be from 0 to {SEEDS - 1}, got {seed}")
    return seed


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed for a generator of torch, the same in every process.

    Not :func:`stream_key`, of which half the numbers are negative: both are in the bits of runs
    that were started by earlier versions and shall end as they began.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream_key(*parts: object) -> int:
    """Return a signed 64-bit number for integer hashes of images, the same in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)

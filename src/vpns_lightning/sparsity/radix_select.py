"""Exact selection on a GPU, in Triton: three digits of a radix search, the mask, and the ties.

A float's bits, its sign treated, are an integer of the same order. Each search counts the values of
one digit among those that agree in the higher ones and goes on where the wanted rank lies; after
three the threshold is known. Scores are read where they lie, in nine launches and 17 bytes a score.
Nothing is read back, and sums are of integers, so that every run gives the same masks.
"""

# Triton's decorators have no types
# mypy: disable-error-code="untyped-decorator"

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # values a program looks at in one go
PROGRAMS = 4  # of a search, for each of the device's multiprocessors
DIGITS = ((21, 11), (10, 11), (0, 10))  # (lowest bit, bits), from the top
BINS = 2048
MOST = 2**31 - BLOCK  # values whose numbers fit 32 bits

# one row for each tensor
FIELDS = tl.constexpr(6)
SCORES, MASK, SIZE, INNER = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
SCORE_PLANE, MASK_PLANE = tl.constexpr(4), tl.constexpr(5)
# what is known of the threshold so far
PREFIX, RANK, TIES = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
STATE = 4


@triton.jit
def _keys(scores: tl.tensor, at: tl.tensor, there: tl.tensor, ABSOLUTE: tl.constexpr) -> tl.tensor:
    """Return the scores, or their magnitudes, as uint32 of the same order."""
    bits = tl.load(scores.to(tl.pointer_type(tl.int32)) + at, mask=there, other=0)
    magnitude = bits & 0x7FFFFFFF
    if ABSOLUTE:
        ordered = magnitude
    else:
        signed = tl.where(magnitude == 0, 0, bits)  # both zeros are one
        ordered = tl.where(signed < 0, ~signed, signed ^ -2147483648)
    return ordered.to(tl.uint32, bitcast=True)


@triton.jit
def _in_memory(index: tl.tensor, inner: tl.tensor, plane: tl.tensor) -> tl.tensor:
    """Return where values of a tensor lie, given their row-major numbers.

    Rows of ``inner`` values lie one after the other; in each, the channels of a pixel do, of
    ``plane`` pixels. One pixel stands for row-major order.
    """
    at = index
    if plane > 1:
        within = index % inner
        at = index - within + (within % plane) * (inner // plane) + within // plane
    return at


@triton.jit(do_not_specialize=["n_blocks"])
def _count(
    tensors: tl.tensor,
    blocks: tl.tensor,
    state: tl.tensor,
    counts: tl.tensor,
    n_blocks: tl.tensor,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Count one digit of the values that agree in the higher ones with what was found."""
    prefix = tl.load(state + PREFIX).to(tl.uint32, bitcast=True)
    found = tl.zeros([1 << WIDTH], dtype=tl.int32)
    for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
        row = tensors + tl.load(blocks + 2 * block) * FIELDS
        at = tl.load(blocks + 2 * block + 1) + tl.arange(0, BLOCK)
        there = at < tl.load(row + SIZE).to(tl.int32)
        key = _keys(tl.load(row + SCORES), at, there, ABSOLUTE)
        if SHIFT + WIDTH < 32:
            there = there & ((key >> (SHIFT + WIDTH)) == (prefix >> (SHIFT + WIDTH)))
        digit = (key >> SHIFT) & ((1 << WIDTH) - 1)
        found += tl.histogram(digit.to(tl.int32), 1 << WIDTH, mask=there)
    tl.atomic_add(counts + tl.arange(0, 1 << WIDTH), found, mask=found > 0, sem="relaxed")


@triton.jit(do_not_specialize=["rank"])
def _choose(
    state: tl.tensor,
    counts: tl.tensor,
    rank: tl.tensor,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
) -> None:
    """Choose the digit at which the wanted rank lies, and the rank among its values."""
    wanted = rank if FIRST else tl.load(state + RANK)
    bins = tl.arange(0, 1 << WIDTH)
    found = tl.load(counts + bins)
    digit = tl.sum((tl.cumsum(found, 0) < wanted).to(tl.int32), 0)
    tl.store(state + PREFIX, tl.load(state + PREFIX) | (digit << SHIFT))
    tl.store(state + RANK, wanted - tl.sum(tl.where(bins < digit, found, 0), 0))
    tl.store(state + TIES, tl.sum(tl.where(bins == digit, found, 0), 0))


@triton.jit
def _mark(
    tensors: tl.tensor,
    blocks: tl.tensor,
    state: tl.tensor,
    ties: tl.tensor,
    threshold: tl.tensor,
    ABSOLUTE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write which values are above the threshold, count those that equal it, and write it too."""
    block = tl.program_id(0)
    row = tensors + tl.load(blocks + 2 * block) * FIELDS
    index = tl.load(blocks + 2 * block + 1) + tl.arange(0, BLOCK)
    there = index < tl.load(row + SIZE).to(tl.int32)
    inner = tl.load(row + INNER).to(tl.int32)
    at = _in_memory(index, inner, tl.load(row + SCORE_PLANE).to(tl.int32))
    key = _keys(tl.load(row + SCORES), at, there, ABSOLUTE)
    bits = tl.load(state + PREFIX)
    bar = bits.to(tl.uint32, bitcast=True)
    to = _in_memory(index, inner, tl.load(row + MASK_PLANE).to(tl.int32))
    mask = tl.load(row + MASK).to(tl.pointer_type(tl.uint8))
    tl.store(mask + to, (key > bar).to(tl.uint8), mask=there)
    tl.store(ties + block, tl.sum((there & (key == bar)).to(tl.int32), 0))
    if not ABSOLUTE:
        bits = tl.where(bits < 0, bits ^ -2147483648, ~bits)
    tl.store(threshold, bits.to(tl.float32, bitcast=True), mask=block == 0)


@triton.jit
def _keep_ties(
    tensors: tl.tensor,
    blocks: tl.tensor,
    state: tl.tensor,
    ties: tl.tensor,
    ABSOLUTE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Keep those values that equal the threshold which come first, as many as are wanted."""
    block = tl.program_id(0)
    wanted = tl.load(state + TIES) - tl.load(state + RANK)
    if (wanted > 0) & (tl.load(ties + block) > 0):
        before = 0
        for first in range(0, block, BLOCK):
            earlier = first + tl.arange(0, BLOCK)
            before += tl.sum(tl.load(ties + earlier, mask=earlier < block, other=0), 0)
        if before < wanted:
            row = tensors + tl.load(blocks + 2 * block) * FIELDS
            index = tl.load(blocks + 2 * block + 1) + tl.arange(0, BLOCK)
            there = index < tl.load(row + SIZE).to(tl.int32)
            inner = tl.load(row + INNER).to(tl.int32)
            at = _in_memory(index, inner, tl.load(row + SCORE_PLANE).to(tl.int32))
            key = _keys(tl.load(row + SCORES), at, there, ABSOLUTE)
            tie = there & (key == tl.load(state + PREFIX).to(tl.uint32, bitcast=True))
            place = before + tl.cumsum(tie.to(tl.int32), 0)
            to = _in_memory(index, inner, tl.load(row + MASK_PLANE).to(tl.int32))
            mask = tl.load(row + MASK).to(tl.pointer_type(tl.uint8))
            tl.store(mask + to, tl.full([BLOCK], 1, tl.uint8), mask=tie & (place <= wanted))


def keep_by_radix(
    values: Sequence[Tensor],
    n_prune: int,
    masks: Sequence[Tensor],
    *,
    absolute: bool,
    exact: bool,
    block: int = BLOCK,
) -> Tensor:
    """Write which values survive when the ``n_prune`` lowest are removed; return the threshold.

    Args:
        values: float32 tensors of one device, row-major or channels-last, below 2^31 in all.
        n_prune: Entries to remove, at least 1.
        masks: Bool tensors of the same shapes, row-major or channels-last; written in place.
        absolute: Rank ``|values|``.
        exact: Keep ties by lower index, so that just ``n_prune`` go; else remove all of them.
        block: Values a program looks at in one go, a power of two.

    Returns:
        The ``n_prune``-th smallest, 0-d float32; zero where that is a zero of either sign.
    """
    device = values[0].device
    rows = tuple(map(_row, values, masks))
    tensors = _table(rows, device)
    blocks = _blocks(tuple(value.numel() for value in values), block, device)
    n_blocks = len(blocks)
    scratch = torch.zeros(STATE + len(DIGITS) * BINS, dtype=torch.int32, device=device)
    state, counts = scratch[:STATE], scratch[STATE:].view(len(DIGITS), BINS)
    ties = torch.empty(n_blocks, dtype=torch.int32, device=device)
    threshold = torch.empty((), dtype=torch.float32, device=device)
    programs = (min(n_blocks, _programs(device)),)
    # Triton launches on the current device, whichever the tensors are of
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for found, (shift, width) in zip(counts, DIGITS, strict=True):
            _count[programs](tensors, blocks, state, found, n_blocks, shift, width, absolute, block)
            _choose[(1,)](state, found, n_prune, shift, width, shift + width == 32)
        _mark[(n_blocks,)](tensors, blocks, state, ties, threshold, absolute, block)
        if exact:
            _keep_ties[(n_blocks,)](tensors, blocks, state, ties, absolute, block)
    return threshold


def can_read(values: Sequence[Tensor], masks: Sequence[Tensor]) -> bool:
    """Return whether these tensors are of the kinds that :func:`keep_by_radix` takes."""
    dense = all(_plane(tensor) for tensor in (*values, *masks))
    single = all(value.dtype == torch.float32 and value.numel() for value in values)
    return dense and single and sum(value.numel() for value in values) < MOST


def _row(value: Tensor, mask: Tensor) -> tuple[int, ...]:
    """Return the fields of one tensor: where it lies, and how."""
    inner = value.numel() // max(len(value) if value.dim() else 1, 1)
    planes = _plane(value), _plane(mask)
    return (value.data_ptr(), mask.data_ptr(), value.numel(), inner, *planes)


def _plane(tensor: Tensor) -> int:
    """Return the pixels of a channels-last tensor, 1 for a row-major one, 0 for any other."""
    if tensor.is_contiguous():
        return 1
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.shape[2] * tensor.shape[3] if last else 0


@lru_cache(maxsize=4096)
def _table(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Return where scores and masks lie; uploaded once, for in training they do not move."""
    return _uploaded(torch.tensor(rows, dtype=torch.int64), device)


@lru_cache(maxsize=256)
def _blocks(sizes: tuple[int, ...], block: int, device: torch.device) -> Tensor:
    """Return (blocks, 2): of which tensor each block is, and its first value."""
    starts = [(i, at) for i, size in enumerate(sizes) for at in range(0, size, block)]
    return _uploaded(torch.tensor(starts, dtype=torch.int32), device)


def _uploaded(table: Tensor, device: torch.device) -> Tensor:
    """Return a copy on the device, which nobody waits for."""
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


@lru_cache
def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return PROGRAMS  # Triton's interpreter
    return PROGRAMS * int(torch.cuda.get_device_properties(device).multi_processor_count)

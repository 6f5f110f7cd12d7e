"""What is counted on the emulated device while somebody asks for it."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

# frames of these say nothing about who asked for a copy
FOREIGN = ("/emulated_cuda/", "/torch/", "/contextlib.py", "/traceback.py")


class Counts:
    """What happened on the device.

    Attributes:
        waits: Places in the code where the host waited for the device, and how often: values read
            back, sizes that depend on values, copies that do not return before they are done.
        uploads: Places where something was copied to the device, batches left out.
        downloads: Places where something was copied from it.
        batches: Copies of pinned memory to the device that nobody waited for.
        operators: Operators that read or wrote memory, by name; views do not.
        bytes: What they read and wrote, by name.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()
        self.batches = 0
        self.operators: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def work(self) -> tuple[int, int]:
        """Return how many operators ran, and the bytes that they read and wrote."""
        return sum(self.operators.values()), sum(self.bytes.values())


class Memory:
    """Bytes that operators have made since the last reset: nothing is ever given back here."""

    made = 0

    @classmethod
    def reset(cls, device: object = None) -> None:
        """Begin anew."""
        cls.made = 0

    @classmethod
    def peak(cls, device: object = None) -> int:
        """Return an upper bound of what was held at once."""
        return cls.made


_listening: list[Counts] = []


@contextmanager
def counting(counts: Counts | None = None) -> Iterator[Counts]:
    """Count what happens in this block, on top of ``counts`` where given."""
    counts = Counts() if counts is None else counts
    _listening.append(counts)
    try:
        yield counts
    finally:
        _listening.remove(counts)


def waited(why: str) -> None:
    """The host waits for the device."""
    for counts in _listening:
        counts.waits[f"{why} at {_place()}"] += 1


def uploaded(*, pinned: bool = False) -> None:
    """Something is copied to the device; pageable memory has to be waited for."""
    for counts in _listening:
        if pinned:
            counts.batches += 1
        else:
            counts.uploads[_place()] += 1
            counts.waits[f"upload at {_place()}"] += 1


def downloaded(*, awaited: bool = True) -> None:
    """Something is copied from the device."""
    for counts in _listening:
        counts.downloads[_place()] += 1
        if awaited:
            counts.waits[f"download at {_place()}"] += 1


def ran(name: str, *tensors: Tensor) -> None:
    """An operator has read and written these tensors, of which the last is new."""
    Memory.made += size_in_bytes(tensors[-1]) if tensors else 0
    for counts in _listening:
        counts.operators[name] += 1
        counts.bytes[name] += sum(map(size_in_bytes, tensors))


def size_in_bytes(tensor: Tensor) -> int:
    """Return the memory that a tensor covers; dimensions that repeat the same values are free."""
    covered = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    count = 0 if 0 in tensor.shape else 1
    for size in covered:
        count *= size
    return count * tensor.element_size()


def _place() -> str:
    """Return where the project, or else another library, asked for what happens."""
    frames = [f for f in traceback.extract_stack() if not any(p in f.filename for p in FOREIGN)]
    own = [frame for frame in frames if "vpns_lightning" in frame.filename]
    frame = (own or frames)[-1]
    return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}"

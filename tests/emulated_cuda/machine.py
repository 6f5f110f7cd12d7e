"""What torch and Lightning ask of a machine with one CUDA device."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo  # lists torch's functions when it is imported, which shall be the real ones
from torch import Tensor
from torch.optim import optimizer as optimizers
from torch.utils import _foreach_utils
from torch.utils.data._utils import pin_memory as loader_pinning

from emulated_cuda import counts
from emulated_cuda.tensors import CudaTensor, pinned
from emulated_cuda.transfers import Transfers

MEMORY = 80 << 30  # bytes


class _Stream:
    """A queue of work that is done at once."""

    def synchronize(self) -> None:
        counts.waited("a stream's synchronize")

    def is_capturing(self) -> bool:
        return False

    def wait_stream(self, stream: object) -> None:
        """Nothing is ever left to wait for."""

    def record_event(self, event: object = None) -> "_Event":
        return _Event()

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _Event:
    """A mark in such a queue."""

    def __init__(self, **options: bool) -> None:
        pass

    def record(self, stream: object = None) -> None:
        """Everything before it is done."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        counts.waited("an event's synchronize")


def _nothing(*args: object, **kwargs: object) -> None:
    pass


def _synchronize(device: object = None) -> None:
    counts.waited("torch.cuda.synchronize")


def _properties(device: object = None) -> SimpleNamespace:
    return SimpleNamespace(
        name="Emulated", major=9, minor=0, total_memory=MEMORY, multi_processor_count=132
    )


CUDA: dict[str, Any] = {
    "Event": _Event,
    "Stream": _Stream,
    "_lazy_init": _nothing,
    "current_device": lambda: 0,
    "current_stream": lambda device=None: _Stream(),
    "device_count": lambda: 1,
    "empty_cache": _nothing,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_name": lambda device=None: "Emulated",
    "get_device_properties": _properties,
    "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
    "get_rng_state_all": lambda: [],
    "is_available": lambda: True,
    "is_bf16_supported": lambda *args, **kwargs: True,
    "is_current_stream_capturing": lambda: False,
    "manual_seed": _nothing,
    "manual_seed_all": _nothing,
    "max_memory_allocated": counts.Memory.peak,
    "memory_allocated": lambda device=None: 0,
    "memory_stats": lambda device=None: {},
    "reset_peak_memory_stats": counts.Memory.reset,
    "set_device": _nothing,
    "set_rng_state": _nothing,
    "set_rng_state_all": _nothing,
    "stream": lambda stream: _Stream(),
    "synchronize": _synchronize,
}


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """Give this process a CUDA device in this block."""
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in CUDA.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch.accelerator, "current_stream", lambda device=None: _Stream())
        _patch_torch(patch)
        # parameters change their class when they move
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with Transfers():
                yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapping)


def _patch_torch(patch: pytest.MonkeyPatch) -> None:
    """Answer where torch looks past what a tensor says of its device."""
    autocast = torch.amp.autocast_mode.autocast.__init__
    patch.setattr(
        torch.amp.autocast_mode.autocast,
        "__init__",
        lambda self, device_type, *args, **kwargs: autocast(
            self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs
        ),
    )
    supported = [*_foreach_utils._foreach_supported_types, CudaTensor]
    for module in (_foreach_utils, optimizers):
        patch.setattr(module, "_foreach_supported_types", supported)
    groups = optimizers.Optimizer._group_tensors_by_device_and_dtype
    patch.setattr(
        optimizers.Optimizer,
        "_group_tensors_by_device_and_dtype",
        staticmethod(lambda *args, **kwargs: _where_they_are(groups(*args, **kwargs))),
    )
    patch.setattr(loader_pinning, "pin_memory", _pin)


def _where_they_are(groups: Any) -> Any:
    """Correct the devices that torch's own code has grouped tensors by."""
    return {
        (_device_of(tensors, device), *rest): (tensors, *others)
        for (device, *rest), (tensors, *others) in groups.items()
    }


def _device_of(tensors: Any, device: Any) -> Any:
    first = next(t for group in tensors for t in group if isinstance(t, Tensor))
    return device if device is None else first.device


def _pin(batch: Any, device: object = None) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, pinned, batch)

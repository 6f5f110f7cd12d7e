"""What moves tensors between the memories, and what makes them on the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from emulated_cuda import counts
from emulated_cuda.tensors import CudaTensor, DeviceMismatch, is_pinned, pinned, unwrapped

# these copy what Python holds
FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)


class Transfers(TorchFunctionMode):
    """Sees the calls of torch's Python functions that name a device or change it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        special = SPECIAL.get(func)
        if special is not None:
            return special(func, *args, **kwargs)
        device = kwargs.get("device")
        if device is None or func is torch.autocast:
            return func(*args, **kwargs)
        if is_cuda(device):
            return _made_there(func, args, kwargs)
        if torch.device(device).type == "cpu":
            return func(*unwrapped(args), **kwargs)
        return func(*args, **kwargs)


def is_cuda(device: Any) -> bool:
    """Return whether an argument names the device."""
    if isinstance(device, bool):
        return False
    return isinstance(device, int) or torch.device(device).type == "cuda"


def _made_there(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make on the CPU what shall be made on the device, and say that it is there."""
    learned = kwargs.pop("requires_grad", False)
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise DeviceMismatch(f"{func}: Expected a 'cuda' device type for generator (emulated)")
    made = func(*unwrapped(args), **{**unwrapped(kwargs), "device": "cpu"})
    if func in FROM_PYTHON:
        counts.uploaded()
    else:
        counts.ran(func.__name__, *(t for t in pytree.tree_leaves(made) if isinstance(t, Tensor)))
    there = pytree.tree_map_only(Tensor, lambda tensor: CudaTensor(tensor.detach()), made)
    return there.requires_grad_(True) if learned else there


class _Download(torch.autograd.Function):
    """A copy to the CPU whose gradient goes back to the device."""

    @staticmethod
    def forward(ctx: Any, source: Tensor) -> Tensor:
        held: Tensor = source.held  # type: ignore[attr-defined]  # a CudaTensor
        return held.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return CudaTensor(grads[0])


def _to(func: Any, source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand for ``Tensor.to``."""
    copied = kwargs.pop("copy", False)
    if args and isinstance(args[0], Tensor):
        device, dtype, later, form = args[0].device, args[0].dtype, False, None
    else:
        device, dtype, later, form = torch._C._nn._parse_to(*args, **kwargs)
    changes = {"dtype": dtype, "memory_format": form}
    changes = {key: value for key, value in changes.items() if value is not None}
    changes |= {"copy": True} if copied else {}
    there = isinstance(source, CudaTensor)
    if device is not None and device.type == "cuda" and not there:
        return _upload(source, changes, later=later)
    if device is not None and device.type == "cpu" and there:
        counts.downloaded()
        learned = source.requires_grad and torch.is_grad_enabled()
        host: Tensor = _Download.apply(source) if learned else source.held.detach().clone()
        return func(host, **changes) if changes else host  # type: ignore[no-any-return]
    if device is not None and device.type == "meta":
        return func(unwrapped(source), "meta", **changes)  # type: ignore[no-any-return]
    return func(source, **changes) if changes else source  # type: ignore[no-any-return]


def _upload(source: Tensor, changes: dict[str, Any], *, later: bool) -> Tensor:
    counts.uploaded(pinned=later and is_pinned(source))
    with torch._C.DisableTorchFunction():
        # a layout that has gaps is copied as it is, as torch does
        copy = source.detach().clone()
        there = CudaTensor(copy.to(**changes) if changes else copy)
        learned = source.requires_grad and there.is_floating_point()
        return there.requires_grad_(learned)


def _one_hot(func: Any, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand for ``one_hot``, which looks at the labels on a CPU only."""
    if not isinstance(labels, CudaTensor):
        return func(labels, *args, **kwargs)  # type: ignore[no-any-return]
    if not args and not kwargs:
        counts.waited("one_hot without a number of classes")
    made = CudaTensor(func(labels.held, *args, **kwargs))
    counts.ran("one_hot", labels, made)
    return made


def _set_item(func: Any, target: Tensor, index: Any, value: Any) -> None:
    func(target, index, _there_too(value, target))


def _where(func: Any, condition: Tensor, *args: Any, **kwargs: Any) -> Any:
    like = next((arg for arg in args if isinstance(arg, CudaTensor)), condition)
    return func(condition, *(_there_too(arg, like) for arg in args), **kwargs)


def _there_too(value: Any, like: Tensor) -> Any:
    """Return a number as a tensor where ``like`` is, for torch makes it there: none is copied."""
    if not isinstance(value, int | float) or not isinstance(like, CudaTensor):
        return value
    made = CudaTensor(torch.full((), value, dtype=None if like.dtype == torch.bool else like.dtype))
    counts.ran("scalar_tensor", made)
    return made


def _new_tensor(func: Any, like: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    made: Tensor = func(unwrapped(like), *args, **kwargs)
    if not isinstance(like, CudaTensor):
        return made
    counts.uploaded()
    return CudaTensor(made)


SPECIAL: dict[Any, Callable[..., Any]] = {
    Tensor.to: _to,
    Tensor.cpu: lambda func, source: _to(Tensor.to, source, "cpu"),
    Tensor.cuda: lambda func, source, *_: _to(Tensor.to, source, "cuda"),
    Tensor.pin_memory: lambda func, source, *_: pinned(source.detach()),
    Tensor.is_pinned: lambda func, source, *_: is_pinned(source),
    Tensor.__setitem__: _set_item,
    Tensor.new_tensor: _new_tensor,
    Tensor.tolist: lambda func, source: source.tolist(),
    Tensor.numpy: lambda func, source, **options: (
        source.numpy(**options) if isinstance(source, CudaTensor) else func(source, **options)
    ),
    torch.nn.functional.one_hot: _one_hot,
    torch.where: _where,
}

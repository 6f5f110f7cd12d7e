"""Tensors that hold CPU data and say they are on ``cuda:0``, and what operators do with them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from emulated_cuda import counts

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten

# results whose size or value the host has to know
READS = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.unique_dim,
    aten._unique2,
}
# tensors of the CPU may stand where these take indices: they are copied
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# single values of the CPU cannot stand in these, unlike in arithmetic
NO_SCALARS = {aten.cat, aten.stack, aten.mm, aten.addmm, aten.bmm, aten.gather, aten.index_select}


class DeviceMismatch(RuntimeError):
    """What the real device refuses."""


class CudaTensor(Tensor):
    """A tensor on the emulated device.

    Attributes:
        held: Its values, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls: type["CudaTensor"], held: Tensor) -> "CudaTensor":
        """Return a tensor that looks like ``held`` but for its device."""
        # torch's own code takes it for one of the CPU: it has no CUDA stream to ask for
        made: CudaTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device("cpu"),
            requires_grad=False,
        )
        return made

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # an attribute there
        """Where it says it is."""
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]  # same
        """True."""
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]  # same
        """False."""
        return False

    def get_device(self) -> int:
        """Return the device's number."""
        return 0

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return where the values lie, which tells tensors that share them."""
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        """Return where the first value lies."""
        return self.held.data_ptr()

    def tolist(self) -> Any:
        """Return the values as Python's."""
        counts.waited("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy (emulated)")

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"CudaTensor({self.held})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "CudaTensor":
        if id(self) not in memo:
            copied = _as_kind(CudaTensor(self.held.detach().clone()), self)
            if self.grad is not None:
                copied.grad = self.grad.__deepcopy__(memo)
            memo[id(self)] = copied
        found: CudaTensor = memo[id(self)]
        return found

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


def _as_kind(new: CudaTensor, old: Tensor) -> CudaTensor:
    """Return ``new`` as a parameter where ``old`` is one, learned where that is."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)  # type: ignore[return-value]
    return new.requires_grad_(old.requires_grad)  # type: ignore[return-value]


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the values; refuse and count as the real device would."""
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if func.overloadpacket is aten.copy_:
        return _copy(func, args, kwargs)
    _refuse_mixtures(func, args, kwargs, given)
    _count_waits(func, args, given)
    kwargs = {key: torch.device("cpu") if key == "device" else v for key, v in kwargs.items()}
    found = func(*unwrapped(args), **unwrapped(kwargs))
    back = {id(tensor.held): tensor for tensor in given if isinstance(tensor, CudaTensor)}

    def there(made: Tensor) -> CudaTensor:
        return back[id(made)] if id(made) in back else CudaTensor(made)

    result = pytree.tree_map_only(Tensor, there, found)
    for tensor in back.values():
        assert tensor.shape == tensor.held.shape, f"{func} has resized a tensor: not emulated"
    if not func.is_view and func.overloadpacket not in (aten.detach, aten.lift_fresh):
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        once = {id(tensor): tensor for tensor in (*given, *made)}
        counts.ran(func.overloadpacket.__name__, *once.values())
    return result


def unwrapped(tree: Any) -> Any:
    """Return arguments with the values in place of tensors of the device."""
    return pytree.tree_map_only(CudaTensor, lambda tensor: tensor.held, tree)


def _copy(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source, *rest = args
    later = bool(rest and rest[0]) or bool(kwargs.get("non_blocking"))
    if not isinstance(source, CudaTensor):
        counts.uploaded(pinned=later and is_pinned(source))
    elif not isinstance(target, CudaTensor):
        counts.downloaded(awaited=not (later and is_pinned(target)))
    else:
        counts.ran("copy_", target, source)
    func(*unwrapped(args), **kwargs)
    return target


def _refuse_mixtures(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: Sequence[Tensor]
) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise DeviceMismatch(f"{func}: Expected a 'cuda' device type for generator (emulated)")
    strangers = [tensor for tensor in given if not isinstance(tensor, CudaTensor)]
    if func.overloadpacket in INDEXING and isinstance(args[0], CudaTensor):
        indices = {id(index) for index in args[1] if isinstance(index, Tensor)}
        strangers = [tensor for tensor in strangers if id(tensor) not in indices]
    name = func.overloadpacket.__name__
    arithmetic = not (func.overloadpacket in NO_SCALARS or name.startswith("_fused_"))
    written = {id(arg) for arg in pytree.tree_leaves(_written(func, args, kwargs))}
    wrong = [t for t in strangers if t.dim() or not arithmetic or id(t) in written]
    if wrong:
        shapes = [(type(tensor).__name__, tuple(tensor.shape), tensor.dtype) for tensor in given]
        raise DeviceMismatch(f"{func}: Expected all tensors on one device (emulated), got {shapes}")


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments that an operator writes into."""
    schema = func._schema.arguments
    values = dict(zip((argument.name for argument in schema), args, strict=False)) | kwargs
    return [
        values.get(argument.name)
        for argument in schema
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _count_waits(func: Any, args: tuple[Any, ...], given: Sequence[Tensor]) -> None:
    kind = func.overloadpacket
    if kind in READS or func is aten.repeat_interleave.Tensor:
        counts.waited(kind.__name__)
    if kind in INDEXING:
        for index in (each for each in args[1] if isinstance(each, Tensor)):
            if index.dtype in (torch.bool, torch.uint8):
                counts.waited("index by a mask")
            if not isinstance(index, CudaTensor):
                counts.uploaded()
    # where() copies single values of the CPU to the device, masked_fill() reads one of the device
    if kind is aten.where and any(not isinstance(tensor, CudaTensor) for tensor in given):
        counts.uploaded()
    if kind in (aten.masked_fill, aten.masked_fill_) and isinstance(args[2], CudaTensor):
        counts.waited("masked_fill")


def is_pinned(tensor: Tensor) -> bool:
    """Return whether a tensor of the CPU lies in memory that the device copies by itself."""
    return getattr(tensor, "pinned_for_emulation", False)


def pinned(tensor: Tensor) -> Tensor:
    """Return a tensor of the CPU marked as pinned."""
    tensor.pinned_for_emulation = True  # type: ignore[attr-defined]  # ours
    return tensor

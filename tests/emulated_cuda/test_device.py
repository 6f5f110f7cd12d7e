"""The emulated device refuses and counts what a real one does."""

import copy
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emulated_cuda import DEVICE, Counts, DeviceMismatch, counting

pytestmark = pytest.mark.usefixtures("cuda")


def there(*shape: int) -> Tensor:
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel(), device="cuda").view(shape)


def counted(call: Callable[[], object]) -> Counts:
    with counting() as counts:
        call()
    return counts


def test_what_is_made_there_is_there_and_so_is_what_comes_of_it() -> None:
    x = there(2, 3)
    made = [x, x + 1, x[0], x.new_zeros(2), torch.zeros_like(x), x @ x.T, torch.where(x > 1, 2, x)]
    assert {tensor.device for tensor in made} == {DEVICE}
    assert all(tensor.is_cuda and not tensor.is_cpu for tensor in made)
    assert (x @ x.T).tolist() == [[14.0, 32.0], [32.0, 77.0]]
    assert (x.cpu() * 2).device.type == "cpu"


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda x, host: x + host,
    "product of matrices": lambda x, host: host @ x,
    "concatenation": lambda x, host: torch.cat([x, host]),
    "result on the other side": lambda x, host: torch.mul(x, x, out=host),
    "host first": lambda x, host: host.mul_(x),
    "index on the device": lambda x, host: host[x.long()],
    "selection": lambda x, host: x.index_select(0, host.long()),
    "mask": lambda x, host: host.masked_fill(x > 1, 0),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixtures_of_devices_are_refused(name: str) -> None:
    with pytest.raises(DeviceMismatch):
        MIXED[name](there(3), torch.ones(3))


def test_a_single_value_of_the_host_may_take_part_in_arithmetic() -> None:
    assert (there(2) * torch.tensor(3.0)).tolist() == [3.0, 6.0]
    with pytest.raises(DeviceMismatch):
        torch.stack([there(), torch.tensor(3.0)])


def test_numpy_and_generators_of_the_host_are_refused() -> None:
    with pytest.raises(TypeError, match="numpy"):
        there(2).numpy()
    host = torch.Generator()
    for draw in (
        lambda: torch.rand(2, generator=host, device="cuda"),
        lambda: there(2).uniform_(generator=host),
        lambda: torch.randperm(3, generator=host, device="cuda"),
    ):
        with pytest.raises(DeviceMismatch, match="generator"):
            draw()


WAITS: dict[str, Callable[[Tensor], object]] = {
    "a value": lambda x: x.sum().item(),
    "a condition": lambda x: bool((x > 1).any()),
    "a list": lambda x: x.tolist(),
    "where values are": lambda x: x.nonzero(),
    "by a mask": lambda x: x[x > 1],
    "equality": lambda x: torch.equal(x, x),
    "classes not said": lambda x: nn.functional.one_hot(x.long()),
    "a copy back": lambda x: x.cpu(),
    "a copy to the host's memory": lambda x: torch.empty(3).copy_(x),
    "everything": lambda x: torch.cuda.synchronize(),
    "a copy there": lambda x: torch.ones(3).to("cuda"),
    "numbers of Python": lambda x: torch.tensor([1, 2], device="cuda"),
    "more of them": lambda x: x.new_tensor([1.0, 2.0]),
    "an index of the host": lambda x: x[torch.tensor([0, 2])],
    "one value for many": lambda x: torch.where(x > 1, x, torch.tensor(3.0)),
    "a value to fill with": lambda x: x.masked_fill(x > 1, x.sum()),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_host_waits_for(name: str) -> None:
    x = there(3)
    assert sum(counted(lambda: WAITS[name](x)).waits.values()) >= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x * 2 + 1,
        lambda x: torch.where(x > 1, 2, x),
        lambda x: x.masked_fill_(x > 1, 0),
        lambda x: x.__setitem__(0, 3.0),
        lambda x: torch.full((2,), 7.0, device=x.device),
        lambda x: nn.functional.one_hot(x.long(), 5),
        lambda x: x.to("cuda"),
        lambda x: x[x.long().clamp(max=2)],
        lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True),
        lambda x: torch.empty(3).pin_memory().copy_(x, non_blocking=True),
        lambda x: nn.functional.cross_entropy(x[None], x.new_zeros(1).long()),
    ],
)
def test_nobody_waits_for(call: Callable[[Tensor], object]) -> None:
    x = there(3)
    counts = counted(lambda: call(x))
    assert not counts.waits
    assert not counts.uploads


def test_copies_are_counted_by_their_direction() -> None:
    x, host = there(3), torch.ones(3)
    assert sum(counted(lambda: x.copy_(host)).uploads.values()) == 1
    assert sum(counted(lambda: host.copy_(x)).downloads.values()) == 1
    assert counted(lambda: host.pin_memory().to("cuda", non_blocking=True)).batches == 1
    assert sum(counted(lambda: host.to("cuda", non_blocking=True)).waits.values()) == 1


def test_operators_and_bytes_by_hand() -> None:
    x = there(4)
    assert counted(lambda: x + x.view(2, 2).view(4)).work() == (1, 48)
    assert counted(lambda: x.mul_(2)).work() == (1, 16)
    assert counted(lambda: x.bool()).work() == (1, 20)
    assert counted(lambda: x.expand(100, 4).sum()).work() == (1, 20)
    assert counted(lambda: torch.zeros(8, device="cuda")).work() == (1, 32)


def test_networks_move_with_their_parameters_and_learn() -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(3, 2, 3), torch.rand(2, 3, 4, 4)
    twin = copy.deepcopy(layer)
    weight = layer.weight
    layer.to("cuda")
    assert layer.weight is weight
    assert isinstance(weight, nn.Parameter)
    assert weight.device == DEVICE
    for module, batch in ((layer, images.to("cuda")), (twin, images)):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1, fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            module(batch).square().mean().backward()
            optimizer.step()
    assert torch.equal(layer.weight.cpu(), twin.weight)
    assert copy.deepcopy(layer).weight.device == DEVICE


def test_several_tensors_are_stepped_at_once_by_default() -> None:
    parameter = nn.Parameter(there(3))
    parameter.grad = there(3)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    counts = counted(optimizer.step)
    assert set(counts.operators) == {"_foreach_add_"}
    assert parameter.tolist() == [0.0, 0.0, 0.0]


def test_files_take_tensors_from_there(tmp_path: object) -> None:
    path = f"{tmp_path}/x.safetensors"
    save_file({"x": there(3), "y": there(2)}, path)
    assert load_file(path)["x"].tolist() == [1.0, 2.0, 3.0]

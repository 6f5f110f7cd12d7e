"""What a checkpoint costs the device: one wait, whatever it holds."""

from pathlib import Path

import pytest
import torch

from emulated_cuda import counting
from vpns_lightning.training.callbacks import AtomicCheckpointIO


@pytest.mark.usefixtures("cuda")
def test_a_checkpoint_is_copied_by_the_device_and_waited_for_once(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    held = [torch.rand(4, 3, 2, 2, generator=generator) for _ in range(5)]
    held[1] = held[1].to(memory_format=torch.channels_last)
    state = {"there": [value.to("cuda") for value in held], "here": torch.arange(3), "epoch": 2}
    writer = AtomicCheckpointIO()
    for turn in range(2):
        state["there"][0].fill_(turn)
        held[0].fill_(turn)
        with counting() as counts:
            writer.save_checkpoint(state, tmp_path / "x.ckpt")
        assert sum(counts.waits.values()) == 1
        assert sum(counts.downloads.values()) == len(held)
        found = writer.load_checkpoint(tmp_path / "x.ckpt")
        assert all(map(torch.equal, found["there"], held))
        assert [value.stride() for value in found["there"]] == [value.stride() for value in held]
        assert torch.equal(found["here"], torch.arange(3))
        assert found["epoch"] == 2

"""A disk that is full: one line, and what was there before stays."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vpns_lightning as vpns
from toy_folder import finished_network, write_folder
from vpns_lightning.training.callbacks import AtomicCheckpointIO


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 64 kB, which fails in the same calls as a full disk."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path: Path, small_files: None) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)
    io.flush()
    io.save_checkpoint({"step": 2, "weight": torch.rand(100_000)}, path)
    with pytest.raises(vpns.UserError, match=r"last\.ckpt could not be written") as refused:
        io.flush()
    assert "\n" not in str(refused.value)
    assert io.load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_hand_off_that_does_not_fit_is_one_line(tmp_path: Path, small_files: None) -> None:
    with pytest.raises(vpns.UserError, match=r"handoff\.safetensors could not be written"):
        write_folder(tmp_path / "run", finished_network())

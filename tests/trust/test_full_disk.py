"""A disk that is full: one line, and what was there before stays."""

import errno
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import vpns_lightning as vpns
from toy_folder import finished_network, write_folder
from toy_run import Parts
from vpns_lightning.base.files import whole_file, write_text
from vpns_lightning.exporting import export
from vpns_lightning.training.callbacks import AtomicCheckpointIO


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow beyond 4 kB, which fails in the same calls as a full disk.

    No longer than a test needs it: what pytest itself prints may go to a file as well.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)
    io.flush()
    refusal = pytest.raises(vpns.UserError, match=r"last\.ckpt could not be written")
    with small_files():
        io.save_checkpoint({"step": 2, "weight": torch.rand(100_000)}, path)
        with refusal as refused:
            io.flush()
    assert "\n" not in str(refused.value)
    assert io.load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_hand_off_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    refused = pytest.raises(vpns.UserError, match=r"handoff\.safetensors could not be written")
    with small_files(), refused:
        write_folder(tmp_path / "run", finished_network())


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt2"])
def test_an_export_that_does_not_fit_is_one_line(tmp_path: Path, name: str) -> None:
    network = Parts().network
    network.fit_mapping(torch.eye(6)[:4].long().T)
    with small_files(), pytest.raises(vpns.UserError, match=f"{name} could not be written"):
        export(network, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    free = shutil.disk_usage(tmp_path)._replace(free=3 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(vpns.UserError, match="disk full: at least 4 MB needed in"):
        write_text(tmp_path / "file", "text")
    with (
        pytest.raises(vpns.UserError, match="disk full: 7 MB needed in"),
        whole_file(tmp_path / "file", needed=7 << 20),
    ):
        full()

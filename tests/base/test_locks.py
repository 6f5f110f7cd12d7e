"""Locks of run folders, also where a file system has none."""

import errno
import fcntl
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import lock
from vpns_lightning.runs.folder import RunFolder

HOLD = "import sys; from pathlib import Path; from vpns_lightning.base.files import lock\n"
HOLD += "with lock(Path(sys.argv[1])) as held: print(held, flush=True); sys.stdin.read()"


def test_only_a_lock_that_another_process_holds_is_held(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline().strip() == "True"
    assert run.in_use()
    with pytest.raises(UserError, match="another process is running in"), run.locked():
        pass
    other.communicate()
    assert not run.in_use()
    with run.locked():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
@pytest.mark.parametrize("wait", [False, True])
def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wait: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match=f"has no locks .{os.strerror(number)}"),
        lock(tmp_path / ".lock", wait=wait) as had,
    ):
        assert had


def test_a_run_folder_without_locks_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with RunFolder(tmp_path).locked():
            assert not RunFolder(tmp_path).in_use()
    assert "nothing keeps a second process from working there" in str(said[0].message)

"""Files that are either whole or absent."""

import errno
import hashlib
import os
import shutil
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vpns_lightning.base.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that replaces ``path`` once it is complete.

    The content is flushed to disk before the rename, so a kill or a full disk leaves the previous
    file as it was.

    Raises:
        UserError: The path is that of a device or folder, which stays as it is.
        OSError: The folder cannot be written or the disk is full.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # pathlib raises for a long name
        raise UserError(f"{path} is no file but a folder or device: name a file to write")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # some writers make private files; a run folder is shared like any other
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def writing(
    path: Path, *, needed: int = 0, faults: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Say in one line why a file could not be written.

    Args:
        path: The file.
        needed: Bytes that will be written, where that is known.
        faults: What else a library raises where the system refuses to write.

    Raises:
        UserError: The path names no file, the folder cannot be written or the disk is full.
    """
    if not path.name:
        raise UserError(f"{str(path)!r} is a folder, not a file to write: name a file in it")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, *faults)):
            raise
        said = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        said = if_full(path.parent, needed, getattr(error, "errno", None)) or said
        raise UserError(
            f"{path} could not be written ({said or error}): free space or choose "
            "another folder; what was there before is untouched"
        ) from error


@contextmanager
def whole_file(
    path: Path, *, needed: int = 0, faults: tuple[type[Exception], ...] = ()
) -> Iterator[Path]:
    """Do as :func:`replacing` and :func:`writing`."""
    with writing(path, needed=needed, faults=faults), replacing(path) as temporary:
        yield temporary


def if_full(folder: Path, needed: int, number: int | None = None) -> str:
    """Return how much is needed in a folder where its disk is too full, else nothing.

    Args:
        folder: Where something was written.
        needed: Its bytes, 0 where that is not known.
        number: By which the system says why it failed, if it did.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    if free < needed:
        return f"disk full: {max(needed >> 20, 1):,} MB needed in {folder}"
    if number in {errno.ENOSPC, errno.EDQUOT}:
        return f"disk full: at least {(free >> 20) + 1:,} MB needed in {folder}"
    return ""


def write_text(path: Path, text: str) -> None:
    """Write a text file that is never seen half-written."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Yield whether the lock file could be had; it goes with the process, however that ends.

    Where the file system has no locks, as on some clusters, a warning says so and it is had: only
    a lock that another process holds keeps a run from starting.

    Args:
        path: The lock file.
        wait: Wait for it.

    Raises:
        UserError: The file cannot be opened for writing.
    """
    # not filelock: where flock is missing it either refuses, or falls back to a file that is the
    # lock and outlives a killed process, so that its run could not be resumed
    import fcntl  # POSIX only, like everything that runs on a cluster

    try:
        opened = path.open("w")
    except OSError as error:
        raise UserError(
            f"{path} could not be opened ({error.strerror}): choose a folder that can be written"
        ) from error
    with opened as file:
        held_elsewhere = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # EWOULDBLOCK
            held_elsewhere = True
        except OSError as error:
            warnings.warn(
                f"the file system of {path.parent} has no locks ({error.strerror}): nothing keeps "
                "a second process from working there at the same time",
                stacklevel=4,
            )
        yield not held_elsewhere


def is_held(path: Path) -> bool:
    """Return whether a process holds a lock file; it is only read, as others' files may be."""
    import fcntl  # POSIX only, as above

    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def text_hash(text: str) -> str:
    """Return the SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def damaged_record(archive: zipfile.ZipFile) -> str | None:
    """Return the first record whose checksum is wrong; ``torch.load`` itself does not look.

    Where all are, none was written (``torch.serialization.set_crc32_options``).
    """
    faults = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError)
    wrong = []
    for entry in archive.infolist():
        try:
            with archive.open(entry) as record:
                while record.read(1 << 20):
                    pass
        except faults:  # also what a changed flag of a header comes to
            wrong.append(entry.filename)
    return wrong[0] if 0 < len(wrong) < len(archive.infolist()) else None


def sweep_temporaries(folder: Path) -> None:
    """Delete temporary files that a killed process left in ``folder`` and below."""
    for stray in folder.rglob(".*.tmp"):
        with suppress(OSError):
            stray.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

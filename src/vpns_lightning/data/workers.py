"""Loader processes: how many there are, and which signals they answer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from torch.utils.data import get_worker_info

from vpns_lightning.base.errors import UserError

Item = TypeVar("Item")

MOST = 8  # processes of one loader; beyond, the disk or the device is what is waited for
# what a cluster, a terminal or a user sends to a whole process group
_OTHERS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def choose_workers(ranks: int, loaders: int) -> int:
    """Return how many processes one loader starts that decodes images: at least 1, at most 8.

    They share the cores that this process may use (by affinity, by the quota of its container, and
    by the share of its slot in a grid) with those of other ranks and loaders.

    Args:
        ranks: Processes that train on this machine.
        loaders: Loaders of this process that are read at the same time.
    """
    import joblib  # takes a tenth of a second, and cached images need no workers

    cores: int = joblib.cpu_count()
    # a cluster that binds each task to cores of its own has divided them already
    if cores > int(os.environ.get("SLURM_CPUS_PER_TASK") or 0):
        cores //= max(ranks, 1)
    return max(1, min(MOST, cores // max(loaders, 1)))


@dataclass(frozen=True)
class Refused:
    """What a loader process hands back in place of a batch; torch would add its own traceback.

    Attributes:
        error: What is wrong with the images.
    """

    error: UserError


def handing_back(fetch: Callable[[Any, list[int]], Item]) -> Callable[[Any, list[int]], Item]:
    """Return how a data set fetches a batch, where a loader process hands its refusals back."""

    @wraps(fetch)
    def fetched(dataset: Any, indices: list[int]) -> Item:
        try:
            return fetch(dataset, indices)
        except UserError as error:
            if get_worker_info() is None:
                raise
            return Refused(error)  # type: ignore[return-value]  # the loader raises it

    return fetched


def outlive_signals(worker: int) -> None:
    """Let a loader process end with its parent, not with a signal sent to the whole group.

    The run itself answers such a signal after the batch at hand, for which it needs its loaders.

    Args:
        worker: Number of the process in its loader; not used.
    """
    for signum in _OTHERS:
        signal.signal(signum, signal.SIG_IGN)
    # SIGTERM is also how a loader ends processes that hang, so it depends on who sent it; a
    # handler of Python's would not be told
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(0)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items of an iterator, the next one made in a thread while one is in use."""
    end = object()
    with ThreadPoolExecutor(1, "gather") as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]  # it is not the end

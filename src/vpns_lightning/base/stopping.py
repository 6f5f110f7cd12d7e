"""Being asked to stop by a terminal, a scheduler or a user; nothing heavy is imported here."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

# where launchers write which process of a run this is; the first that is set counts
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
LEFT_ALONE = (signal.SIGHUP, signal.SIGINT)  # where the caller ignores them: nohup, background jobs
_SCONTROL_SECONDS = 60.0


class Stopped(SystemExit):
    """The process ends because a signal asked for it.

    Args:
        signum: The signal.
        together: All processes of the run end. What started them may kill the first as soon as
            another ends with a status, so the others end with 0; else it is 128 + the number.
    """

    def __init__(self, signum: int, *, together: bool = False) -> None:
        super().__init__(0 if together and not _is_first() else 128 + signum)
        self.signum = signum
        self.together = together


class StopRequest:
    """Remembers a signal that asks the run to stop.

    While a stage trains, a signal is noted and answered after the batch at hand; at any other time,
    or the second time, it ends the process at once. SLURM's SIGUSR1 requeues the job first; only
    the first process answers it outside training, since the end of another would end the job before
    it is requeued.

    Attributes:
        signum: The signal that is to be answered, 0 if there is none.
        training: Batches are trained on, after which a signal is answered.
        leaving: A signal is being answered; further ones are those of a requeued job.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.training = False
        self.leaving = False
        self._before: dict[signal.Signals, object] = {}

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Note a signal, or leave."""
        if self.leaving and signum != signal.SIGINT:
            return
        noted, self.signum = self.signum, self.signum or signum
        if signum == signal.SIGUSR1 and not _is_first():
            return
        if noted or not self.training:
            self.leave(signum)

    def leave(self, signum: int, *, wait: Callable[[], None] | None = None) -> NoReturn:
        """End the process; requeue the job before, where SLURM has announced its end.

        Args:
            signum: The signal that is answered.
            wait: Waits for the other processes. Called once the job is requeued: the first process
                that ends may end the whole job.

        Raises:
            Stopped: Always.
        """
        self.leaving = True
        if signal.SIGUSR1 in {self.signum, signum} and _is_first():
            requeue()
        if wait is None:
            raise Stopped(signum)
        wait()
        raise Stopped(signum, together=True)

    def listen(self) -> None:
        """Handle SIGTERM, SIGHUP, SIGINT, and inside a SLURM job SIGUSR1, in the main thread.

        Also after something else has taken them, such as Lightning.
        """
        if not _in_main_thread():
            return
        wanted = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
        if os.environ.get("SLURM_JOB_ID"):
            wanted.append(signal.SIGUSR1)
        heard = [s for s in wanted if s not in LEFT_ALONE or signal.getsignal(s) != signal.SIG_IGN]
        for signum in heard:
            before = signal.signal(signum, self.handle)
            self._before.setdefault(signum, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)

    def stop_listening(self) -> None:
        """Put back the handlers of before."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler or signal.SIG_DFL)  # type: ignore[arg-type]  # as it was
        self._before.clear()


_listening: list[StopRequest] = []


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Yield what signals are noted in; inside another of its kind, that one's.

    Raises:
        KeyboardInterrupt: The run was left because of Ctrl-C.
    """
    stop = _listening[0] if _listening else StopRequest()
    if _listening or not _in_main_thread():
        yield stop
        return
    _listening.append(stop)
    try:
        stop.listen()
        yield stop
    except Stopped as stopped:
        if stopped.signum == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise
    finally:
        stop.stop_listening()
        _listening.clear()


def requeue() -> None:
    """Ask SLURM to start this job again; where it cannot, say so in one line."""
    job = os.environ.get("SLURM_JOB_ID", "")
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        asked = subprocess.run(
            ["scontrol", "requeue", job],
            capture_output=True,
            text=True,
            timeout=_SCONTROL_SECONDS,
            check=False,
        )
        answer = asked.stderr or f"exit status {asked.returncode}"
        problem = " ".join(answer.split()) if asked.returncode else ""
    except FileNotFoundError:
        problem = "there is no scontrol on this machine"
    except (OSError, subprocess.SubprocessError) as error:
        problem = " ".join(str(error).split())
    if problem:
        line = f"vpns: job {job} is not requeued: {problem}; submit it again, and it resumes\n"
        os.write(2, line.encode())  # the signal may have interrupted a print


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_first() -> bool:
    return next((os.environ[key] for key in RANKS if os.environ.get(key)), "0") == "0"

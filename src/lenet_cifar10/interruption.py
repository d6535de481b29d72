"""SIGINT and SIGTERM end a stage at once with one line; so does the end of the dvc command that started it.

Imported before everything that takes long to import, for a signal can come then too.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

_GRACE_SECONDS = 1.0  # for clean-up; what a library, or a reader who does not read, holds up longer is left
_LOOK_SECONDS = 0.25

_advice = "give the same command again to go on"
_unwinds = False


class Stopped(SystemExit):
    """A signal has come: ends the program with status 128 + its number and without a traceback."""


def answer_signals() -> None:
    """From now on SIGINT and SIGTERM end this process, and so does the end of dvc, if it started this process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    dvc = os.environ.get("DVC_PID", "")  # set by the commands in dvc.yaml
    if dvc.isdecimal():
        end_with(int(dvc))


def end_with(starter: int) -> None:
    """From now on the end of this other process, which started this one, ends this one too."""
    threading.Thread(target=_stop_after, args=(starter,), daemon=True).start()


def unwind() -> None:
    """From now on a signal raises `Stopped`, so that what is half done is cleaned up.

    Not before: raised while a library is being imported, it can crash the library.
    """
    global _unwinds
    _unwinds = True


def advise(advice: str) -> None:
    """What the line of a stopped stage says after the signal's name: what is kept and how to go on.

    Nothing: there is no line; another process has one.
    """
    global _advice
    _advice = advice


def _stop(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # one is enough, and the clean-up is short
    status = 128 + number
    watchdog = threading.Timer(_GRACE_SECONDS, os._exit, [status])
    watchdog.daemon = True
    watchdog.start()
    # Written past Python's buffers, which the interrupted code may be in the middle of.
    with suppress(OSError):  # whoever read it may be gone
        start = "\n" if os.isatty(2) else ""  # a terminal's line may hold a bar
        if _advice:
            os.write(2, f"{start}stopped by {signal.Signals(number).name}: {_advice}\n".encode())
    if not _unwinds:
        os._exit(status)
    raise Stopped(status)


def _stop_after(starter: int) -> None:
    """Wait for the end of a process that would leave this one to run on beside the next run of the same project."""
    import psutil  # here, for importing it takes as long as all that comes before the first signal is answered

    with suppress(psutil.Error):
        process = psutil.Process(starter)
        # Of one that died before the shell asked for its parent, the number is that of the system's first process.
        runs_python = any(name in word.lower() for word in process.cmdline()[:2] for name in ("python", "dvc"))
        while runs_python and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)

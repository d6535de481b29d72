"""SIGINT and SIGTERM end a stage at once with one line; so does the end of the dvc command that started it.

Imported before everything that takes long to import, for a signal can come then too.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

_GRACE_SECONDS = 1.5  # for clean-up; what a library holds up longer than that is left
_LOOK_SECONDS = 0.25

_advice = "run dvc repro again to go on"


class Stopped(SystemExit):
    """A signal has come: ends the program with status 128 + its number and without a traceback."""


def answer_signals() -> None:
    """From now on SIGINT and SIGTERM raise `Stopped`, and the end of dvc, if it started this process, is a SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    dvc = _find_dvc()
    if dvc is not None:
        threading.Thread(target=_stop_after, args=(dvc,), daemon=True).start()


def advise(advice: str) -> None:
    """What the line of a stopped stage says after the signal's name: what is kept and how to go on."""
    global _advice
    _advice = advice


def _stop(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # one is enough, and the clean-up is short
    status = 128 + number
    # Written past Python's buffers, which the interrupted code may be in the middle of.
    with suppress(OSError):  # whoever read it may be gone
        start = "\n" if os.isatty(2) else ""  # a terminal's line may hold a bar
        os.write(2, f"{start}stopped by {signal.Signals(number).name}: {_advice}\n".encode())
    watchdog = threading.Timer(_GRACE_SECONDS, os._exit, [status])
    watchdog.daemon = True
    watchdog.start()
    raise Stopped(status)


def _find_dvc() -> psutil.Process | None:
    """The dvc command above this process, whether or not a shell or a launcher stands between; None by hand."""
    if "DVC_ROOT" not in os.environ:
        return None
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()[:4]  # python [-m] dvc, or python /path/bin/dvc
        except psutil.Error:
            continue
        if any(Path(word).name == "dvc" for word in words):
            return process
    return None


def _stop_after(process: psutil.Process) -> None:
    """Wait for the end of dvc, which would leave this stage to run on beside the next run of the same project."""
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)

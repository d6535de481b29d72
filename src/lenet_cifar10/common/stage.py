"""How a stage and a command start and end: alone in their folder, and with one line where something is wrong."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """A mistake or a circumstance that the user can fix.

    The message is what the user sees. It names the file, key or URL, what was found, what was expected and what to do.
    Several mistakes are several lines.
    """


class Stopped(BaseException):
    """SIGINT or SIGTERM has arrived; not an Exception, so that nothing on the way out takes it for an error."""

    def __init__(self, number: int) -> None:
        self.number = number


def run_stage(main: Callable[[], None]) -> None:
    """Call a stage's `main` while no other stage runs in the current folder, and end the program as `run` does."""

    def alone() -> None:
        if is_main_process():
            _lock_folder()
        main()

    run(alone)


def run(main: Callable[[], object]) -> None:
    """Call `main` and end the program: with status 0, 1 after a `UserError` or an OSError, 128 + N after signal N.

    A mistake or a stop prints its line to standard error and no traceback.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        main()
    except UserError as error:
        # A name out of a file could steer the terminal.
        lines = (line if line.isprintable() else ascii(line) for line in str(error).splitlines())
        _fail("\n".join(f"error: {line}" for line in lines))
    except OSError as error:  # such as a full disk or a missing permission: the system names the cause and the file
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"error: {place}{error.strerror}; fix this and run the same command again")
    except Stopped as stop:
        if is_main_process():
            name = signal.Signals(stop.number).name
            print(f"stopped by {name}; run the same command again to continue", file=sys.stderr, flush=True)
        sys.exit(128 + stop.number)


def is_main_process() -> bool:
    """Whether this process is the only one, or the one of rank 0 under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # one is enough
    raise Stopped(number)


def _fail(message: str) -> NoReturn:
    if not is_main_process():
        # Where all processes have the same to say, torchrun ends this one as soon as the main process has said it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(10)
    print(message, file=sys.stderr, flush=True)
    sys.exit(1)


def _lock_folder() -> None:
    """Lock the current folder until this process ends: a killed dvc leaves its stage running beside the next one.

    Raises:
        UserError: another stage holds the lock.
    """
    folder = os.open(".", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError("another stage is running in this folder; wait for its end, or end it") from None
    except OSError:
        pass  # a file system without locks

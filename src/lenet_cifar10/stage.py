"""What every stage does around its main: one stage at a time in a folder, mistakes in one line, a stop cleans up."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from lenet_cifar10 import errors, interruption, locks

LOCK = Path(".resume/stage.lock")


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`, after the end of any other stage that runs in the current folder, and end the program."""
    call(lambda: alone(main))


def alone(main: Callable[[], None]) -> None:
    """Call it after the end of any other stage that runs in the current folder."""
    with locks.hold(LOCK, "waiting for another stage that runs in this folder"):
        main()


def call(main: Callable[[], None]) -> None:
    """Call it, and end the program: a mistake is told in one line, and a stop cleans up."""

    def work() -> None:
        main()
        sys.stdout.flush()

    interruption.unwind()
    status = 0
    try:
        errors.run(work)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr, flush=True)
    if sys.getprofile() is None:  # a profiler still has its report to write
        os._exit(status)  # taking torch down lasts half a second, in which signals are no longer answered with a line
    sys.exit(status)

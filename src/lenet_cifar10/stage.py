"""What every stage does around its main: one stage at a time in a folder, mistakes in one line, a stop cleans up."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from lenet_cifar10 import errors, interruption, launcher, locks

LOCK = Path(".resume/stage.lock")


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`, after the end of any other stage that runs in the current folder, and end the program.

    Of several processes of one stage the one that leads waits, and says what is to be said of a stop.
    """
    interruption.unwind()
    status = 0
    try:
        errors.run(lambda: _alone(main))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr, flush=True)
    if sys.getprofile() is None:  # a profiler still has its report to write
        os._exit(status)  # taking torch down lasts half a second, in which signals are no longer answered with a line
    sys.exit(status)


def _alone(main: Callable[[], None]) -> None:
    place = launcher.find_place()
    if place.agent is not None:
        interruption.end_with(place.agent)
    if not place.leads:
        interruption.advise("")
    with locks.hold(LOCK, "waiting for another stage that runs in this folder") if place.leads else nullcontext():
        main()
    sys.stdout.flush()

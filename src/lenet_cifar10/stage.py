"""What every stage does around its main: one stage at a time in a folder, mistakes in one line, a stop cleans up."""

from collections.abc import Callable
from pathlib import Path

from lenet_cifar10 import errors, interruption, locks

LOCK = Path(".resume/stage.lock")


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`, after the end of any other stage that runs in the current folder."""
    interruption.unwind()
    errors.run(lambda: _alone(main))


def _alone(main: Callable[[], None]) -> None:
    with locks.hold(LOCK, "waiting for another stage that runs in this folder"):
        main()

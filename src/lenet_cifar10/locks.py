"""One process at a time; a killed one blocks nobody."""

from pathlib import Path

import filelock

from lenet_cifar10.terminal import say


def hold(path: Path, waiting: str) -> filelock.AcquireReturnProxy:
    """Hold the lock as a context, after waiting for its holder, if there is one, and saying so.

    Raises:
        OSError: the file cannot be written.
    """
    lock = filelock.FileLock(path)
    path.touch()
    try:
        return lock.acquire(blocking=False)
    except filelock.Timeout:
        say(waiting)
        return lock.acquire()

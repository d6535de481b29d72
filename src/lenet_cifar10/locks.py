"""One process at a time; a killed one blocks nobody."""

from pathlib import Path

import filelock

from lenet_cifar10.terminal import say


def hold(path: Path, waiting: str) -> filelock.AcquireReturnProxy:
    """Hold the lock as a context, after waiting for its holder, if there is one, and saying so.

    Raises:
        OSError: the file cannot be written.
    """
    held = try_to_hold(path)
    if held is None:
        say(waiting)
        held = filelock.FileLock(path).acquire()
    return held


def try_to_hold(path: Path) -> filelock.AcquireReturnProxy | None:
    """Hold the lock as a context; None where another process holds it. Its holder may remove the file.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # touching it would make an old run look new
        path.touch()
    try:
        return filelock.FileLock(path).acquire(blocking=False)
    except filelock.Timeout:
        return None

"""What a user can mend is told in one line and ends with exit status 1, without a traceback."""

import sys
from collections.abc import Callable
from io import TextIOWrapper

MEND = "mend this and run again"  # of what is not the parameters' fault: a full disk, a missing permission
VERIFY = "lenet-cifar10 verify says how to repair it"  # of a file that a stage wrote and that is not as it was


class UserError(Exception):
    """A mistake or a circumstance that the user can mend.

    The message is the whole text that the user sees: it names the file, key or URL, what was found,
    what was expected and what to do. Several mistakes are several lines.
    """


def run(main: Callable[[], None]) -> None:
    """Call `main`; turn what the user can mend into lines on standard error and exit status 1.

    What standard output's encoding lacks is written there as escapes, as Python does on standard error.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # it is None where it was closed at the start
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))
    except OSError as error:
        # A full disk, a missing permission: the system's own words name the cause and the file.
        if error.filename is None and error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        sys.exit(f"error: {place}{error.strerror or error}; {MEND}")
    except KeyboardInterrupt:
        sys.exit(130)

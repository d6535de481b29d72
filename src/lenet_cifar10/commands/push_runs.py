"""Send DVC's run-cache to a remote, with all that its runs wrote."""

from typing import Annotated

import typer

from lenet_cifar10 import terminal


def push_runs(
    remote: Annotated[
        str | None, typer.Option("--remote", "-r", help="The DVC remote; else the default one.", show_default=False)
    ] = None,
) -> None:
    """Push DVC's run-cache so that a clone elsewhere repeats no training that was done here.

    dvc push sends the records of runs too, but leaves the metrics and plots behind that Git tracks: train, evaluate
    and figures would be run again. After this, dvc repro --pull and dvc exp run --pull restore them in the clone.

    \b
    Examples:
      lenet-cifar10 push-runs
      lenet-cifar10 push-runs --remote store
    """
    from lenet_cifar10 import revisions, run_cache  # here, for importing DVC takes half a second

    sent = run_cache.push(revisions.project_root(), remote)
    terminal.say(f"{sent.runs} runs pushed, with {sent.outputs} files that the remote lacked")

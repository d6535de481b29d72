"""Let dvc plots write pages that need no network."""

import subprocess
import sys
from functools import partial

from lenet_cifar10.common.console import say
from lenet_cifar10.common.stage import UserError

TEMPLATE = "plots.html"  # in .dvc/, where Git ignores it


def offline_plots() -> None:
    """Let `dvc plots show` and `dvc plots diff` write pages that need no network.

    DVC's own page loads the program that draws its charts from the internet. This writes .dvc/plots.html, a template
    that has the program inside, and names it in .dvc/config.local; Git ignores both. A template of your own stays.
    `dvc config --local --unset plots.html_template` gives DVC's page back.

    \b
    Examples:
      lenet-cifar10 offline-plots
      dvc plots show
    """
    from lenet_cifar10.commands.page import render
    from lenet_cifar10.common.files import atomic_write
    from lenet_cifar10.experiments.revisions import project_root

    config = partial(subprocess.run, capture_output=True, text=True, check=False)
    command = [sys.executable, "-m", "dvc", "config"]
    chosen = config([*command, "plots.html_template"]).stdout.strip()
    if chosen not in ("", TEMPLATE):
        say(f"dvc plots uses {chosen}, which DVC's configuration names; nothing was changed")
        return
    # The template first: a configuration that names a missing one stops dvc plots.
    atomic_write(project_root() / ".dvc" / TEMPLATE, render(TEMPLATE))
    result = config([*command, "--local", "plots.html_template", TEMPLATE])
    if result.returncode:
        raise UserError(f"dvc config: {' '.join(result.stderr.split())}; fix .dvc/config or .dvc/config.local")
    say("dvc plots now writes pages that need no network (.dvc/plots.html, .dvc/config.local)")

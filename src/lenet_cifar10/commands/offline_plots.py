"""Let dvc plots write pages that need no network."""

from typing import cast

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError

TEMPLATE = "plots.html"  # in .dvc/, where Git ignores it


def offline_plots() -> None:
    """Let `dvc plots show` and `dvc plots diff` write pages that need no network.

    DVC's own page loads the program that draws its charts from the internet. This writes .dvc/plots.html, a template
    that has it inside, and names it in .dvc/config.local; Git ignores both. A template of your own choice stays.
    `dvc config --local --unset plots.html_template` gives DVC's page back.

    \b
    Examples:
      lenet-cifar10 offline-plots
      dvc plots show
    """
    # Here, for importing DVC takes half a second.
    from string import Template

    from dvc.config import Config, ConfigError

    from lenet_cifar10 import records, revisions, vega

    folder = revisions.project_root() / ".dvc"
    try:
        config = Config(str(folder))
        chosen = config.get("plots", {}).get("html_template", TEMPLATE)
        if chosen != TEMPLATE:
            terminal.say(f"left as it is: plots.html_template is {chosen}; dvc config --show-origin --list says where")
            return
        # The template first: a configuration that names a missing one stops dvc plots.
        parts = {"style": vega.template("theme.css"), "theme": vega.template("theme.js"), "bundle": vega.bundle()}
        with records.replacing(folder / TEMPLATE) as (path,):
            path.write_text(Template(vega.template("plots.html")).substitute(parts), encoding="utf-8")
        with config.edit("local") as local:
            cast("dict[str, dict[str, str]]", local)["plots"]["html_template"] = TEMPLATE
    except ConfigError as error:
        raise UserError(f"DVC cannot read its configuration: {error}; mend .dvc/config or .dvc/config.local") from None
    terminal.say("dvc plots now writes pages that need no network (.dvc/plots.html, .dvc/config.local)")

"""What every page with charts has inside, so that it needs no network: the program that draws them, and our style."""

from functools import cache
from importlib.resources import files

VEGA_LITE = "6.4"  # with DVC's templates, written for version 5, it draws the same


@cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, 0.9 MB, which defines vegaEmbed. Made in three seconds."""
    import vl_convert  # here, for it starts an engine for JavaScript

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)


def template(name: str) -> str:
    """The text of a file in the package's folder of templates."""
    return (files("lenet_cifar10") / "templates" / name).read_text(encoding="utf-8")

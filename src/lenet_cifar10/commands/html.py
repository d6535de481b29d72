"""HTML from the package's templates, with the program that draws charts inside."""

import base64
import hashlib
import json
from functools import cache
from typing import Any


@cache
def _bundle() -> str:
    """Vega, Vega-Lite (the version that DVC writes for) and Vega-Embed as one script, 0.9 MB, made in three seconds."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version="5.20")


def render(name: str, **values: Any) -> str:
    """A page from a template; whatever the values hold is text in it, never markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lenet_cifar10"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    environment.filters["show"] = show
    return environment.get_template(name).render(bundle=_bundle(), **values)


def show(value: object) -> str:
    """A parameter's value as YAML has it; a dash where a revision has no such parameter."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

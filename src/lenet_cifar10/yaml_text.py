"""YAML 1.2, the kind that DVC reads: `1e-3` and `1e-06` are numbers."""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class NotYamlError(Exception):
    """What is wrong with a text, in one line."""


def parse(text: bytes) -> Any:
    """The plain values of a text in UTF-8.

    Raises:
        NotYamlError: it is no YAML, or not of plain values alone.
    """
    try:
        return YAML(typ="safe", pure=True).load(text.decode("utf-8"))
    # ruamel leaves to Python what it does not check itself: a month of 13, an empty number, a mapping as a key.
    except (YAMLError, ValueError, LookupError, RecursionError, TypeError) as error:
        raise NotYamlError(" ".join(str(error).split())) from None

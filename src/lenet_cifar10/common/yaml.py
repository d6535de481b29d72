"""YAML as DVC reads it, version 1.2: `1e-3` is a number, `no` is text, `010` is ten and `1:30` is text."""

import re
from typing import Any

import yaml

from lenet_cifar10.common.stage import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML, which reads YAML 1.1, with the scalars of YAML 1.2 and without repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as in the class above)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key} is repeated", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "").lower()
    return int(text, 0) if re.match("[-+]?0[box]", text) else int(text)


for _kind, _pattern, _starts in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_starts))
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: bytes | str, name: str) -> Any:
    """The plain values of a YAML text; messages call it `name`.

    Raises:
        UserError: it is not YAML, or holds more than plain values.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        if re.search("^%", text, re.MULTILINE):
            raise ValueError("directives such as %YAML are not supported")
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{name}: is not valid YAML: {' '.join(str(error).split())}") from None

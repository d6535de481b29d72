"""What the stages depend on, and which way the imports of the package point."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import SOURCE, run

PACKAGE = SOURCE / "src/lenet_cifar10"
FLOORS = ("common", "data", "model", "training", "evaluation", "experiments", "commands")  # each imports those before
DVC_YAML: dict[str, dict[str, Any]] = yaml.safe_load((SOURCE / "dvc.yaml").read_text(encoding="utf-8"))
MODULES = sorted(PACKAGE.rglob("*.py"))

PRINT_IMPORTED = """
import json, runpy, sys
for script in sys.argv[1:]:
    runpy.run_path(script)
    ours = [name for name in sys.modules if name.startswith("lenet_cifar10")]
    print(json.dumps([sys.modules.pop(name).__file__ for name in ours]))
"""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_a_stage_depends_on_the_code_that_it_imports() -> None:
    """Else an edit of a module does not rerun it, or an edit of an unused one does."""
    scripts = [f"stages/{stage}.py" for stage in DVC_YAML["stages"]]
    output = run(SOURCE, sys.executable, "-c", PRINT_IMPORTED, *scripts, PYTHONPATH="src").stdout
    for script, stage, line in zip(scripts, DVC_YAML["stages"].values(), output.splitlines(), strict=True):
        imported = [Path(name).relative_to(SOURCE).as_posix() for name in json.loads(line)]
        imported = [script, *(name for name in imported if not name.endswith("__init__.py"))]
        code = [name for name in stage["deps"] if re.match("stages/|src/.*(/[a-z]+|[.]py)$", name)]
        covering = {name: [path for path in code if name == path or name.startswith(f"{path}/")] for name in imported}
        assert [name for name, paths in covering.items() if not paths] == [], script
        assert [path for path in code if all(path not in paths for paths in covering.values())] == [], script
        for path in code:  # an import in a function would not be seen above
            for file in (SOURCE / path).rglob("*.py") if path[-3:] != ".py" else [SOURCE / path]:
                functions = [node for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef)]
                inner = [node for function in functions for node in ast.walk(function)]
                assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in inner), file


def imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_from_its_own_floor_and_those_before(path: Path) -> None:
    floor = path.relative_to(PACKAGE).parts[0]
    allowed = FLOORS[: FLOORS.index(floor) + 1] if floor in FLOORS else ()
    ours = [name.split(".")[1] for name in imported_by(path) if name.startswith("lenet_cifar10.")]
    assert set(ours) <= set(allowed)


def test_packages_have_no_code_of_their_own() -> None:
    """So that no stage depends on an __init__.py."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent.name != "commands":
            (docstring,) = parse(path).body
            assert isinstance(docstring, ast.Expr)

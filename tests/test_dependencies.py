"""What each stage depends on, and which way the modules' imports point."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "lenet_cifar10"
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SCRIPTS = sorted((ROOT / "stages").glob("*.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_names(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, also within its functions."""
    package = list(path.relative_to(SOURCE).parent.parts) if path.is_relative_to(SOURCE) else []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def files_of(name: str) -> Iterator[Path]:
    """The files of ours that importing a dotted name runs: the packages on the way and the module."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        place = SOURCE.joinpath(*parts[:depth])
        yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())


def directly_imported(path: Path) -> set[Path]:
    return {file for name in imported_names(path) for file in files_of(name)} - {path}


def all_imported(path: Path) -> set[Path]:
    found: set[Path] = set()
    to_visit = [path]
    while to_visit:
        new = directly_imported(to_visit.pop()) - found
        found |= new
        to_visit.extend(new)
    return found


def test_every_script_is_a_stage_and_every_stage_a_script() -> None:
    assert [f"stages/{name}.py" for name in sorted(STAGES)] == [str(path.relative_to(ROOT)) for path in SCRIPTS]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_its_script_then_on_every_module_that_it_imports(name: str) -> None:
    script = ROOT / "stages" / f"{name}.py"
    modules = sorted(str(path.relative_to(ROOT)) for path in all_imported(script))
    code = [path for path in STAGES[name]["deps"] if path.endswith(".py")]
    assert code == [f"stages/{name}.py", *modules]
    assert STAGES[name]["deps"][: len(code)] == code


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_runs_its_own_script_with_the_code_beside_it_and_knows_the_dvc_above(name: str) -> None:
    launcher = "${train.launcher}" if name == "train" else "python"
    assert STAGES[name]["cmd"] == f"DVC_PID=$PPID PYTHONPATH=src {launcher} stages/{name}.py"


def strings_in(path: Path) -> Iterator[str]:
    """Every text in a file's code but the docstrings."""
    tree = parse(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def paths_of(stage: dict[str, Any], *kinds: str) -> set[str]:
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    paths = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    return {path for path in paths if not path.endswith(".py")}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_each_file_that_dvc_expects_of_it(name: str) -> None:
    texts = " ".join(strings_in(ROOT / "stages" / f"{name}.py"))
    for path in paths_of(STAGES[name], "deps", "outs", "metrics", "plots"):
        assert path in texts or (Path(path).name in texts and str(Path(path).parent) in texts), path


DATA_PATHS = {path for stage in STAGES.values() for path in paths_of(stage, "deps", "outs", "metrics", "plots")}


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if "commands" not in path.parts],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_only_stages_and_commands_know_the_paths_of_the_workflow(path: Path) -> None:
    """A text that is such a path, or a folder on its way, not one that merely mentions a word."""
    known = {*DATA_PATHS, *(f"{folder}/" for path in DATA_PATHS for folder in Path(path).parents if folder.name)}
    known |= {text.rstrip("/") for text in known if text.count("/") > 1}
    found = [text for text in strings_in(path) if text in known or any(text.startswith(place) for place in DATA_PATHS)]
    assert found == []


@pytest.mark.parametrize("name", ["model", "augment", "evaluation"])
def test_the_inner_modules_import_nothing_of_ours_but_params(name: str) -> None:
    allowed = {PACKAGE / "params.py", PACKAGE / "__init__.py"}
    assert directly_imported(PACKAGE / f"{name}.py") <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_itself_in_a_circle(path: Path) -> None:
    assert path not in all_imported(path) or path.name == "__init__.py"


def test_the_package_imports_no_stage_and_only_commands_import_commands() -> None:
    for path in MODULES:
        assert not any(name.split(".")[0] == "stages" for name in imported_names(path)), path
        if "commands" not in path.parts:
            assert not any("commands" in imported.parts for imported in all_imported(path)), path


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_changes_where_python_looks_for_modules(path: Path) -> None:
    for node in ast.walk(parse(path)):
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path")
    assert "sys.path" not in set(imported_names(path))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_stage_is_15_to_45_lines_of_code(path: Path) -> None:
    """Blank lines are not counted."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert 15 <= len(lines) <= 45


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_stage_answers_signals_before_long_imports_and_does_nothing_more_when_it_is_imported(path: Path) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef)
    first, *others, last = parse(path).body
    assert isinstance(first, ast.Expr)
    (answer,) = [position for position, node in enumerate(others) if not isinstance(node, allowed)]
    assert ast.unparse(others[answer]) == "interruption.answer_signals()"
    before = {name.split(".")[0] for node in others[:answer] for name in imported_by(node)}
    assert before <= {"os", "pathlib", "lenet_cifar10"}
    ours = [name for node in others[:answer] for name in imported_by(node) if name.startswith("lenet_cifar10.")]
    assert ours == ["lenet_cifar10.interruption"]
    runner = "teamwork" if path.name == "train.py" else "stage"
    assert ast.unparse(last) == f"if __name__ == '__main__':\n    {runner}.run(main)"

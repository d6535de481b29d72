"""No call in the package can run what a data file or a parameter says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "src" / "lenet_cifar10").rglob("*.py"), *(ROOT / "stages").glob("*.py")])

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads",
    "shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
    "pandas.read_pickle", "numpy.lib.format.read_array", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "torch.hub.load", "torch.jit.load", "torch.serialization.load", "runpy.run_path",
    "importlib.import_module", "tarfile.TarFile.extractall", "shutil.unpack_archive", "tempfile.mktemp",
}  # fmt: skip
REQUIRED = {
    "torch.load": ("weights_only", "True"),
    "numpy.load": ("allow_pickle", "False"),
    "ruamel.yaml.YAML": ("typ", "'safe'"),
}
METHODS = {"extractall", "extract"}  # of a tar or zip file: members can lead out of the folder


def full_names(tree: ast.Module) -> dict[str, str]:
    """What the names in a file stand for: np -> numpy, load -> torch.load."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def unsafe_calls(code: str) -> Iterator[str]:
    """Every call, and every mention of a forbidden function, that could run what data says."""
    tree = ast.parse(code)
    names = full_names(tree)

    def full_name(node: ast.expr) -> str:
        head, dot, rest = ast.unparse(node).partition(".")
        return names.get(head, head) + dot + rest

    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and full_name(node) in FORBIDDEN:
            yield f"line {node.lineno}: {full_name(node)}"
        if not isinstance(node, ast.Call):
            continue
        name = full_name(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in REQUIRED:
            key, value = REQUIRED[name]
            if given.get(key) != value:
                yield f"line {node.lineno}: {name} without {key}={value}"
        if given.get("shell", "False") != "False":
            yield f"line {node.lineno}: {name} with a shell"
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield f"line {node.lineno}: {node.func.attr}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_can_run_what_data_says(path: Path) -> None:
    assert list(unsafe_calls(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "run = exec",
        "import os; os.system(text)",
        "from os import system as go; go(text)",
        "import pickle; pickle.loads(text)",
        "from pickle import load; load(file)",
        "import pickle\nclass Reader(pickle.Unpickler): pass",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "from torch import load as read; read(path, weights_only=flag)",
        "import numpy as np; np.load(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import pandas as pd; pd.read_pickle(path)",
        "import yaml; yaml.load(text)",
        "from ruamel.yaml import YAML; YAML(typ='unsafe')",
        "from ruamel.yaml import YAML; YAML()",
        "import subprocess; subprocess.run(text, shell=True)",
        "tarfile.open(path).extractall()",
    ],
)
def test_the_search_finds_an_unsafe_call(code: str) -> None:
    assert len(list(unsafe_calls(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import torch; torch.load(path, weights_only=True)",
        "import numpy as np; np.load(path, allow_pickle=False)",
        "from ruamel.yaml import YAML; YAML(typ='safe', pure=True).load(text)",
        "import json; json.load(file)",
        "import subprocess; subprocess.run(['git', 'status'], check=True)",
        "import re; re.compile(text)",
        "network.eval()",
    ],
)
def test_the_search_lets_a_safe_call_pass(code: str) -> None:
    assert list(unsafe_calls(code)) == []

"""A copy of this project in a repository of its own, driven through the real command lines of Git and DVC."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lenet_cifar10.common.files import hash_file
from lenet_cifar10.common.yaml import parse_yaml
from lenet_cifar10.data.synthetic import write_archive

SOURCE = Path(__file__).resolve().parent.parent
STAGES = ("download", "prepare", "train", "evaluate", "report")

# For every command: this environment's programs first, nobody's own Git settings.
_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "COLUMNS": "200",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}


def environment(**more: str) -> dict[str, str]:
    """The environment of every command of a test: no PYTHONPATH, nothing of a Git hook that runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHONPATH"))}
    return kept | _ENVIRONMENT | more


def run(folder: Path, *command: str | Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder with these environment variables; unless `check` is False it must succeed."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and result.returncode:
        raise AssertionError(f"{command} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result


def start(folder: Path, *command: str | Path, **env: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; its standard output has everything that it prints."""
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> str:
    """Read what a process prints until a line begins like this; that line."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return line
    raise AssertionError(f"no line begins with {beginning!r}:\n{''.join(lines)}")


def stages_run(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that dvc says it ran, in order."""
    return re.findall(r"Running stage '(\w+)'", result.stdout)


def first_epoch(output: str) -> int:
    """The number of the first epoch that a training reports: above 1 where it continues a stopped one."""
    match = re.search(r"^epoch (\d+)/", output, re.MULTILINE)
    assert match, output
    return int(match[1])


def copy_project(folder: Path) -> None:
    """Copy the files that Git tracks or would track, but no results, into a new Git repository with one commit."""
    listed = run(SOURCE, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        is_result = name == "dvc.lock" or (name.startswith(("metrics/", "plots/")) and not name.endswith("README.md"))
        if not is_result and (SOURCE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, folder / name)
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "config", "user.email", "test@example.com")
    commit(folder, "start")


def commit(folder: Path, message: str) -> None:
    """Commit everything that Git does not ignore."""
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)


def change_params(folder: Path, changes: Mapping[str, Any]) -> None:
    """Set values in params.yaml by their dotted keys; its comments are lost."""
    path = folder / "params.yaml"
    params = parse_yaml(path.read_bytes(), str(path))
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[name] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def use_generated_images(folder: Path, train: int = 400, test: int = 100, **changes: Any) -> None:
    """Set params.yaml to a small archive of generated images, written beside the project, and a short training."""
    archive = folder.parent / "generated.tar.gz"
    write_archive(archive, train, test, seed=0)
    small = {
        "data.urls": [str(archive)],
        "data.sha256": hash_file(archive),
        "data.validation_size": 100,
        "train.epochs": 6,
        "train.batch_size": 50,
        "train.threads": 1,
        "figures.dpi": 50,
    }
    change_params(folder, small | changes)


def hash_outputs(folder: Path) -> dict[str, str]:
    """The SHA-256 of dvc.lock and of each file below data, metrics and plots that is there."""
    paths = [folder / "dvc.lock"]
    for name in ("data", "metrics", "plots"):
        paths += sorted((folder / name).rglob("*"))
    return {str(path.relative_to(folder)): hash_file(path) for path in paths if path.is_file()}


def read_committed(folder: Path, revision: str, path: str) -> str:
    """A file that Git tracks, as a commit or an experiment has it."""
    if revision != "HEAD":
        revision = run(folder, "git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{revision}").stdout
    return run(folder, "git", "show", f"{revision.strip()}:{path}").stdout

"""A copy of this project in a folder of its own, driven through the real command lines of Git and DVC."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SOURCE = Path(__file__).resolve().parent.parent

# The same for every command: this environment's Python first, nobody's own Git or DVC settings.
_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "DVC_NO_ANALYTICS": "true",
    "COLUMNS": "200",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}


def environment(**more: str) -> dict[str, str]:
    """The environment of every command of a test, without what the test's own launcher added to it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "PYTEST_", "PYTHONPATH"))}
    return kept | _ENVIRONMENT | more


@dataclass(frozen=True)
class Result:
    """What a command left: its exit status and everything it printed."""

    status: int
    text: str


@dataclass(frozen=True)
class Project:
    """A project folder."""

    folder: Path

    def run(self, *command: str | Path, check: bool = True, **variables: str) -> Result:
        """Run a command in the project; unless told otherwise, expect it to succeed."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return Result(done.returncode, done.stdout)

    def dvc(self, *words: str | Path, check: bool = True) -> str:
        """Run dvc and give what it printed."""
        return self.run("dvc", *words, check=check).text

    def git(self, *words: str | Path) -> str:
        """Run git and give what it printed."""
        return self.run("git", *words).text

    def stage(self, name: str) -> Result:
        """Call a stage by hand, as its command in dvc.yaml does."""
        return self.run(sys.executable, f"stages/{name}.py", check=False, PYTHONPATH="src")

    def commit(self, message: str) -> None:
        """Commit everything that Git does not ignore."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def change_params(self, changes: Mapping[str, Any]) -> None:
        """Set values in params.yaml by their dotted keys; comments stay."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        params = yaml.load(path)
        for key, value in changes.items():
            *sections, name = key.split(".")
            section = params
            for part in sections:
                section = section[part]
            section[name] = value
        yaml.dump(params, path)

    def read(self, path: str) -> bytes:
        """The bytes of a file of the project."""
        return (self.folder / path).read_bytes()


def is_result(name: str) -> bool:
    """Whether a run of the pipeline wrote this file; a test starts without."""
    return name == "dvc.lock" or (name.startswith(("metrics/", "plots/")) and not name.endswith("README.md"))


def copy_project(folder: Path) -> Project:
    """Copy the files that Git tracks, or would track, but for results, into a new Git repository with one commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=SOURCE,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        if name and not is_result(name) and (SOURCE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, folder / name)
    project = Project(folder)
    project.git("init", "--quiet", "--initial-branch", "main")
    project.commit("start")
    return project

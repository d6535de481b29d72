"""The targets of the Makefile that run the workflow, in a copy of the project and this environment."""

import json
from pathlib import Path

import pytest
from project import SOURCE, STAGES, copy_project, read_committed, run, stages_run

pytestmark = pytest.mark.slow

MAKE = ("make", "--old-file", "setup")


def test_the_demo_learns_comes_back_from_the_cache_and_leaves_git_clean(tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_project(project)
    for stages in ([*STAGES], []):
        result = run(project, *MAKE, "demo")
        assert stages_run(result) == stages
        assert json.loads(read_committed(project, "demo", "metrics/test.json"))["test_accuracy"] > 0.9
        assert run(project, "git", "status", "--porcelain").stdout == ""


def test_verify_finds_a_missing_output(project_copy: Path) -> None:
    run(project_copy, *MAKE, "verify")
    (project_copy / "data/model/lenet.safetensors").unlink()
    result = run(project_copy, *MAKE, "verify", check=False)
    assert result.returncode != 0
    assert "dvc checkout --force" in result.stdout + result.stderr


def test_help_lists_every_target() -> None:
    listed = [line.split()[0] for line in run(SOURCE, "make", "help").stdout.splitlines()]
    lines = (SOURCE / "Makefile").read_text().splitlines()
    assert listed == [line.split(":")[0] for line in lines if "  ## " in line]

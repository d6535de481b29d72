"""The targets of the Makefile that run the workflow, in a copy of the project and this environment."""

import json
import os
import re
from pathlib import Path

import pytest
from project import SOURCE, STAGES, copy_project, read_committed, run, stages_run

MAKE = ("make", "--old-file", "setup")  # the environment is there


def test_help_lists_every_target() -> None:
    listed = re.findall(r"^([a-z-]+) ", run(SOURCE, "make", "help").stdout, re.MULTILINE)
    assert listed == re.findall(r"^([a-z-]+):", (SOURCE / "Makefile").read_text(), re.MULTILINE)


def flip_a_bit(path: Path) -> None:
    """As a failing disk does: size, time and permissions stay the same, and a plain dvc status trusts them."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode)


def test_verify_finds_a_flipped_bit_and_names_the_command_that_restores_it(project_copy: Path) -> None:
    run(project_copy, *MAKE, "verify")
    weights = project_copy / "data/model/lenet.safetensors"
    good = weights.read_bytes()
    flip_a_bit(weights)
    result = run(project_copy, *MAKE, "verify", check=False)
    assert result.returncode != 0
    command = result.stdout.split("restore with: ")[1].splitlines()[0]
    run(project_copy, "sh", "-c", command)
    assert weights.read_bytes() == good
    run(project_copy, *MAKE, "verify")


@pytest.mark.slow
def test_verify_finds_a_flipped_bit_in_the_cache(project_copy: Path) -> None:
    match = re.search(
        r"path: data/model/lenet.safetensors\n.*\n +md5: (..)(\w+)", (project_copy / "dvc.lock").read_text()
    )
    assert match
    flip_a_bit(project_copy / ".dvc/cache/files/md5" / match[1] / match[2])
    result = run(project_copy, *MAKE, "verify", check=False)
    assert result.returncode != 0
    assert f"./{match[1]}/{match[2]}: FAILED" in result.stdout


def test_the_demo_refuses_a_shallow_clone_before_it_trains(tmp_path: Path, project_copy: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{project_copy}", "clone")
    result = run(tmp_path / "clone", *MAKE, "demo", check=False)
    assert result.returncode != 0
    assert "error: this is a shallow clone, where DVC loses experiments; run git fetch --unshallow" in result.stderr
    assert "Running stage" not in result.stdout


@pytest.mark.slow
def test_the_demo_learns_comes_back_from_the_cache_and_leaves_git_clean(tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_project(project)
    for stages in ([*STAGES], ["download"]):  # a persisted output is never in the run-cache
        assert stages_run(run(project, *MAKE, "demo")) == stages
        assert json.loads(read_committed(project, "demo", "metrics/test.json"))["test_accuracy"] > 0.9
        assert run(project, "git", "status", "--porcelain").stdout == ""

"""The repository itself: its lock, its layout, its documents."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from project import SOURCE
from ruamel.yaml import YAML


def tracked_files() -> list[str]:
    """What Git tracks, or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=SOURCE, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in listed if (SOURCE / name).is_file()]


def read_lock() -> list[Requirement]:
    return [Requirement(line) for line in (SOURCE / "requirements.lock").read_text().splitlines()]


def test_the_lock_holds_exact_versions_and_names_no_host() -> None:
    text = (SOURCE / "requirements.lock").read_text()
    assert "://" not in text
    assert "--" not in text
    for requirement in read_lock():
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement


def test_the_lock_satisfies_every_range_of_pyproject() -> None:
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    ranges = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    locked = [entry for entry in read_lock() if entry.marker is None or entry.marker.evaluate()]
    versions = {entry.name.replace("_", "-").replace(".", "-").lower(): str(entry.specifier)[2:] for entry in locked}
    for wanted in ranges:
        version = versions[wanted.name.replace(".", "-").lower()]
        assert wanted.specifier.contains(version), f"{wanted} against {version}"


def test_packages_of_one_platform_carry_its_marker() -> None:
    for entry in read_lock():
        if entry.name.startswith(("nvidia-", "cuda-", "triton")):
            assert "sys_platform == 'linux'" in str(entry.marker).replace('"', "'"), entry


def test_git_tracks_no_other_top_level_folder() -> None:
    folders = {name.split("/")[0] for name in tracked_files() if "/" in name}
    assert folders == {".ci", ".dvc", ".github", "data", "metrics", "plots", "src", "stages", "tests"}


def test_git_tracks_no_large_file() -> None:
    assert [name for name in tracked_files() if (SOURCE / name).stat().st_size > 1_000_000] == []


def test_the_pictures_of_the_documents_are_small_and_used() -> None:
    pictures = [name for name in tracked_files() if name.startswith(".github/images/")]
    assert sum((SOURCE / name).stat().st_size for name in pictures) < 400_000
    readme = (SOURCE / "README.md").read_text()
    assert [name for name in pictures if f"({name})" not in readme] == []


@pytest.mark.parametrize("name", [name for name in tracked_files() if name.endswith(".md")])
def test_links_between_files_lead_somewhere(name: str) -> None:
    document = SOURCE / name
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


def test_the_readme_stays_short() -> None:
    assert len((SOURCE / "README.md").read_text().splitlines()) < 200


def test_every_parameter_is_tracked_by_a_stage_but_for_the_mirrors() -> None:
    params = YAML(typ="safe").load(SOURCE / "params.yaml")
    stages = YAML(typ="safe").load(SOURCE / "dvc.yaml")["stages"].values()
    tracked = {name for stage in stages for name in stage["params"]}
    leaves = {
        f"{section}.{key}" if isinstance(values, dict) else section
        for section, values in params.items()
        for key in (values if isinstance(values, dict) else [""])
    }
    untracked = {leaf for leaf in leaves if leaf not in tracked and leaf.split(".")[0] not in tracked}
    assert untracked == {"data.urls"}

"""`lenet-cifar10 verify` finds what DVC does not see, and the commands that it names put it right."""

import os
import re
import shutil
from pathlib import Path

import pytest
from project import Project

WEIGHTS, METRICS, PICTURE = "data/model/lenet.safetensors", "metrics/test.json", "plots/images/curves.png"

# The superuser may read anything, but for one that has given up this privilege.
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def flip_a_bit(path: Path) -> None:
    """Change one bit and leave size, time and permissions, as a failing disk does."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode)


def copy_in_cache(project: Project, name: str) -> Path:
    """Where the cache keeps an output."""
    match = re.search(rf"path: {re.escape(name)}\n +hash: md5\n +md5: (\w+)", project.read("dvc.lock").decode())
    assert match
    return project.folder / ".dvc/cache/files/md5" / match[1][:2] / match[1][2:]


def complaints(project: Project) -> list[str]:
    """The error lines of verify, which must fail."""
    result = project.run("lenet-cifar10", "verify", check=False)
    assert result.status == 1, result.text
    assert "Traceback" not in result.text
    return [line.removeprefix("error: ") for line in result.text.splitlines() if "; run " in line]


def repair(project: Project, complaint: str) -> None:
    """Do what the line says."""
    project.run("bash", "-c", complaint.split("; run ")[1])


def test_a_run_that_is_whole_is_told_so(pipeline: Project) -> None:
    text = pipeline.run("lenet-cifar10", "verify").text
    assert "15 outputs, all as in dvc.lock" in text
    assert WEIGHTS in text


@pytest.mark.parametrize("name", [WEIGHTS, METRICS, "data/prepared/test.npz", "plots/history.csv"])
def test_a_flipped_bit_in_the_workspace_is_found_and_put_right(pipeline: Project, name: str) -> None:
    before = pipeline.read(name)
    pipeline.dvc("status")  # DVC hashes the file, and notes its size and time
    flip_a_bit(pipeline.folder / name)
    assert "up to date" in pipeline.dvc("status")  # it trusts them
    (complaint,) = complaints(pipeline)
    assert complaint.startswith(f"{name}: differs; run ")
    repair(pipeline, complaint)
    assert pipeline.read(name) == before
    pipeline.run("lenet-cifar10", "verify")


def test_what_differs_in_a_folder_is_named_and_put_right(pipeline: Project) -> None:
    flip_a_bit(pipeline.folder / PICTURE)
    (pipeline.folder / "plots/images/more.png").touch()
    (complaint,) = complaints(pipeline)
    assert complaint.startswith("plots/images: differs (curves.png, more.png); run ")
    assert "git checkout HEAD" in complaint
    repair(pipeline, complaint)
    pipeline.run("lenet-cifar10", "verify")
    assert pipeline.git("status", "--porcelain") == ""


@pytest.mark.parametrize("git", ["another commit", "no commit"])
@pytest.mark.parametrize("name", [METRICS, PICTURE])
def test_what_git_does_not_have_is_made_again(pipeline: Project, name: str, git: str) -> None:
    before = pipeline.read(name)
    flip_a_bit(pipeline.folder / name)
    if git == "no commit":
        shutil.rmtree(pipeline.folder / ".git")
        pipeline.git("init", "--quiet")
    else:
        pipeline.commit("a fault is committed")
    (complaint,) = complaints(pipeline)
    assert "; run dvc repro --force --single-item " in complaint
    repair(pipeline, complaint)
    assert pipeline.read(name) == before
    pipeline.run("lenet-cifar10", "verify")


@pytest.mark.parametrize("kind", ["pipe", "dangling link", "link to a folder", "unreadable folder"])
def test_what_is_no_file_in_a_folder_is_named_and_put_right(pipeline: Project, kind: str) -> None:
    place = pipeline.folder / "plots/images/a b"
    as_others = []
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "dangling link":
            place.symlink_to("nowhere")
        case "link to a folder":
            place.symlink_to("../../src")
        case "unreadable folder":
            place.mkdir(mode=0)
            as_others = AS_OTHERS
    (pipeline.folder / METRICS).unlink()  # told all the same
    result = pipeline.run(*as_others, "lenet-cifar10", "verify", check=False)
    told = [line.removeprefix("error: ") for line in result.text.splitlines() if line.startswith("error: ")]
    assert [line.split("; run ")[0] for line in told] == [f"{METRICS}: is missing", "plots/images: differs (a b)"]
    for complaint in told:
        repair(pipeline, complaint)
    pipeline.run("lenet-cifar10", "verify")


def test_a_folder_in_the_place_of_the_cache_s_copy_is_put_right(pipeline: Project) -> None:
    kept = copy_in_cache(pipeline, WEIGHTS)
    kept.unlink()
    kept.mkdir()
    (kept / "file").touch()
    (complaint,) = complaints(pipeline)
    repair(pipeline, complaint)
    pipeline.run("lenet-cifar10", "verify")


def test_within_the_folder_that_is_to_be_mended_the_command_works_too(pipeline: Project) -> None:
    (pipeline.folder / PICTURE).unlink()
    inside = Project(pipeline.folder / "plots/images")
    (complaint,) = complaints(inside)
    repair(inside, complaint)
    pipeline.run("lenet-cifar10", "verify")


def test_a_cache_that_is_gone_is_filled_again(pipeline: Project) -> None:
    shutil.rmtree(pipeline.folder / ".dvc/cache/files")
    told = complaints(pipeline)
    assert len(told) == 7
    for complaint in told:
        repair(pipeline, complaint)
    pipeline.run("lenet-cifar10", "verify")
    (pipeline.folder / WEIGHTS).unlink()
    pipeline.dvc("checkout")
    pipeline.run("lenet-cifar10", "verify")


@pytest.mark.parametrize("name", [WEIGHTS, "data/prepared/test.npz", "data/raw/cifar-10-python.tar.gz"])
def test_a_flipped_bit_in_the_cache_is_found_and_put_right(pipeline: Project, name: str) -> None:
    kept = copy_in_cache(pipeline, name)
    before = kept.read_bytes()
    flip_a_bit(kept)
    assert "up to date" in pipeline.dvc("status")
    (complaint,) = complaints(pipeline)
    assert complaint.startswith(f"{kept} (the cache's copy of {name}): differs; run ")
    repair(pipeline, complaint)
    assert kept.read_bytes() == before
    pipeline.run("lenet-cifar10", "verify")


def test_mending_the_cache_does_not_take_another_fault_for_right(pipeline: Project) -> None:
    lock = pipeline.read("dvc.lock")
    flip_a_bit(copy_in_cache(pipeline, "data/prepared/train.npz"))
    flip_a_bit(pipeline.folder / "data/prepared/test.npz")
    code = pipeline.folder / "src/lenet_cifar10/dataset.py"
    code.write_text(code.read_text() + "# changed\n")
    first, second = complaints(pipeline)
    assert "train.npz" in first
    repair(pipeline, first)
    assert complaints(pipeline) == [second]
    assert pipeline.read("dvc.lock") == lock
    repair(pipeline, second)
    pipeline.run("lenet-cifar10", "verify")


def test_a_flipped_bit_in_both_places_is_found_and_made_again(pipeline: Project) -> None:
    before = pipeline.read(WEIGHTS)
    flip_a_bit(copy_in_cache(pipeline, WEIGHTS))
    flip_a_bit(pipeline.folder / WEIGHTS)
    told = complaints(pipeline)
    assert len(told) == 2
    assert len({complaint.split("; run ")[1] for complaint in told}) == 1
    repair(pipeline, told[0])
    assert pipeline.read(WEIGHTS) == before
    pipeline.run("lenet-cifar10", "verify")


@pytest.mark.parametrize("place", ["workspace", "cache"])
def test_a_missing_file_is_found_and_put_right(pipeline: Project, place: str) -> None:
    path = pipeline.folder / WEIGHTS if place == "workspace" else copy_in_cache(pipeline, WEIGHTS)
    before = path.read_bytes()
    path.unlink()
    (complaint,) = complaints(pipeline)
    assert "is missing" in complaint
    repair(pipeline, complaint)
    assert path.read_bytes() == before
    pipeline.run("lenet-cifar10", "verify")


def test_before_the_first_run_every_output_is_said_to_be_new(bare_project: Project) -> None:
    told = complaints(bare_project)
    assert len(told) == 15
    assert told[0] == "data/raw/cifar-10-python.tar.gz: is not in dvc.lock; run dvc repro download"


def test_outside_a_project_it_says_so(tmp_path: Path) -> None:
    result = Project(tmp_path).run("lenet-cifar10", "verify", check=False)
    assert (result.status, result.text) == (
        1,
        f"error: {tmp_path}: is in no DVC project; run this in the project's folder\n",
    )

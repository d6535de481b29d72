"""Stages called by hand on bad input: one clear line, status 1, no traceback, nothing good lost."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import GeneratedArchive
from project import Project

OUTPUTS = {
    "download": ["data/raw/cifar-10-python.tar.gz"],
    "prepare": [f"data/prepared/{name}" for name in ("train.npz", "validation.npz", "test.npz", "classes.json")],
    "train": ["data/model/lenet.safetensors", "plots/history.csv", "metrics/train.json"],
    "evaluate": ["metrics/test.json", *(f"plots/{name}.csv" for name in ("predictions", "per_class", "calibration"))],
    "figures": [
        f"plots/images/{name}.png"
        for name in ("augmentation", "calibration", "confusion", "curves", "mistakes", "per_class")
    ],
    "card": ["data/model/card.md"],
}
STAGES = list(OUTPUTS)


def files_of(project: Project) -> dict[str, bytes]:
    """Every file that the stages write, and whatever else stands beside them."""
    folders = ("data", "metrics", "plots")
    paths = [path for folder in folders for path in (project.folder / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(project.folder)): path.read_bytes() for path in paths}


def expect_refusal(project: Project, stage: str, *words: str) -> None:
    """The stage ends with status 1, says all these words, shows no traceback, and changes no file."""
    before = files_of(project)
    result = project.stage(stage)
    assert result.status == 1, result.text
    assert "Traceback" not in result.text
    for word in words:
        assert word in result.text
    assert files_of(project) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_called_by_hand_writes_the_same_bytes_again(pipeline: Project, stage: str) -> None:
    before = {name: pipeline.read(name) for name in OUTPUTS[stage]}
    for name in OUTPUTS[stage]:
        (pipeline.folder / name).unlink()
    result = pipeline.stage(stage)
    assert result.status == 0, result.text
    assert {name: pipeline.read(name) for name in OUTPUTS[stage]} == before


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_checks_all_of_the_parameters_first(pipeline: Project, stage: str) -> None:
    pipeline.change_params(
        {
            "train.epochs": "ten",
            "augment.scale": 2,
            "data.split_sead": 1,
            "figures.dpi": True,
            "train.optimizer": "adamw",
        }
    )
    expect_refusal(
        pipeline,
        stage,
        'params.yaml: train.epochs: found "ten", expected a whole number from 1 to 10000',
        "params.yaml: augment.scale: found 2, expected a number from 0 to 0.6",
        "params.yaml: data.split_sead: unknown key; did you mean split_seed?",
        "params.yaml: figures.dpi: found true, expected a whole number from 50 to 300",
        "params.yaml: train.momentum: 0.9 has no effect with train.optimizer adamw",
    )


@pytest.mark.parametrize("text", ["", "seed: [1", "- 1\n", "\x00"])
@pytest.mark.parametrize("stage", ["download", "train"])
def test_a_parameters_file_that_is_none_is_refused(pipeline: Project, stage: str, text: str) -> None:
    (pipeline.folder / "params.yaml").write_text(text)
    expect_refusal(pipeline, stage, "error: params.yaml: ")


def test_a_wrong_hash_names_both(pipeline: Project, generated: GeneratedArchive) -> None:
    wrong = "0" * 64
    pipeline.change_params({"data.sha256": wrong})
    expect_refusal(pipeline, "download", wrong, generated.sha256)


def test_a_missing_archive_says_what_to_do(pipeline: Project) -> None:
    (pipeline.folder / OUTPUTS["download"][0]).unlink()
    expect_refusal(pipeline, "prepare", "data/raw/cifar-10-python.tar.gz", "no such file")


def test_a_truncated_archive_is_refused(pipeline: Project) -> None:
    path = pipeline.folder / OUTPUTS["download"][0]
    content = path.read_bytes()
    path.unlink()  # it may share its bytes with DVC's cache
    path.write_bytes(content[: len(content) // 2])
    expect_refusal(pipeline, "prepare", "data/raw/cifar-10-python.tar.gz", "truncated")


@pytest.mark.parametrize(("size", "words"), [(105, "expected a multiple of 10"), (400, "and must keep one; lower it")])
def test_a_validation_size_that_does_not_fit_is_refused(pipeline: Project, size: int, words: str) -> None:
    pipeline.change_params({"data.validation_size": size})
    expect_refusal(pipeline, "prepare", "params.yaml: data.validation_size: found", words)


def test_validation_size_zero_validates_on_the_test_set_and_says_so(pipeline: Project) -> None:
    pipeline.change_params({"data.validation_size": 0})
    result = pipeline.stage("prepare")
    assert result.status == 0
    assert "validation figures are those of the test set" in result.text
    assert pipeline.read("data/prepared/validation.npz") == pipeline.read("data/prepared/test.npz")


def test_a_batch_larger_than_the_training_set_is_refused(pipeline: Project) -> None:
    pipeline.change_params({"train.batch_size": 301})
    expect_refusal(pipeline, "train", "params.yaml: train.batch_size: found 301, expected at most the 300 training")


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_device_that_is_not_there_is_refused(pipeline: Project, stage: str) -> None:
    pipeline.change_params({"device": "cuda:99"})
    expect_refusal(pipeline, stage, "device: found cuda:99")


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("train", "data/prepared/train.npz"),
        ("train", "data/prepared/classes.json"),
        ("evaluate", "data/model/lenet.safetensors"),
        ("evaluate", "data/prepared/test.npz"),
        ("figures", "data/prepared/test.npz"),
        ("figures", "plots/calibration.csv"),
        ("figures", "plots/history.csv"),
        ("figures", "plots/predictions.csv"),
        ("card", "data/model/lenet.safetensors"),
        ("card", "data/prepared/test.npz"),
        ("card", "data/prepared/train.npz"),
        ("card", "metrics/environment.json"),
        ("card", "metrics/test.json"),
        ("card", "metrics/train.json"),
        ("card", "plots/predictions.csv"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise"])
def test_a_missing_or_damaged_input_is_named(pipeline: Project, stage: str, name: str, damage: str) -> None:
    path = pipeline.folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 3])
    if damage == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    expect_refusal(pipeline, stage, name)


@pytest.mark.parametrize("stage", ["figures", "card"])
def test_predictions_of_the_test_images_in_another_order_are_refused(pipeline: Project, stage: str) -> None:
    path = pipeline.folder / "plots/predictions.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, *reversed(rows)]))
    expect_refusal(pipeline, stage, "plots/predictions.csv", "column index does not count the test images from 0 on")


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_cannot_be_written_is_named(pipeline: Project, stage: str) -> None:
    name = OUTPUTS[stage][0]
    folder = (pipeline.folder / name).parent
    inputs = {"figures": ["calibration.csv", "history.csv", "predictions.csv"]}.get(stage, [])
    kept = {entry: (folder.parent / entry).read_bytes() for entry in inputs}
    shutil.rmtree(folder)
    folder.write_text("a file where a folder should be")  # permissions would not stop a test that runs as root
    assert all((folder.parent / entry).read_bytes() == content for entry, content in kept.items())
    expect_refusal(pipeline, stage, str(Path(name).parent))
    assert folder.is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_without_write_permission_is_named(pipeline: Project, stage: str) -> None:
    # The superuser may write anywhere, but for one that has given up this privilege.
    as_others = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    folder = Path(OUTPUTS[stage][0]).parent
    if stage == "download":
        (pipeline.folder / OUTPUTS[stage][0]).unlink()
    before = files_of(pipeline)
    (pipeline.folder / folder).chmod(0o555)
    result = pipeline.run(*as_others, sys.executable, f"stages/{stage}.py", check=False, PYTHONPATH="src")
    (pipeline.folder / folder).chmod(0o755)
    assert result.status == 1, result.text
    assert "Traceback" not in result.text
    assert re.search(rf"error: {folder}\b.*: Permission denied; mend this", result.text), result.text
    assert files_of(pipeline) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_is_told_and_loses_nothing(pipeline: Project, stage: str) -> None:
    before = files_of(pipeline)
    if stage == "download":
        (pipeline.folder / OUTPUTS[stage][0]).unlink()
        del before[OUTPUTS[stage][0]]
    limited = f"ulimit -f 1; exec {sys.executable} stages/{stage}.py"  # no file may grow past 1 KiB
    result = pipeline.run("bash", "-c", limited, check=False, PYTHONPATH="src")
    assert result.status == 1, result.text
    assert "Traceback" not in result.text
    assert re.search(r"error: .*(File too large|EFBIG).*", result.text), result.text
    assert files_of(pipeline) == before

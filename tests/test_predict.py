"""The command lenet-cifar10 predict: pictures in, classes out, a line for whatever cannot be done."""

import csv
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from project import Project, environment
from typer.testing import CliRunner

from lenet_cifar10 import device, evaluation
from lenet_cifar10.commands import app
from lenet_cifar10.errors import UserError
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import ModelSection
from lenet_cifar10.weights import save_weights

WEIGHTS = "data/model/lenet.safetensors"
NAMES = ("cat", "dog", "frog", "ship")


@dataclass(frozen=True)
class Outcome:
    """What a call in this process left: its exit status, what it printed, and the lines of complaint."""

    status: int
    text: str
    mistakes: list[str]

    @property
    def files(self) -> list[str]:
        return [row["file"] for row in json.loads(self.text)]


def call(*words: str | Path) -> Outcome:
    """predict in this process, for importing torch anew takes seconds."""
    result = CliRunner().invoke(app, ["predict", *map(str, words)])
    if isinstance(result.exception, UserError):
        return Outcome(1, result.stdout, str(result.exception).splitlines())
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return Outcome(result.exit_code, result.stdout, result.stderr.splitlines())


def run_apart(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The real command, its two streams apart."""
    command = ["lenet-cifar10", "predict", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def threads_set(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls that would make torch repeatable: that holds for the whole process, so other tests would have it."""
    calls: list[int] = []
    monkeypatch.setattr(device, "make_repeatable", calls.append)
    return calls


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    save_weights(path, LeNet(ModelSection(dropout=0.5, first_layer="learned"), len(NAMES)), NAMES)
    return path


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three images, beside which the command is called."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40 + number, 50), colour).save(folder / f"{number}.png")
    return folder


# With a project


def test_the_test_images_as_pictures_give_the_very_predictions_of_evaluate(pipeline: Project, tmp_path: Path) -> None:
    folder = tmp_path / "test images"
    folder.mkdir()
    with np.load(pipeline.folder / "data/prepared/test.npz") as arrays:
        for number, image in enumerate(arrays["images"]):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    shutil.rmtree(pipeline.folder / "data/model")  # only DVC's cache has the weights
    done = run_apart(pipeline.folder, folder, "--rev", "HEAD", "--json", "--top", "1")
    assert (done.returncode, done.stderr) == (0, "")
    found = [(row["predictions"][0]["class"], row["predictions"][0]["probability"]) for row in json.loads(done.stdout)]
    with (pipeline.folder / "plots/predictions.csv").open(newline="") as file:
        expected = [(row["predicted"], float(row["confidence"])) for row in csv.DictReader(file)]
    assert found == expected


def test_the_weights_are_the_workspace_s_or_any_revision_s(
    pipeline: Project, photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.folder / "src")  # any folder of the project will do
    committed = call(photos, "--json", "--rev", "main")
    assert committed.status == 0
    assert call(photos, "--json").text == committed.text
    shutil.copy(weights, pipeline.folder / WEIGHTS)
    changed = call(photos, "--json")
    assert {row["predictions"][0]["class"] for row in json.loads(changed.text)} <= set(NAMES)
    assert call(photos, "--json", "--weights", weights).text == changed.text
    assert call(photos, "--json", "--rev", "main").text == committed.text
    assert f"Predictions of {WEIGHTS} in main" in call(photos, "--rev", "main").text


def test_what_is_missing_is_told_with_what_to_do(
    pipeline: Project, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.folder)

    def refusal(*words: str) -> str:
        outcome = call(photos, *words)
        assert (outcome.status, outcome.text) == (1, "")
        (line,) = outcome.mistakes
        return line

    assert refusal("--rev", "nowhere").startswith("nowhere: is no commit, branch, tag or experiment;")
    assert refusal("--rev", "HEAD~1") == (
        f"{WEIGHTS} in HEAD~1: was never trained; run dvc repro, or name a revision that has it"
    )
    Path(WEIGHTS).unlink()
    assert refusal() == (
        f"{WEIGHTS}: is in dvc.lock, but not here; run dvc checkout, or dvc pull where DVC's cache lacks it"
    )
    shutil.rmtree(".dvc/cache")
    assert refusal("--rev", "HEAD").startswith(
        f"{WEIGHTS} in HEAD: is in dvc.lock, but neither in DVC's cache nor in a remote; run dvc push"
    )
    Path("dvc.lock").unlink()
    assert refusal() == f"{WEIGHTS}: was never trained; run dvc repro, or name a revision that has it"
    Path(WEIGHTS).write_bytes(b"damaged")
    assert refusal().startswith(f"{WEIGHTS}: is no safetensors file (")


# With a file of weights


def test_a_file_of_weights_needs_no_project_and_errors_go_to_their_own_stream(photos: Path, weights: Path) -> None:
    (photos / "broken.png").write_bytes(b"noise")
    (photos / "empty.png").write_bytes(b"")
    done = run_apart(photos.parent, "photos", "none*", "--weights", weights, "--json")
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert [row["file"] for row in rows] == [f"photos/{number}.png" for number in range(3)]
    for row in rows:
        shares = [guess["probability"] for guess in row["predictions"]]
        assert list(row) == ["file", "predictions"]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
    assert done.stderr.splitlines() == [
        "error: none*: matches no file; mend the pattern",
        "error: photos/broken.png: is no image that can be read here; save it as PNG or JPEG",
        "error: photos/empty.png: is an empty file, expected an image; get it anew",
    ]


def test_it_works_with_standard_error_closed(photos: Path, weights: Path) -> None:
    command = f"exec lenet-cifar10 predict photos --json --weights '{weights}' 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=photos.parent, env=environment(), capture_output=True, check=False)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 3


def test_a_log_has_the_plain_table(photos: Path, weights: Path) -> None:
    done = run_apart(photos.parent, "photos/0.png", "photos/1.png", "--weights", weights, "--top", "9")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    title, *_, first, second, _ = done.stdout.splitlines()
    assert title.strip() == f"Predictions of {weights}"
    for number, line in enumerate((first, second)):
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[0] == f"photos/{number}.png"
        assert sorted(cell.split()[0] for cell in cells[1:]) == sorted(NAMES)  # there are no more than four
        assert sum(float(cell.split()[1]) for cell in cells[1:]) == pytest.approx(1, abs=0.001)


def test_without_a_single_image_there_is_no_table_and_an_empty_list(photos: Path, weights: Path) -> None:
    assert call("none.png", "--weights", weights).text == ""
    outcome = call("none.png", "none.gif", "--weights", weights, "--json")
    assert (outcome.status, json.loads(outcome.text), len(outcome.mistakes)) == (1, [], 2)


def test_torch_is_made_repeatable_with_one_thread(photos: Path, weights: Path, threads_set: list[int]) -> None:
    assert call(photos, "--weights", weights).status == 0
    assert threads_set == [1]


def test_files_keep_the_order_in_which_they_are_named(photos: Path, weights: Path) -> None:
    words = ("photos/2.png", "photos/[01].png", "photos/2.png", "photos")
    files = call(*words, "--weights", weights, "--json").files
    assert files == [f"photos/{number}.png" for number in (2, 0, 1, 2, 0, 1, 2)]


def test_pictures_are_classified_in_batches(photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = call("photos", "photos", "--weights", weights, "--json")
    counts = []

    def predict(network: LeNet, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return torch.cat([network(image[None]) for image in images]).detach()

    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 4)
    monkeypatch.setattr(evaluation, "predict", predict)
    (photos / "0a.png").write_bytes(b"")  # the second of the first four
    parts = call("photos", "photos", "--weights", weights, "--json")
    assert counts == [3, 3]
    assert len(parts.mistakes) == 2
    assert parts.files == whole.files
    for part, row in zip(json.loads(parts.text), json.loads(whole.text), strict=True):
        assert [guess["class"] for guess in part["predictions"]] == [guess["class"] for guess in row["predictions"]]


def test_names_of_any_bytes_break_neither_table_nor_json(photos: Path, weights: Path) -> None:
    name = os.fsdecode("a b\n\x1b[31m[red]:cat:'\"é".encode() + b"\xff.png")
    shutil.copy(photos / "0.png", photos / name)
    (photos / "0.png").unlink()
    done = run_apart(photos.parent, "photos", photos / "no\nsuch", "--weights", weights, "--json")
    assert json.loads(done.stdout)[2]["file"] == f"photos/{name}"
    assert done.stdout.isascii()
    assert (
        done.stderr
        == f"error: {photos}/no\\nsuch: no such file; name an image, a folder of images or a quoted pattern\n"
    )
    shown = run_apart(photos.parent, "photos", "--weights", weights).stdout
    assert "photos/a b\\n\\x1b[31m[red]:cat:'\"é\\udcff.png │" in shown


def test_signs_that_the_output_cannot_hold_are_escaped_and_none_is_drawn_as_an_emoji(photos: Path) -> None:
    save_weights(Path(":dog:"), LeNet(ModelSection(dropout=0.5, first_layer="learned"), 2), (":cat:", "éléphant"))
    (photos / "0.png").rename("é:cat:.png")
    command = ["lenet-cifar10", "predict", "é:cat:.png", "--weights", ":dog:"]
    printed = subprocess.run(command, env=environment(PYTHONIOENCODING="ascii"), capture_output=True, check=True).stdout
    for words in ("Predictions of :dog:", "\\xe9:cat:.png", ":cat: 0.", "\\xe9l\\xe9phant 0."):
        assert words.encode() in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rev", "HEAD", "--weights", "w.safetensors"), "both say which weights to take"),
        (("--top", "0"), "greater than or equal to 1"),
        (("--device", "gpu"), "expected auto, cpu, cuda, cuda:N or mps"),
        (("--device", "cuda:"), "expected auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_wrong_usage_ends_with_status_2(photos: Path, words: tuple[str, ...], message: str) -> None:
    outcome = call("photos", *words)
    assert (outcome.status, outcome.text) == (2, "")
    assert message in " ".join(line.strip("│ ") for line in outcome.mistakes)


def test_no_file_at_all_is_wrong_usage() -> None:
    assert call().status == 2


def test_a_device_that_is_not_there_is_refused(photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = call("photos", "--weights", weights, "--device", "cuda")
    assert outcome.mistakes == ["--device: found cuda, but torch sees no such GPU here; use auto or cpu"]


def test_weights_that_cannot_be_taken_are_told(photos: Path, weights: Path) -> None:
    os.mkfifo("pipe")
    Path("noise").write_bytes(b"noise" * 100)
    Path("folder").mkdir()
    with Path("large").open("wb") as file:
        file.truncate(2**24 + 1)
    diverged = LeNet(ModelSection(dropout=0.5, first_layer="learned"), len(NAMES))
    torch.nn.init.constant_(diverged.output.bias, float("nan"))
    save_weights(Path("diverged"), diverged, NAMES)
    for name, message in {
        "none": "none: No such file or directory; --weights wants a safetensors file, such as dvc get fetches",
        "pipe": "pipe: is no file; --weights wants a safetensors file, such as dvc get fetches",
        "folder": "folder: is no file; --weights wants a safetensors file, such as dvc get fetches",
        "large": "large: has 16,777,217 bytes, expected at most 16,777,216; name another",
        "noise": "noise: is no safetensors file (Error while deserializing: header too large); name one that this "
        "project wrote, such as dvc get fetches",
        "diverged": "diverged: gives no finite numbers; its training diverged: train it anew with smaller steps",
    }.items():
        outcome = call("photos", "--weights", name, "--json")
        assert (outcome.status, outcome.text, outcome.mistakes) == (1, "", [message])


def test_help_shows_examples_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from lenet_cifar10.commands import app\n"
        "result = CliRunner().invoke(app, ['predict', '--help'])\n"
        "assert 'lenet-cifar10 predict cat.jpg' in result.output\n"
        "print(sorted({'torch', 'dvc', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(["python", "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ranking_is_of_the_logits_and_ends_where_the_classes_do() -> None:
    from lenet_cifar10.commands.predict import rank

    logits = torch.tensor([[0.0, 40.0, 41.0], [1.0, 1.0, 1.0]])
    first, tied = rank(logits, ("cat", "dog", "frog"), 5)
    expected: list[dict[str, Any]] = [
        {"class": "frog", "probability": round(1 / (1 + np.exp(-1)), 6)},
        {"class": "dog", "probability": round(1 / (1 + np.exp(1)), 6)},
        {"class": "cat", "probability": 0.0},
    ]
    assert first == expected
    assert [guess["class"] for guess in tied] == ["cat", "dog", "frog"]
    assert [len(best) for best in rank(logits, ("cat", "dog", "frog"), 1)] == [1, 1]

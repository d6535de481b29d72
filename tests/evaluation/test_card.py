"""The model card: its figures are those of the run, its words are true of it, its code runs; and the stage report."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lenet_cifar10.common.files import hash_file, write_json, write_table
from lenet_cifar10.common.params import ModelSection, flatten, load_params
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml
from lenet_cifar10.data.arrays import Split, save_split
from lenet_cifar10.evaluation.card import CIFAR_10_SHA256, Run, write_card
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.model.weights import load_weights, save_weights

PROJECT = Path(__file__).parents[2]
PARAMS = load_params(PROJECT / "params.yaml")
NAMES = ("cat", "dog", "emu")


CLASSES = pd.DataFrame(
    [("cat", 100, 90, 0.9, 0.8256, 0.9448), ("dog", 100, 40, 0.4, 0.3094, 0.498)],
    columns=["class", "images", "correct", "accuracy", "low", "high"],
)
RUN = Run(
    data=PARAMS.data,
    settings={"seed": 0} | flatten(PARAMS.train, "train."),
    class_names=NAMES,
    weights_sha256="5" * 64,
    training_images=45000,
    environment={"device": "cpu", "device_name": "a_b|c", "threads": 2},
    train={"epochs": 12, "validation_accuracy": 0.81},
    test={"test_accuracy": 0.65, "test_accuracy_low": 0.58, "test_accuracy_high": 0.71},
    classes=CLASSES,
)


def section(text: str, title: str) -> str:
    """The part of a card under a heading, its lines joined."""
    return " ".join(re.split(r"^## ", text.split(f"## {title}\n")[1], flags=re.M)[0].split())


def front_matter(text: str) -> dict[str, Any]:
    """The metadata at the head of a card."""
    start, content, _ = text.split("---\n", 2)
    assert start == ""
    return parse_yaml(content.encode(), "card.md")


def test_front_matter_gives_the_result_as_the_hub_reads_it() -> None:
    values = front_matter(write_card(RUN))
    assert (values["license"], values["datasets"], values["metrics"]) == ("mit", ["uoft-cs/cifar10"], ["accuracy"])
    ((result,),) = [model["results"] for model in values["model-index"]]
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "CIFAR-10", "type": "uoft-cs/cifar10", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.65}]


def test_results_are_those_of_the_run_and_add_up() -> None:
    text = write_card(RUN)
    assert (
        "**65.0 %** of the test images are classified correctly: 130 of 200\n(95 % interval 58.0 % to 71.0 %)" in text
    )
    results = section(text, "Results")
    for line in (
        "| `epochs` | 12 |",
        "| `validation_accuracy` | 0.8100 |",
        "| `test_accuracy` | 0.6500 |",
        "| cat | 100 | 90 | 90.0 % | 82.6 % to 94.5 % |",
        "| dog | 100 | 40 | 40.0 % | 30.9 % to 49.8 % |",
    ):
        assert line in results
    assert "70 of the 200 answers on the test images are wrong" in section(text, "Limits")


def test_each_setting_and_the_environment_are_listed() -> None:
    training = section(write_card(RUN), "Training")
    for key, value in {**RUN.settings, "device": "cpu", "threads": 2}.items():
        assert f"| `{key}` | {value} |" in training
    assert r"| `device_name` | a\_b\|c |" in training


def test_official_archive_is_called_cifar_10() -> None:
    text = write_card(RUN)
    assert PARAMS.data.sha256 == CIFAR_10_SHA256
    assert "\n# LeNet trained on CIFAR-10\n" in text
    assert f"Its SHA-256 is `{CIFAR_10_SHA256}`" in section(text, "Data")


def test_any_other_archive_is_named_by_its_hash_and_never_called_cifar_10() -> None:
    text = write_card(replace(RUN, data=PARAMS.data.model_copy(update={"sha256": "ab" * 32})))
    assert "\n# LeNet trained on archive abababab\n" in text
    assert f"Its SHA-256 is `{'ab' * 32}`" in section(text, "Data")
    denial = "It is not the official archive of CIFAR-10."
    assert denial in text
    assert not re.search("CIFAR-10|uoft|Krizhevsky|Tiny Images", text.replace(denial, ""))
    values = front_matter(text)
    assert (values["license"], "datasets" in values) == ("unknown", False)
    assert values["model-index"][0]["results"][0]["dataset"]["name"] == "archive abababab"


def test_the_card_says_what_the_validation_figures_are() -> None:
    assert "The other 5,000, the same number of each class, were held out" in section(write_card(RUN), "Data")
    run = replace(RUN, data=PARAMS.data.model_copy(update={"validation_size": 0}))
    assert "the validation figures are those of the 200 test images" in section(write_card(run), "Data")


def test_names_are_escaped_for_markdown() -> None:
    text = write_card(replace(RUN, class_names=("a|b", "*x*_y_"), classes=CLASSES.assign(**{"class": ["a|b", "<c>"]})))
    assert r"| a\|b | 100 |" in text
    assert r"0 a\|b, 1 \*x\*\_y\_." in text


def test_its_code_gives_the_networks_probabilities_without_this_project(tmp_path: Path) -> None:
    network = LeNet(ModelSection(dropout=0.3), 3)
    torch.nn.init.normal_(network.output.weight)  # far from the same answer for each image
    save_weights(tmp_path / "lenet.safetensors", network, NAMES)
    loaded, _ = load_weights(tmp_path / "lenet.safetensors")
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = loaded(images).softmax(dim=1)
    torch.save(images, tmp_path / "images.pt")
    (code,) = re.findall(r"```python\n(.*?)```", write_card(RUN), flags=re.S)
    code += "\nimport torch\nprint(json.dumps([class_names, classify(torch.load('images.pt')).tolist()]))\n"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    names, probabilities = json.loads(result.stdout)
    assert names == list(NAMES)
    torch.testing.assert_close(torch.tensor(probabilities), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What evaluate and report need of a run on noise, on classes whose names look like numbers; evaluate has run."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(PROJECT / "params.yaml", folder)
    random, names = np.random.default_rng(0), ("7", "07", "NA")
    for name, count in (("train", 30), ("test", 21)):
        images = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        (folder / "data/prepared").mkdir(parents=True, exist_ok=True)
        save_split(folder / f"data/prepared/{name}.safetensors", Split(images, np.arange(count) % 3, names))
    (folder / "data/model").mkdir()
    save_weights(folder / "data/model/lenet.safetensors", LeNet(PARAMS.model, 3), names)
    write_json(folder / "data/model/environment.json", {"device": "cpu"})
    write_json(folder / "metrics/train.json", {"validation_loss": 1.1, "validation_accuracy": 0.5})
    figures = {"train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.1, "validation_accuracy": 0.5}
    write_table(folder / "plots/history.csv", pd.DataFrame([{"epoch": 1, **figures, "learning_rate": 0.1}]))
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    subprocess.run([sys.executable, PROJECT / "stages/evaluate.py"], cwd=folder, env=environment, check=True)
    return folder


def report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    runpy.run_path(str(PROJECT / "stages/report.py"))["main"]()


def test_report_writes_the_pictures_and_the_card_of_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(folder, monkeypatch)
    names = ["augmentation", "confusion", "curves", "mistakes"]
    assert sorted(path.name for path in folder.glob("plots/images/*")) == [f"{name}.png" for name in names]
    text = (folder / "data/model/card.md").read_text()
    test = json.loads((folder / "metrics/test.json").read_text())
    assert f"**{100 * test['test_accuracy']:.1f} %** of the test images" in text
    assert f"`{hash_file(folder / 'data/model/lenet.safetensors')}`" in text
    assert "Classes, by label: 0 7, 1 07, 2 NA." in text
    for key in ("seed", "augment.padding_mode", "model.dropout", "train.ema_decay"):
        assert f"| `{key}` |" in text
    assert str(folder) not in text


def test_report_refuses_files_of_different_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    test = json.loads((copy / "metrics/test.json").read_text())
    write_json(copy / "metrics/test.json", test | {"test_accuracy": 0.9})
    (copy / "data/model/card.md").write_text("the card of before")
    with pytest.raises(
        UserError, match=r"^metrics/test\.json and plots/per_class\.csv: are of different runs; run dvc repro$"
    ):
        report(copy, monkeypatch)
    assert (copy / "data/model/card.md").read_text() == "the card of before"

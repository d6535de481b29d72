"""The model card: its figures are those of the run, its words true of it, and its code runs."""

import json
import re
import sys
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pytest
import torch
from project import Project

from lenet_cifar10 import card
from lenet_cifar10.card import Run, write_card
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import ModelSection, Params
from lenet_cifar10.results import Answer, ClassCount
from lenet_cifar10.weights import load_weights, save_weights

NAMES = ("cat", "dog", "emu")
PARAMS = Params.load(Path(__file__).parent.parent / "params.yaml")
SHAPES = {
    name: tuple(tensor.shape)
    for name, tensor in LeNet(ModelSection(dropout=0.0, first_layer="learned"), 3).state_dict().items()
}


def make_answers(*counts: tuple[str, str, int]) -> list[Answer]:
    """So many answers of each actual and predicted class."""
    pairs = [pair for *pair, count in counts for _ in range(count)]
    return [Answer(index, actual, predicted, 0.5) for index, (actual, predicted) in enumerate(pairs)]


# 90 of 100 cats, 40 of 100 dogs (most of the others are taken for cats), no emu.
ANSWERS = make_answers(
    ("cat", "cat", 90), ("cat", "emu", 10), ("dog", "dog", 40), ("dog", "cat", 50), ("dog", "emu", 10)
)
RUN = Run(
    params=PARAMS,
    class_names=NAMES,
    weights_name="lenet.safetensors",
    weights_sha256="5" * 64,
    shapes=SHAPES,
    training_images=45000,
    train={"validation_loss": 0.75, "validation_accuracy": 0.81},
    test={
        "loss": 0.9,
        "accuracy": 0.65,
        "accuracy_low": 0.58,
        "accuracy_high": 0.71,
        "expected_calibration_error": 0.15,
    },
    environment={"device": "cpu", "threads": 2},
    answers=ANSWERS,
)


def with_data(**changes: Any) -> Run:
    """The run with another section `data` of the parameters."""
    return replace(RUN, params=PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update=changes)}))


def section(text: str, title: str) -> str:
    """The part of a card under a heading, its lines joined."""
    return " ".join(re.split(r"^## ", text.split(f"## {title}\n")[1], flags=re.M)[0].split())


def test_answers_are_counted_by_class_with_the_most_frequent_wrong_one() -> None:
    assert RUN.classes == [ClassCount("cat", 100, 90), ClassCount("dog", 100, 40), ClassCount("emu", 0, 0)]
    assert [card.find_worst_mistake(ANSWERS, name, NAMES) for name in NAMES] == [("emu", 10), ("cat", 50), ("cat", 0)]


def test_of_two_equally_frequent_wrong_answers_the_first_class_is_named() -> None:
    answers = make_answers(("dog", "emu", 1), ("dog", "cat", 1))
    assert card.find_worst_mistake(answers, "dog", NAMES) == ("cat", 1)


def test_files_of_one_run_agree() -> None:
    assert card.find_contradiction(RUN) is None
    other = replace(RUN, test={**RUN.test, "accuracy": 0.66})
    assert card.find_contradiction(other) == "accuracy is 0.66, but 130 of 200 answers are right"


def test_the_results_are_those_of_the_run() -> None:
    results = section(write_card(RUN), "Results")
    assert "| validation | 81.0 % | 79.9 % to 82.1 % | 5,000 | 0.7500 |" in results
    assert "| test | 65.0 % | 58.2 % to 71.3 % | 200 | 0.9000 |" in results
    assert "| cat | 90.0 % | 82.6 % to 94.5 % | 100 | emu (10) |" in results
    assert "| dog | 40.0 % | 30.9 % to 49.8 % | 100 | cat (50) |" in results
    assert "| emu | | | 0 | |" in results
    assert "mean confidence is 50.0 % and the expected calibration error (Guo et al., 2017, 15 bins) 15.0 %" in results
    assert "mirror image" not in results


def test_the_accuracy_with_flips_is_given_where_the_run_has_it() -> None:
    run = replace(RUN, test={**RUN.test, "accuracy_with_flips": 0.7})
    assert "| test, each image voting with its mirror image | 70.0 % | 63.3 % to 75.9 % | 200 |" in write_card(run)


def test_the_network_is_described_from_its_weights() -> None:
    model = section(write_card(RUN), "Model")
    assert "three 3x3 convolutions to 16, 32 and 64 channels" in model
    assert "then 500 hidden units" in model
    network = LeNet(ModelSection(dropout=0.0, first_layer="learned"), 3)
    assert f"{sum(tensor.numel() for tensor in network.parameters()):,} parameters" in model
    assert "Classes, by label: 0 cat, 1 dog, 2 emu." in model


def test_every_setting_of_training_and_the_environment_is_told() -> None:
    training = section(write_card(RUN), "Training")
    for name, value in {"seed": 0, "train.learning_rate": 0.08, "augment.border": "reflect", "device": "cpu"}.items():
        assert f"| {name} | {value} |" in training
    for name in ("augment", "model", "train"):
        for key in getattr(PARAMS, name).model_dump():
            assert (f"| {name}.{key} |" in training) == (key != "launcher")


def test_only_the_official_archive_is_called_cifar_10() -> None:
    text = write_card(RUN)
    assert text.startswith("# Model card: LeNet trained on CIFAR-10\n")
    assert "Krizhevsky" in section(text, "Terms")
    assert "withdrew in 2020" in section(text, "Terms")
    assert "near-duplicates" in section(text, "Limits")


def test_any_other_archive_is_named_by_its_hash_and_nothing_is_said_of_its_terms() -> None:
    text = write_card(with_data(sha256="ab" * 32))
    assert text.startswith("# Model card: LeNet trained on images in CIFAR-10's layout\n")
    assert "not the official one" in section(text, "Data")
    assert f"Its SHA-256 is `{'ab' * 32}`" in section(text, "Data")
    assert "terms of the archive are not known here" in section(text, "Terms")
    assert "Krizhevsky" not in text
    assert "near-duplicates" not in text


def test_the_hash_of_cifar_10_is_the_one_that_the_project_starts_with() -> None:
    assert PARAMS.data.sha256 == card.CIFAR_10_SHA256


def test_the_split_is_told() -> None:
    data = section(write_card(RUN), "Data")
    assert "45,000 images of its training part trained the network. The other 5,000, the same number" in data
    assert "The 200 images of its test part were not trained on." in data


def test_without_validation_images_the_card_says_what_the_figures_are() -> None:
    text = write_card(with_data(validation_size=0))
    assert "None was held out: the validation figures are those of the test images" in section(text, "Data")
    assert "| validation |" not in text
    assert "was chosen on the test images" in section(text, "Limits")
    assert "was chosen on the test images" not in write_card(RUN)


def test_classes_are_called_weak_by_their_intervals_only() -> None:
    assert "below the accuracy on all test images: dog (40.0 %)." in section(write_card(RUN), "Limits")
    few = replace(RUN, answers=make_answers(("cat", "cat", 1), ("dog", "cat", 1)))
    assert "No class has an interval that lies below" in section(write_card(few), "Limits")


def test_names_that_markdown_would_take_for_its_own_are_escaped() -> None:
    names = ("a|b", "*x*_y_", "<b>")
    text = write_card(replace(RUN, class_names=names, answers=make_answers((names[0], names[1], 1))))
    assert r"| a\|b | 0.0 % | 0.0 % to 79.3 % | 1 | \*x\*\_y\_ (1) |" in text
    assert r"2 \<b\>." in text


def test_its_code_gives_the_network_s_probabilities_without_this_project(tmp_path: Path) -> None:
    network = LeNet(ModelSection(dropout=0.3, first_layer="learned"), 3)
    torch.nn.init.normal_(network.output.weight)  # far from the same answer for every image
    save_weights(tmp_path / "lenet.safetensors", network, NAMES)
    loaded, _ = load_weights(tmp_path / "lenet.safetensors")
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = loaded(images).softmax(dim=1)
    torch.save(images, tmp_path / "images.pt")
    (code,) = re.findall(r"```python\n(.*?)```", write_card(RUN), flags=re.S)
    (tmp_path / "code.py").write_text(
        f"{code}\nimport torch\nprint(json.dumps([class_names, classify(torch.load('images.pt')).tolist()]))\n"
    )
    names, told = json.loads(Project(tmp_path).run(sys.executable, "-I", "code.py").text)
    assert names == list(NAMES)
    torch.testing.assert_close(torch.tensor(told), expected)


def test_the_card_of_a_pipeline_has_the_figures_of_its_files(pipeline: Project) -> None:
    text = pipeline.read("data/model/card.md").decode()
    test = json.loads(pipeline.read("metrics/test.json"))
    assert f"**{100 * test['accuracy']:.1f} %** of 100 test images" in text
    for name, accuracy in test["per_class"].items():
        assert f"| {name} | {100 * accuracy:.1f} % |" in text
    with (pipeline.folder / "data/model/lenet.safetensors").open("rb") as file:
        assert f"`{file_digest(file, 'sha256').hexdigest()}`" in text
    for name, value in json.loads(pipeline.read("metrics/environment.json")).items():
        assert f"| {name} | {value} |" in text
    assert "300 images of its training part" in text
    assert str(pipeline.folder) not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "expected values with names"),
        ('{"loss": 1}', "accuracy: found None, expected a number from 0 to 1"),
        ('{"loss": null}', "loss: found None, expected a number"),
        ('{"loss": 1, "accuracy": 1.5}', "accuracy: found 1.5, expected a number from 0 to 1"),
        ('{"loss": 1, "accuracy": true}', "accuracy: found True, expected a number"),
        ('{"loss": NaN}', "loss: found nan, expected a number"),
    ],
)
def test_figures_that_are_none_are_refused(pipeline: Project, content: str, words: str) -> None:
    before = pipeline.read("data/model/card.md")
    (pipeline.folder / "metrics/test.json").write_text(content)
    result = pipeline.stage("card")
    assert (result.status, result.text.count("\n")) == (1, 1)
    assert f"error: metrics/test.json: {words}" in result.text
    assert pipeline.read("data/model/card.md") == before


def test_test_figures_of_other_predictions_are_refused(pipeline: Project) -> None:
    before = pipeline.read("data/model/card.md")
    test = json.loads(pipeline.read("metrics/test.json"))
    right = round(100 * test["accuracy"])
    (pipeline.folder / "metrics/test.json").write_text(json.dumps(test | {"accuracy": (right - 1) / 100}))
    result = pipeline.stage("card")
    assert (result.status, result.text) == (
        1,
        f"error: plots/predictions.csv and metrics/test.json: accuracy is {(right - 1) / 100}, but {right} of 100 "
        f"answers are right; lenet-cifar10 verify says how to repair it\n",
    )
    assert pipeline.read("data/model/card.md") == before

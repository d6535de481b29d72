"""The model card: what the files of a run say of its weights, as Markdown for whoever gets them.

After M. Mitchell et al., "Model cards for model reporting" (2019).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lenet_cifar10.params import Params
from lenet_cifar10.results import Answer, ClassCount, count_right
from lenet_cifar10.statistics import wilson_interval

CIFAR_10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


@dataclass(frozen=True)
class Run:
    """What is known of a run: train, test and environment as in metrics/, and the shapes of the weights by name."""

    params: Params
    class_names: Sequence[str]
    weights_name: str
    weights_sha256: str
    shapes: Mapping[str, Sequence[int]]
    training_images: int
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    environment: Mapping[str, Any]
    answers: Sequence[Answer]

    @property
    def is_on_cifar_10(self) -> bool:
        """Whether the data is the official archive and no other."""
        return self.params.data.sha256 == CIFAR_10_SHA256

    @property
    def classes(self) -> list[ClassCount]:
        """The test images of each class, in the order of the names."""
        return count_right(((answer.actual, answer.predicted) for answer in self.answers), self.class_names)


def find_contradiction(run: Run) -> str | None:
    """How a run's answers contradict its test accuracy; None where they do not."""
    right = sum(found.right for found in run.classes)
    if round(run.test["accuracy"] * len(run.answers)) != right:
        return f"accuracy is {run.test['accuracy']}, but {right:,} of {len(run.answers):,} answers are right"
    return None


def find_worst_mistake(answers: Iterable[Answer], name: str, class_names: Iterable[str]) -> tuple[str, int]:
    """What the images of a class were most often mistaken for, the first of equally frequent ones, and how often."""
    predicted = Counter(answer.predicted for answer in answers if answer.actual == name)
    worst = max((other for other in class_names if other != name), key=lambda other: predicted[other])
    return worst, predicted[worst]


def write_card(run: Run) -> str:
    """The whole card: the same text for the same run."""
    sections = (_summary, _model, _use, _data, _training, _results, _limits, _intended_use, _terms)
    return "\n\n".join(section(run) for section in sections) + "\n"


def _summary(run: Run) -> str:
    data = "CIFAR-10" if run.is_on_cifar_10 else "images in CIFAR-10's layout"
    test = run.test
    return f"""# Model card: LeNet trained on {data}

A small convolutional network that sorts colour images of 32x32 pixels into {len(run.class_names)} classes, made by a
workflow whose runs can be repeated to the bit in the same environment (below). It is there to be studied and compared,
not to set a record.

**{_percent(test["accuracy"])}** of {len(run.answers):,} test images are classified correctly (95 % interval
{_percent(test["accuracy_low"])} to {_percent(test["accuracy_high"])}).

This card belongs to the file `{run.weights_name}` beside it, whose SHA-256 is
`{run.weights_sha256}`. Its figures were read from the files of the run that made both."""


def _model(run: Run) -> str:
    first, second, third = (run.shapes[f"conv{number}.weight"][0] for number in (1, 2, 3))
    parameters = sum(math.prod(shape) for shape in run.shapes.values())
    names = ", ".join(f"{label} {_escape(name)}" for label, name in enumerate(run.class_names))
    return f"""## Model

- Network: three 3x3 convolutions to {first}, {second} and {third} channels, each with 2x2 max-pooling and ReLU; then
  {run.shapes["hidden.weight"][0]} hidden units with ReLU and a linear output. {parameters:,} parameters in float32. It
  follows the LeNet of LeCun et al., "Gradient-based learning applied to document recognition" (1998).
- Input: uint8 (N, 3, 32, 32) in red, green, blue; the network itself scales it from -1 to 1.
- Output: logits (N, {len(run.class_names)}). Their softmax is what is called confidence here.
- Classes, by label: {names}."""


def _use(run: Run) -> str:
    return f'''## How to use it

With this project installed: `lenet-cifar10 predict picture.jpg --weights {run.weights_name}`, or
`lenet_cifar10.weights.load_weights` in Python. With torch and safetensors alone:

```python
import json

from safetensors import safe_open
from torch.nn.functional import conv2d, linear, max_pool2d

with safe_open("{run.weights_name}", framework="pt") as file:
    class_names = json.loads(file.metadata()["lenet_cifar10"])["class_names"]
    weights = {{name: file.get_tensor(name) for name in file.keys()}}


def classify(images):
    """uint8 (N, 3, 32, 32) -> the probability of each class, (N, {len(run.class_names)})."""
    features = (images / 255 - 0.5) * 2
    for layer in ("conv1", "conv2", "conv3"):
        features = conv2d(features, weights[layer + ".weight"], weights[layer + ".bias"], padding=1)
        features = max_pool2d(features, 2).relu()
    hidden = linear(features.flatten(1), weights["hidden.weight"], weights["hidden.bias"]).relu()
    return linear(hidden, weights["output.weight"], weights["output.bias"]).softmax(dim=1)
```'''


def _data(run: Run) -> str:
    section = run.params.data
    origin = (
        """The official archive of CIFAR-10 (Python version), by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton:
photographs that image search engines found, reduced to 32x32 pixels and labelled by people."""
        if run.is_on_cifar_10
        else """An archive in the layout of CIFAR-10's Python version. It is not the official one; where its images come
from is not known here."""
    )
    split = (
        f"""{run.training_images:,} images of its training part trained the network. The other
{section.validation_size:,}, the same number of each class, were held out for validation (`data.split_seed` is
{section.split_seed})."""
        if section.validation_size
        else f"""All {run.training_images:,} images of its training part trained the network. None was held out: the
validation figures are those of the test images."""
    )
    return f"""## Data

{origin} Its SHA-256 is
`{section.sha256}`.

{split} The {len(run.answers):,} images of its test part were not trained on."""


def _training(run: Run) -> str:
    sections = run.params.of_training()
    settings = {"seed": sections.pop("seed")}
    settings |= {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    return f"""## Training

These settings, which params.yaml explains, decide the result together with the data, the code and the environment:

{_table(("Setting", "Value"), settings.items())}

The environment:

{_table(("What", "Value"), run.environment.items())}"""


def _results(run: Run) -> str:
    train, test, tests, held_out = run.train, run.test, len(run.answers), run.params.data.validation_size
    parts = [
        ("validation", train["validation_accuracy"], held_out, train["validation_loss"]),
        ("test", test["accuracy"], tests, test["loss"]),
    ]
    overall = [
        (name, *_accuracy(round(accuracy * count), count), f"{loss:.4f}")
        for name, accuracy, count, loss in parts
        if count
    ]
    if "accuracy_with_flips" in test:
        right = round(test["accuracy_with_flips"] * tests)
        overall.append(("test, each image voting with its mirror image", *_accuracy(right, tests), ""))
    by_class = []
    for found in run.classes:
        other, mistakes = find_worst_mistake(run.answers, found.name, run.class_names)
        shown = f"{_escape(other)} ({mistakes:,})" if mistakes else ""
        by_class.append((_escape(found.name), *_accuracy(found.right, found.count), shown))
    return f"""## Results

The intervals are 95 % intervals of a proportion (Wilson, 1927). They tell how sure so many images make an accuracy,
not how far another seed would move it. The loss is the mean cross-entropy in nats.

{_table(("Images", "Accuracy", "Interval", "Number", "Loss"), overall)}

By class, on the test images:

{_table(("Class", "Accuracy", "Interval", "Number", "Most often taken for"), by_class)}

On the test images the mean confidence is {_percent(math.fsum(answer.confidence for answer in run.answers) / tests)}
and the expected calibration error (Guo et al., 2017, 15 bins) {_percent(test["expected_calibration_error"])}."""


def _limits(run: Run) -> str:
    weak = [
        f"{_escape(found.name)} ({_percent(found.right / found.count)})"
        for found in run.classes
        if found.count and wilson_interval(found.right, found.count).high < run.test["accuracy"]
    ]
    limits = [
        f"It always answers with one of its {len(run.class_names)} classes, also where a picture shows none of them.",
        "It sees 32x32 pixels. What a larger picture shows beyond these is lost.",
        "Its confidence was compared with its accuracy on the test images only. For pictures of another kind it is no "
        "probability of being right.",
        f"These classes have an interval that lies below the accuracy on all test images: {', '.join(weak)}."
        if weak
        else "No class has an interval that lies below the accuracy on all test images.",
        "It is one run with one seed. Fairness, and robustness against noise, edits or attacks, were not examined.",
    ]
    if not run.params.data.validation_size:
        limits.append("What was chosen by the validation figures was chosen on the test images, which then flatter it.")
    if run.is_on_cifar_10:
        limits.append(
            "3.3 % of CIFAR-10's test images have near-duplicates among its training images (Barz and Denzler, 2020)."
        )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _intended_use(run: Run) -> str:
    return f"""## Intended use

For teaching, for comparing ways to train a small network, and as a model to try tools on. Not for decisions about
people, nor where a wrong answer does harm: {_percent(1 - run.test["accuracy"])} of its answers on the test images are
wrong, and it never says that it does not know."""


def _terms(run: Run) -> str:
    terms = (
        """CIFAR-10 is described in A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), which
its authors ask to be cited. They give no explicit licence. Its images were collected from the web and are a subset of
80 Million Tiny Images, which its authors withdrew in 2020 because of derogatory categories and offensive images."""
        if run.is_on_cifar_10
        else "The terms of the archive are not known here; ask whoever made it."
    )
    return f"""## Terms

{terms}

The file of weights holds the names of the classes and no image. The code that made it is under the MIT licence."""


def _accuracy(right: int, count: int) -> tuple[str, str, str]:
    """Three cells: the accuracy, its interval and the number of images."""
    if not count:
        return "", "", "0"
    interval = wilson_interval(right, count)
    return _percent(right / count), f"{_percent(interval.low)} to {_percent(interval.high)}", f"{count:,}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _escape(name: str) -> str:
    """A name as Markdown shows it, whatever is in it."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$-])", r"\\\1", name)

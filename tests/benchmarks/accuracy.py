"""Measure what the recipe reaches and what each of its knobs brings, and write the tables to ACCURACY.md.

    make accuracy     # on data/prepared (after dvc repro): over an hour on two cores

The recipes are trained with five seeds and look at the test set once, at the end; the ablation, from which choices are
made, is trained with three and looks at the validation images alone. Each run takes one thread, as many runs at a time
as there are cores. What was run is kept under .resume/accuracy, so that it can be stopped and taken up again; a run is
repeated when the code or the values that decide its result have changed.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.bench import ROOT, Table, describe_data, describe_machine, make_params
from benchmarks.recipes import CLASSIC, SHORT, Changes
from lenet_cifar10 import dataset, device, errors
from lenet_cifar10.evaluation import predict, predict_with_flips, score
from lenet_cifar10.params import Params
from lenet_cifar10.training import Training

RESULTS = Path(__file__).with_name("ACCURACY.md")
KEPT = ROOT / ".resume/accuracy"
PREPARED = ROOT / "data/prepared"
SPLITS = ("train", "validation", "test")
SECTIONS = ("seed", "augment", "model", "train")

RECIPE_SEEDS, ABLATION_SEEDS = range(5), range(3)
RECIPES: dict[str, Changes] = {"default": {}, "classic": CLASSIC, "short": SHORT}
ABLATION: dict[str, Changes] = {
    "the default recipe": {},
    "whitened first layer": {"model": {"first_layer": "whitened"}},
    "bfloat16": {"train": {"precision": "bfloat16"}},
    "no dropout": {"model": {"dropout": 0.0}},
    "no label smoothing": {"train": {"label_smoothing": 0.0}},
    "no averaging of the weights": {"train": {"averaging_decay": 0.0}},
    "no weight decay": {"train": {"weight_decay": 0.0}},
    "no momentum": {"train": {"momentum": 0.0}},
    "no warm-up": {"train": {"warmup_fraction": 0.0}},
    "constant learning rate": {"train": {"schedule": "constant"}},
    "no flips": {"augment": {"flip_probability": 0.0}},
    "no shifts": {"augment": {"translation_pixels": 0}},
    "no rotation": {"augment": {"rotation_degrees": 0.0}},
    "no shear": {"augment": {"shear_degrees": 0.0}},
    "no zoom": {"augment": {"scale": 0.0}},
    "no brightness": {"augment": {"brightness": 0.0}},
    "no contrast": {"augment": {"contrast": 0.0}},
    "no saturation": {"augment": {"saturation": 0.0}},
    "black borders": {"augment": {"border": "zero"}},
}


@dataclass(frozen=True)
class Run:
    """One training: the changes to params.yaml, the seed, and whether the test set is looked at."""

    changes: str  # as JSON
    seed: int
    test: bool

    @property
    def params(self) -> Params:
        return make_params(json.loads(self.changes), {"train": {"threads": 1}}, seed=self.seed)

    def result(self, data: str) -> dict[str, Any]:
        """What it gave: trained now, or read from the file that an earlier call left."""
        values = self.params.model_dump(include=set(SECTIONS))
        values |= {"test": self.test, "data": data, "code": hash_code(), "torch": torch.__version__}
        path = KEPT / f"{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]}.json"
        if not path.exists():
            result = self.train()
            KEPT.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(result))
            unfinished.replace(path)
        return json.loads(path.read_text())

    def train(self) -> dict[str, Any]:
        """Validation accuracies, an epoch each, and the last weights' accuracies, plain and with flips."""
        params = self.params
        device.prepare("cpu", params.train.threads)
        classes = len(dataset.load_class_names(PREPARED / "classes.json"))
        splits = {name: dataset.load(PREPARED / f"{name}.npz", classes) for name in SPLITS}
        training = Training(
            splits["train"],
            splits["validation"],
            classes=classes,
            device=torch.device("cpu"),
            seed=params.seed,
            augment_section=params.augment,
            model_section=params.model,
            section=params.train,
        )
        result: dict[str, Any] = {"epochs": [record.validation_accuracy for record in training.run()]}
        for name in ("validation", "test") if self.test else ("validation",):
            images, labels = torch.from_numpy(splits[name].images), torch.from_numpy(splits[name].labels)
            result[name] = score(predict(training.kept, images), labels).accuracy
            result[f"{name} flips"] = score(predict_with_flips(training.kept, images), labels).accuracy
        return result


def hash_code() -> str:
    """The SHA-256 of the modules that decide a result."""
    names = ("augment", "dataset", "device", "evaluation", "model", "plan", "randomness", "training")
    text = b"".join((ROOT / f"src/lenet_cifar10/{name}.py").read_bytes() for name in names)
    return hashlib.sha256(text).hexdigest()


def make_runs(variants: dict[str, Changes], seeds: range, test: bool) -> dict[str, list[Run]]:
    """The runs of each variant."""
    return {name: [Run(json.dumps(changes), seed, test) for seed in seeds] for name, changes in variants.items()}


def percent(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}"


def tabulate_recipes(results: dict[str, list[dict[str, Any]]]) -> Iterator[Table]:
    """What the recipes reach, and when."""
    kinds = ("validation", "validation flips", "test", "test flips")
    rows = [(name, *(percent([run[kind] for run in runs]) for kind in kinds)) for name, runs in results.items()]
    note = "Accuracy in percent: mean and standard deviation of five seeds (0 to 4); flips: the mirror image votes too."
    yield Table(
        "What the recipes reach", note, ("recipe", "validation", "validation, flips", "test", "test, flips"), rows
    )
    counts = (1, 2, 3, 5, 10, 15, 20)
    rows = [
        (
            name,
            *(
                percent([run["epochs"][count - 1] for run in runs]) if count <= len(runs[0]["epochs"]) else ""
                for count in counts
            ),
        )
        for name, runs in results.items()
    ]
    yield Table(
        "On the way there",
        "Validation accuracy after so many epochs, the same runs.",
        ("recipe", *(f"{count}" for count in counts)),
        rows,
    )


def tabulate_ablation(results: dict[str, list[dict[str, Any]]]) -> Table:
    """What is lost, or won, without each knob."""
    whole, *_ = results.values()
    rows = []
    for name, runs in results.items():
        differences = [100 * (run["validation"] - base["validation"]) for run, base in zip(runs, whole, strict=True)]
        change = f"{mean(differences):+.2f} ± {stdev(differences):.2f}" if runs is not whole else ""
        rows.append(
            (name, *(percent([run[kind] for run in runs]) for kind in ("validation", "validation flips")), change)
        )
    return Table(
        "What each knob brings",
        "Validation accuracy in percent with one knob changed and the others as they are, and its difference to the "
        "default recipe of the same seed: mean and standard deviation of three seeds (0 to 2).",
        ("recipe", "validation", "validation, flips", "difference"),
        rows,
    )


def main() -> None:
    """Train what is missing, several at a time, and write the tables."""
    arrays = b"".join((PREPARED / f"{name}.npz").read_bytes() for name in SPLITS)
    digest = hashlib.sha256(arrays).hexdigest()
    recipes = make_runs(RECIPES, RECIPE_SEEDS, test=True)
    ablation = make_runs(ABLATION, ABLATION_SEEDS, test=False)
    # The default recipe's runs of the ablation are the recipes' own.
    ablation["the default recipe"] = recipes["default"][: len(ABLATION_SEEDS)]
    wanted = list(dict.fromkeys(run for runs in (*recipes.values(), *ablation.values()) for run in runs))
    found: dict[Run, dict[str, Any]] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run.result, digest): run for run in wanted}
        for done in as_completed(waiting):
            run = waiting[done]
            found[run] = done.result()
            print(
                f"{len(found)}/{len(wanted)} seed {run.seed} {run.changes} {found[run]['validation']:.4f}", flush=True
            )
    tables = [*tabulate_recipes({name: [found[run] for run in runs] for name, runs in recipes.items()})]
    tables.append(tabulate_ablation({name: [found[run] for run in runs] for name, runs in ablation.items()}))
    title = f"# Accuracy\n\nMade by `make accuracy` on {describe_data()}; {describe_machine()}, one thread a run."
    RESULTS.write_text("\n\n".join([title, *map(str, tables)]) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    errors.run(main)

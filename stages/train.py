"""Train: arrays in data/prepared/ -> weights in data/model/, plots/history.csv, metrics/train.json."""

from dataclasses import astuple, fields
from pathlib import Path

import torch

from lenet_cifar10 import dataset, device, errors
from lenet_cifar10.checkpoint import save_weights
from lenet_cifar10.params import Params
from lenet_cifar10.records import read_json, write_csv, write_json
from lenet_cifar10.terminal import say, steps_bar
from lenet_cifar10.training import EpochRecord, Training

PREPARED = Path("data/prepared")


def main() -> None:
    """Train the network; after each epoch the history gains a row."""
    params = Params.load(Path("params.yaml"))
    chosen = device.choose(params.device)
    device.make_repeatable(params.train.threads)
    class_names = read_json(PREPARED / "classes.json")
    splits = [dataset.load(PREPARED / name, len(class_names)) for name in ("train.npz", "validation.npz")]
    training = Training(*splits, len(class_names), chosen, params.seed, params.augment, params.model, params.train)
    say(f"training on {device.describe(chosen)} with torch {torch.__version__}, {len(splits[0]):,} images an epoch")
    history: list[EpochRecord] = []
    with steps_bar() as bar:
        task = bar.add_task("training", total=params.train.epochs * training.steps_per_epoch)
        for record in training.run(after_step=lambda: bar.advance(task)):
            history.append(record)
            columns = [field.name for field in fields(EpochRecord)]
            write_csv(Path("plots/history.csv"), columns, [astuple(row) for row in history])
            say(
                f"epoch {record.epoch}/{params.train.epochs}: "
                f"train loss {record.train_loss:.4f}, accuracy {record.train_accuracy:.4f}; "
                f"validation loss {record.validation_loss:.4f}, accuracy {record.validation_accuracy:.4f}"
            )
    save_weights(Path("data/model/lenet.safetensors"), training.kept, class_names)
    last = history[-1]
    write_json(
        Path("metrics/train.json"),
        {
            "epochs": last.epoch,
            "train_loss": last.train_loss,
            "train_accuracy": last.train_accuracy,
            "validation_loss": last.validation_loss,
            "validation_accuracy": last.validation_accuracy,
        },
    )


if __name__ == "__main__":
    errors.run(main)

"""Train: arrays in data/prepared/ -> weights in data/model/, plots/history.csv, metrics/train.json."""

from dataclasses import asdict
from pathlib import Path

from lenet_cifar10 import dataset, device, errors
from lenet_cifar10.checkpoint import save_weights
from lenet_cifar10.params import Params
from lenet_cifar10.records import replacing, write_csv, write_json
from lenet_cifar10.terminal import say, steps_bar
from lenet_cifar10.training import EpochRecord, Training

PREPARED, HISTORY = Path("data/prepared"), Path("plots/history.csv")
WEIGHTS, METRICS = Path("data/model/lenet.safetensors"), Path("metrics/train.json")
FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def main() -> None:
    """Train the network; after each epoch the history gains a row."""
    params = Params.load(Path("params.yaml"))
    chosen = device.choose(params.device)
    device.make_repeatable(params.train.threads)
    names = dataset.load_class_names(PREPARED / "classes.json")
    images, held_out = (dataset.load(PREPARED / name, len(names)) for name in ("train.npz", "validation.npz"))
    training = Training(images, held_out, len(names), chosen, params.seed, params.augment, params.model, params.train)

    say(f"training on {device.describe(chosen)}: {params.train.epochs} epochs of {len(images):,} images")
    history: list[EpochRecord] = []
    with replacing(WEIGHTS, METRICS) as (weights, metrics), steps_bar() as bar:
        task = bar.add_task("training", total=params.train.epochs * training.steps_per_epoch)
        for record in training.run(after_step=lambda: bar.advance(task)):
            history.append(record)
            with replacing(HISTORY) as (rows,):
                write_csv(rows, [asdict(row) for row in history])
            say(f"epoch {record.epoch}/{params.train.epochs}: {record}")
        save_weights(weights, training.kept, names)
        last = asdict(history[-1])
        write_json(metrics, {"epochs": last["epoch"]} | {name: last[name] for name in FIGURES})


if __name__ == "__main__":
    errors.run(main)

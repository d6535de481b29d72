"""Train: data/prepared/ -> weights and environment in data/model/, plots/history.csv, metrics/train.json."""

import math
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lenet_cifar10.common.console import say, steps_bar
from lenet_cifar10.common.files import write_json, write_table
from lenet_cifar10.common.params import load_params
from lenet_cifar10.common.stage import is_main_process, run_stage
from lenet_cifar10.data.arrays import load_split
from lenet_cifar10.model.device import (
    describe_environment,
    keep_freed_memory,
    report_out_of_memory,
    resolve_device,
    set_deterministic,
)
from lenet_cifar10.model.weights import save_weights
from lenet_cifar10.training.checkpoint import Checkpoint, fingerprint
from lenet_cifar10.training.distributed import World
from lenet_cifar10.training.loop import has_learned_nothing, train
from lenet_cifar10.training.steps import is_recorded

TRAINING, VALIDATION = Path("data/prepared/train.safetensors"), Path("data/prepared/validation.safetensors")
WEIGHTS, ENVIRONMENT = Path("data/model/lenet.safetensors"), Path("data/model/environment.json")
HISTORY, METRICS = Path("plots/history.csv"), Path("metrics/train.json")
# In an experiment's temporary copy DVC_ROOT is the original project: checkpoints must not vanish with the copy.
CHECKPOINTS = Path(os.environ.get("DVC_ROOT", ".")) / ".checkpoints"


@report_out_of_memory()
def main() -> None:
    """Train the network; after each epoch the history gains a row."""
    params = load_params(Path("params.yaml"))
    training, validation = load_split(TRAINING), load_split(VALIDATION)
    device = resolve_device(params.device)
    set_deterministic(params.train.threads)
    keep_freed_memory()
    environment = describe_environment(device)
    decisive = params.model_dump(include={"seed", "augment", "model", "train"})
    run = fingerprint(decisive, environment, [Path(__file__), TRAINING, VALIDATION])
    checkpoint = Checkpoint(CHECKPOINTS, run)
    with checkpoint.locked() if is_main_process() else nullcontext(), steps_bar() as bar:
        world = World()
        world.require_same(run)
        epochs, steps = params.train.epochs, math.ceil(len(training) / params.train.batch_size)
        if world.is_main:
            way = "recorded" if is_recorded(params.train, device, world) else "not recorded"
            say(
                f"training on {device} ({environment['device_name']}), steps {way}: "
                f"{epochs} epochs of {len(training):,} images"
            )
        task = bar.add_task("training", total=epochs * steps)
        for history, model in train(
            training,
            validation,
            seed=params.seed,
            augment_section=params.augment,
            model_section=params.model,
            settings=params.train,
            device=device,
            world=world,
            checkpoint=checkpoint,
            after_step=lambda: bar.advance(task),
        ):
            if not world.is_main:
                continue
            bar.update(task, completed=len(history) * steps)
            say(f"epoch {len(history)}/{epochs}: {history[-1]}")
            write_table(HISTORY, pd.DataFrame(map(asdict, history)))
            if len(history) == epochs:
                save_weights(WEIGHTS, model, training.class_names)
                write_json(ENVIRONMENT, environment)
                write_json(METRICS, history[-1].summary())
                checkpoint.remove()
                if has_learned_nothing(history[-1], len(training.class_names)):
                    say(
                        "warning: the network has learned nothing, its loss is that of a guess; see the comment above "
                        "train.learning_rate in params.yaml"
                    )
        world.close()


if __name__ == "__main__":
    run_stage(main)

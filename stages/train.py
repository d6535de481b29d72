"""Train: data/prepared/ -> weights in data/model/, plots/history.csv, metrics/train.json, metrics/environment.json."""

import os
from pathlib import Path

from lenet_cifar10 import interruption

interruption.answer_signals()  # before torch, whose import takes a second

from lenet_cifar10 import checkpoint, dataset, device, dvc_cache, resume, teamwork
from lenet_cifar10.params import Params
from lenet_cifar10.processes import Team
from lenet_cifar10.records import replacing, write_csv, write_json
from lenet_cifar10.terminal import console, figures_table, say, steps_bar
from lenet_cifar10.weights import save_weights

DATA = [Path("data/prepared") / name for name in ("classes.json", "train.npz", "validation.npz")]
WEIGHTS, HISTORY = Path("data/model/lenet.safetensors"), Path("plots/history.csv")
OUTPUTS = WEIGHTS, Path("metrics/train.json"), Path("metrics/environment.json")
CHECKPOINTS = Path(os.environ.get("DVC_ROOT", ".")) / ".resume/checkpoints"


@device.telling_shortage()
def main(team: Team) -> None:
    """Train the network; after each epoch the history gains a row. The team's other processes just compute."""
    params = Params.load(Path("params.yaml"))
    chosen = device.prepare(params.device, params.train.threads, team.place)
    names = dataset.load_class_names(DATA[0])
    images, held_out = (dataset.load(path, len(names)) for path in DATA[1:])
    work = teamwork.Work(params, len(names), images, held_out)
    training = work.start(chosen, team)
    say(f"training on {device.describe(chosen)}, {team}: {params.train.epochs} epochs of {len(images):,} images")
    environment = device.environment(chosen)
    checkpoints = checkpoint.Checkpoints(CHECKPOINTS, resume.fingerprint(params.of_training(), DATA, environment))
    is_forced = dvc_cache.has(checkpoints.result())  # not so if another process makes it while this one waits
    with checkpoints.locked(), replacing(*OUTPUTS) as (weights, metrics, surroundings), steps_bar() as bar:
        if is_forced:
            checkpoints.clear()
        teamwork.tell(team, work, environment)
        history = []
        for history in resume.run(training, checkpoints, bar):
            with replacing(HISTORY) as (rows,):
                write_csv(rows, history)
        save_weights(weights, training.kept, names)
        write_json(metrics, history[-1].summary())
        write_json(surroundings, environment)
        checkpoints.finish(weights)
    console.print(figures_table("Trained, figures of the last epoch", history[-1].summary()))


if __name__ == "__main__":
    teamwork.run(main)

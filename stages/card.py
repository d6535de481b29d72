"""Card: the files of the earlier stages -> data/model/card.md, which tells what the weights beside it are."""

from pathlib import Path

from lenet_cifar10 import interruption

interruption.answer_signals()

from hashlib import sha256

from lenet_cifar10 import dataset, stage
from lenet_cifar10.card import Run, find_contradiction, write_card
from lenet_cifar10.errors import VERIFY, UserError
from lenet_cifar10.params import Params
from lenet_cifar10.records import replacing
from lenet_cifar10.results import FRACTIONS, NUMBERS, Answer, read_predictions, read_values
from lenet_cifar10.terminal import say
from lenet_cifar10.weights import load_weights

WEIGHTS, CARD = Path("data/model/lenet.safetensors"), Path("data/model/card.md")
DATA, PREDICTIONS = [Path("data/prepared") / name for name in ("train.npz", "test.npz")], Path("plots/predictions.csv")
TRAIN, TEST, ENVIRONMENT = (Path("metrics") / name for name in ("train.json", "test.json", "environment.json"))
SHARES = ("accuracy", "accuracy_low", "accuracy_high", "expected_calibration_error")


def main() -> None:
    """Write the card anew."""
    params = Params.load(Path("params.yaml"))
    network, names = load_weights(WEIGHTS)
    training_images, test_images = (len(dataset.load(path, len(names))) for path in DATA)
    shares = (*SHARES, "accuracy_with_flips") if params.evaluate.test_time_flips else SHARES
    predictions = read_predictions(PREDICTIONS, names, test_images)
    run = Run(
        params=params,
        class_names=names,
        weights_name=WEIGHTS.name,
        weights_sha256=sha256(WEIGHTS.read_bytes()).hexdigest(),
        shapes={name: tensor.shape for name, tensor in network.state_dict().items()},
        training_images=training_images,
        train=read_values(TRAIN, {"validation_loss": NUMBERS, "validation_accuracy": FRACTIONS}),
        test=read_values(TEST, {"loss": NUMBERS} | dict.fromkeys(shares, FRACTIONS)),
        environment=read_values(ENVIRONMENT, {}),
        answers=[Answer(*row) for row in predictions.itertuples(index=False)],
    )
    if contradiction := find_contradiction(run):
        raise UserError(f"{PREDICTIONS} and {TEST}: {contradiction}; {VERIFY}")
    with replacing(CARD) as (card,):
        card.write_text(write_card(run), encoding="utf-8")
    say(f"wrote {CARD}")


if __name__ == "__main__":
    stage.run(main)

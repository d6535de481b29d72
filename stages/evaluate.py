"""Evaluate: weights and test images -> metrics/test.json, plots/predictions.csv, plots/per_class.csv."""

from pathlib import Path

import torch

from lenet_cifar10 import dataset, device, errors, evaluation
from lenet_cifar10.checkpoint import load_weights
from lenet_cifar10.params import Params
from lenet_cifar10.records import replacing, write_csv, write_json
from lenet_cifar10.terminal import say

OUTPUTS = [Path(name) for name in ("metrics/test.json", "plots/predictions.csv", "plots/per_class.csv")]


def main() -> None:
    """Score the weights on the test set, once."""
    params = Params.load(Path("params.yaml"))
    chosen = device.choose(params.device)
    device.make_repeatable(params.train.threads)
    network, class_names = load_weights(Path("data/model/lenet.safetensors"))
    network = network.to(chosen).to(memory_format=torch.channels_last)
    test = dataset.load(Path("data/prepared/test.npz"), len(class_names))
    images, labels = torch.from_numpy(test.images).to(chosen), torch.from_numpy(test.labels)
    logits = evaluation.predict(network, images)
    scores = evaluation.score(logits, labels)
    metrics: dict[str, object] = {"loss": scores.loss, "accuracy": scores.accuracy}
    if params.evaluate.test_time_flips:
        with_flips = evaluation.predict_with_flips(network, images)
        metrics["accuracy_with_flips"] = evaluation.score(with_flips, labels).accuracy
    per_class = dict(zip(class_names, evaluation.score_classes(logits, labels), strict=True))
    predicted, confidence = (values.tolist() for values in evaluation.confidences(logits))
    rows = [
        {"index": index, "actual": class_names[actual], "predicted": class_names[label], "confidence": round(share, 6)}
        for index, (actual, label, share) in enumerate(zip(test.labels, predicted, confidence, strict=True))
    ]
    with replacing(*OUTPUTS) as (test_json, predictions_csv, per_class_csv):
        write_json(test_json, metrics | {"per_class": per_class})
        write_csv(predictions_csv, rows)
        write_csv(per_class_csv, [{"class": name, "accuracy": share} for name, share in per_class.items()])
    say(f"test accuracy {scores.accuracy:.4f}, loss {scores.loss:.4f} on {len(test):,} images")


if __name__ == "__main__":
    errors.run(main)

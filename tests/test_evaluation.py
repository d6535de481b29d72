"""Logits, losses and accuracies, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from lenet_cifar10 import evaluation
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import ModelSection

LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [math.log(3), 0.0], [math.log(3), 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])  # each right one has the probability 3/4, the wrong one 1/4


class Witness(nn.Module):
    """Gives each image's left column as its logits, and remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((self.training, len(images)))
        return images[:, 0, :, 0].to(torch.float32)


def make_images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_loss_and_accuracy_are_those_worked_out_by_hand() -> None:
    scores = evaluation.score(LOGITS, LABELS)
    assert scores.loss == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4, rel=1e-6)
    assert scores.accuracy == 0.75


def test_an_accuracy_is_the_fraction_nearest_to_the_true_one() -> None:
    """0.7, not the float32 number 0.699999988."""
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert evaluation.score(torch.tensor([[1.0, 0.0]]).repeat(10, 1), labels).accuracy == 0.7


def test_scores_are_plain_numbers() -> None:
    scores = evaluation.score(LOGITS, LABELS)
    assert (type(scores.loss), type(scores.accuracy)) == (float, float)


@pytest.mark.parametrize("count", [1, 6, 7, 13, 14])
def test_the_size_of_the_parts_does_not_change_the_predictions(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    images = make_images(count)
    whole = evaluation.predict(Witness(), images)
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 7)
    witness = Witness()
    assert torch.equal(evaluation.predict(witness, images), whole)
    assert sum(size for _, size in witness.seen) == count
    assert max(size for _, size in witness.seen) <= 7


def test_the_size_of_the_parts_changes_the_network_s_logits_by_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = LeNet(ModelSection(dropout=0.5, first_layer="learned"), 10), make_images(20)
    whole = evaluation.predict(network, images)
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 7)
    torch.testing.assert_close(evaluation.predict(network, images), whole)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "eval"])
def test_prediction_is_in_eval_mode_and_restores_the_mode(mode: bool) -> None:
    witness = Witness().train(mode)
    evaluation.predict(witness, make_images(3))
    assert {training for training, _ in witness.seen} == {False}
    assert witness.training is mode


def test_prediction_keeps_no_gradients() -> None:
    assert not evaluation.predict(
        LeNet(ModelSection(dropout=0.0, first_layer="learned"), 10), make_images(2)
    ).requires_grad


def test_with_flips_the_logits_are_the_mean_of_an_image_and_its_mirror_image() -> None:
    images = make_images(5)
    expected = (images[:, 0, :, 0].double() + images[:, 0, :, 31].double()) / 2
    assert torch.equal(evaluation.predict_with_flips(Witness(), images).double(), expected)


def test_with_flips_an_image_and_its_mirror_image_are_alike() -> None:
    images = make_images(5)
    both = [evaluation.predict_with_flips(Witness(), batch) for batch in (images, images.flip(3))]
    assert torch.equal(*both)

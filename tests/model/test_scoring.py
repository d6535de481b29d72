"""Logits, losses and accuracies, computed by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from lenet_cifar10.common.params import ModelSection
from lenet_cifar10.model import scoring
from lenet_cifar10.model.lenet import LeNet


class LeftColumn(nn.Module):
    """Takes each image's left column for its logits, and records its mode and the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append((self.training, len(images)))
        return images[:, 0, :, 0].to(torch.float32)


def make_images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_loss_and_accuracy_are_those_computed_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [math.log(3), 0.0], [math.log(3), 0.0]])
    scores = scoring.score(logits, torch.tensor([0, 1, 1, 0]))  # right: probability 3/4; wrong: 1/4
    assert scores.loss == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4, rel=1e-6)
    assert scores.accuracy == 0.75


def test_an_accuracy_is_not_rounded_to_float32() -> None:
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert scoring.score(torch.tensor([[1.0, 0.0]]).repeat(10, 1), labels).accuracy == 0.7


@pytest.mark.parametrize("training", [True, False])
def test_predictions_are_made_in_eval_mode_in_batches_and_the_mode_is_restored(training: bool) -> None:
    model, images = LeftColumn().train(training), make_images(scoring.BATCH_SIZE + 1)
    assert torch.equal(scoring.predict(model, images), images[:, 0, :, 0].float())
    assert model.calls == [(False, scoring.BATCH_SIZE), (False, 1)]
    assert model.training is training


def test_predictions_with_flips_are_the_mean_over_both_images() -> None:
    model, images = LeNet(ModelSection(dropout=0.5), 10), make_images(5)
    result = scoring.predict_with_flips(model, images)
    assert torch.equal(result, (scoring.predict(model, images) + scoring.predict(model, images.flip(3))) / 2)
    assert torch.equal(result, scoring.predict_with_flips(model, images.flip(3)))
    assert not result.requires_grad

"""The training loop: what it promises about figures, bits and mistakes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorder import record
from training_runs import CLASSES, NONE, digest, make_settings, make_split, run

from lenet_cifar10.common.stage import UserError
from lenet_cifar10.model.scoring import predict, score
from lenet_cifar10.training import loop, steps
from lenet_cifar10.training.steps import Steps, learning_rate_at


def test_the_network_learns(tmp_path: Path) -> None:
    history, _ = run(tmp_path, epochs=8, ema_decay=0.5, augment=NONE, dropout=0, label_smoothing=0)
    assert history[-1].train_loss < history[0].train_loss / 2
    assert history[-1].validation_accuracy == 1


def test_validation_figures_are_those_of_the_model_to_keep(tmp_path: Path) -> None:
    history, model = run(tmp_path)
    validation = make_split(20, seed=1)
    scores = score(predict(model, torch.from_numpy(validation.images)), torch.from_numpy(validation.labels))
    assert (history[-1].validation_loss, history[-1].validation_accuracy) == (scores.loss, scores.accuracy)


def test_train_figures_are_means_over_images_and_not_over_batches(tmp_path: Path) -> None:
    """With a learning rate of almost nothing all steps see the same network; the last batch has 8 images of 56."""
    history, model = run(tmp_path, augment=NONE, dropout=0, learning_rate=1e-12, weight_decay=0.0, epochs=1)
    training = make_split()
    scores = score(predict(model, torch.from_numpy(training.images)), torch.from_numpy(training.labels))
    assert history[0].train_loss == pytest.approx(scores.loss, rel=1e-5)
    assert history[0].train_accuracy == scores.accuracy


def test_a_record_has_the_learning_rate_of_its_last_step(tmp_path: Path) -> None:
    history, _ = run(tmp_path, schedule="cosine")
    assert [record.epoch for record in history] == [1, 2]
    assert all(0 < record.learning_rate < 0.02 for record in history)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_every_image_is_trained_on_once_in_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batches: int
) -> None:
    seen: list[float] = []
    load = Steps.load

    def watch(self: Steps, images: torch.Tensor, *rest: Any) -> None:
        seen.extend(images.double().mean(dim=(1, 2, 3)).tolist())
        load(self, images, *rest)

    monkeypatch.setattr(Steps, "load", watch)
    run(tmp_path, augment=NONE, micro_batches=micro_batches)
    expected = sorted(make_split().images.astype(float).mean(axis=(1, 2, 3)))
    for epoch in (seen[:56], seen[56:]):
        np.testing.assert_allclose(sorted(epoch), expected)
    assert seen[:56] != seen[56:]


@pytest.mark.parametrize("changes", [{}, {"micro_batches": 3}, {"optimizer": "adamw", "momentum": 0.0}])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path, changes: dict[str, Any]) -> None:
    results = []
    for number, seed in enumerate([0, 0, 1]):
        torch.rand(number)  # random numbers drawn elsewhere change nothing
        history, model = run(tmp_path / str(number), seed=seed, **changes)
        results.append((history, digest(model)))
    assert results[0] == results[1]
    assert results[0][1] != results[2][1]


def test_the_size_of_the_chunks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = run(tmp_path / "large")
    monkeypatch.setattr(loop, "_CPU_CHUNK_IMAGES", 32)
    _, model = run(tmp_path / "small")
    assert digest(model) == digest(expected)


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.0}, {"momentum": 0.0}, {"micro_batches": 2}, {"optimizer": "adam", "momentum": 0.0}],
)
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    expected_history, expected = run(tmp_path / "whole", epochs=4, **changes)
    for epochs in (1, 3):
        run(tmp_path / "stopped", epochs=4, stop_after=epochs, **changes)
    history, model = run(tmp_path / "stopped", epochs=4, **changes)
    assert history == expected_history
    assert digest(model) == digest(expected)


def test_a_recorded_run_has_the_bits_of_others_also_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_history, expected = run(tmp_path / "plain", epochs=3)
    monkeypatch.setattr(steps, "is_recorded", lambda settings, device, world: True)
    monkeypatch.setattr(Steps, "record", staticmethod(record))
    run(tmp_path / "stopped", epochs=3, stop_after=1)
    for folder in ("recorded", "stopped"):
        history, model = run(tmp_path / folder, epochs=3)
        assert history == expected_history
        assert digest(model) == digest(expected)


def test_a_resumed_run_yields_the_history_so_far_at_once(tmp_path: Path) -> None:
    run(tmp_path, epochs=4, stop_after=2)
    taken: list[None] = []
    history, _ = run(tmp_path, epochs=4, stop_after=2, after_step=lambda: taken.append(None))
    assert len(history) == 2
    assert not taken


def test_a_damaged_checkpoint_is_reported_and_training_starts_from_the_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected = run(tmp_path / "whole")
    run(tmp_path / "stopped", stop_after=1)
    (file,) = (tmp_path / "stopped").glob("*.checkpoint")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:1000], b""):
        file.write_bytes(damaged)
        _, model = run(tmp_path / "stopped")
        assert f"{file.name}: is damaged" in capsys.readouterr().out.replace("\n", "")
        assert digest(model) == digest(expected)


def test_the_images_are_left_as_they_were(tmp_path: Path) -> None:
    training = make_split()
    run(tmp_path, training=training)
    assert np.array_equal(training.images, make_split().images)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"epoch \d: training has diverged: the loss is .* lower train\.learning_rate"):
        run(tmp_path, learning_rate=100.0, momentum=0.99, epochs=20)


def test_a_network_that_has_learned_nothing_is_told_from_one_that_has(tmp_path: Path) -> None:
    (stuck, *_), _ = run(tmp_path / "stuck", learning_rate=1e-12, weight_decay=0.0, epochs=1, dropout=0)
    assert stuck.train_loss < 3  # close to ln 4 = 1.39, or above
    assert loop.has_learned_nothing(stuck, len(CLASSES))
    history, _ = run(tmp_path / "learned", epochs=8, ema_decay=0.5, augment=NONE, dropout=0)
    assert not loop.has_learned_nothing(history[-1], len(CLASSES))


def test_weights_spoilt_by_the_very_last_step_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Steps.take

    def spoil(self: Steps) -> None:
        take(self)
        if self.loaded.stop == 4:
            torch.nn.init.constant_(self.ema_model.output.bias, math.nan)

    monkeypatch.setattr(Steps, "take", spoil)
    with pytest.raises(UserError, match=r"epoch 1: .* nan in validation"):
        run(tmp_path)
    assert not list(tmp_path.glob("*.checkpoint"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 57}, r"train\.batch_size: found 57, expected at most the 56 training images"),
        ({"precision": "bfloat16"}, r"train\.precision: found bfloat16, which this device does not support"),
        ({"precision": "tf32"}, r"train\.precision: found tf32, which this device does not support"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(loop, "supports_bfloat16", lambda device: False)
    with pytest.raises(UserError, match=message):
        run(tmp_path, **changes)


def test_a_batch_may_be_the_whole_set(tmp_path: Path) -> None:
    history, model = run(tmp_path, batch_size=56)
    assert len(history) == 2
    assert model.output.out_features == len(CLASSES)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_warms_up_then_follows_its_schedule(schedule: str) -> None:
    settings = make_settings(schedule=schedule, learning_rate=0.8, warmup_fraction=0.3)
    rates = [learning_rate_at(step, 10, settings) for step in range(10)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert all(rate > 0 for rate in rates)
    expected = {
        "constant": [0.8] * 7,
        "linear": [0.8 * (7 - step) / 7 for step in range(7)],
        "cosine": [0.4 * (1 + math.cos(math.pi * step / 7)) for step in range(7)],
    }
    assert rates[3:] == pytest.approx(expected[schedule])

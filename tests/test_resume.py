"""A run that was stopped ends with the bits of one that was not; what is not its checkpoint is never taken up."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.progress import Progress
from test_training import MOVING, start, weights

from lenet_cifar10 import resume
from lenet_cifar10.checkpoint import Checkpoint, Checkpoints
from lenet_cifar10.training import EpochRecord, Training

VARIANTS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "sgd", "momentum": 0.0, "averaging_decay": 0.0},
    {"optimizer": "adam"},
    {"optimizer": "adamw", "first_layer": "whitened"},
    {"optimizer": "sgd", "momentum": 0.9, "first_layer": "whitened", "averaging_decay": 0.0},
]
ENVIRONMENT = {"device": "cpu", "threads": 1}


def begin(**changes: Any) -> Training:
    return start(augmentation=MOVING, dropout=0.5, **{"epochs": 3, **changes})


def run_on(training: Training, checkpoints: Checkpoints, epochs: int = 3) -> list[EpochRecord]:
    """Train until so many epochs are finished, and give the history."""
    history: list[EpochRecord] = []
    for history in resume.run(training, checkpoints, Progress(disable=True)):
        if len(history) == epochs:
            break
    return list(history)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, "a" * 64)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("stops", [[1], [2], [1, 2], [3], [1, 2, 3]], ids=str)
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(
    checkpoints: Checkpoints, variant: dict[str, Any], stops: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = begin(**variant)
    expected = list(whole.run())
    for epochs in stops:
        run_on(begin(**variant), checkpoints, epochs)
    capsys.readouterr()
    last = begin(**variant)
    assert run_on(last, checkpoints) == expected
    assert f"resuming at epoch {stops[-1] + 1}: {stops[-1]} of 3 epochs were kept\n" in capsys.readouterr().out
    assert torch.equal(weights(last.kept), weights(whole.kept))
    assert torch.equal(weights(last.network), weights(whole.network))
    ended, expected_end = last.state(), whole.state()
    assert ended.keys() == expected_end.keys()
    assert all(torch.equal(ended[name], expected_end[name]) for name in ended)


def test_a_fresh_run_does_not_speak_of_resuming(checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    run_on(begin(), checkpoints)
    assert "resuming" not in capsys.readouterr().out


def spoil(checkpoint: Checkpoint, how: str) -> Checkpoint:
    tensors, history = dict(checkpoint.tensors), [*checkpoint.history]  # type: ignore[misc]
    first = dict(history[0])
    match how:
        case "a tensor is missing":
            del tensors["optimizer.conv2.weight.exp_avg"]
        case "a tensor too many":
            tensors["more"] = torch.zeros(1)
        case "another shape":
            tensors["network.conv1.bias"] = torch.zeros(17)
        case "another type":
            tensors["network.conv1.bias"] = torch.zeros(16, dtype=torch.float64)
        case "no history":
            history = []
        case "a history of more epochs":
            history = [{**first, "epoch": epoch} for epoch in range(1, 5)]
        case "an epoch is missing":
            history = [{**first, "epoch": 2}]
        case "a key is missing":
            del first["train_loss"]
            history = [first]
        case "a text for a number":
            history = [{**first, "train_loss": "0.5"}]
        case "no rows":
            history = ["a text"]
        case "no list":
            return Checkpoint(tensors, {"epoch": 1})
    return Checkpoint(tensors, history)


@pytest.mark.parametrize(
    "how",
    [
        "a tensor is missing", "a tensor too many", "another shape", "another type", "no history",
        "a history of more epochs", "an epoch is missing", "a key is missing", "a text for a number", "no rows",
        "no list",
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_named_and_training_starts_afresh(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    expected = list(begin().run())
    run_on(begin(), checkpoints, epochs=1)
    good = checkpoints.read()
    assert good is not None
    checkpoints.write(spoil(good, how))
    capsys.readouterr()
    assert run_on(begin(), checkpoints) == expected
    lines = capsys.readouterr().out.splitlines()
    (told,) = [line for line in lines if line.startswith(f"{checkpoints.path}: ")]
    assert told.endswith("; training starts afresh")
    assert not any("resuming" in line for line in lines)


def test_a_torn_checkpoint_is_named_and_training_starts_afresh(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = list(begin().run())
    run_on(begin(), checkpoints, epochs=2)
    checkpoints.path.write_bytes(checkpoints.path.read_bytes()[:1000])
    capsys.readouterr()
    assert run_on(begin(), checkpoints) == expected
    assert (
        f"{checkpoints.path}: is torn or damaged: its hash is wrong; training starts afresh\n"
        in capsys.readouterr().out
    )


def make_fingerprint(tmp_path: Path, seed: int = 0, data: bytes = b"data", **environment: Any) -> str:
    (tmp_path / "data").write_bytes(data)
    return resume.fingerprint({"seed": seed}, [tmp_path / "data"], {**ENVIRONMENT, **environment})


def test_a_fingerprint_is_the_same_for_the_same_and_another_for_each_thing_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = [make_fingerprint(tmp_path)]
    assert make_fingerprint(tmp_path) == fingerprints[0]
    fingerprints += [make_fingerprint(tmp_path, seed=1), make_fingerprint(tmp_path, data=b"DATA")]
    fingerprints += [make_fingerprint(tmp_path, device="cuda"), make_fingerprint(tmp_path, threads=2)]
    fingerprints += [make_fingerprint(tmp_path, torch="2.15.0")]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    fingerprints.append(make_fingerprint(tmp_path))
    module = ModuleType("lenet_cifar10.more")
    module.__file__ = str(tmp_path / "more.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in ("one = 1\n", "one = 2\n"):
        (tmp_path / "more.py").write_text(code, encoding="utf-8")
        fingerprints.append(make_fingerprint(tmp_path))
    assert len(set(fingerprints)) == len(fingerprints)


def test_code_of_others_is_not_in_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_fingerprint(tmp_path)
    module = ModuleType("lenet_cifar10_of_others")
    module.__file__ = str(tmp_path / "missing.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert make_fingerprint(tmp_path) == before

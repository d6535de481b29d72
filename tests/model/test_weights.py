"""Weights are read back to the bit, and nothing else is read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from lenet_cifar10.common.params import ModelSection
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.model.weights import load_weights, parse_weights, save_weights

NAMES = ("cat", "dog", "großer Hund")


def make_model() -> LeNet:
    torch.manual_seed(0)
    return LeNet(ModelSection(dropout=0.5), len(NAMES))


def make_file(class_names: str | None = json.dumps(NAMES), name: str = "", tensor: Tensor | None = None) -> bytes:
    """A file as save_weights writes it, but for the class names or one tensor; None leaves them out."""
    tensors = make_model().state_dict() | {name: tensor}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return save(kept, None if class_names is None else {"class_names": class_names})


def test_weights_and_class_names_are_read_back(tmp_path: Path) -> None:
    path, model = tmp_path / "lenet.safetensors", make_model().to(memory_format=torch.channels_last).eval()
    save_weights(path, model, NAMES)
    loaded, names = load_weights(path)
    assert names == NAMES
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    images = torch.arange(3072).to(torch.uint8).reshape(1, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    save_weights(tmp_path / "again", loaded, names)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lenet\.safetensors: no such file; run dvc repro train, or dvc checkout"):
        load_weights(tmp_path / "lenet.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header"),
        (b"noise" * 100, "header"),
        (make_file()[:-1], ""),
        (b'\x35\0\0\0\0\0\0\0{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}\0', "F4"),
        (make_file(None), "found no list of class names"),
        (make_file('"cat"'), "found no list of class names"),
        (make_file('["cat", 1, null]'), "found no list of class names"),
        (make_file('["cat", "dog", "\\u001b[31m"]'), "found no list of class names"),
        (make_file("["), "Expecting value"),
        (make_file("[" * 100_000), "recursion"),
        (make_file(json.dumps(["x"] * 1_000_000)), r"output\.bias': found .* \(3,\), expected .*1000000"),
        (make_file(name="output.bias"), r"output\.bias': found None, expected torch\.float32 \(3,\)"),
        (make_file(name="another", tensor=torch.zeros(1)), r"another': found torch\.float32 \(1,\), expected None"),
        (make_file(name="conv1.bias", tensor=torch.zeros(16).double()), r"conv1\.bias': found torch\.float64"),
        (make_file(name="\x1b[31m\n", tensor=torch.zeros(1)), r"tensor '\\x1b\[31m\\n': found"),
    ],
)
def test_another_file_is_refused_in_one_printable_line(content: bytes, message: str) -> None:
    with pytest.raises(
        UserError, match=rf"^v1: is not a model of this project \(.*{message}.*\); name another$"
    ) as error:
        parse_weights(content, "v1", "name another")
    assert str(error.value).isprintable()

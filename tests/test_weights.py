"""Weights are read back to the bit, and nothing else is read."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from lenet_cifar10 import weights
from lenet_cifar10.errors import UserError
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import ModelSection
from lenet_cifar10.records import replacing
from lenet_cifar10.weights import load_weights, parse_weights, save_weights

NAMES = ("cat", "dog", "großer Hund")
KEY = "lenet_cifar10"
KEY_AND_NAMES = {KEY: json.dumps({"class_names": NAMES})}
REPEATABLE = settings(deadline=None, derandomize=True, database=None)


def make_network(seed: int = 0) -> LeNet:
    torch.manual_seed(seed)
    return LeNet(ModelSection(dropout=0.5, first_layer="learned"), len(NAMES))


def file_with(metadata: dict[str, str] | None = None, **changes: Tensor | None) -> bytes:
    """A file as save_weights writes it, but for the changed tensors; None leaves one out."""
    tensors = {**make_network().state_dict(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return save(kept, KEY_AND_NAMES if metadata is None else metadata)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lenet.safetensors"


def test_weights_and_class_names_are_read_back_to_the_bit(path: Path) -> None:
    network = make_network().to(memory_format=torch.channels_last)
    save_weights(path, network, NAMES)
    loaded, names = load_weights(path)
    assert names == NAMES
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_the_loaded_network_predicts_the_same_and_is_in_eval_mode(path: Path) -> None:
    network, images = make_network().eval(), torch.arange(3072, dtype=torch.int64).to(torch.uint8).reshape(1, 3, 32, 32)
    save_weights(path, network, NAMES)
    loaded, _ = load_weights(path)
    assert not loaded.training
    assert torch.equal(loaded(images), network(images))


def test_the_same_weights_are_the_same_bytes_in_another_process(path: Path, tmp_path: Path) -> None:
    save_weights(path, make_network(), NAMES)
    code = (
        "import sys; from pathlib import Path; from lenet_cifar10.weights import load_weights, save_weights\n"
        "save_weights(Path(sys.argv[2]), *load_weights(Path(sys.argv[1])))"
    )
    again = tmp_path / "again.safetensors"
    source = str(Path(weights.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code, path, again], env={"PYTHONPATH": source}, check=True)
    assert again.read_bytes() == path.read_bytes()


def test_a_missing_file_is_told_with_what_to_do(path: Path) -> None:
    with pytest.raises(UserError, match=r"lenet\.safetensors: no such file; run dvc repro train, or dvc checkout"):
        load_weights(path)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, expected a safetensors file; lenet-cifar10 verify says"):
        load_weights(tmp_path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:  # permissions would not stop a test that runs as root
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError):
        load_weights(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"noise" * 100, file_with()[:100], file_with()[:-1], file_with() + b"\0"],
    ids=["empty", "zeros", "noise", "cut header", "cut end", "more at the end"],
)
def test_a_file_that_is_no_safetensors_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"lenet\.safetensors: is no safetensors file \(.+lenet-cifar10 verify says"):
        load_weights(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output__bias": None}, r"tensor output\.bias: found nothing, expected torch\.float32 \(3,\)"),
        ({"another": torch.zeros(1)}, r"tensor another: found torch\.float32 \(1,\), expected nothing"),
        ({"output__bias": torch.zeros(4)}, r"tensor output\.bias: found torch\.float32 \(4,\), expected .* \(3,\)"),
        (
            {"output__bias": torch.zeros(3).double()},
            r"output\.bias: found torch\.float64 \(3,\), expected torch\.float32",
        ),
        ({"conv1__bias": torch.zeros(16).bfloat16()}, r"conv1\.bias: found torch\.bfloat16"),
    ],
)
def test_other_tensors_than_the_network_s_are_refused(path: Path, changes: dict[str, Any], message: str) -> None:
    path.write_bytes(file_with(**changes))
    with pytest.raises(UserError, match=message + ".*; these are not this network's weights; lenet-cifar10 verify"):
        load_weights(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"format": "pt"},
        {KEY: ""},
        {KEY: "3"},
        {KEY: '["class_names"]'},
        {KEY: '{"names": ["a", "b"]}'},
        {KEY: '{"class_names": "abc"}'},
        {KEY: '{"class_names": ["a", 1, null]}'},
        {KEY: '{"class_names": ["one"]}'},
        {KEY: '{"class_names": ["a", "a", "b"]}'},
        {KEY: '{"class_names": ["a", "b", "c\\u001b[31m"]}'},
        {KEY: '{"class_names": ["a", "b", "\\ud800"]}'},
        {KEY: json.dumps({"class_names": [str(number) for number in range(257)]})},
        {KEY: "[" * 100_000},
        {KEY: "9" * 5000},
    ],
    ids=lambda metadata: str(metadata)[:50],
)
def test_a_file_without_usable_class_names_is_refused(path: Path, metadata: dict[str, str]) -> None:
    path.write_bytes(file_with(metadata))
    with pytest.raises(UserError, match="names no classes, so it was not written by this project"):
        load_weights(path)


def test_another_number_of_class_names_than_of_outputs_is_refused(path: Path) -> None:
    path.write_bytes(file_with({KEY: '{"class_names": ["a", "b"]}'}))
    with pytest.raises(UserError, match=r"output\.bias: found torch\.float32 \(3,\), expected torch\.float32 \(2,\)"):
        load_weights(path)


GOOD = file_with()
HEADER = int.from_bytes(GOOD[:8], "little") + 8


@REPEATABLE
@given(st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_end_in_weights_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(GOOD)
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(content)
    with suppress(UserError):
        assert len(load_weights(path)[1]) == 3


def test_the_bytes_alone_are_read_as_the_file_is(path: Path) -> None:
    save_weights(path, make_network(), NAMES)
    (from_file, names), (from_bytes, same_names) = load_weights(path), parse_weights(path.read_bytes(), "anything")
    assert names == same_names
    for name, tensor in from_file.state_dict().items():
        assert torch.equal(from_bytes.state_dict()[name], tensor), name


@pytest.mark.parametrize("content", [b"noise", file_with({}), file_with(output__bias=None)])
def test_a_message_about_bytes_has_the_name_and_the_remedy_that_were_given(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^the weights in v1: .+; name another$"):
        parse_weights(content, "the weights in v1", "name another")


def test_a_type_that_torch_has_not_is_refused(path: Path) -> None:
    header = b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(UserError, match="is no safetensors file"):
        load_weights(path)


def test_a_tensor_s_name_cannot_steer_the_terminal(path: Path) -> None:
    path.write_bytes(save({**make_network().state_dict(), "\x1b[31m\n": torch.zeros(1)}, KEY_AND_NAMES))
    with pytest.raises(UserError) as caught:
        load_weights(path)
    assert r"tensor '\x1b[31m\n': found torch.float32 (1,), expected nothing" in str(caught.value)
    assert str(caught.value).isprintable()


def save_on_full_disk(path: Path) -> None:
    with replacing(path) as (temporary,):
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        save_weights(temporary, make_network(seed=1), NAMES)


def test_a_full_disk_keeps_the_file_of_before(path: Path) -> None:
    save_weights(path, make_network(seed=0), NAMES)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left on device"):
        save_on_full_disk(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]

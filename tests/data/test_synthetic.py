"""Generated images: an archive that the workflow takes for CIFAR-10, and that can be learned."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision import datasets
from typer import Typer
from typer.testing import CliRunner

from lenet_cifar10.commands.generate import generate
from lenet_cifar10.common.files import hash_file
from lenet_cifar10.common.params import ModelSection
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.archive import MEMBERS, read_archive
from lenet_cifar10.data.synthetic import SHAPES, draw, write_archive
from lenet_cifar10.model.lenet import LeNet, normalize


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "archive.tar.gz"


def test_the_images_are_read_as_they_were_drawn_as_many_of_each_class(path: Path) -> None:
    write_archive(path, train=530, test=20, seed=3)
    read = read_archive(path)
    for split, random, count in zip((read.train, read.test), np.random.default_rng(3).spawn(2), (530, 20), strict=True):
        images, labels = draw(random, count)
        assert np.array_equal(split.images, images)
        assert np.array_equal(split.labels, labels)
        assert np.bincount(labels).tolist() == [count // 10] * 10
        assert split.class_names == tuple(SHAPES)
    assert (np.diff(read.train.labels) != 0).mean() > 0.8  # in mixed order


def test_torchvision_reads_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(path, train=50, test=20, seed=0)
    with tarfile.open(path) as tar:
        tar.extractall(path.parent)
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)  # it knows the official files only
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)
    read = read_archive(path)
    for split, train in ((read.train, True), (read.test, False)):
        known = datasets.CIFAR10(str(path.parent), train=train, download=False)
        assert np.array_equal(known.data.transpose(0, 3, 1, 2), split.images)
        assert known.targets == split.labels.tolist()
        assert tuple(known.classes) == split.class_names


def test_the_same_arguments_give_the_same_bytes_without_time_or_owner(path: Path) -> None:
    write_archive(path, train=50, test=10, seed=0)
    content = path.read_bytes()
    assert content[3:8] == bytes(5)  # gzip has no name and no time
    with tarfile.open(path) as tar:
        assert tar.getnames() == list(MEMBERS)
        assert {(info.mtime, info.uid, info.uname) for info in tar} == {(0, 0, "")}
    write_archive(path, train=50, test=10, seed=0)
    assert path.read_bytes() == content
    write_archive(path, train=50, test=10, seed=1)
    assert path.read_bytes() != content


def test_the_same_seed_draws_the_same_pixels_on_every_machine() -> None:
    images, _ = draw(np.random.default_rng(7), 100)
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "9b3751ef0b906f77513be276d02f80bd80dc4cd0a9bfcaf9cc4baf10fc3731d6"
    )


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """On a busy machine a small network trains far faster with one thread than with several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_lenet_learns_the_shapes_in_five_epochs() -> None:
    """To five times what chance gives, from 1,000 images; 6,000 give more."""
    (train_images, train_labels), (test_images, test_labels) = (
        (normalize(torch.from_numpy(images)), torch.from_numpy(labels))
        for images, labels in (draw(np.random.default_rng(seed), count) for seed, count in ((0, 1000), (1, 300)))
    )
    torch.manual_seed(0)
    network = LeNet(ModelSection(dropout=0.0), classes=10)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(5):
        for members in torch.randperm(len(train_labels)).split(25):
            optimizer.zero_grad()
            functional.cross_entropy(network.classify(train_images[members]), train_labels[members]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (network.classify(test_images).argmax(1) == test_labels).double().mean().item()
    assert accuracy > 0.5


def test_a_number_that_the_classes_cannot_share_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match="test: found 25 images, expected a positive multiple of 10"):
        write_archive(path, train=50, test=25, seed=0)
    assert not path.exists()


def test_the_command_writes_the_archive_and_prints_its_hash(path: Path) -> None:
    app = Typer()
    app.command()(generate)
    result = CliRunner().invoke(app, [str(path), "--train", "50", "--test", "20", "--seed", "3"])
    assert result.output.strip() == hash_file(path)
    assert len(read_archive(path).test) == 20
    result = CliRunner().invoke(app, [str(path.parent)])
    assert isinstance(result.exception, UserError)
    assert "is a folder" in str(result.exception)

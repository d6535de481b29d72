import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from lenet_cifar10 import archive
from lenet_cifar10.drawings import SHAPES, draw_archive
from lenet_cifar10.errors import UserError


def test_an_archive_has_the_shapes_types_and_names_of_its_layout():
    drawn = draw_archive(train_count=50, test_count=20, seed=0)
    assert drawn.train.images.shape == (50, 3, 32, 32)
    assert drawn.test.images.shape == (20, 3, 32, 32)
    assert drawn.train.images.dtype == np.uint8
    assert drawn.train.labels.dtype == np.int64
    assert drawn.class_names == tuple(SHAPES)
    assert len(set(drawn.class_names)) == 10


def test_each_class_has_equally_many_images_in_mixed_order():
    drawn = draw_archive(train_count=500, test_count=100, seed=0)
    assert np.bincount(drawn.train.labels).tolist() == [50] * 10
    assert np.bincount(drawn.test.labels).tolist() == [10] * 10
    assert len(set(drawn.train.labels[:20].tolist())) > 3
    assert (np.diff(drawn.train.labels) != 0).mean() > 0.8


def test_the_same_seed_draws_the_same_bytes_on_every_machine():
    drawn = draw_archive(train_count=100, test_count=10, seed=7)
    digest = hashlib.sha256(drawn.train.images.tobytes() + drawn.test.images.tobytes()).hexdigest()
    assert digest == "fe0383f137c60bd7801b7289297be9287392e9b6a90f53723718f951ba8b77c5"


def test_another_seed_draws_other_images():
    first, second = (draw_archive(50, 10, seed).train.images for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_the_test_images_do_not_depend_on_the_number_of_training_images():
    few, many = (draw_archive(count, 20, seed=3).test for count in (10, 100))
    assert np.array_equal(few.images, many.images)
    assert np.array_equal(few.labels, many.labels)


def test_no_image_is_drawn_twice_and_none_is_blank():
    drawn = draw_archive(train_count=1000, test_count=200, seed=0)
    images = np.concatenate([drawn.train.images, drawn.test.images])
    assert len({image.tobytes() for image in images}) == len(images)
    assert (images.reshape(len(images), -1).std(axis=1) > 3).all()


@pytest.mark.parametrize(
    ("train_count", "test_count", "found"), [(15, 10, "15 training"), (0, 10, "0 training"), (10, -10, "-10 test")]
)
def test_a_count_that_cannot_be_shared_out_is_refused(train_count, test_count, found):
    with pytest.raises(UserError, match=f"found {found} images to draw, expected a positive multiple of 10"):
        draw_archive(train_count, test_count, seed=0)


def test_what_is_drawn_is_written_and_read_alike(tmp_path):
    drawn = draw_archive(train_count=50, test_count=10, seed=0)
    archive.write(tmp_path / "drawn.tar.gz", drawn)
    read = archive.read(tmp_path / "drawn.tar.gz")
    assert np.array_equal(read.train.images, drawn.train.images)
    assert np.array_equal(read.test.labels, drawn.test.labels)
    assert read.class_names == drawn.class_names


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_its_own_mirror_image(name):
    y, x = np.mgrid[-1.2:1.2:64j, -1.2:1.2:64j][:, None]
    inside, mirrored = SHAPES[name](x, y) < -1e-9, SHAPES[name](-x, y) < -1e-9
    if name == "checkers":  # a mirrored checkerboard is one with the other fields filled
        assert not (inside & mirrored).any()
    else:
        assert np.array_equal(inside, mirrored)


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_fills_a_fair_part_of_its_circle_and_stays_within(name):
    y, x = np.mgrid[-1.5:1.5:300j, -1.5:1.5:300j][:, None]
    inside = SHAPES[name](x, y) < 0
    assert 0.2 < inside.sum() * 0.01**2 / np.pi < 1.01
    assert np.sqrt(x * x + y * y)[inside].max() < 1.3


@pytest.fixture
def one_thread():
    """On a busy machine a small network trains far faster with one thread than with several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_small_network_learns_the_shapes():
    drawn = draw_archive(train_count=1500, test_count=500, seed=0)
    images, test_images = (torch.from_numpy(split.images).float() / 64 - 2 for split in (drawn.train, drawn.test))
    labels, test_labels = (torch.from_numpy(split.labels) for split in (drawn.train, drawn.test))
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(6):
        for batch in torch.randperm(len(labels)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (network(test_images).argmax(1) == test_labels).float().mean().item()
    assert accuracy > 0.8


def test_colours_alone_do_not_tell_the_classes_apart():
    drawn = draw_archive(train_count=1000, test_count=500, seed=0)
    colours, test_colours = (split.images.mean(axis=(2, 3)) for split in (drawn.train, drawn.test))
    nearest = abs(test_colours[:, None] - colours).sum(axis=2).argmin(axis=1)
    assert (drawn.train.labels[nearest] == drawn.test.labels).mean() < 0.3

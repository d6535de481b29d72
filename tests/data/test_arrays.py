"""The split of the training images, and the files in data/prepared."""

from pathlib import Path

import numpy as np
import pytest

from lenet_cifar10.common.params import DataSection
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.arrays import Split, load_split, save_split, train_validation_split


def make_split(count: int) -> Split:
    """Images that differ, labels of four classes in an irregular order, as many of each."""
    images = np.random.default_rng(1).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.random.default_rng(2).permutation(np.arange(count) % 4)
    return Split(images, labels, ("cat", "dog", "frog", "ship"))


WHOLE, TEST = make_split(80), make_split(8)


def section(size: int, seed: int = 0) -> DataSection:
    return DataSection(urls=["x"], sha256="0" * 64, validation_size=size, split_seed=seed)


def places(part: Split) -> list[int]:
    """Where the images of a part are in the whole."""
    order = {image.tobytes(): place for place, image in enumerate(WHOLE.images)}
    return [order[image.tobytes()] for image in part.images]


def test_both_parts_are_the_whole_in_its_order_with_the_same_number_of_each_class_in_validation() -> None:
    training, validation = train_validation_split(WHOLE, TEST, section(20))
    assert sorted(places(training) + places(validation)) == list(range(80))
    assert np.bincount(validation.labels).tolist() == [5, 5, 5, 5]
    for part in (training, validation):
        assert places(part) == sorted(places(part))
        assert (part.labels == WHOLE.labels[places(part)]).all()
        assert part.class_names == WHOLE.class_names


def test_the_seed_alone_chooses_the_images() -> None:
    zero, again, one = (places(train_validation_split(WHOLE, TEST, section(8, seed))[1]) for seed in (0, 0, 1))
    assert zero == again == [20, 23, 32, 39, 45, 48, 73, 78]  # always
    assert zero != one


def test_size_0_trains_on_all_and_validates_on_the_test_set() -> None:
    assert train_validation_split(WHOLE, TEST, section(0)) == (WHOLE, TEST)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (21, "found 21, expected a multiple of 4, the number of classes, below 80: the smallest class has 20 images"),
        (80, "found 80, expected .* below 80"),
    ],
)
def test_a_size_that_the_classes_cannot_give_is_refused(size: int, words: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: data\.validation_size: {words}"):
        train_validation_split(WHOLE, TEST, section(size))


def test_a_saved_split_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "train.safetensors"
    save_split(path, WHOLE)
    loaded = load_split(path)
    assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int64)
    assert np.array_equal(loaded.images, WHOLE.images)
    assert np.array_equal(loaded.labels, WHOLE.labels)
    assert loaded.class_names == WHOLE.class_names
    save_split(tmp_path / "again", loaded)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_what_is_not_such_a_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    with pytest.raises(UserError, match=r"train\.safetensors: no such file; run dvc repro prepare, or dvc checkout"):
        load_split(path)
    save_split(path, WHOLE)
    whole = path.read_bytes()
    for content in (b"", whole[:-1], whole.replace(b"images", b"pixels", 1)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"train\.safetensors: is not what prepare writes .*; run dvc checkout"):
            load_split(path)

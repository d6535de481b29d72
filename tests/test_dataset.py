"""The split of the training images, and its files."""

import io
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_cifar10 import dataset
from lenet_cifar10.dataset import Split
from lenet_cifar10.errors import UserError
from lenet_cifar10.params import DataSection

CLASSES = 4
REPEATABLE = settings(deadline=None, derandomize=True, database=None)


def make_split(count: int) -> Split:
    """Images that differ, labels in an irregular order: as many of each class as of the others."""
    images = np.random.default_rng(1).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.random.default_rng(2).permutation(np.arange(count) % CLASSES)
    return Split(images, labels)


def section(size: int, seed: int = 0) -> DataSection:
    return DataSection(urls=["x"], sha256="0" * 64, validation_size=size, split_seed=seed)


def places(part: Split, whole: Split) -> list[int]:
    """Where the images of a part are in the whole."""
    order = {image.tobytes(): place for place, image in enumerate(whole.images)}
    return [order[image.tobytes()] for image in part.images]


@pytest.fixture(scope="module")
def whole() -> Split:
    return make_split(80)


@pytest.fixture(scope="module")
def test_set() -> Split:
    return make_split(8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "split.npz"


def test_validation_has_the_same_number_of_each_class(whole: Split, test_set: Split) -> None:
    _, validation = dataset.hold_out(whole, test_set, section(20), CLASSES)
    assert np.bincount(validation.labels).tolist() == [5, 5, 5, 5]


def test_both_parts_together_are_the_whole_with_the_right_labels(whole: Split, test_set: Split) -> None:
    training, validation = dataset.hold_out(whole, test_set, section(20), CLASSES)
    assert sorted(places(training, whole) + places(validation, whole)) == list(range(80))
    for part in (training, validation):
        assert (part.labels == whole.labels[places(part, whole)]).all()


def test_both_parts_keep_the_order_of_the_archive(whole: Split, test_set: Split) -> None:
    for part in dataset.hold_out(whole, test_set, section(20), CLASSES):
        assert places(part, whole) == sorted(places(part, whole))


def test_the_seed_alone_chooses_the_images(whole: Split, test_set: Split) -> None:
    zero, again, one = (
        places(dataset.hold_out(whole, test_set, section(20, seed), CLASSES)[1], whole) for seed in (0, 0, 1)
    )
    assert zero == again
    assert zero != one


def test_the_images_chosen_by_seed_0_are_always_these(whole: Split, test_set: Split) -> None:
    _, validation = dataset.hold_out(whole, test_set, section(8), CLASSES)
    assert places(validation, whole) == [20, 23, 32, 39, 45, 48, 73, 78]


def test_size_0_trains_on_all_and_validates_on_the_test_set(whole: Split, test_set: Split) -> None:
    training, validation = dataset.hold_out(whole, test_set, section(0), CLASSES)
    assert training is whole
    assert validation is test_set


def test_a_size_that_the_classes_cannot_share_is_refused(whole: Split, test_set: Split) -> None:
    with pytest.raises(UserError, match=r"data.validation_size: found 21, expected a multiple of 4, the number of"):
        dataset.hold_out(whole, test_set, section(21), CLASSES)


@pytest.mark.parametrize("size", [80, 1000])
def test_a_size_that_leaves_a_class_without_training_images_is_refused(
    whole: Split, test_set: Split, size: int
) -> None:
    with pytest.raises(UserError, match=rf"data.validation_size: found {size}, .* class 0 has 20 and must keep one"):
        dataset.hold_out(whole, test_set, section(size), CLASSES)


def test_the_largest_size_leaves_one_image_of_each_class(whole: Split, test_set: Split) -> None:
    training, _ = dataset.hold_out(whole, test_set, section(76), CLASSES)
    assert sorted(training.labels.tolist()) == [0, 1, 2, 3]


def test_a_saved_split_is_read_back(path: Path, whole: Split) -> None:
    dataset.save(path, whole)
    loaded = dataset.load(path, CLASSES)
    assert np.array_equal(loaded.images, whole.images)
    assert np.array_equal(loaded.labels, whole.labels)


def test_the_same_split_is_the_same_bytes_in_another_process(path: Path, tmp_path: Path, whole: Split) -> None:
    dataset.save(path, whole)
    code = (
        "import sys; from pathlib import Path; from lenet_cifar10 import dataset\n"
        f"dataset.save(Path(sys.argv[2]), dataset.load(Path(sys.argv[1]), {CLASSES}))"
    )
    again = tmp_path / "again.npz"
    source = str(Path(dataset.__file__).parent.parent)
    subprocess.run(
        [sys.executable, "-c", code, path, again], env={"PYTHONPATH": source, "TZ": "Asia/Tokyo"}, check=True
    )
    assert again.read_bytes() == path.read_bytes()


def test_a_missing_file_is_told_with_what_to_do(path: Path) -> None:
    with pytest.raises(UserError, match=r"split\.npz: no such file; run dvc repro prepare, or dvc checkout"):
        dataset.load(path, CLASSES)


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


IMAGES = np.zeros((2, 3, 32, 32), np.uint8)
LABELS = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"noise" * 100, "is damaged"),
        (npz(images=IMAGES, labels=LABELS)[:5000], "is damaged"),
        (npz(images=IMAGES, labels=LABELS)[:-1], "is damaged"),
        (npz(images=IMAGES), "is damaged, or not what prepare wrote"),
        (npz(images=IMAGES, labels=np.array([0, None])), "is damaged, or not what prepare wrote"),
        (
            npz(images=IMAGES, labels=LABELS[:1]),
            r"found images uint8 \(2, 3, 32, 32\) and labels int64 \(1,\), expected",
        ),
        (npz(images=IMAGES[:, :1], labels=LABELS), r"found images uint8 \(2, 1, 32, 32\)"),
        (npz(images=IMAGES / 255, labels=LABELS), "found images float64"),
        (npz(images=np.uint8(0), labels=LABELS), r"found images uint8 \(\)"),
        (npz(images=IMAGES, labels=LABELS.astype(np.int32)), r".* labels int32 \(2,\), expected uint8 .* int64"),
        (npz(images=IMAGES, labels=LABELS - 1), "found labels outside 0 to 3"),
        (npz(images=IMAGES, labels=LABELS + 4), "found labels outside 0 to 3"),
    ],
)
def test_a_file_that_is_no_such_split_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"split\.npz: {message}.*lenet-cifar10 verify says how"):
        dataset.load(path, CLASSES)


def test_a_single_array_in_place_of_an_archive_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(UserError, match=r"split\.npz: is damaged"):
        dataset.load(path, CLASSES)


class Trap:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.place,)


def test_nothing_in_a_pickled_array_runs(path: Path, tmp_path: Path) -> None:
    labels = np.empty(2, object)
    labels[:] = Trap(tmp_path / "trapped")
    path.write_bytes(npz(images=IMAGES, labels=labels))
    with pytest.raises(UserError, match="is damaged"):
        dataset.load(path, CLASSES)
    assert not (tmp_path / "trapped").exists()
    with np.load(path, allow_pickle=True) as file:  # the trap does work
        file["labels"]
    assert (tmp_path / "trapped").exists()


GOOD = npz(images=IMAGES, labels=LABELS)
WITHOUT_PIXELS = [place for place in range(len(GOOD)) if place < 300 or place > len(GOOD) - 800]


@REPEATABLE
@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.tuples(st.sampled_from(WITHOUT_PIXELS), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_end_in_a_split_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(GOOD)
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(content)
    with suppress(UserError):
        assert len(dataset.load(path, CLASSES)) == 2


def test_a_full_disk_is_an_error_of_the_system(whole: Split) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        dataset.save(Path("/dev/full"), whole)


def test_the_archive_of_arrays_is_not_compressed(path: Path, whole: Split) -> None:
    dataset.save(path, whole)
    with zipfile.ZipFile(path) as file:
        assert {member.compress_type for member in file.infolist()} == {zipfile.ZIP_STORED}


def test_class_names_are_read_back_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    dataset.save_class_names(path, ("b", "a", "é"))
    assert dataset.load_class_names(path) == ("b", "a", "é")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "expected a list of two or more names"),
        (b'["a"]', "expected a list of two or more names"),
        (b'["a", 1]', "expected a list of two or more names"),
    ],
)
def test_a_damaged_list_of_class_names_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "classes.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"classes.json: {words}.*; lenet-cifar10 verify says how"):
        dataset.load_class_names(path)

import gzip
import hashlib
import io
import os
import pickle
import pickletools
import random
import re
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_cifar10 import archive
from lenet_cifar10.archive import MEMBERS, META_MEMBER, TEST_MEMBER, Archive
from lenet_cifar10.dataset import Split
from lenet_cifar10.errors import UserError

FIRST = MEMBERS[0]


class Array:
    """An array as a pickle describes it, so that a test can tell lies about it."""

    def __init__(
        self, shape: Any = (2, 3072), content: Any = bytes(2 * 3072), dtype: Any = "u1", by_column: Any = False
    ):
        self.shape, self.content, self.dtype, self.by_column = shape, content, dtype, by_column


class Python2Pickler:
    """Writes protocol 2 as the C pickler of Python 2 did, memo and batches of a thousand included."""

    def __init__(self):
        self.names = 0

    def dump(self, value: Any) -> bytes:
        return b"\x80\x02" + self.save(value) + b"."

    def put(self) -> bytes:
        self.names += 1
        return b"q" + bytes([self.names]) if self.names < 256 else b"r" + struct.pack("<I", self.names)

    def save(self, value: Any) -> bytes:
        if value is None:
            return b"N"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            if 0 <= value < 256:
                return b"K" + bytes([value])
            return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            value = value.encode("latin-1")
        if isinstance(value, bytes):
            size = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
            return size + value + self.put()
        if isinstance(value, tuple):
            items = b"".join(map(self.save, value))
            return items + b"\x85\x86\x87"[len(value) - 1 : len(value)] if len(value) < 4 else b"(" + items + b"t"
        if isinstance(value, list):
            text = b"]" + self.put()
            for start in range(0, len(value), 1000):
                part = [self.save(item) for item in value[start : start + 1000]]
                text += b"(" + b"".join(part) + b"e" if len(part) > 1 else part[0] + b"a"
            return text
        if isinstance(value, dict):
            text = b"}" + self.put()
            items = [self.save(key) + self.save(item) for key, item in value.items()]
            return text + (b"(" + b"".join(items) + b"u" if len(items) > 1 else b"".join(items) + b"s" * len(items))
        if isinstance(value, Array):
            text = b"cnumpy.core.multiarray\n_reconstruct\n" + self.put() + b"cnumpy\nndarray\n" + self.put()
            text += b"K\x00\x85U\x01b\x87R" + self.put() + b"(K\x01" + self.save(value.shape)
            text += b"cnumpy\ndtype\n" + self.put() + self.save(value.dtype) + b"K\x00K\x01\x87R" + self.put()
            text += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            return text + self.save(value.by_column) + self.save(value.content) + b"tb"
        raise TypeError(type(value))


def python2(value: Any) -> bytes:
    return Python2Pickler().dump(value)


def batch(**changes: Any) -> bytes:
    """The pickle of a sound batch of two images, with some entries changed."""
    content = {"batch_label": "a batch", "labels": [0, 1], "data": Array(), "filenames": ["a.png", "b.png"]}
    return python2({key: value for key, value in {**content, **changes}.items() if value is not ...})


def sound_bodies() -> dict[str, bytes]:
    meta = {"num_cases_per_batch": 2, "label_names": ["cat", "dog"], "num_vis": 3072}
    return {**dict.fromkeys(MEMBERS[:6], batch()), META_MEMBER: python2(meta)}


def member(name: str, body: bytes = b"", **changes: Any) -> bytes:
    """One member of a tar: header and padded body; `size` may claim something else than there is."""
    header = tarfile.TarInfo(name)
    header.size = len(body)
    for key, value in changes.items():
        setattr(header, key, value)
    return header.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


def tar_of(bodies: Mapping[str, bytes]) -> bytes:
    return b"".join(member(name, body) for name, body in bodies.items()) + bytes(1024)


def save_tar(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content, compresslevel=1))
    return path


def save(path: Path, bodies: Mapping[str, bytes]) -> Path:
    return save_tar(path, tar_of(bodies))


def made_up(train_count: int, test_count: int, classes: int = 10, seed: int = 0) -> Archive:
    generator = np.random.default_rng(seed)

    def split(count: int) -> Split:
        images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        return Split(images, generator.integers(0, classes, count))

    return Archive(split(train_count), split(test_count), tuple(f"class {label}" for label in range(classes)))


def assert_alike(first: Archive, second: Archive) -> None:
    for one, other in ((first.train, second.train), (first.test, second.test)):
        assert one.images.dtype == other.images.dtype == np.uint8
        assert one.labels.dtype == other.labels.dtype == np.int64
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)
    assert first.class_names == second.class_names


def refusal(path: Path) -> str:
    """The one line that says why the archive is refused, which names it and says what to do."""
    with pytest.raises(UserError) as caught:
        archive.read(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.endswith("; fetch the archive again, or mend what made it")
    assert line.isprintable()
    return line.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar.gz"


# Sound archives


def test_reads_the_official_layout(path: Path):
    """Bytes laid out as in the official file: memo, folder entry, a page beside the data, members in no order."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    expected = made_up(5 * 3, 1200)
    parts = [Split(expected.train.images[i : i + 3], expected.train.labels[i : i + 3]) for i in range(0, 15, 3)]
    bodies = {}
    for name, part in zip(MEMBERS, [*parts, expected.test], strict=False):
        data = Array((len(part.labels), 3072), part.images.tobytes())
        files = [f"file_s_{number:06d}.png" for number in range(len(part.labels))]
        bodies[name] = batch(labels=part.labels.tolist(), data=data, filenames=files)
    bodies[META_MEMBER] = python2({"num_cases_per_batch": 10000, "label_names": names, "num_vis": 3072})
    assert len(bodies[META_MEMBER]) == 158  # as the official one
    order = [MEMBERS[place] for place in (3, 5, 2, 6, 1, 4, 0)]
    folder = member("cifar-10-batches-py", type=tarfile.DIRTYPE, mode=0o755, uid=1000, mtime=1244000000)
    page = member("cifar-10-batches-py/readme.html", b"<html>" * 15, mtime=1244000000.0)
    save_tar(path, folder + page + tar_of({name: bodies[name] for name in order}) + bytes(9000))
    assert_alike(archive.read(path), Archive(expected.train, expected.test, tuple(names)))


def test_an_array_stored_column_by_column_is_read_alike(path: Path):
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    by_column = batch(data=Array(content=rows.tobytes(order="F"), by_column=True))
    read = archive.read(save(path, {**sound_bodies(), FIRST: by_column}))
    assert np.array_equal(read.train.images[:2], rows.reshape(2, 3, 32, 32))


def test_arrays_that_are_read_belong_to_the_caller(path: Path):
    read = archive.read(save(path, sound_bodies()))
    for split in (read.train, read.test):
        assert split.images.flags.writeable
        assert split.images.flags.c_contiguous
        assert split.labels.flags.writeable


@pytest.mark.parametrize("prefix", ["./", ".//", "././"])
def test_names_may_start_with_a_dot(path: Path, prefix: str):
    assert (
        len(archive.read(save(path, {prefix + name: body for name, body in sound_bodies().items()})).test.labels) == 2
    )


def test_an_archive_packed_again_by_python_is_read(path: Path):
    """Python's own format adds extension headers for fractions of a second."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "again"}) as tar:
        for name, body in sound_bodies().items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(body), 1.5, "zoë"
            tar.addfile(info, io.BytesIO(body))
    assert b"mtime=1.5" in buffer.getvalue()
    assert len(archive.read(save_tar(path, buffer.getvalue())).train.labels) == 10


def test_a_tar_without_an_end_mark_is_read(path: Path):
    content = tar_of(sound_bodies())
    assert len(archive.read(save_tar(path, content[:-1024])).train.labels) == 10


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 23), st.integers(1, 4), st.integers(2, 256), st.integers(0, 2**32 - 1))
def test_what_is_written_is_read_alike(tmp_path_factory, train_count, test_count, classes, seed):
    path = tmp_path_factory.mktemp("archive") / "archive.tar.gz"
    expected = made_up(train_count, test_count, classes, seed)
    archive.write(path, expected)
    assert_alike(archive.read(path), expected)


def test_torchvision_reads_the_same(path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("torchvision.datasets")
    expected = made_up(53, 11)
    archive.write(path, expected)
    with tarfile.open(path) as tar:
        tar.extractall(path.parent, filter="data")
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)  # it knows the official files only
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)
    read = archive.read(path)
    for split, train in ((read.train, True), (read.test, False)):
        known = datasets.CIFAR10(str(path.parent), train=train, download=False)
        assert np.array_equal(known.data.transpose(0, 3, 1, 2), split.images)
        assert known.targets == split.labels.tolist()
        assert tuple(known.classes) == read.class_names
    assert_alike(read, expected)


# Writing


def test_the_same_archive_gives_the_same_bytes(path: Path):
    digests = set()
    for name in ("one.tar.gz", "another.tar.gz"):
        archive.write(path.with_name(name), made_up(50, 10))
        digests.add(hashlib.sha256(path.with_name(name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_what_is_written_has_no_trace_of_time_owner_or_name(path: Path):
    archive.write(path, made_up(50, 10))
    assert path.read_bytes()[3] == 0  # no file name, comment or extra field
    assert path.read_bytes()[4:8] == bytes(4)  # no time
    with tarfile.open(path) as tar:
        assert tar.getnames() == list(MEMBERS)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_training_images_are_spread_evenly_in_their_order(path: Path):
    written = made_up(53, 10)
    archive.write(path, written)
    contents = []
    with tarfile.open(path) as tar:
        for name in MEMBERS[:5]:
            file = tar.extractfile(name)
            assert file is not None
            contents.append(pickle.load(file, encoding="latin1"))
    assert [len(content["labels"]) for content in contents] == [11, 11, 11, 10, 10]
    assert [label for content in contents for label in content["labels"]] == written.train.labels.tolist()
    names = [name for content in contents for name in content["filenames"]]
    assert len(set(names)) == 53
    assert names[52] == f"class {written.train.labels[52]}_000052.png"
    assert contents[4]["batch_label"] == "training batch 5 of 5"
    assert contents[0]["data"].dtype == np.uint8


def test_a_batch_is_pickled_with_the_opcodes_of_python_2(path: Path):
    archive.write(path, made_up(5, 10))
    with tarfile.open(path) as tar:
        file = tar.extractfile(TEST_MEMBER)
        assert file is not None
        names = {opcode.name for opcode, _, _ in pickletools.genops(file.read())}
    known = {opcode.name for opcode, _, _ in pickletools.genops(batch())}
    assert names - known == {"TUPLE", "APPENDS"} - known
    assert {"SHORT_BINSTRING", "BINSTRING", "BININT1", "GLOBAL"} <= names


def test_what_is_written_replaces_a_file_and_leaves_nothing_beside_it(path: Path):
    path.write_text("before")
    umask = os.umask(0o022)
    try:
        archive.write(path, made_up(5, 1))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert len(archive.read(path).train.labels) == 5
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_file_as_it_was(path: Path):
    path.write_text("before")
    sound = made_up(50, 10)
    with pytest.raises(UnicodeEncodeError):
        archive.write(path, Archive(sound.train, sound.test, tuple("äbcdefghij")))
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "message"),
    [
        ((4, 3, 32, 32), np.uint8, 4, "found 4 images, expected 5 at least"),
        ((5, 3, 32, 32), np.float32, 5, "found float32 (5, 3, 32, 32), expected uint8 (N, 3, 32, 32)"),
        ((5, 32, 32, 3), np.uint8, 5, "found uint8 (5, 32, 32, 3), expected uint8 (N, 3, 32, 32)"),
        ((5, 3, 32, 32), np.uint8, 6, "found uint8 (5, 3, 32, 32), expected uint8 (N, 3, 32, 32)"),
    ],
)
def test_what_the_layout_cannot_hold_is_not_written(
    path: Path, shape: tuple[int, ...], dtype: Any, labels: int, message: str
):
    train = Split(np.zeros(shape, dtype), np.zeros(labels, np.int64))
    with pytest.raises(ValueError, match=re.escape(message)):
        archive.write(path, Archive(train, made_up(5, 1).test, ("cat", "dog")))
    assert not path.exists()


# Files that are no archive


def test_a_missing_file_is_named(path: Path):
    with pytest.raises(UserError, match=r"archive\.tar\.gz: no such file; expected the CIFAR-10 archive"):
        archive.read(path)


def test_a_file_that_is_not_compressed_is_refused(path: Path):
    path.write_bytes(tar_of(sound_bodies()))
    assert refusal(path).startswith("is not a gzip file or is damaged (Not a gzipped file")


def test_a_compressed_file_that_is_no_tar_is_refused(path: Path):
    assert "found no tar header at byte 0 of what it unpacks to" in refusal(save_tar(path, b"text" * 1000))


def test_an_empty_file_is_refused(path: Path):
    path.touch()
    assert refusal(path).startswith(f"lacks {MEMBERS[0]}, {MEMBERS[1]}")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(path: Path, share: float):
    archive.write(path, made_up(10, 2))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refusal(path).startswith("is truncated: the compressed data stop before their end")


@pytest.mark.parametrize(("kept", "place"), [(700, "member"), (512 * 15 + 100, "header")])
def test_a_truncated_tar_is_refused(path: Path, kept: int, place: str):
    content = member("readme", bytes(512 * 14)) + tar_of(sound_bodies())
    assert refusal(save_tar(path, content[:kept])).startswith(f"is truncated: the tar stops within a {place}")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_member_is_named(path: Path, name: str):
    bodies = sound_bodies()
    del bodies[name]
    assert refusal(save(path, bodies)).startswith(f"lacks {name};")


def test_a_wrong_checksum_after_the_last_member_is_noticed(path: Path):
    content = bytearray(save(path, sound_bodies()).read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert refusal(path).startswith("is not a gzip file or is damaged (CRC check failed")


# Hostile or odd tars


@pytest.mark.parametrize("twin", [FIRST, f"./{FIRST}", "cifar-10-batches-py//data_batch_1"])
def test_a_member_found_twice_is_refused(path: Path, twin: str):
    content = member(twin, batch()) + tar_of(sound_bodies())
    assert refusal(save_tar(path, content)).startswith(f"{FIRST}: found twice, expected once")


def test_a_folder_in_place_of_a_member_is_refused(path: Path):
    content = member(FIRST, type=tarfile.DIRTYPE) + tar_of(sound_bodies())
    assert refusal(save_tar(path, content)).startswith(f"{FIRST}: found a folder, expected a file")


@pytest.mark.parametrize("name", [FIRST, "cifar-10-batches-py/other"])
@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "member of type '3'"),
        (tarfile.BLKTYPE, "member of type '4'"),
        (tarfile.FIFOTYPE, "member of type '6'"),
        (tarfile.GNUTYPE_SPARSE, "member of type 'S'"),
        (tarfile.GNUTYPE_LONGNAME, "member of type 'L'"),
        (b"\x1b", "member of type '\\x1b'"),
    ],
)
def test_only_files_and_folders_are_admitted(path: Path, name: str, kind: bytes, shown: str):
    content = member(name, type=kind, linkname="/etc/passwd") + tar_of(sound_bodies())
    assert refusal(save_tar(path, content)).startswith(f"'{name}': found a {shown}, expected files and folders only")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "cifar-10-batches-py/../../evil", "..", "//evil"])
def test_a_name_that_leads_out_of_the_folder_is_refused(path: Path, name: str):
    content = member(name) + tar_of(sound_bodies())
    assert refusal(save_tar(path, content)).startswith(f"'{name}': leads out of the folder it is unpacked in")


def test_what_a_tar_says_is_shown_on_one_line_without_control_characters(path: Path):
    content = member("../\x1b[31mred\nerror: \xff" + "x" * 60) + tar_of(sound_bodies())
    assert "\\x1b[31mred\\nerror:" in refusal(save_tar(path, content))


def test_a_member_too_large_is_refused_by_its_header(path: Path):
    content = member(FIRST, size=64 * 2**20 + 1)
    assert refusal(save_tar(path, content)).startswith(f"{FIRST}: found 67,108,865 bytes, expected 67,108,864 at most")


def test_a_size_below_zero_is_refused(path: Path):
    assert refusal(save_tar(path, member(FIRST, size=-1000))).startswith(f"'{FIRST}': has a size below zero")


def test_too_many_members_are_refused(path: Path):
    content = member("cifar-10-batches-py/other") * 1000 + tar_of(sound_bodies())
    assert refusal(save_tar(path, content)).startswith("has 1,000 members or more, expected 7 and few others")


@pytest.mark.parametrize("entry", ["path=../../evil", "size=99999999999", "linkpath=/etc", "GNU.sparse.name=evil"])
def test_an_extension_header_that_renames_or_resizes_is_refused(path: Path, entry: str):
    content = member("a header", f"{len(entry) + 4} {entry}\n".encode(), type=tarfile.XHDTYPE)
    line = refusal(save_tar(path, content + tar_of(sound_bodies())))
    assert line.startswith("'a header': found a header that renames or resizes, expected none")


def test_a_member_too_many_bytes_from_the_start_is_refused_unread(path: Path):
    content = member("cifar-10-batches-py/other", size=2**40) + tar_of(sound_bodies())
    assert refusal(save_tar(path, content)).startswith(
        "unpacks to 1,099,511,628,288 bytes or more, expected 536,870,912"
    )


# Batches that are not as the layout has them

ROWS = "expected a numpy array as Python 2 pickled it"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (python2([1, 2]), "found a list, expected a dictionary"),
        (python2(None), "found nothing, expected a dictionary"),
        (batch(labels=...), "lacks the key labels"),
        (batch(data=...), "lacks the key data"),
        (batch(data=[0, 1]), f"data: found a list, {ROWS}"),
        (batch(data="text"), f"data: found text, {ROWS}"),
        (batch(data=(0, 1)), f"data: found another object, {ROWS}"),
        (batch(data=Array(shape=((2,), 3072))), f"data: found another object, {ROWS}"),
        (batch(data=Array(shape=(True, 3072))), f"data: found another object, {ROWS}"),
        (batch(data=Array(by_column=1)), f"data: found another object, {ROWS}"),
        (batch(data=Array(dtype=1)), f"data: found another object, {ROWS}"),
        (batch(data=Array(content=7)), f"data: found another object, {ROWS}"),
        (batch(data=Array(dtype="f4")), "data: found 'f4' (2, 3072), expected 'u1' (n, 3072)"),
        (batch(data=Array(dtype="O8")), "data: found 'O8' (2, 3072), expected 'u1' (n, 3072)"),
        (batch(data=Array(shape=(2, 3, 32, 32))), "data: found 'u1' (2, 3, 32, 32), expected 'u1' (n, 3072)"),
        (batch(data=Array(shape=(3072, 2))), "data: found 'u1' (3072, 2), expected 'u1' (n, 3072)"),
        (batch(data=Array(shape=(2, 3071))), "data: found 'u1' (2, 3071), expected 'u1' (n, 3072)"),
        (batch(data=Array((0, 3072), b""), labels=[]), "data: found 0 images, expected 1 at least"),
        (batch(data=Array((-2, 3072))), "data: found -2 images, expected 1 at least"),
        (batch(data=Array((3, 3072))), "data: found 6,144 bytes, expected 3 images of 3,072"),
        (batch(labels="01"), "labels: found text, expected a list of whole numbers"),
        (batch(labels=[0, "1"]), "labels: found text among them, expected whole numbers"),
        (batch(labels=[0, None]), "labels: found nothing among them, expected whole numbers"),
        (batch(labels=[0, True]), "labels: found a truth value among them, expected whole numbers"),
        (batch(labels=[0, 1.0]), "its pickle has the opcode BINFLOAT, expected those of Python 2 for arrays"),
        (batch(labels=[0]), "labels: found 1, expected one for each of 2 images"),
        (batch(labels=[0, 1, 1]), "labels: found 3, expected one for each of 2 images"),
        (batch(labels=[0, 2]), "labels: found 2 for image 1, expected 0 to 1"),
        (batch(labels=[-1, 0]), "labels: found -1 for image 0, expected 0 to 1"),
    ],
)
@pytest.mark.parametrize("name", [FIRST, TEST_MEMBER])
def test_a_batch_unlike_the_layout_is_refused(path: Path, name: str, body: bytes, message: str):
    assert refusal(save(path, {**sound_bodies(), name: body})).startswith(f"{name}: {message};")


PRINTABLE = "expected 1 to 100 printable ASCII characters"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (..., "lacks the key label_names"),
        ("cat", "label_names: found text, expected a list of 2 to 256 names"),
        (["cat"], "label_names: found 1, expected a list of 2 to 256 names"),
        ([f"{number}" for number in range(257)], "label_names: found 257, expected a list of 2 to 256 names"),
        (["cat", "cat"], "label_names: found 'cat' twice, expected different names"),
        (["cat", ""], f"label_names: found '', {PRINTABLE}"),
        (["cat", "d\xf6g"], f"label_names: found 'd\\xf6g', {PRINTABLE}"),
        (["cat", "dog\n"], f"label_names: found 'dog\\n', {PRINTABLE}"),
        (["cat", " dog"], f"label_names: found ' dog', {PRINTABLE}"),
        (["cat", "d" * 101], f"label_names: found '{'d' * 56}..., {PRINTABLE}"),
        (["cat", 7], f"label_names: found a number, {PRINTABLE}"),
    ],
)
def test_class_names_unlike_the_layout_are_refused(path: Path, names: Any, message: str):
    content = {"num_vis": 3072} if names is ... else {"num_vis": 3072, "label_names": names}
    assert refusal(save(path, {**sound_bodies(), META_MEMBER: python2(content)})).startswith(
        f"{META_MEMBER}: {message};"
    )


# Hostile pickles


def touch_by(form: str, place: Path) -> bytes:
    """A pickle that runs `touch` on a place when it is loaded by an unpickler that trusts it."""
    command = f"touch {place}"
    text = command.encode()
    match form:
        case "text":
            return b"cos\nsystem\n(S'" + text + b"'\ntR."
        case "instance":
            return b"\x80\x02(U" + bytes([len(text)]) + text + b"ios\nsystem\n."
        case "object":
            return b"\x80\x02(cos\nsystem\nU" + bytes([len(text)]) + text + b"o."
        case "within an array":
            return b"\x80\x02}U\x04datacos\nsystem\nU" + bytes([len(text)]) + text + b"\x85Rs."
        case "after a sound batch":
            return batch()[:-1] + b"0cos\nsystem\nU" + bytes([len(text)]) + text + b"\x85R."
        case "before its end is missing":
            return b"\x80\x02cos\nsystem\nU" + bytes([len(text)]) + text + b"\x85R"
        case "protocol 4":
            return b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(text)]) + text + b"\x85R."
        case "protocol 4 unannounced":
            return b"\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(text)]) + text + b"\x85R."
    raise ValueError(form)


ASKS = "its pickle asks for 'os.system', expected numpy's arrays only; nothing was run"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("text", ASKS),
        ("instance", ASKS),
        ("object", ASKS),
        ("within an array", ASKS),
        ("after a sound batch", "its pickle has the opcode POP"),
        ("before its end is missing", ASKS),
        ("protocol 4", "is pickled with protocol 4, expected 2, as Python 2 did"),
        ("protocol 4 unannounced", "its pickle has the opcode SHORT_BINUNICODE"),
    ],
)
@pytest.mark.parametrize("name", [FIRST, META_MEMBER])
def test_no_pickle_runs_a_program(path: Path, name: str, form: str, message: str):
    place = path.with_name("pwned")
    body = touch_by(form, place)
    assert refusal(save(path, {**sound_bodies(), name: body})).startswith(f"{name}: {message}")
    assert not place.exists()
    if form not in ("after a sound batch", "before its end is missing"):
        pickle.loads(body)
        assert place.exists()  # so the test would have noticed


@pytest.mark.parametrize(
    "asked",
    ["builtins.eval", "__builtin__.eval", "numpy.load", "numpy.f2py.diagnose.run", "numpy.core.multiarray.frombuffer"],
)
def test_no_name_but_those_of_an_array_is_admitted(path: Path, asked: str):
    module, name = asked.rsplit(".", 1)
    body = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"K\x01\x85R."
    assert f"its pickle asks for '{asked}', expected" in refusal(save(path, {**sound_bodies(), FIRST: body}))


def test_a_name_is_shown_on_one_line_without_control_characters(path: Path):
    body = b"\x80\x02cos\n\x1b[31m" + b"x" * 1000 + b"\n."
    assert "asks for 'os.\\x1b[31mxxx" in refusal(save(path, {**sound_bodies(), FIRST: body}))


def test_a_batch_pickled_by_python_3_is_refused_with_the_reason(path: Path):
    content = {"labels": [0, 1], "data": np.zeros((2, 3072), np.uint8)}
    body = pickle.dumps(content)
    line = refusal(save(path, {**sound_bodies(), FIRST: body}))
    assert line.startswith(f"{FIRST}: is pickled with protocol {body[1]}, expected 2, as Python 2 did")
    line = refusal(save(path, {**sound_bodies(), FIRST: pickle.dumps(content, protocol=2)}))
    assert line.startswith(f"{FIRST}: its pickle has the opcode BINUNICODE, expected those of Python 2 for arrays")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80\x02",
        b"not a pickle",
        batch()[:-1],
        batch()[:100],
        b"\x80\x02.",  # nothing to return
        b"\x80\x02N\x85\x86.",  # too few items for a pair
        b"\x80\x02Ne.",  # no mark
        b"\x80\x02}(Nu.",  # a key without a value
        b"\x80\x02}N)s.",
        b"\x80\x02}K\x01\x85Ns.",  # a tuple as a key
        b"\x80\x02}(K\x01\x85Nu.",
        b"\x80\x02]U\x01aNs.",  # a key in a list
        b"\x80\x02}Na.",  # an item in a dictionary
        b"\x80\x02}(Ne.",
        b"\x80\x02]Nb.",  # a state for a list
        b"\x80\x02cnumpy\ndtype\nNb.",  # a state for a name
        b"\x80\x02Nq",
        b"\x80\x02q\x01.",  # nothing to remember
        b"\x80\x02h\x07.",  # nothing remembered
        b"\x80\x02T\xff\xff\xff\xff.",  # a length below zero
        b"\x80\x02R.",
    ],
)
def test_a_damaged_pickle_is_refused(path: Path, body: bytes):
    line = refusal(save(path, {**sound_bodies(), FIRST: body}))
    assert line.startswith(f"{FIRST}: ")
    assert "is no pickle or is damaged (" in line or "has the opcode" in line


DEEP = 900_000
LARGE = b"T" + struct.pack("<i", 30_000_000) + bytes(30_000_000)
HOSTILE = {
    "a terabyte": (batch(data=Array((2**31 - 1, 3072))), "found 6,144 bytes, expected 2,147,483,647 images"),
    "text that claims 2 GB": (b"\x80\x02T\xff\xff\xff\x7fabc.", "is no pickle or is damaged"),
    "a memo of four billion": (b"\x80\x02]r\xff\xff\xff\xff.", "found a list, expected a dictionary"),
    "a deep tuple": (b"\x80\x02N" + b"\x85" * DEEP + b".", "found another object, expected a dictionary"),
    "a deeper tuple": (b"\x80\x02N" + b"\x85" * 3_000_000 + b".", "has more than 1,000,000 opcodes"),
    "a deep list": (b"\x80\x02]" + b"]" * (DEEP // 2) + b"a" * (DEEP // 2) + b".", "found a list, expected"),
    "a deep call": (b"\x80\x02N" + b"NR" * (DEEP // 2) + b".", "found another object, expected a dictionary"),
    "a deep key": (b"\x80\x02}N" + b"\x85" * DEEP + b"Ns.", "a key is tuple, expected text"),
    "a key of 2**200 items": (b"\x80\x02}N" + b"q\x00h\x00\x86" * 200 + b"Ns.", "a key is tuple, expected text"),
    "labels of 2**200 items": (
        batch()[:-2] + b"U\x06labelsN" + b"q\x00h\x00\x86" * 200 + b"u.",
        "found another object",
    ),
    "marks": (b"\x80\x02" + b"(" * DEEP + b".", "is no pickle or is damaged"),
    "dictionaries": (b"\x80\x02" + b"}" * DEEP + b".", "lacks the key data"),
    "a list within itself": (b"\x80\x02]q\x00h\x00a.", "found a list, expected a dictionary"),
    "one text for many arrays": (
        b"\x80\x02]" + LARGE + b"q\x00a" + b"cnumpy\ndtype\nN\x85Rh\x00ba" * 100_000 + b".",
        "found a list, expected a dictionary",
    ),
    "digits": (b"\x80\x02L" + b"9" * 30_000_000 + b"L\n.", "is no pickle or is damaged"),
    "no quotes": (b"\x80\x02S" + b"\xff" * 30_000_000 + b"\n.", "is no pickle or is damaged"),
}


def extension(size: int) -> bytes:
    return member("a header", size=size, type=tarfile.XHDTYPE)


def bomb(path: Path, start: bytes, repeated: bytes, times: int) -> Path:
    """A file that unpacks to a start and then the same bytes many times over."""
    path.write_bytes(gzip.compress(start) + gzip.compress(repeated) * times)
    return path


MEASURED = """
import resource, sys
from pathlib import Path
from lenet_cifar10 import archive
from lenet_cifar10.errors import UserError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, -1))
for path in sys.argv[1:]:
    try:
        archive.read(Path(path))
        print("read")
    except UserError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_a_hostile_archive_costs_little_memory(tmp_path: Path):
    """Each is refused in a process that may use 400 MB more than after its imports."""
    expected = {}
    for number, (body, message) in enumerate(HOSTILE.values()):
        expected[save(tmp_path / f"{number}", {**sound_bodies(), FIRST: body})] = message
    zeros, folder, sound = bytes(32 * 2**20), "cifar-10-batches-py", tar_of(sound_bodies())
    for name, start, repeated, times, message in (
        ("zeros before", member(f"{folder}/other", size=2**33 - 1), zeros, 32, "unpacks to 8,589,93"),
        ("zeros after", sound, zeros, 32, "unpacks to 536,9"),
        ("large header", extension(400 * 2**20), zeros, 15, "found a header of 419,430,400 bytes"),
        ("many headers", b"", extension(0) * 50_000, 20, "has 1,000 members or more"),
        ("many members", b"", member(f"{folder}/other") * 50_000, 20, "has 1,000 members or more"),
        ("many skipped", b"", member(f"{folder}/other", zeros), 20, "unpacks to 536,8"),
        ("many parts", sound, b"", 300_000, "read"),
    ):
        expected[bomb(tmp_path / name, start, repeated, times)] = message
    environment = {**os.environ, "PYTHONPATH": str(Path(archive.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, *map(str, expected)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    for line, message in zip(done.stdout.splitlines(), expected.values(), strict=True):
        assert message in line


# Whatever the bytes


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Change, remove, repeat or insert a few bytes."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 1, 2, 4, 50))
        match chance.randrange(5):
            case 0:
                changed[place : place + 1] = bytes(
                    byte ^ 1 << chance.randrange(8) for byte in changed[place : place + 1]
                )
            case 1:
                changed[place : place + length] = chance.randbytes(length)
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = changed[place : place + length]
            case 4:
                changed[place:place] = chance.choice((b"\x85", b"R", b"b", b"(", b"\xff\xff\xff\xff", b"\0" * 512))
    return bytes(changed) or b"\0"


def read_or_refuse(path: Path) -> None:
    """Either what is read is sound, or the archive is refused in one line; nothing else is raised."""
    try:
        read = archive.read(path)
    except UserError as error:
        line = str(error)
    else:
        line = "read"
        assert read.train.images.shape == (len(read.train.labels), 3, 32, 32)
        assert max(read.train.labels.max(), read.test.labels.max()) < len(read.class_names)
    assert line.isprintable()


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools, about text that is then refused
@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_archive_is_read_or_refused(path: Path, seed: int):
    chance = random.Random(seed)
    bodies = sound_bodies()
    content = tar_of(bodies)
    compressed = gzip.compress(content)
    for _ in range(100):
        path.write_bytes(mutate(compressed, chance))
        read_or_refuse(path)
        read_or_refuse(save_tar(path, mutate(content, chance)))
        start, rows, end = batch().partition(bytes(2 * 3072))  # most opcodes come before the images
        mutated = mutate(start, chance) + rows + mutate(end, chance)
        read_or_refuse(save(path, {**bodies, FIRST: mutated}))
        read_or_refuse(save(path, {**bodies, META_MEMBER: mutate(bodies[META_MEMBER], chance)}))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*b"N\x88\x89K(tRb}]aesu\x85\x86\x87qh.0U2)lcM"]), max_size=40).map(bytes))
def test_any_opcodes_are_read_or_refused(tmp_path_factory, opcodes):
    path = tmp_path_factory.getbasetemp() / "opcodes.tar.gz"
    read_or_refuse(save(path, {**sound_bodies(), FIRST: b"\x80\x02" + opcodes + b"."}))

"""A sound archive is read to the bit; whatever else there is in its place runs nothing and ends in one line."""

import gzip
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lenet_cifar10.data.archive as module
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.archive import MEMBERS, META_MEMBER, read_archive

FIRST = MEMBERS[0]


class Array:
    """An array as a pickle describes it, so that a test can tell lies about it."""

    def __init__(
        self, shape: Any = (2, 3072), content: Any = bytes(2 * 3072), dtype: Any = "u1", by_column: bool = False
    ) -> None:
        self.shape, self.content, self.dtype, self.by_column = shape, content, dtype, by_column


class Python2Pickler:
    """Writes protocol 2 as the C pickler of Python 2 did, with a memo and in batches of a thousand."""

    def __init__(self) -> None:
        self.memos = 0

    def put(self) -> bytes:
        self.memos += 1
        return b"q" + bytes([self.memos]) if self.memos < 256 else b"r" + struct.pack("<I", self.memos)

    def save(self, value: Any) -> bytes:
        match value:
            case bool():
                return b"\x88" if value else b"\x89"
            case int() if 0 <= value < 256:
                return b"K" + bytes([value])
            case int() if 0 <= value < 65536:
                return b"M" + struct.pack("<H", value)
            case int():
                return b"J" + struct.pack("<i", value)
            case str():
                return self.save(value.encode("latin-1"))
            case bytes():
                size = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
                return size + value + self.put()
            case tuple():
                items = b"".join(map(self.save, value))
                return items + b"\x85\x86\x87"[len(value) - 1 : len(value)] if len(value) < 4 else b"(" + items + b"t"
            case list():
                text = b"]" + self.put()
                for start in range(0, len(value), 1000):
                    part = [self.save(item) for item in value[start : start + 1000]]
                    text += b"(" + b"".join(part) + b"e" if len(part) > 1 else part[0] + b"a"
                return text
            case dict():
                text = b"}" + self.put()
                items = b"".join(self.save(key) + self.save(item) for key, item in value.items())
                return text + (b"(" + items + b"u" if len(value) > 1 else items + b"s" * len(value))
            case Array():
                text = b"cnumpy.core.multiarray\n_reconstruct\n" + self.put() + b"cnumpy\nndarray\n" + self.put()
                text += b"K\x00\x85U\x01b\x87R" + self.put() + b"(K\x01" + self.save(value.shape)
                text += b"cnumpy\ndtype\n" + self.put() + self.save(value.dtype) + b"K\x00K\x01\x87R" + self.put()
                text += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
                return text + self.save(value.by_column) + self.save(value.content) + b"tb"
        raise TypeError(type(value))


def python2(value: Any) -> bytes:
    return b"\x80\x02" + Python2Pickler().save(value) + b"."


def batch(**changes: Any) -> bytes:
    """The pickle of a sound batch of two images, with some entries changed, or left out by `...`."""
    content = {"batch_label": "a batch", "labels": [0, 1], "data": Array(), "filenames": ["a.png", "b.png"]}
    return python2({key: value for key, value in {**content, **changes}.items() if value is not ...})


def meta(names: Any) -> bytes:
    return python2({"num_cases_per_batch": 10000, "label_names": names, "num_vis": 3072})


SOUND = {**dict.fromkeys(MEMBERS[:6], batch()), META_MEMBER: meta(["cat", "dog"])}


def member(name: str, body: bytes = b"", **changes: Any) -> bytes:
    """One member of a tar; `size` may claim something else than there is."""
    header = tarfile.TarInfo(name)
    header.size = len(body)
    for key, value in changes.items():
        setattr(header, key, value)
    return header.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


def tar_of(bodies: Mapping[str, bytes]) -> bytes:
    return b"".join(member(name, body) for name, body in bodies.items()) + bytes(1024)


def zipped(*parts: bytes) -> bytes:
    return b"".join(gzip.compress(part, compresslevel=1) for part in parts)


def with_first(body: bytes) -> bytes:
    """An archive in which all but the first batch is sound."""
    return zipped(tar_of({**SOUND, FIRST: body}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar.gz"


def refusal(path: Path) -> str:
    """The one line that says why the archive is refused."""
    with pytest.raises(UserError) as caught:
        read_archive(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    return line.removeprefix(f"{path}: ")


# Sound archives


def test_reads_the_official_layout(path: Path) -> None:
    """As the official file: memo, a folder, a page beside the data, members in no order, zeros at the end."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    generator = np.random.default_rng(0)
    sizes = [3, 1, 3, 4, 2, 1200]
    images = [generator.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8) for size in sizes]
    labels = [generator.integers(0, 10, size) for size in sizes]
    bodies = {
        name: batch(
            labels=part_labels.tolist(),
            data=Array((len(part), 3072), part.tobytes()),
            filenames=[f"file_s_{number:06d}.png" for number in range(len(part))],
        )
        for name, part, part_labels in zip(MEMBERS, images, labels, strict=False)
    }
    bodies[META_MEMBER] = meta(names)
    assert len(bodies[META_MEMBER]) == 158  # as the official one
    folder = member("cifar-10-batches-py", type=tarfile.DIRTYPE, mode=0o755, uid=1000, mtime=1244000000)
    page = member("cifar-10-batches-py/readme.html", b"<html>" * 15)
    ordered = {MEMBERS[place]: bodies[MEMBERS[place]] for place in (3, 5, 2, 6, 1, 4, 0)}
    path.write_bytes(zipped(folder + page + tar_of(ordered) + bytes(9000)))
    read = read_archive(path)
    for split, part, part_labels in (
        (read.train, np.concatenate(images[:5]), np.concatenate(labels[:5])),
        (read.test, images[5], labels[5]),
    ):
        assert (split.images.dtype, split.labels.dtype, split.class_names) == (np.uint8, np.int64, tuple(names))
        assert np.array_equal(split.images, part)
        assert np.array_equal(split.labels, part_labels)
        assert split.images.flags.writeable


def test_an_archive_packed_again_by_python_or_from_within_a_folder_is_read(path: Path) -> None:
    """Python's own format adds extension headers for fractions of a second; `tar c ./FOLDER` writes a dot."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "again"}) as tar:
        for name, body in SOUND.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mtime, info.uname = len(body), 1.5, "zoë"
            tar.addfile(info, io.BytesIO(body))
    path.write_bytes(zipped(buffer.getvalue()))
    assert len(read_archive(path).train) == 10


# Damaged, or not as the layout has it


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"archive\.tar\.gz: no such file; run dvc repro download"):
        read_archive(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"<html>" * 1000, "Not a gzipped file"),
        (zipped(b"text" * 1000), "invalid header"),
        (zipped(tar_of(SOUND))[:-200], "Compressed file ended before the end-of-stream marker"),
        (zipped(tar_of(SOUND))[:-8] + bytes(8), "CRC check failed"),
        (zipped(tar_of(SOUND)[:20_000]), "unexpected end of data"),
        (zipped(tar_of({FIRST: batch()})), f"it lacks {MEMBERS[1]}, {MEMBERS[2]}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_refused(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    line = refusal(path)
    assert words in line
    assert line.endswith("; download it again, or fix what made it")


NO_ARRAYS = "expected data, a uint8 array (N, 3072), and labels, a list of N whole numbers from 0 to 1"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (python2([1, 2]), NO_ARRAYS),
        (batch(labels=...), NO_ARRAYS),
        (batch(data=[0, 1]), NO_ARRAYS),
        (batch(data=Array(dtype="f4")), NO_ARRAYS),
        (batch(data=Array(by_column=True)), NO_ARRAYS),
        (batch(data=Array((0, 3072), b""), labels=[]), NO_ARRAYS),
        (batch(data=Array((3, 3072))), NO_ARRAYS),
        (batch(labels=[0]), NO_ARRAYS),
        (batch(labels=[0, True]), NO_ARRAYS),
        (batch(labels=[0, 2]), NO_ARRAYS),
        (batch(labels=[-1, 0]), NO_ARRAYS),
        (batch()[:100], ""),
        (pickle.dumps({"labels": [0, 1]}), "has the opcode FRAME, which Python 2 did not write"),
    ],
)
def test_a_batch_unlike_the_layout_is_refused(path: Path, body: bytes, words: str) -> None:
    path.write_bytes(with_first(body))
    assert words in refusal(path)


@pytest.mark.parametrize("names", ["cat", ["cat"], [f"{n}" for n in range(257)], ["cat", "cat"], ["cat", "dog\n"]])
def test_class_names_unlike_the_layout_are_refused(path: Path, names: Any) -> None:
    path.write_bytes(zipped(tar_of({**SOUND, META_MEMBER: meta(names)})))
    assert f"{META_MEMBER}: expected label_names, 2 to 256 different names" in refusal(path)


# Hostile


def call(function: bytes, argument: bytes) -> bytes:
    """Opcodes that call a function, given as "module\nname"."""
    return b"c" + function + b"\nU" + bytes([len(argument)]) + argument + b"\x85R"


# Pickles that run a command when they are loaded by an unpickler that trusts them.
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda command: b"cos\nsystem\n(S'" + command + b"'\ntR.",
    "a call": lambda command: b"\x80\x02" + call(b"os\nsystem", command) + b".",
    "an object": lambda command: b"\x80\x02(cos\nsystem\nU" + bytes([len(command)]) + command + b"o.",
    "after a batch": lambda command: batch()[:-1] + b"0" + call(b"os\nsystem", command) + b".",
    "protocol 4": lambda command: pickle.dumps(Trap(command.decode()), protocol=4),
}


class Trap:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", FORMS)
def test_no_pickle_runs_a_program(path: Path, form: str) -> None:
    place = path.with_name("pwned")
    body = FORMS[form](f"touch {place}".encode())
    path.write_bytes(with_first(body))
    refusal(path)
    assert not place.exists()
    pickle.loads(body, encoding="bytes")
    assert place.exists()  # so the test would have noticed


@pytest.mark.parametrize("asked", ["builtins.eval", "numpy.load", "numpy.core.multiarray.frombuffer", "numpy.dtype.x"])
def test_no_name_but_those_of_an_array_is_admitted(path: Path, asked: str) -> None:
    path.write_bytes(with_first(b"\x80\x02" + call("\n".join(asked.rsplit(".", 1)).encode(), b"x") + b"."))
    assert f"a pickle asks for {asked}" in refusal(path)


def hostile() -> dict[str, bytes]:
    """Archives that would cost a trusting reader memory, time or its life."""
    deep = 100_000  # within the allowed number of opcodes
    text = b"T" + struct.pack("<i", 30_000_000) + bytes(30_000_000)
    pickles = {
        "a terabyte": batch(data=Array((2**31 - 1, 3072))),
        "text that claims 2 GB": b"\x80\x02T\xff\xff\xff\x7fabc.",
        "a memo of four billion": b"\x80\x02]r\xff\xff\xff\xff.",
        "a deep tuple as a key": b"\x80\x02}N" + b"\x85" * deep + b"Ns.",
        "a deep list": b"\x80\x02" + b"]" * (deep // 2) + b"a" * (deep // 2 - 1) + b".",
        "a deep dictionary": b"\x80\x02}" + b"U\x00}" * (deep // 3) + b"s" * (deep // 3) + b".",
        "a key of 2**200 items": b"\x80\x02}N" + b"q\x00h\x00\x86" * 200 + b"Ns.",
        "a key of wide tuples": b"\x80\x02}(NNNt" + (b"q\x00(" + b"h\x00" * 9000 + b"t") * 19 + b"Ns.",
        "a list within itself": b"\x80\x02]q\x00h\x00a.",
        "31 MB of lists": b"\x80\x02" + b"]" * 31_000_000 + b".",
        "many dictionaries": b"\x80\x02" + b"}" * deep + b".",
        "one text for many": b"\x80\x02](" + text + b"q\x00" + b"h\x00" * deep + b"e.",
        "digits": b"\x80\x02L" + b"9" * 30_000_000 + b"L\n.",
        "a state for a name": b"\x80\x02cnumpy\ndtype\nNb.",
        "colours": b"\x80\x02cos\n\x1b[31m" + b"x" * 1000 + b"\n.",
    }
    sound, other, header = tar_of(SOUND), "cifar-10-batches-py/other", tarfile.XHDTYPE
    zeros = zipped(bytes(2**24)) * 64  # unpack to a gigabyte
    no_meta = tar_of({name: body for name, body in SOUND.items() if name != META_MEMBER})[:-1024]
    return {name: with_first(body) for name, body in pickles.items()} | {
        "a link": zipped(no_meta + member(META_MEMBER, type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "a sparse member": zipped(no_meta + member(META_MEMBER, type=tarfile.GNUTYPE_SPARSE)),
        "a size below zero": zipped(member(FIRST, size=-1000) + sound),
        "a resized member": zipped(member("h", b"20 size=99999999999\n", type=header) + sound),
        "a large member": zipped(member(FIRST, size=2**27) + bytes(2**27) + no_meta),
        "zeros": zipped(member(other, size=2**33 - 1)) + zeros,
        "zeros after": zipped(sound) + zeros,
        "a large header": zipped(member("h", type=header, size=2**30)) + zeros,
        "many headers": zipped(member("h", type=header) * 100_000),
        "many members": zipped(member(other) * 8000) * 100,
    }


# Reads each, and says how.
MEASURED = """
import resource, sys
from pathlib import Path
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.archive import read_archive
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 450 * 2**20, -1))
for path in sys.argv[1:]:
    try:
        print("read", read_archive(Path(path)))
    except UserError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_a_hostile_archive_costs_little_memory_and_ends_in_one_line(tmp_path: Path) -> None:
    """All are read in one process that may use 450 MB more than after its imports, as the official one takes."""
    archives = hostile()
    paths = [tmp_path / f"{number}.tar.gz" for number in range(len(archives))]
    for path, content in zip(paths, archives.values(), strict=True):
        path.write_bytes(content)
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-B", "-c", MEASURED, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    for name, line in zip(archives, result.stdout.splitlines(), strict=True):
        assert line.isprintable(), name
        assert line.endswith("or fix what made it"), name
        assert "MemoryError" not in line, name


def test_a_machine_without_the_memory_ends_in_one_line_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    path.write_bytes(zipped(tar_of(SOUND)))
    monkeypatch.setattr(module, "_unpickle", refuse)
    assert "(MemoryError)" in refusal(path)


# Whatever the bytes


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Replace a few bytes by others."""
    place, length = chance.randrange(len(content)), chance.choice((0, 1, 4, 50))
    others = chance.choice((b"", b"\x85", b"R", b"b", b"(", b"q\0", b"h\1", b"\xff\xff\xff\xff", chance.randbytes(2)))
    return content[:place] + others + content[place + length :]


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools, about text that is then refused
def test_a_mutated_archive_is_read_or_refused(path: Path) -> None:
    chance = random.Random(0)
    content = tar_of(SOUND)
    start, pixels, end = batch().partition(bytes(2 * 3072))  # the opcodes
    read = 0
    for _ in range(80):
        for mutated in (
            zipped(mutate(content, chance)),
            with_first(mutate(start, chance) + pixels + mutate(end, chance)),
        ):
            path.write_bytes(mutated)
            with suppress(UserError):
                archive = read_archive(path)
                read += 1
                assert archive.train.images.shape == (len(archive.train.labels), 3, 32, 32)
                assert max(archive.train.labels.max(), archive.test.labels.max()) < len(archive.test.class_names)
    assert 0 < read < 160

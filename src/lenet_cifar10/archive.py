"""The CIFAR-10 archive for Python, in its official layout (https://www.cs.toronto.edu/~kriz/cifar.html).

A gzip'd tar with the folder cifar-10-batches-py, in it data_batch_1 to data_batch_5, test_batch and batches.meta,
each a dictionary that Python 2 pickled with protocol 2. A batch has `data`, (n, 3072) uint8, where a row holds the
32x32 red values row by row, then the green, then the blue ones, and `labels`, n whole numbers. batches.meta has
`label_names`, the names of the classes in the order of the labels.

A pickle can run any program and a few compressed bytes can unpack to terabytes, so an archive is read without trust:
nothing is unpacked to disk, sizes are checked before they are read, and the pickles' opcodes are read as plain data.
"""

import gzip
import pickle
import pickletools
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path, PurePosixPath
from struct import pack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenet_cifar10.dataset import Split
from lenet_cifar10.errors import UserError
from lenet_cifar10.records import replacing

FOLDER = "cifar-10-batches-py"
TRAIN_MEMBERS = tuple(f"{FOLDER}/data_batch_{number}" for number in range(1, 6))
TEST_MEMBER = f"{FOLDER}/test_batch"
META_MEMBER = f"{FOLDER}/batches.meta"
MEMBERS = (*TRAIN_MEMBERS, TEST_MEMBER, META_MEMBER)

IMAGE_SHAPE = (3, 32, 32)
ROW_LENGTH = 3 * 32 * 32
MOST_CLASSES = 256

# The official archive unpacks to 186 MB in 9 members; its largest has 31 MB and some 30,000 opcodes.
MOST_UNPACKED_BYTES = 512 * 2**20
MOST_MEMBER_BYTES = 64 * 2**20
MOST_MEMBERS = 1_000
MOST_OPCODES = 1_000_000
MOST_EXTENSION_BYTES = 64 * 2**10

BLOCK = tarfile.BLOCKSIZE
CHUNK = 2**20
EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE)

RENAMING = re.compile(rb" (path|linkpath|size|GNU\.sparse\.[^=]*)=")
CLASS_NAME = re.compile(r"[!-~]([ -~]{0,98}[!-~])?")


@dataclass(frozen=True, eq=False)
class Archive:
    """Training images in the order of data_batch_1 to data_batch_5, test images, and a name for each label.

    Labels count from 0 and index `class_names`, 2 to 256 different names in printable ASCII.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]


def read(path: Path) -> Archive:
    """Read and check a whole archive, in memory; other ordinary files and folders in it are skipped.

    There may be any number of images and 2 to 256 classes.

    Raises:
        UserError: the file is missing, damaged, not an archive in this layout, or looks hostile.
    """
    try:
        with gzip.open(path) as stream:
            return _read_archive(stream)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the CIFAR-10 archive, so fetch it first") from None
    except gzip.BadGzipFile as error:
        fault = f"is not a gzip file or is damaged ({error})"
    except zlib.error as error:
        fault = f"is damaged ({error})"
    except EOFError:
        fault = "is truncated: the compressed data stop before their end"
    except _ArchiveError as error:
        fault = str(error)
    raise UserError(f"{path}: {fault}; fetch the archive again, or mend what made it")


def write(path: Path, archive: Archive) -> None:
    """Write an archive in the official layout; a file at `path` is replaced whole or not at all.

    The training images are spread evenly over the five batches, in order. The same archive gives the same bytes
    wherever zlib compresses alike.

    Raises:
        ValueError: images are not uint8 (N, 3, 32, 32) with a label each, or too few: 5 for training, 1 for testing.
        OSError: the file cannot be written.
    """
    for split, least in ((archive.train, len(TRAIN_MEMBERS)), (archive.test, 1)):
        if split.images.dtype != np.uint8 or split.images.shape != (len(split.labels), *IMAGE_SHAPE):
            raise ValueError(f"found {split.images.dtype} {split.images.shape}, expected uint8 (N, 3, 32, 32)")
        if len(split.labels) < least:
            raise ValueError(f"found {len(split.labels)} images, expected {least} at least")
    with (
        replacing(path) as (temporary,),
        temporary.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as stream,
        tarfile.open(mode="w", fileobj=stream, format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, body in _pickle_members(archive):
            member = tarfile.TarInfo(name)  # owner, group and time are 0, the mode is 644
            member.size = len(body)
            tar.addfile(member, BytesIO(body))


class _ArchiveError(Exception):
    """What is wrong with an archive, without its path."""


@contextmanager
def _within(member: str) -> Iterator[None]:
    """Name the member in a fault."""
    try:
        yield
    except _ArchiveError as fault:
        raise _ArchiveError(f"{member}: {fault}") from None


def _shown(value: str | tuple[int, ...]) -> str:
    """What a file says, on one line and cut to a line's length."""
    text = ascii(value[:100])
    return text if len(text) <= 60 else text[:57] + "..."


def _read_archive(stream: gzip.GzipFile) -> Archive:
    class_names: tuple[str, ...] = ()
    batches: dict[str, Split] = {}
    for member, body in _read_members(stream):
        with _within(member):
            content = _unpickle(body)
            if member == META_MEMBER:
                class_names = _check_class_names(content)
            else:
                batches[member] = _check_batch(content)
    for member, batch in batches.items():
        with _within(member):
            _check_label_range(batch.labels, len(class_names))
    return Archive(
        train=_join([batches.pop(member) for member in TRAIN_MEMBERS]),
        test=_join([batches.pop(TEST_MEMBER)]),
        class_names=class_names,
    )


def _join(batches: list[Split]) -> Split:
    return Split(
        images=np.concatenate([batch.images for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
    )


# The tar: one pass over its headers. tarfile would read extension headers whole, however large they claim to be.


def _read_members(stream: gzip.GzipFile) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the members that make up the data set, in the tar's order."""
    missing = list(MEMBERS)
    position = 0
    for _ in range(MOST_MEMBERS):
        header = stream.read(BLOCK)
        if not header.strip(b"\0"):
            break
        member = _parse_header(header, position)
        padded_size = -(-member.size // BLOCK) * BLOCK
        position += BLOCK + padded_size
        if position > MOST_UNPACKED_BYTES:
            raise _ArchiveError(f"unpacks to {position:,} bytes or more, expected {MOST_UNPACKED_BYTES:,} at most")
        if member.name not in MEMBERS or member.type in EXTENSIONS:
            _skip_member(stream, member, padded_size)
            continue
        if member.name not in missing:
            raise _ArchiveError(f"{member.name}: found twice, expected once")
        missing.remove(member.name)
        if not member.isfile():
            raise _ArchiveError(f"{member.name}: found a folder, expected a file")
        if member.size > MOST_MEMBER_BYTES:
            raise _ArchiveError(f"{member.name}: found {member.size:,} bytes, expected {MOST_MEMBER_BYTES:,} at most")
        yield member.name, _take(stream, padded_size)[: member.size]
    else:
        raise _ArchiveError(f"has {MOST_MEMBERS:,} members or more, expected {len(MEMBERS)} and few others")
    if missing:
        raise _ArchiveError(f"lacks {', '.join(missing)}")
    while chunk := stream.read(CHUNK):  # gzip compares its checksum only at the very end
        position += len(chunk)
        if position > MOST_UNPACKED_BYTES:
            raise _ArchiveError(f"unpacks to {position:,} bytes or more, expected {MOST_UNPACKED_BYTES:,} at most")


def _parse_header(header: bytes, position: int) -> tarfile.TarInfo:
    """The member that a tar header announces, of a kind that a clean archive has; its name without "./"."""
    if len(header) < BLOCK:
        raise _ArchiveError("is truncated: the tar stops within a header")
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _ArchiveError(f"found no tar header at byte {position:,} of what it unpacks to ({error})") from None
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        raise _ArchiveError(f"{_shown(member.name)}: leads out of the folder it is unpacked in, expected {FOLDER}")
    member.name = str(place)
    if member.size < 0:
        raise _ArchiveError(f"{_shown(member.name)}: has a size below zero")
    if member.isdir():
        member.size = 0
    elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, *EXTENSIONS):
        kind = "link" if member.islnk() or member.issym() else f"member of type {_shown(member.type.decode('latin-1'))}"
        raise _ArchiveError(f"{_shown(member.name)}: found a {kind}, expected files and folders only")
    return member


def _skip_member(stream: gzip.GzipFile, member: tarfile.TarInfo, padded_size: int) -> None:
    """Pass over a member; an extension header may give times and owners, but not a name or size other than seen."""
    if member.type in EXTENSIONS:
        if member.size > MOST_EXTENSION_BYTES:
            raise _ArchiveError(f"{_shown(member.name)}: found a header of {member.size:,} bytes, expected a few")
        if RENAMING.search(_take(stream, padded_size)):
            raise _ArchiveError(f"{_shown(member.name)}: found a header that renames or resizes, expected none")
        return
    for start in range(0, padded_size, CHUNK):
        _take(stream, min(CHUNK, padded_size - start))


def _take(stream: gzip.GzipFile, size: int) -> bytes:
    """Exactly `size` bytes."""
    content = stream.read(size)
    if len(content) < size:
        raise _ArchiveError("is truncated: the tar stops within a member")
    return content


# The pickles: an unpickler would call what a file names; here a call stays a record of what was asked for.


class _Name(Enum):
    """The only functions and types that a pickle may ask for, as "module name"."""

    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    NDARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"


@dataclass(eq=False, slots=True)
class _Call:
    """An object that a pickle asks for: a call, never made, and the state to set, never set."""

    function: object
    arguments: object
    state: object = None


def _unpickle(body: bytes) -> object:
    """What a pickle holds: numbers, text, tuples, lists, dictionaries, `_Name` and `_Call`.

    Byte strings become text of Latin-1, which keeps each byte.
    """
    try:
        return _interpret(body)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise _ArchiveError(f"is no pickle or is damaged ({_shown(str(error))})") from None


def _interpret(body: bytes) -> object:
    """Follow the few opcodes that the official files need; what is out of place ends in a usual exception."""
    stack: list[Any] = []
    outer: list[list[Any]] = []  # what was on the stack at each mark
    memo: dict[Any, Any] = {}
    for count, (opcode, value, _) in enumerate(pickletools.genops(body)):
        if count == MOST_OPCODES:
            raise _ArchiveError(f"its pickle has more than {MOST_OPCODES:,} opcodes, expected some 30,000")
        match opcode.name:
            case "PROTO":
                if value != 2:
                    raise _ArchiveError(f"is pickled with protocol {value}, expected 2, as Python 2 did")
            case "BININT" | "BININT1" | "BININT2" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(value)
            case "NONE":
                stack.append(None)
            case "NEWFALSE":
                stack.append(False)
            case "NEWTRUE":
                stack.append(True)
            case "GLOBAL" | "INST" if value not in [name.value for name in _Name]:
                name = _shown(str(value).replace(" ", "."))
                hint = " (so Python 3 writes bytes; pickle as Python 2 did)" if name == "'_codecs.encode'" else ""
                raise _ArchiveError(f"its pickle asks for {name}{hint}, expected numpy's arrays only; nothing was run")
            case "GLOBAL":
                stack.append(_Name(value))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items, stack = stack, outer.pop()
                stack[-1].extend(items)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                stack[-1][_text(key)] = item
            case "SETITEMS":
                items, stack = stack, outer.pop()
                for key, item in zip(items[::2], items[1::2], strict=True):
                    stack[-1][_text(key)] = item
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_Call(function, arguments))
            case "BUILD":
                state, made = stack.pop(), stack[-1]
                if not isinstance(made, _Call):
                    raise TypeError("a state is set, but not of what a call made")
                made.state = state
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "STOP":
                return stack.pop()
            case _:
                raise _ArchiveError(f"its pickle has the opcode {opcode.name}, expected those of Python 2 for arrays")
    raise AssertionError("genops ends with STOP or raises")


def _text(key: object) -> str:
    """Only text may be a key: to hash nested tuples can take forever or overflow the interpreter's stack."""
    if not isinstance(key, str):
        raise TypeError(f"a key is {type(key).__name__}, expected text")
    return key


# What the pickles hold.


def _entry(content: object, key: str) -> object:
    if not isinstance(content, dict):
        raise _ArchiveError(f"found {_kind(content)}, expected a dictionary")
    if key not in content:
        raise _ArchiveError(f"lacks the key {key}")
    return content[key]


def _check_batch(content: object) -> Split:
    """Images and labels of one batch, all checked but for the labels' range."""
    rows = _check_rows(_entry(content, "data"))
    labels = _entry(content, "labels")
    if not isinstance(labels, list):
        raise _ArchiveError(f"labels: found {_kind(labels)}, expected a list of whole numbers")
    for label in labels:
        if type(label) is not int:
            raise _ArchiveError(f"labels: found {_kind(label)} among them, expected whole numbers")
    if len(labels) != len(rows):
        raise _ArchiveError(f"labels: found {len(labels):,}, expected one for each of {len(rows):,} images")
    return Split(rows.reshape(-1, *IMAGE_SHAPE), np.array(labels, dtype=np.int64))


def _check_rows(data: object) -> NDArray[np.uint8]:
    """The array that `data` describes, uint8 (n, 3072), a view of its bytes."""
    match data:
        case _Call(
            _Name.RECONSTRUCT,
            (_Name.NDARRAY, _, _),
            (1, tuple(shape), _Call(_Name.DTYPE, (str(dtype), _, _)), bool(by_column), str(content)),
        ) if all(type(length) is int for length in shape):
            pass
        case _:
            raise _ArchiveError(f"data: found {_kind(data)}, expected a numpy array as Python 2 pickled it")
    if dtype != "u1" or len(shape) != 2 or shape[1] != ROW_LENGTH:
        raise _ArchiveError(f"data: found {_shown(dtype)} {_shown(shape)}, expected 'u1' (n, {ROW_LENGTH})")
    if shape[0] < 1:
        raise _ArchiveError(f"data: found {shape[0]} images, expected 1 at least")
    if len(content) != shape[0] * ROW_LENGTH:
        raise _ArchiveError(f"data: found {len(content):,} bytes, expected {shape[0]:,} images of {ROW_LENGTH:,}")
    values = np.frombuffer(content.encode("latin-1"), dtype=np.uint8)
    return values.reshape(shape, order="F" if by_column else "C")


def _check_label_range(labels: NDArray[np.int64], classes: int) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        place = outside[0]
        raise _ArchiveError(f"labels: found {labels[place]} for image {place:,}, expected 0 to {classes - 1}")


def _check_class_names(content: object) -> tuple[str, ...]:
    names = _entry(content, "label_names")
    if not isinstance(names, list) or not 2 <= len(names) <= MOST_CLASSES:
        found = f"{len(names):,}" if isinstance(names, list) else _kind(names)
        raise _ArchiveError(f"label_names: found {found}, expected a list of 2 to {MOST_CLASSES} names")
    for name in names:
        if not isinstance(name, str) or not CLASS_NAME.fullmatch(name):
            found = _shown(name) if isinstance(name, str) else _kind(name)
            raise _ArchiveError(f"label_names: found {found}, expected 1 to 100 printable ASCII characters")
        if names.count(name) > 1:
            raise _ArchiveError(f"label_names: found {_shown(name)} twice, expected different names")
    return tuple(names)


def _kind(value: object) -> str:
    """What a value of a pickle is, in words."""
    kinds = {int: "a number", bool: "a truth value", str: "text", list: "a list", dict: "a dictionary"}
    return kinds.get(type(value), "nothing" if value is None else "another object")


# Writing: no pickler of Python 3 writes the byte strings of Python 2.


def _pickle_members(archive: Archive) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each member."""
    count = len(TRAIN_MEMBERS)
    first = 0
    images, labels = np.array_split(archive.train.images, count), np.array_split(archive.train.labels, count)
    for number, batch in enumerate(map(Split, images, labels)):
        title = f"training batch {number + 1} of {count}"
        yield TRAIN_MEMBERS[number], _pickle_batch(title, batch, archive.class_names, first)
        first += len(batch.labels)
    yield TEST_MEMBER, _pickle_batch("testing batch 1 of 1", archive.test, archive.class_names, first=0)
    names = list(archive.class_names)
    meta = {"num_cases_per_batch": len(labels[0]), "label_names": names, "num_vis": ROW_LENGTH}
    yield META_MEMBER, _pickle(meta)


def _pickle_batch(title: str, batch: Split, class_names: tuple[str, ...], first: int) -> bytes:
    """A batch, with file names made up of the class's name and the image's number, which counts from `first`."""
    labels = batch.labels.tolist()
    file_names = [f"{class_names[label]}_{number:06d}.png" for number, label in enumerate(labels, first)]
    rows = batch.images.reshape(-1, ROW_LENGTH)
    return _pickle({"batch_label": title, "labels": labels, "data": rows, "filenames": file_names})


def _pickle(content: dict[str, object]) -> bytes:
    return pickle.PROTO + b"\x02" + _encode(content) + pickle.STOP


def _encode(value: object) -> bytes:
    """The opcodes that make a value, of protocol 2 and without a memo; text becomes a byte string."""
    match value:
        case None:
            return pickle.NONE
        case bool():
            return pickle.NEWTRUE if value else pickle.NEWFALSE
        case int() if 0 <= value < 256:
            return pickle.BININT1 + pack("<B", value)
        case int():
            return pickle.BININT + pack("<i", value)
        case str():
            return _encode(value.encode("ascii"))
        case bytes() if len(value) < 256:
            return pickle.SHORT_BINSTRING + pack("<B", len(value)) + value
        case bytes():
            return pickle.BINSTRING + pack("<i", len(value)) + value
        case tuple():
            return pickle.MARK + b"".join(map(_encode, value)) + pickle.TUPLE
        case list():
            return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_encode, value)) + pickle.APPENDS
        case dict():
            items = (_encode(key) + _encode(item) for key, item in value.items())
            return pickle.EMPTY_DICT + pickle.MARK + b"".join(items) + pickle.SETITEMS
        case _Name():
            return pickle.GLOBAL + value.value.replace(" ", "\n").encode("ascii") + b"\n"
        case _Call():
            call = _encode(value.function) + _encode(value.arguments) + pickle.REDUCE
            return call + _encode(value.state) + pickle.BUILD
        case np.ndarray():
            dtype = _Call(_Name.DTYPE, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0))
            state = (1, value.shape, dtype, False, value.tobytes())
            return _encode(_Call(_Name.RECONSTRUCT, (_Name.NDARRAY, (0,), "b"), state))
    raise TypeError(f"found {type(value).__name__}, which no archive holds")

"""The CIFAR-10 archive for Python, in its official layout (https://www.cs.toronto.edu/~kriz/cifar.html).

A gzip'd tar with the folder cifar-10-batches-py, in it data_batch_1 to data_batch_5, test_batch and batches.meta, each
a dictionary that Python 2 pickled with protocol 2. A batch has `data`, (N, 3072) uint8, where a row holds the 32x32 red
values row by row, then the green, then the blue ones, and `labels`, N whole numbers. batches.meta has `label_names`.

A pickle can run any program, and a few compressed bytes can unpack to terabytes. So an archive is read without trust:
nothing is unpacked to disk, what is read is bounded, and of the pickles' names and opcodes only those of such files
are admitted.
"""

import gzip
import io
import pickle
import pickletools
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.arrays import Split

FOLDER = "cifar-10-batches-py"
TRAIN_MEMBERS = tuple(f"{FOLDER}/data_batch_{number}" for number in range(1, 6))
TEST_MEMBER = f"{FOLDER}/test_batch"
META_MEMBER = f"{FOLDER}/batches.meta"
MEMBERS = (*TRAIN_MEMBERS, TEST_MEMBER, META_MEMBER)
ROW_LENGTH = 3 * 32 * 32

# An official batch has 31 MB and some 30,000 opcodes, 6 of them tuples.
MOST_MEMBER_BYTES = 64 * 2**20
MOST_OTHER_BYTES = 2**20  # of the tar, beside the members: headers, other files, padding
MOST_OPCODES = 200_000
MOST_TUPLES = 20
OPCODES = re.compile(
    "PROTO|STOP|MARK|NONE|NEWFALSE|NEWTRUE|BININT[12]?|(SHORT_)?BINSTRING|TUPLE[123]?|EMPTY_(LIST|DICT)"
    "|APPENDS?|SETITEMS?|GLOBAL|REDUCE|BUILD|(LONG_)?BIN(PUT|GET)"
)
NAMES = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
CLASS_NAME = re.compile(rb"[!-~]([ -~]{0,98}[!-~])?")


@dataclass(frozen=True, eq=False)
class Archive:
    """Training images in the order of data_batch_1 to data_batch_5, and test images.

    There are 2 to 256 classes, whose different names are printable ASCII, and any number of images in each batch.
    """

    train: Split
    test: Split


class _ArchiveError(Exception):
    """What is wrong with an archive, without its path."""


def read_archive(path: Path) -> Archive:
    """Read and check a whole archive, in memory; other files in it are skipped.

    Raises:
        UserError: the file is missing, damaged, not an archive in this layout, or hostile.
    """
    try:
        with _BoundedFile(path) as file:
            contents = {member: _unpickle(member, body) for member, body in _read_members(file)}
        class_names = _check_class_names(contents.pop(META_MEMBER))
        batches = {member: _check_batch(member, content, class_names) for member, content in contents.items()}
        return Archive(_join([batches[member] for member in TRAIN_MEMBERS]), _join([batches[TEST_MEMBER]]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro download, or dvc checkout") from None
    except _ArchiveError as error:
        fault = str(error)
    except Exception as error:  # damaged bytes lead the readers of gzip and tar into a dozen kinds of errors
        fault = f"cannot be read as a gzip'd tar ({_shown(error)})"
    raise UserError(f"{path}: {fault}; download the archive again, or fix what made it")


class _BoundedFile(gzip.GzipFile):
    """A compressed file for tarfile, which takes headers at their word, however large they claim to be."""

    bytes_left = MOST_OTHER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.bytes_left -= len(content)
        if self.bytes_left < 0:
            raise _ArchiveError(f"unpacks to more than its members and {MOST_OTHER_BYTES:,} bytes")
        return content


def _read_members(file: _BoundedFile) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the members that make up the data set, in the tar's order."""
    missing = list(MEMBERS)
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for info in tar:
            name = str(PurePosixPath(info.name))  # without "./"
            if name not in MEMBERS:
                continue
            if name not in missing or not info.isreg() or info.issparse() or info.size > MOST_MEMBER_BYTES:
                raise _ArchiveError(f"{name}: expected one ordinary file of {MOST_MEMBER_BYTES:,} bytes at most")
            missing.remove(name)
            file.bytes_left += info.size
            member = tar.extractfile(info)
            assert member is not None  # for an ordinary file
            yield name, member.read()
    while file.read(2**16):  # gzip compares its checksum at the very end
        pass
    if missing:
        raise _ArchiveError(f"lacks {', '.join(missing)}")


class _Inert:
    """Takes the place of numpy's array and type: keeps what a pickle says about them, calls nothing."""

    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> type:
        name = f"{module_name}.{global_name}"
        if name not in NAMES:
            raise _ArchiveError(f"its pickle asks for {_shown(name)}, expected numpy's arrays only; nothing was run")
        return _Inert


def _unpickle(member: str, body: bytes) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, whole numbers, bytes and `_Inert`."""
    try:
        _check_opcodes(body)
        return _Unpickler(io.BytesIO(body), encoding="bytes").load()
    except _ArchiveError as error:
        raise _ArchiveError(f"{member}: {error}") from None
    except Exception as error:  # the opcodes may come in any order
        raise _ArchiveError(f"{member}: cannot be read as a pickle ({_shown(error)})") from None


def _check_opcodes(body: bytes) -> None:
    """Refuse what the unpickler would run, and what would cost it more time or memory than its bytes account for."""
    previous = ""
    tuples = 0
    shareable = set()  # places of the memo that hold text or a name
    for count, (opcode, argument, _) in enumerate(pickletools.genops(body)):
        name = opcode.name
        if not OPCODES.fullmatch(name):
            raise _ArchiveError(f"its pickle has the opcode {name}, which Python 2 did not write for such a file")
        tuples += name.startswith("TUPLE")
        if count >= MOST_OPCODES or tuples > MOST_TUPLES:  # deep tuples overflow the stack when they are hashed
            raise _ArchiveError(f"its pickle has more than {MOST_OPCODES:,} opcodes or {MOST_TUPLES} tuples")
        match name, argument:
            case (("BINPUT" | "LONG_BINPUT"), int(place)):
                if place > MOST_OPCODES:  # the memo is as long as its highest place
                    raise _ArchiveError(
                        f"its pickle has place {place:,} in the memo, expected {MOST_OPCODES:,} at most"
                    )
                is_shareable = previous in ("SHORT_BINSTRING", "BINSTRING", "GLOBAL")
                (shareable.add if is_shareable else shareable.discard)(place)
            case (("BINGET" | "LONG_BINGET"), place) if place not in shareable:
                # 200 tuples, each twice in the next one, are a key that takes for ever to hash.
                raise _ArchiveError("its pickle has something other than text twice")
        previous = name


def _check_class_names(content: Any) -> tuple[str, ...]:
    match content:
        case {b"label_names": list(names)} if (
            2 <= len(names) <= 256
            and all(isinstance(name, bytes) and CLASS_NAME.fullmatch(name) for name in names)
            and len(set(names)) == len(names)
        ):
            return tuple(name.decode("ascii") for name in names)
    raise _ArchiveError(
        f"{META_MEMBER}: expected label_names, 2 to 256 different names of 1 to 100 printable ASCII characters"
    )


def _check_batch(member: str, content: Any, class_names: tuple[str, ...]) -> Split:
    match content:
        case {
            b"data": _Inert(state=(_, shape, _Inert(arguments=(b"u1", *_)), by_column, bytes(pixels))),
            b"labels": list(labels),
        } if labels and shape == (len(labels), ROW_LENGTH) and len(pixels) == len(labels) * ROW_LENGTH:
            rows = np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if by_column else "C")
        case _:
            raise _ArchiveError(f"{member}: expected data, a uint8 array (N, {ROW_LENGTH}), and labels, a list of N")
    for label in labels:
        if type(label) is not int or not 0 <= label < len(class_names):
            found = label if type(label) is int else f"a value of type {type(label).__name__}"
            raise _ArchiveError(f"{member}: labels: found {found}, expected numbers from 0 to {len(class_names) - 1}")
    return Split(rows.reshape(-1, 3, 32, 32), np.array(labels, np.int64), class_names)


def _join(batches: Sequence[Split]) -> Split:
    images, labels = [batch.images for batch in batches], [batch.labels for batch in batches]
    return Split(np.concatenate(images), np.concatenate(labels), batches[0].class_names)


def _shown(value: object) -> str:
    """What a file or an error says, on one line and cut to a line's length."""
    return ascii(str(value)[:80] or type(value).__name__)[1:-1][:80]

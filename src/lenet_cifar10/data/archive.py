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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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

# The official archive unpacks to 9 files and 186 MB; a batch has 31 MB and some 30,000 opcodes, 6 of them tuples.
MOST_BYTES = 256 * 2**20
MOST_MEMBER_BYTES = 64 * 2**20
MOST_FILES = 100
MOST_OPCODES = 200_000
MOST_TUPLES = 20  # and as many references to what was there before
OPCODES = re.compile(
    "PROTO|STOP|MARK|NONE|NEWFALSE|NEWTRUE|BININT[12]?|(SHORT_)?BINSTRING|TUPLE[123]?|EMPTY_(LIST|DICT)"
    "|APPENDS?|SETITEMS?|GLOBAL|REDUCE|BUILD|(LONG_)?BIN(PUT|GET)"
)
NAMES = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
CLASS_NAME = re.compile(rb"[!-~]([ -~]{0,98}[!-~])?")


@dataclass(frozen=True, eq=False)
class Archive:
    """Training images in the order of data_batch_1 to data_batch_5, and test images.

    There are 2 to 256 classes, whose different names are printable ASCII, and up to 20,000 images in each batch.
    """

    train: Split
    test: Split


def read_archive(path: Path) -> Archive:
    """Read and check a whole archive, in memory; other files in it are skipped.

    Raises:
        UserError: the file is missing, damaged, not an archive in this layout, or hostile.
    """
    try:
        contents = _read_members(path)
        class_names = _check_class_names(contents[META_MEMBER])
        train, test = (_make_split(names, contents, class_names) for names in (TRAIN_MEMBERS, [TEST_MEMBER]))
        return Archive(train, test)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro download, or dvc checkout") from None
    except Exception as error:  # damaged bytes lead the readers of gzip, tar and pickles into a dozen kinds of errors
        reason = ascii(str(error)[:200] or type(error).__name__)[1:-1]
        raise UserError(
            f"{path}: is not an archive of CIFAR-10's layout ({reason}); download it again, or fix what made it"
        ) from None


def _read_members(path: Path) -> dict[str, Any]:
    """What the members that make up the data set hold, by name."""
    with gzip.open(path) as file:
        content = file.read(MOST_BYTES + 1)  # to the end, where gzip compares its checksum
    if len(content) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
    members = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r|") as tar:
        for info in islice(tar, MOST_FILES):
            name = str(PurePosixPath(info.name))  # without "./"
            if name in MEMBERS and info.isreg() and not info.issparse() and (member := tar.extractfile(info)):
                if info.size > MOST_MEMBER_BYTES:
                    raise ValueError(f"{name} has more than {MOST_MEMBER_BYTES:,} bytes")
                members[name] = _unpickle(member.read())
    if missing := [name for name in MEMBERS if name not in members]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return members


class _Inert:
    """Takes the place of numpy's array and type: keeps what a pickle says about them, calls nothing."""

    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> type:
        if f"{module_name}.{global_name}" not in NAMES:
            raise ValueError(f"a pickle asks for {module_name}.{global_name}, expected numpy's arrays; nothing was run")
        return _Inert


def _unpickle(body: bytes) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, whole numbers, bytes and `_Inert`.

    Refuses opcodes that run something, and what would cost more time or memory than its bytes account for.
    """
    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(body)):
        name = opcode.name
        if not OPCODES.fullmatch(name):
            raise ValueError(f"a pickle has the opcode {name}, which Python 2 did not write for such a file")
        # As keys of a dictionary, nested tuples can overflow the stack, and shared ones take for ever to hash.
        tuples += name.startswith("TUPLE") or name.endswith("BINGET")
        if count >= MOST_OPCODES or tuples > MOST_TUPLES:
            raise ValueError(f"a pickle has more than {MOST_OPCODES:,} opcodes or {MOST_TUPLES} tuples")
        if name.endswith("BINPUT") and (argument or 0) > MOST_OPCODES:  # the memo is as long as its highest place
            raise ValueError(f"a pickle has place {argument:,} in the memo")
    return _Unpickler(io.BytesIO(body), encoding="bytes").load()


def _check_class_names(content: Any) -> tuple[str, ...]:
    match content:
        case {b"label_names": list(names)} if (
            2 <= len(names) <= 256
            and all(isinstance(name, bytes) and CLASS_NAME.fullmatch(name) for name in names)
            and len(set(names)) == len(names)
        ):
            return tuple(name.decode("ascii") for name in names)
    raise ValueError(f"{META_MEMBER}: expected label_names, 2 to 256 different names of printable ASCII characters")


def _make_split(members: Sequence[str], contents: Mapping[str, Any], class_names: tuple[str, ...]) -> Split:
    images, labels = [], []
    for member in members:
        match contents[member]:
            case {
                b"data": _Inert(state=(_, shape, _Inert(arguments=(b"u1", *_)), False, bytes(pixels))),
                b"labels": list(batch),
            } if (batch and shape == (len(batch), ROW_LENGTH) and len(pixels) == len(batch) * ROW_LENGTH) and all(
                type(label) is int and 0 <= label < len(class_names) for label in batch
            ):
                images.append(np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32))
                labels += batch
            case _:
                raise ValueError(
                    f"{member}: expected data, a uint8 array (N, {ROW_LENGTH}), "
                    f"and labels, a list of N whole numbers from 0 to {len(class_names) - 1}"
                )
    return Split(np.concatenate(images), np.array(labels, np.int64), class_names)

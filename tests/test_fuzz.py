"""Damaged and invented files: every reader ends in a result or in the project's own error, and does nothing else.

    make fuzz                    # 3,000 inputs a test, 24,000 in all, other ones each time
    pytest tests/test_fuzz.py    # a hundred a test, always the same

While a reader runs, an audit hook notes whatever a hostile file would want: a program started, a class looked up by a
pickle, a connection, a file written.
"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenet_cifar10 import archive, dataset, resume
from lenet_cifar10.checkpoint import Checkpoint, Checkpoints
from lenet_cifar10.dataset import Split
from lenet_cifar10.drawings import draw_archive
from lenet_cifar10.errors import UserError
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import ModelSection, Params
from lenet_cifar10.training import Training
from lenet_cifar10.weights import MisfitError, load_weights, save_weights

LONG = "FUZZ_INPUTS" in os.environ
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_INPUTS", "100")),
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
)
MEMORY_BYTES = 400_000_000  # more than any reader takes here, far less than a bomb asks for
ROOT = Path(__file__).parent.parent

STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_seen: list[str] | None = None


def _note(event: str, details: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    writes = event == "open" and (details[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in STARTS + CHANGES:
        _seen.append(f"{event} {details}")


sys.addaudithook(_note)


def read_or_refuse(read: Callable[[], object]) -> None:
    """Any error but the project's own passes through; so does anything done besides reading."""
    global _seen
    _seen = seen = []
    try:
        with suppress(UserError, MisfitError):
            read()
    finally:
        _seen = None
    assert seen == []


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """No reader takes much, whatever a file says of its size."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        yield
        return
    before = psutil.Process().memory_info().rss
    yield
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert int(line.split()[1]) * 1024 - before < MEMORY_BYTES


def mutations(good: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with up to five changes: values set, parts left out, doubled or moved, the end cut off."""
    place = st.integers(0, len(good))
    telling = st.sampled_from([b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 512, b"9" * 12, b"\x80\x02"])
    changes = st.one_of(
        st.tuples(st.just("set"), place, st.one_of(st.binary(min_size=1, max_size=8), telling)),
        st.tuples(st.just("insert"), place, st.one_of(st.binary(min_size=1, max_size=8), telling)),
        st.tuples(st.just("drop"), place, st.integers(1, 600)),
        st.tuples(st.just("double"), place, st.integers(1, 600)),
        st.tuples(st.just("cut"), place, st.none()),
    )
    return st.lists(changes, min_size=1, max_size=5).map(lambda chosen: mutate(good, chosen))


def mutate(good: bytes, changes: list[tuple[str, int, Any]]) -> bytes:
    content = bytearray(good)
    for kind, place, what in changes:
        match kind:
            case "set":
                content[place : place + len(what)] = what
            case "insert":
                content[place:place] = what
            case "drop":
                del content[place : place + what]
            case "double":
                content[place:place] = content[place : place + what]
            case "cut":
                del content[place:]
    return bytes(content)


# The archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


with tempfile.TemporaryDirectory() as _folder:
    _path = Path(_folder) / "archive.tar.gz"
    archive.write(_path, draw_archive(train_count=10, test_count=10, seed=0))
    TAR = gzip.decompress(_path.read_bytes())
GZIP = gzip.compress(TAR, 1)
with tarfile.open(fileobj=io.BytesIO(TAR)) as _tar:
    PICKLES = {member.name: file.read() for member in _tar if (file := _tar.extractfile(member))}


def tar_with(name: str, pickle: bytes) -> bytes:
    """The good archive with another member's body."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member, body in PICKLES.items():
            info = tarfile.TarInfo(member)
            body = pickle if member == name else body
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def without_pixels(pickle: bytes) -> st.SearchStrategy[bytes]:
    """Mutations of a pickle whose pixels, nearly all of it, are left alone."""
    head, tail = pickle[:120], pickle[-400:]
    return st.one_of(
        mutations(head).map(lambda changed: changed + pickle[120:]),
        mutations(tail).map(lambda changed: pickle[:-400] + changed),
    )


@FUZZ
@given(st.one_of(mutations(GZIP), st.binary(max_size=500).map(lambda noise: GZIP[:10] + noise)))
def test_a_damaged_compressed_file(folder: Path, content: bytes) -> None:
    path = folder / "archive.tar.gz"
    path.write_bytes(content)
    read_or_refuse(lambda: archive.read(path))


@FUZZ
@given(st.one_of(mutations(TAR), mutations(TAR[:1024]).map(lambda head: head + TAR[1024:])))
def test_a_damaged_tar(folder: Path, content: bytes) -> None:
    path = folder / "archive.tar.gz"
    path.write_bytes(gzip.compress(content, 1))
    read_or_refuse(lambda: archive.read(path))


OPCODES = st.lists(
    st.sampled_from(
        [bytes([code]) for code in range(256)] + [b"cos\nsystem\n", b"U\x04echo", b"K\x01", b"]", b"(", b"t", b"R"]
    ),
    max_size=60,
).map(b"".join)


@FUZZ
@given(
    st.sampled_from(sorted(PICKLES)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.one_of(without_pixels(PICKLES[name]), OPCODES.map(lambda body: b"\x80\x02" + body + b"."))
        )
    )
)
def test_a_damaged_pickle(folder: Path, member: tuple[str, bytes]) -> None:
    path = folder / "archive.tar.gz"
    path.write_bytes(gzip.compress(tar_with(*member), 1))
    read_or_refuse(lambda: archive.read(path))


# The parameters

YAML_TEXT = (ROOT / "params.yaml").read_bytes()
YAML_BARE = b"\n".join(line for line in YAML_TEXT.splitlines() if not line.strip().startswith(b"#"))
YAML_WORDS = st.lists(
    st.sampled_from(
        ["!!python/object/apply:os.system ['true']", "!!binary aGk=", "&a ", "*a", "<<: *a", "{", "}", "[", "]", "\n",
         "\n  ", ": ", "- ", "? ", "| ", ">\n", "'", '"', "#", "%YAML 1.1\n", "---\n", "...\n", "seed",
         "train", "1e400", "-0", ".inf", ".nan", "0x7f", "1_0", "9" * 5000, "[" * 300, "\t", "\0", "é", "\ufeff",
         "~", "true", "2001-01-01"]
    ),
    max_size=30,
).map(lambda words: "".join(words).encode())  # fmt: skip


@FUZZ
@given(
    st.one_of(
        mutations(YAML_BARE),
        YAML_WORDS,
        st.tuples(YAML_WORDS, st.integers(0, len(YAML_BARE))).map(
            lambda pair: YAML_BARE[: pair[1]] + pair[0] + YAML_BARE[pair[1] :]
        ),
    )
)
def test_damaged_parameters(folder: Path, content: bytes) -> None:
    path = folder / "params.yaml"
    path.write_bytes(content)
    read_or_refuse(lambda: Params.load(path))


# Checkpoints, weights, arrays and tables

PARAMS = Params.load(ROOT / "params.yaml")
CLASS_NAMES = ("disc", "square", "star")


def make_training() -> Training:
    split = Split(numpy.zeros((20, 3, 32, 32), numpy.uint8), numpy.arange(20) % 3)
    section = PARAMS.train.model_copy(update={"batch_size": 10, "epochs": 3})
    return Training(split, split, 3, torch.device("cpu"), 0, PARAMS.augment, PARAMS.model, section)


TRAINING = make_training()
ROW = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5}
HISTORY = [ROW | {"learning_rate": 0.1}]
NAME = "a" * 64


@pytest.fixture(scope="module")
def small_checkpoint(folder: Path) -> bytes:
    """A checkpoint without its hash, whose tensors are small: nearly all of it decides."""
    run = Checkpoints(folder / "good", NAME)
    run.write(Checkpoint({"weight": torch.arange(12.0), "step": torch.tensor(5.0)}, HISTORY))
    return run.path.read_bytes()[:-32]


def take_up(run: Checkpoints) -> None:
    """What training does with a checkpoint."""
    found = run.read()
    if found is not None:
        history = resume.parse_history(found.history)
        TRAINING.restore(found.tensors, len(history))


@FUZZ
@given(st.data())
def test_a_damaged_checkpoint(folder: Path, small_checkpoint: bytes, data: st.DataObject) -> None:
    content = data.draw(st.one_of(mutations(small_checkpoint), st.binary(max_size=400)))
    if data.draw(st.booleans()):
        content += hashlib.sha256(content).digest()
    run = Checkpoints(folder, NAME)
    run.path.write_bytes(content)
    read_or_refuse(lambda: take_up(run))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(list(HISTORY[0])), inner)),
    max_leaves=8,
)
ROWS = st.lists(
    st.one_of(JSON, st.dictionaries(st.sampled_from(list(HISTORY[0])), JSON).map(lambda row: HISTORY[0] | row)),
    max_size=4,
)


@FUZZ
@given(
    st.one_of(JSON, ROWS),
    st.dictionaries(st.sampled_from(sorted(TRAINING.state())), st.sampled_from(["drop", "type", "shape"]), max_size=2),
)
def test_a_checkpoint_of_another_kind(folder: Path, history: object, changes: dict[str, str]) -> None:
    state = TRAINING.state()
    for name, change in changes.items():
        match change:
            case "drop":
                del state[name]
            case "type":
                state[name] = state[name].double()
            case "shape":
                state[name] = state[name].reshape(-1)[:1].clone()
    run = Checkpoints(folder, NAME)
    with suppress(ValueError):  # a number that JSON has no word for
        run.write(Checkpoint(state, json.loads(json.dumps(history))))
    read_or_refuse(lambda: take_up(run))


with tempfile.TemporaryDirectory() as _folder:
    _path = Path(_folder) / "lenet.safetensors"
    save_weights(_path, LeNet(ModelSection(dropout=0.5, first_layer="learned"), 3), CLASS_NAMES)
    WEIGHTS = _path.read_bytes()
HEADER_END = 8 + int.from_bytes(WEIGHTS[:8], "little")


@FUZZ
@given(st.one_of(mutations(WEIGHTS[:HEADER_END]), st.binary(max_size=400)), st.booleans())
def test_damaged_weights(folder: Path, header: bytes, honest: bool) -> None:
    if honest:  # the length is right, so that what follows is looked at
        header = max(0, len(header) - 8).to_bytes(8, "little") + header[8:]
    path = folder / "lenet.safetensors"
    path.write_bytes(header + WEIGHTS[HEADER_END:])
    read_or_refuse(lambda: load_weights(path))


@pytest.fixture(scope="module")
def good_arrays(folder: Path) -> bytes:
    path = folder / "good.npz"
    dataset.save(path, Split(numpy.zeros((1, 3, 32, 32), numpy.uint8), numpy.zeros(1, numpy.int64)))
    return path.read_bytes()


@FUZZ
@pytest.mark.filterwarnings("ignore")
@given(st.data())
def test_damaged_arrays(folder: Path, good_arrays: bytes, data: st.DataObject) -> None:
    head, tail = mutations(good_arrays[:250]), mutations(good_arrays[-700:])
    path = folder / "train.npz"
    path.write_bytes(
        data.draw(
            st.one_of(head.map(lambda new: new + good_arrays[250:]), tail.map(lambda new: good_arrays[:-700] + new))
        )
    )
    read_or_refuse(lambda: dataset.load(path, 3))

"""A checkpoint is read back to the bit, and nothing else is taken for one."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_cifar10 import checkpoint
from lenet_cifar10.checkpoint import Checkpoint, Checkpoints, discard_finished
from lenet_cifar10.errors import UserError
from lenet_cifar10.records import temporary_path
from lenet_cifar10.weights import MisfitError

NAME, OTHER = "a" * 64, "b" * 64
STATE = {"weight": torch.arange(12.0).reshape(3, 4) / 7, "step": torch.tensor(5.0)}
HISTORY = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-300}]
REPEATABLE = settings(deadline=None, derandomize=True, database=None)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """A run that has written a checkpoint."""
    written = Checkpoints(tmp_path / "checkpoints", NAME)
    written.write(Checkpoint(STATE, HISTORY))
    return written


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = Checkpoints(tmp_path_factory.mktemp("checkpoints"), NAME)
    run.write(Checkpoint(STATE, HISTORY))
    return run.path.read_bytes()


def sealed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def try_to_read(folder: Path, content: bytes) -> Checkpoint | str | None:
    """The checkpoint, or why it is none."""
    run = Checkpoints(folder, NAME)
    folder.mkdir(exist_ok=True)
    run.path.write_bytes(content)
    try:
        return run.read()
    except MisfitError as error:
        return str(error)


def test_state_and_history_are_read_back_to_the_bit(checkpoints: Checkpoints) -> None:
    found = checkpoints.read()
    assert found is not None
    assert found.history == HISTORY
    assert found.tensors.keys() == STATE.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in STATE.items())


def test_where_nothing_was_written_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere", NAME).read() is None


def test_the_same_checkpoint_is_the_same_bytes(checkpoints: Checkpoints, good: bytes) -> None:
    assert checkpoints.path.read_bytes() == good


def test_the_checkpoint_of_another_run_is_none(checkpoints: Checkpoints) -> None:
    other = Checkpoints(checkpoints.folder, OTHER)
    assert other.read() is None
    checkpoints.path.rename(other.path)
    with pytest.raises(MisfitError, match="of another run"):
        other.read()


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"lenet_cifar10": "no JSON"},
        {"lenet_cifar10": "[]"},
        {"lenet_cifar10": json.dumps({"fingerprint": NAME})},
        {"lenet_cifar10": "[" * 100_000},
        {"other": json.dumps({"fingerprint": NAME, "history": []})},
    ],
    ids=lambda metadata: str(metadata)[:40],
)
def test_a_file_of_another_version_is_none(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    assert "of this version" in str(try_to_read(tmp_path, sealed(safetensors.torch.save(STATE, metadata))))


def test_a_truncated_file_is_none_wherever_it_ends(tmp_path: Path, good: bytes) -> None:
    for size in range(0, len(good), 7):
        assert try_to_read(tmp_path, good[:size]) == "is torn or damaged: its hash is wrong", size


@settings(REPEATABLE, max_examples=200)
@given(st.data())
def test_a_changed_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, good: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(good) * 8 - 1))
    changed = bytearray(good)
    changed[position // 8] ^= 1 << position % 8
    found = try_to_read(tmp_path_factory.getbasetemp() / "changed", bytes(changed))
    assert found == "is torn or damaged: its hash is wrong"


@settings(REPEATABLE, max_examples=300)
@given(st.data())
def test_a_damaged_file_with_a_right_hash_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, good: bytes, data: st.DataObject
) -> None:
    content = bytearray(good[:-32])
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[position] = value
    cut = data.draw(st.integers(0, len(content)))
    found = try_to_read(tmp_path_factory.getbasetemp() / "damaged", sealed(bytes(content[: cut or None])))
    assert isinstance(found, Checkpoint | str)


@settings(REPEATABLE, max_examples=100)
@given(st.binary(max_size=2000))
def test_noise_is_none(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    assert isinstance(try_to_read(tmp_path_factory.getbasetemp() / "noise", sealed(noise)), str)


def test_a_huge_file_is_not_read(checkpoints: Checkpoints) -> None:
    os.truncate(checkpoints.path, 1 << 40)
    with pytest.raises(MisfitError, match="larger than"):
        checkpoints.read()


def test_a_pipe_in_its_place_is_none_and_is_replaced(tmp_path: Path) -> None:
    run = Checkpoints(tmp_path, NAME)
    for path in (run.path, run.path.with_suffix(".finished"), temporary_path(run.path)):
        os.mkfifo(path)
    with pytest.raises(MisfitError, match="is no regular file"):
        run.read()
    assert run.result() is None
    run.write(Checkpoint(STATE, HISTORY))
    assert run.read() is not None


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    run = Checkpoints(tmp_path, NAME)
    run.path.mkdir()
    with pytest.raises(UserError, match=r"\.checkpoint: is a folder, expected a checkpoint or nothing; remove it"):
        run.read()


def test_a_write_that_fails_leaves_the_last_one(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    before = checkpoints.path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(Checkpoint(STATE, HISTORY[:1]))
    monkeypatch.undo()
    assert checkpoints.path.read_bytes() == before
    assert list(checkpoints.folder.iterdir()) == [checkpoints.path]


def leave(folder: Path, name: str, kinds: str, age: int) -> None:
    """What a run of so long ago has left."""
    for kind in kinds.split():
        path = folder / kind.replace("NAME", name)
        path.write_bytes(b"")
        os.utime(path, (10**9 - age, 10**9 - age))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_of_other_runs_the_newest_checkpoints_are_kept_and_nothing_else(checkpoints: Checkpoints) -> None:
    """A run that was stopped in its first epoch leaves a lock, or half a checkpoint, and nothing to go on from."""
    kinds = ["NAME.checkpoint NAME.lock", "NAME.checkpoint NAME.finished NAME.lock"]
    for age in range(20):
        leave(checkpoints.folder, f"{age:064}", kinds[age % 2], age)
    for age, useless in enumerate(["NAME.lock", ".NAME.checkpoint.part NAME.lock", "NAME.finished"] * 10):
        leave(checkpoints.folder, f"{age:064x}".replace("0", "f", 1), useless, -age)
    (checkpoints.folder / "a note").touch()
    os.utime(checkpoints.path, (0, 0))
    checkpoints.write(Checkpoint(STATE, HISTORY))
    expected = {checkpoints.path.name, "a note"}
    for age in range(checkpoint.KEPT_RUNS):
        expected |= set(kinds[age % 2].replace("NAME", f"{age:064}").split())
    assert names_in(checkpoints.folder) == expected


def test_an_old_run_that_goes_on_is_not_removed(checkpoints: Checkpoints) -> None:
    for age in range(checkpoint.KEPT_RUNS + 2):
        leave(checkpoints.folder, f"{age:064}", "NAME.checkpoint NAME.lock", age)
    oldest = Checkpoints(checkpoints.folder, f"{checkpoint.KEPT_RUNS + 1:064}")
    with oldest.locked():
        leave(checkpoints.folder, oldest.fingerprint, "NAME.checkpoint NAME.lock", 1000)
        checkpoints.write(Checkpoint(STATE, HISTORY))
        assert oldest.path.exists()
    checkpoints.write(Checkpoint(STATE, HISTORY))
    assert not oldest.path.exists()


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


def test_a_finished_run_s_checkpoint_stays_until_its_result_is_kept_elsewhere(
    checkpoints: Checkpoints, result: Path
) -> None:
    other = result.with_name("other weights")
    other.write_bytes(b"other weights")
    assert checkpoints.result() is None
    checkpoints.finish(result)
    assert checkpoints.result() == hashlib.md5(b"weights").hexdigest()
    discard_finished(checkpoints.folder, other)
    assert checkpoints.read() is not None
    discard_finished(checkpoints.folder, result)
    assert checkpoints.read() is None
    assert names_in(checkpoints.folder) == set()
    discard_finished(checkpoints.folder, result)


def test_of_two_runs_that_made_the_same_both_are_removed(checkpoints: Checkpoints, result: Path) -> None:
    other = Checkpoints(checkpoints.folder, OTHER)
    other.write(Checkpoint(STATE, HISTORY))
    for run in (checkpoints, other):
        run.finish(result)
    discard_finished(checkpoints.folder, result)
    assert names_in(checkpoints.folder) == set()


def test_a_finished_run_that_is_held_by_another_process_is_left_to_that(checkpoints: Checkpoints, result: Path) -> None:
    checkpoints.finish(result)
    with checkpoints.locked():
        discard_finished(checkpoints.folder, result)
        assert checkpoints.result() is not None
        checkpoints.clear()
    assert names_in(checkpoints.folder) == {f"{NAME}.lock"}


HOLDER = """
import sys, time
from pathlib import Path
from lenet_cifar10.checkpoint import Checkpoints
with Checkpoints(Path(sys.argv[1]), sys.argv[2]).locked():
    print("held", flush=True)
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
"""


def hold(folder: Path, fingerprint: str, until: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until a file is there."""
    command = [sys.executable, "-c", HOLDER, str(folder), fingerprint, str(until)]
    source = str(Path(checkpoint.__file__).parent.parent)
    return subprocess.Popen(command, env={"PYTHONPATH": source}, stdout=subprocess.PIPE, text=True)


def test_a_second_process_with_the_same_run_waits_and_says_so(tmp_path: Path) -> None:
    with hold(tmp_path, NAME, tmp_path / "end") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with hold(tmp_path, NAME, tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting for another process that trains the same thing\n"
            (tmp_path / "end").touch()
            assert second.stdout.readline() == "held\n"
            assert first.wait() == 0
            assert second.wait() == 0


def test_another_run_does_not_wait(tmp_path: Path) -> None:
    with hold(tmp_path, NAME, tmp_path / "never") as first:
        assert first.stdout is not None
        first.stdout.readline()
        with hold(tmp_path, OTHER, tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "held\n"
        first.kill()


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    with hold(tmp_path, NAME, tmp_path / "never") as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.kill()
    with hold(tmp_path, NAME, tmp_path) as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "held\n"

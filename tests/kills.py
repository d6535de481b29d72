"""Kill runs at random moments, run again, and compare every output with that of an undisturbed run.

    PYTHONPATH=src:tests python -m kills --kills 60 --seed 0 [--processes 2]

Each round starts from a clean clone. One to four `dvc repro` are hit by SIGINT, SIGTERM or SIGKILL, sent to dvc, to one
of the processes that it started or to the whole group; each next run starts as soon as dvc has ended, beside whatever
may still be ending. After each kill no output may be half-written. The last run is left alone and must end with the
bytes of a run that was never disturbed. With `--processes 2` two of three runs train under torchrun with two processes.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from project import STAGES, commit, copy_project, environment, hash_outputs, run, use_generated_images

EPOCHS = 20
HISTORY = "plots/history.csv"
REFUSAL = "another stage is running"  # beside an orphan of the run before
LEFT_BY_DVC = re.compile(r"(.*/)?\.[\w-]{22}\.tmp")  # what a killed dvc had not yet put in its place; Git ignores it
OWN_FRAME = re.compile(r'File "([^"]*/)?(lenet_cifar10|stages)/')  # in a traceback


def disturb(folder: Path, kills: int, seed: int, processes: int = 1) -> list[str]:
    """Kill so many runs of a project in this folder -> the problems, each with what the run printed."""
    chance = random.Random(seed)
    project = folder / "project"
    copy_project(project)
    use_generated_images(project, **{"train.epochs": EPOCHS, "train.micro_batches": processes})
    commit(project, "generated images")
    run(project, "dvc", "repro")
    expected, history = hash_outputs(project), (project / HISTORY).read_bytes()
    problems: list[str] = []
    logs: list[Path] = []
    while len(logs) < kills:
        run(project, "git", "clean", "-ffdxq")
        run(project, "git", "restore", ".")
        started: list[psutil.Process] = []
        first = len(logs)
        for number in range(first, min(first + chance.randint(1, 4), kills)):
            logs.append(folder / f"{number}.log")
            started += hit_one_run(project, logs[-1], processes, chance)
            if torn := find_torn(project, expected, history):
                problems.append(f"{logs[-1]}: half-written: {', '.join(torn)}")
        while (last := run(project, "dvc", "repro", check=False)).returncode and REFUSAL in last.stderr:
            time.sleep(1)
        _, alive = psutil.wait_procs(started, timeout=60)
        found = {name: content for name, content in hash_outputs(project).items() if not LEFT_BY_DVC.fullmatch(name)}
        if last.returncode or alive or found != expected:
            differing = sorted({name for name, _ in found.items() ^ expected.items()})
            problems.append(f"other bytes: {differing}, still alive: {alive}\n{last.stdout}{last.stderr}")
        for log in logs[first:]:  # Python's own KeyboardInterrupt is that of a stage that still imports
            if OWN_FRAME.search(text := log.read_text()) and "KeyboardInterrupt" not in text:
                problems.append(f"{log}: a traceback\n{text}")
        print(f"{len(logs)} kills, {len(problems)} problems", flush=True)
    return problems


def hit_one_run(project: Path, log: Path, processes: int, chance: random.Random) -> list[psutil.Process]:
    """Start a run, send a signal at a random moment, wait for the end of dvc -> the processes that dvc had started."""
    several = processes > 1 and chance.random() < 2 / 3
    launcher = f"torchrun --standalone --nproc-per-node {processes}" if several else "python"
    stage = "train" if several else chance.choice([*STAGES, "train", "train"])
    moment = f"\nepoch {chance.randint(1, EPOCHS - 1)}/" if stage == "train" else f"Running stage '{stage}'"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=project,
            env=environment(LAUNCHER=launcher),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while process.poll() is None and moment not in log.read_text():
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3 if stage == "train" else 3))
    number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    target = chance.choice(["dvc", "one that dvc started", "all"])
    started: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it has ended before
        dvc = psutil.Process(process.pid)
        started = dvc.children(recursive=True)
        targets = {"dvc": [dvc], "one that dvc started": [chance.choice(started or [dvc])], "all": [dvc, *started]}
        print(f"{log.name}: {number.name} to {target} at {moment.strip()!r}, {launcher}", flush=True)
        for one in targets[target]:
            one.send_signal(number)
    process.wait()
    return started


def find_torn(project: Path, expected: Mapping[str, str], history: bytes) -> list[str]:
    """The outputs that are there but not whole; a history is whole after each epoch."""
    torn = [name for name, content in hash_outputs(project).items() if expected.get(name, content) != content]
    with suppress(FileNotFoundError):
        rows = (project / HISTORY).read_bytes()
        if rows.endswith(b"\n") and history.startswith(rows):
            torn = [name for name in torn if name != HISTORY]
    return [name for name in torn if name != "dvc.lock"]


def main() -> None:
    """Kill, compare, report; status 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    # A shell has what it starts in the background ignore SIGINT, and so would all that this starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    problems = disturb(Path(tempfile.mkdtemp()), options.kills, options.seed, options.processes)
    print(*problems, sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()

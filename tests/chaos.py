"""Kill real `dvc repro` runs at random moments, let the next one go on, and compare every output's bytes.

    make chaos                                          # 60 kills, about a quarter of an hour on two cores
    PYTHONPATH=tests python -m chaos --kills 12 --seed 7

Each round starts from a clean clone on a small archive of generated images, which a local server sends slowly. One to
three runs of a round are killed: by SIGINT, SIGTERM or SIGKILL, sent to dvc alone, to the stage alone or to the whole
group; in a stage, at a stage's very start, after some epochs of training, or within the checkpoint's own write. A run
after the death of dvc alone starts at once, beside the stage that may still be ending. The last run of a round is left
alone, and must end with the bytes of a run that was never disturbed: data, weights, metrics, tables, pictures and
dvc.lock.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import file_digest
from itertools import cycle
from pathlib import Path

import psutil
from project import Project, copy_project, environment
from unruly_server import UnrulyServer

from lenet_cifar10 import archive
from lenet_cifar10.drawings import draw_archive

STAGES = ("download", "prepare", "train", "evaluate", "figures", "card")
MOMENTS = ("epoch", "start", "checkpoint", "epoch", *STAGES, "epoch", "start")
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
VICTIMS = ("stage", "dvc", "group")
# Seconds within which a run is hit after the moment has come; for a stage about as long as it takes.
SPANS = {
    "start": 0.3,
    "download": 1.5,
    "prepare": 1.2,
    "train": 3.0,
    "epoch": 0.3,
    "checkpoint": 0.0,
    "evaluate": 1.5,
    "figures": 2.0,
    "card": 1.5,
}
EPOCHS = 20
SETTINGS = {
    "data.validation_size": 100,
    "train.epochs": EPOCHS,
    "train.batch_size": 50,
    "train.threads": 1,
    "figures.dpi": 50,
}


@dataclass
class Report:
    """What was done and what came of it."""

    rounds: int = 0
    kills: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # moment, signal, victim
    resumed: list[int] = field(default_factory=list)  # the epochs at which a run went on
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.kills.total()} kills in {self.rounds} rounds"]
        for position, name in enumerate(("in", "by", "sent to")):
            counts = Counter[str]()
            for kill, count in self.kills.items():
                counts[kill[position]] += count
            lines.append(f"  {name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
        epochs = ", ".join(f"{epoch} ({count})" for epoch, count in sorted(Counter(self.resumed).items()))
        lines.append(f"trainings resumed: {len(self.resumed)}, at epoch {epochs or '-'}")
        lines.append(f"mismatches and failures: {len(self.problems)}")
        return "\n".join([*lines, *self.problems])


class Run:
    """One `dvc repro` in a session of its own, and the lines that it has printed so far."""

    def __init__(self, project: Project) -> None:
        self.folder = project.folder
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=project.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def reaches(self, moment: str, chance: random.Random) -> bool:
        """Wait for a moment; False when the run ends without it."""
        stage = {"start": chance.choice(STAGES), "epoch": "train", "checkpoint": "train"}.get(moment, moment)
        sign = f"\nepoch {chance.randrange(1, EPOCHS)}/" if moment == "epoch" else f"Running stage '{stage}'"
        while self.process.poll() is None:
            if sign in self.text:
                if moment != "checkpoint":
                    return True
                if any(self.folder.glob(".resume/checkpoints/.*.checkpoint.part")):
                    return True
            time.sleep(0.0005 if moment == "checkpoint" else 0.01)
        return False

    def kill(self, number: signal.Signals, victim: str) -> bool:
        """Send the signal; False when the victim is no more."""
        try:
            if victim == "group":
                os.killpg(self.process.pid, number)
            elif victim == "dvc":
                self.process.send_signal(number)
            else:
                scripts = [
                    child
                    for child in psutil.Process(self.process.pid).children(recursive=True)
                    if any(word.startswith("stages/") for word in child.cmdline())
                ]
                scripts[-1].send_signal(number)
        except (ProcessLookupError, psutil.Error, IndexError):
            return False
        return True

    def wait(self) -> int:
        """The exit status of dvc. What it started may live on."""
        try:
            return self.process.wait(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def prepare(folder: Path) -> tuple[Project, bytes]:
    """A committed project on a small archive, and that archive."""
    path = folder / "archive.tar.gz"
    archive.write(path, draw_archive(train_count=2000, test_count=200, seed=0))
    place = folder / "project"
    place.mkdir()
    project = copy_project(place)
    with path.open("rb") as file:
        project.change_params({**SETTINGS, "data.sha256": file_digest(file, "sha256").hexdigest()})
    return project, path.read_bytes()


def clean(project: Project) -> None:
    """Make the project what a fresh clone is."""
    project.git("clean", "-ffdxq")
    project.git("restore", ".")


def hash_outputs(project: Project) -> dict[str, str]:
    """The SHA-256 of dvc.lock and of each file below data, metrics and plots."""
    paths = [project.folder / "dvc.lock"]
    for folder in ("data", "metrics", "plots"):
        paths += [path for path in sorted((project.folder / folder).rglob("*")) if path.is_file()]
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digests[str(path.relative_to(project.folder))] = file_digest(file, "sha256").hexdigest()
    return digests


def disturb(kills: int, seed: int, log: bool = True) -> Report:
    """Kill so many runs and compare what comes out in the end."""
    report, chance = Report(), random.Random(seed)
    moments = cycle(MOMENTS)
    with tempfile.TemporaryDirectory() as name:
        project, content = prepare(Path(name))
        with UnrulyServer(content, chunk_seconds=0.005).running() as server:
            project.change_params({"data.urls": [server.url]})
            project.commit("small data")
            if Run(project).wait() != 0:
                raise RuntimeError("the undisturbed run failed")
            expected = hash_outputs(project)
            while report.kills.total() < kills and len(report.problems) < 10:
                clean(project)
                report.rounds += 1
                for _ in range(chance.randint(1, 3)):
                    moment = next(moments)
                    # A stage that outlives dvc is what can go wrong at its start.
                    victim = "dvc" if moment == "start" else chance.choice(VICTIMS)
                    kill_one(project, moment, chance.choice(SIGNALS), victim, chance, report)
                last = Run(project)
                status = last.wait()
                last.reader.join(timeout=10)
                note_resumption(last, report)
                if status != 0:
                    report.problems.append(f"round {report.rounds}: the last run ended with {status}:\n{last.text}")
                elif differing := [
                    path for path, digest in hash_outputs(project).items() if expected.get(path) != digest
                ]:
                    report.problems.append(f"round {report.rounds}: other bytes in {', '.join(differing)}")
                elif missing := expected.keys() - hash_outputs(project).keys():
                    report.problems.append(f"round {report.rounds}: missing: {', '.join(sorted(missing))}")
                if log:
                    print(
                        f"round {report.rounds}: {report.kills.total()} kills, {len(report.problems)} problems",
                        flush=True,
                    )
    return report


def kill_one(
    project: Project, moment: str, number: signal.Signals, victim: str, chance: random.Random, report: Report
) -> None:
    """Start a run, kill it at the moment, and wait for the end of dvc."""
    run = Run(project)
    if run.reaches(moment, chance):
        time.sleep(chance.uniform(0, SPANS[moment]))
        if run.process.poll() is None and run.kill(number, victim):
            report.kills[moment, number.name, victim] += 1
    run.wait()
    note_resumption(run, report)
    if "Traceback" in run.text and "lenet_cifar10" in run.text:
        report.problems.append(
            f"round {report.rounds}: a traceback after {number.name} to {victim} in {moment}:\n{run.text}"
        )


def note_resumption(run: Run, report: Report) -> None:
    """Note the epoch at which the run's training went on, if it did."""
    report.resumed += [int(epoch) for epoch in re.findall(r"resuming at epoch (\d+)", run.text)]


def main() -> None:
    """Kill, compare, report; status 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = disturb(options.kills, options.seed)
    print(report)
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()

"""Kill real `dvc repro` runs at random moments, let the next one go on, and compare every output's bytes.

    make chaos                                        # some 150 kills, 60 of them of two processes that train together
    PYTHONPATH=tests python -m chaos --kills 12 --seed 7 --processes 2

Each round starts from a clean clone on a small archive of generated images, which a local server sends slowly. One to
six runs of a round are killed: by SIGINT, SIGTERM or SIGKILL, sent to dvc alone, to the stage alone or to the whole
group; in a stage, at a stage's very start, after some epochs of training, or within the checkpoint's own write. The
next run starts as soon as dvc has ended, beside whatever may still be ending. (SIGINT to dvc alone is left out: dvc
ignores it.)

With `--processes 2` two of three runs train under torchrun, the others alone, in an order that chance chooses: what the
one began the other goes on with. All kills are in training then, and the signal may also be sent to the process that
leads, to the other one, or to torchrun's agent. Kills of such runs alone are counted.

After each kill all processes of the run must have ended within a minute, none of them with a traceback of this
project's code; and no file of the training and no checkpoint may be half written, nor ever be another than in a run
that was never disturbed. The last run of a round is left alone, and must end with the bytes of such a run: data,
weights, metrics, tables, pictures and dvc.lock. Of one and of several processes these are the same, but for the
launcher that dvc.lock names: that is checked first. Left aside is a temporary file that a killed dvc may leave beside
an output, which Git ignores.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import psutil
from project import Project, copy_project, environment
from ruamel.yaml import YAML
from unruly_server import UnrulyServer

from lenet_cifar10 import archive
from lenet_cifar10.checkpoint import Checkpoints, hash_file
from lenet_cifar10.drawings import draw_archive
from lenet_cifar10.weights import MisfitError

STAGES = ("download", "prepare", "train", "evaluate", "figures", "card")
MOMENTS = ("epoch", "start", "checkpoint", "epoch", *STAGES, "epoch", "start")
MOMENTS_OF_TRAINING = ("epoch", "start", "checkpoint", "train")
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
# Seconds within which a run is hit after the moment has come; for a stage about as long as it takes.
SPANS = {
    "start": 0.3,
    "download": 1.5,
    "prepare": 1.2,
    "train": 4.0,
    "epoch": 0.3,
    "checkpoint": 0.0,
    "evaluate": 1.5,
    "figures": 2.0,
    "card": 1.5,
}
LIMIT_SECONDS = 60  # for the end of all processes of a run that was hit
EPOCHS = 20
SETTINGS = {
    "data.validation_size": 100,
    "train.epochs": EPOCHS,
    "train.batch_size": 50,
    "train.threads": 1,
    "figures.dpi": 50,
}
HISTORY = "plots/history.csv"
OF_TRAINING = ("data/model/lenet.safetensors", "metrics/train.json", "metrics/environment.json")
LEFT_BY_DVC = re.compile(r"(.*/)?\.[\w-]{22}\.tmp")  # as dvc_objects names what it has not yet put in its place
OWN_FRAME = re.compile(r'File "([^"]*/)?(lenet_cifar10|stages)/')  # in a traceback

Found = TypeVar("Found")


@dataclass(frozen=True)
class Hit:
    """A signal to a run of so many processes: when it comes, which one, and to whom."""

    processes: int
    moment: str
    signal: str
    victim: str

    def __str__(self) -> str:
        return f"{self.signal} to {self.victim} in {self.moment}, processes: {self.processes}"


@dataclass(frozen=True)
class Resumption:
    """The epoch at which a training went on, the processes that had trained before, and those that went on."""

    epoch: int
    before: int
    after: int


@dataclass
class Report:
    """What was done and what came of it."""

    rounds: int = 0
    kills: Counter[Hit] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # from each kill to the end of the last process of the run
    resumed: list[Resumption] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def kills_of(self, processes: int) -> int:
        """How many runs of so many processes were killed."""
        return sum(count for hit, count in self.kills.items() if hit.processes == processes)

    def __str__(self) -> str:
        lines = [f"{self.kills.total()} kills in {self.rounds} rounds"]
        for label, name in {"processes": "processes", "in": "moment", "by": "signal", "sent to": "victim"}.items():
            lines.append(f"  {label}: {_count(getattr(hit, name) for hit in self.kills.elements())}")
        seconds = self.seconds or [0.0]
        lines.append(
            f"all processes of a run ended after at most {max(seconds):.1f} s, "
            f"half of the runs' within {statistics.median(seconds):.1f} s"
        )
        lines.append(f"trainings resumed: {len(self.resumed)}")
        lines.append("  at epoch: " + _count(resumption.epoch for resumption in self.resumed))
        changes = (f"{resumption.before} -> {resumption.after}" for resumption in self.resumed)
        lines.append("  processes before -> after: " + _count(changes))
        lines.append(f"mismatches and failures: {len(self.problems)}")
        return "\n".join([*lines, *self.problems])


def _count(values: Iterable[object]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in sorted(Counter(values).items())) or "-"


@dataclass(frozen=True)
class Undisturbed:
    """What a run left that nobody had disturbed."""

    hashes: Mapping[str, str]
    history: bytes

    def find_torn(self, project: Project) -> list[str]:
        """The files of a training that are neither absent nor as they were after one of its epochs or its end."""
        torn = []
        for name in OF_TRAINING:
            with suppress(FileNotFoundError):
                if hash_file(project.folder / name) != self.hashes[name]:
                    torn.append(name)
        with suppress(FileNotFoundError):
            history = project.read(HISTORY)
            if not (history.endswith(b"\n") and self.history.startswith(history)):
                torn.append(HISTORY)
        for path in project.folder.glob(".resume/checkpoints/*.checkpoint"):
            try:
                Checkpoints(path.parent, path.stem).read()
            except MisfitError as error:
                torn.append(f"{path.name} {error}")
        return torn

    def find_differences(self, project: Project) -> list[str]:
        """The files that a finished run has left otherwise, or has not left, or should not have left."""
        names = {
            name for name, _ in hash_outputs(project).items() ^ self.hashes.items() if not LEFT_BY_DVC.fullmatch(name)
        }
        leftovers = {str(path.relative_to(project.folder)) for path in project.folder.rglob("*.part")}
        return sorted(names | leftovers)


@dataclass(frozen=True)
class Aftermath:
    """How long the last process of a run lived on after the kill, and which files were half written then."""

    seconds: float
    torn: list[str]


class Run:
    """One `dvc repro` in a session of its own, and the lines that it has printed so far."""

    def __init__(self, project: Project, processes: int) -> None:
        project.change_params({"train.launcher": name_launcher(processes)})
        self.folder = project.folder
        self.processes = processes
        self.lines: list[str] = []
        self.mark = os.urandom(8).hex()  # torchrun's workers are of other sessions, and those of the dead of no parent
        self.process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=project.folder,
            env=environment(CHAOS_RUN=self.mark),
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

    def reach(self, moment: str, victim: str, chance: random.Random) -> Callable[[int], None] | None:
        """Wait for a moment and for the victim -> what sends it a signal; None when the run ends before."""
        if moment in STAGES:
            stage = moment
        else:
            stage = chance.choice(STAGES) if moment == "start" and self.processes == 1 else "train"
        epochs = {"epoch": chance.randrange(1, EPOCHS // 2), "checkpoint": chance.randrange(EPOCHS // 2)}.get(moment, 0)
        sign = f"Running stage '{stage}'"
        if not self._wait_for(lambda: sign in self.text and self.text.count("\nepoch ") >= epochs):
            return None
        send = self._wait_for(lambda: self._find(victim))
        if moment == "checkpoint":
            parts = ".resume/checkpoints/.*.checkpoint.part"
            if not self._wait_for(lambda: any(self.folder.glob(parts)), look_seconds=0.0005):
                return None
        return send

    def _wait_for(self, look: Callable[[], Found], look_seconds: float = 0.01) -> Found | None:
        """What `look` finds at last; None when dvc ends before."""
        while self.process.poll() is None:
            if found := look():
                return found
            time.sleep(look_seconds)
        return None

    def _find(self, victim: str) -> Callable[[int], None] | None:
        if victim == "group":
            return partial(os.killpg, self.process.pid)
        if victim == "dvc":
            return self.process.send_signal
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if find_role(child) == victim:
                    return child.send_signal
        return None

    def wait(self) -> int:
        """The exit status of dvc. What it started may live on."""
        try:
            return self.process.wait(timeout=600)
        except subprocess.TimeoutExpired:
            self._end()
            raise

    def outlast(self) -> float:
        """Wait for the end of all its processes, and end them after `LIMIT_SECONDS` -> the seconds waited."""
        start = time.monotonic()
        while self.members():
            if time.monotonic() - start > LIMIT_SECONDS:
                self._end()
                break
            time.sleep(0.1)
        seconds = time.monotonic() - start
        self.reader.join()
        return seconds

    def members(self) -> list[psutil.Process]:
        """All its processes that have not ended."""
        return [process for process in psutil.process_iter() if self._has_started(process)]

    def _has_started(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("CHAOS_RUN") == self.mark
        except psutil.Error:  # it has ended, or is somebody else's
            return False

    def _end(self) -> None:
        for process in self.members():
            with suppress(psutil.Error):
                process.kill()


def name_launcher(processes: int) -> str:
    """The value of train.launcher."""
    return "python" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes}"


def find_role(process: psutil.Process) -> str | None:
    """Which victim a process of a run is: the stage, or of several processes the leader, a worker or the agent."""
    words = process.cmdline()
    if not any(word.startswith("stages/") for word in words):
        return None
    rank = process.environ().get("RANK")
    if rank is not None:
        return "leader" if rank == "0" else "worker"
    return "agent" if any(word.endswith("torchrun") for word in words) else "stage"


def draw_hit(moment: str, processes: int, chance: random.Random) -> Hit:
    """A hit at this moment."""
    if processes > 1:
        victim = chance.choice(("leader", "worker", "agent", "dvc", "group"))
    elif moment == "start":
        victim = "dvc"  # a stage that outlives dvc is what can go wrong at its start
    else:
        victim = chance.choice(("stage", "dvc", "group"))
    number = chance.choice([number for number in SIGNALS if (number, victim) != (signal.SIGINT, "dvc")])
    return Hit(processes, moment, number.name, victim)


def prepare(folder: Path, shards: int) -> tuple[Project, bytes]:
    """A committed project on a small archive, and that archive."""
    path = folder / "archive.tar.gz"
    archive.write(path, draw_archive(train_count=1000, test_count=200, seed=0))
    place = folder / "project"
    place.mkdir()
    project = copy_project(place)
    project.change_params({**SETTINGS, "train.shards": shards, "data.sha256": hash_file(path)})
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
    return {str(path.relative_to(project.folder)): hash_file(path) for path in paths}


@dataclass(frozen=True)
class Trial:
    """A run of a round, what hit it, if anything did, and what is found after the end of its last process."""

    run: Run
    hit: Hit | None
    aftermath: Future[Aftermath]


@dataclass
class Chaos:
    """Rounds of runs of one project, up to so many processes each, and what they have come to."""

    project: Project
    processes: int
    chance: random.Random
    pool: ThreadPoolExecutor
    report: Report = field(default_factory=Report)
    undisturbed: dict[int, Undisturbed] = field(default_factory=dict)  # by the number of processes

    def __post_init__(self) -> None:
        self.moments = cycle(MOMENTS if self.processes == 1 else MOMENTS_OF_TRAINING)

    def leave_alone(self) -> None:
        """See what undisturbed runs leave, and that it is the same for any number of processes."""
        locks = set()
        for processes in sorted({1, self.processes}):
            clean(self.project)
            run = Run(self.project, processes)
            if run.wait() != 0:
                raise RuntimeError(f"the undisturbed run failed, processes: {processes}:\n{run.text}")
            self.undisturbed[processes] = Undisturbed(hash_outputs(self.project), self.project.read(HISTORY))
            lock = json.dumps(YAML(typ="safe").load(self.project.read("dvc.lock")))
            locks.add(lock.replace(name_launcher(processes), name_launcher(1)))
        hashes = {json.dumps({**found.hashes, "dvc.lock": ""}) for found in self.undisturbed.values()}
        if len(hashes) > 1 or len(locks) > 1:
            self.report.problems.append("undisturbed runs of one and of several processes differ")

    def play_round(self) -> None:
        """Kill some runs, leave the last one alone, and compare."""
        clean(self.project)
        self.report.rounds += 1
        trials = [self._kill_one() for _ in range(self.chance.randint(1, 6))]
        last = self._start()
        status = last.wait()
        trials.append(Trial(last, None, self.pool.submit(self._follow, last)))
        self._judge(trials)
        if status != 0:
            self._complain(f"the last run ended with {status}", last)
        elif differing := self.undisturbed[last.processes].find_differences(self.project):
            self._complain(f"other bytes, missing or left over: {', '.join(differing)}", last)

    def _start(self) -> Run:
        return Run(self.project, self.chance.choice((1, self.processes, self.processes)))

    def _kill_one(self) -> Trial:
        """Start a run, hit it at the next moment if it comes, and wait for the end of dvc."""
        run = self._start()
        hit = draw_hit(next(self.moments), run.processes, self.chance)
        if self._strike(run, hit):
            self.report.kills[hit] += 1
        else:
            hit = None
            run.wait()
        aftermath = self.pool.submit(self._follow, run)
        run.wait()
        return Trial(run, hit, aftermath)

    def _strike(self, run: Run, hit: Hit) -> bool:
        """Send the signal at the moment; False when either never comes to be."""
        send = run.reach(hit.moment, hit.victim, self.chance)
        if send is None:
            return False
        time.sleep(self.chance.uniform(0, SPANS[hit.moment]))
        if run.process.poll() is not None:
            return False
        try:
            send(signal.Signals[hit.signal])
        except (ProcessLookupError, psutil.Error):
            return False
        return True

    def _follow(self, run: Run) -> Aftermath:
        seconds = run.outlast()
        return Aftermath(seconds, self.undisturbed[run.processes].find_torn(self.project))

    def _judge(self, trials: Sequence[Trial]) -> None:
        """Note what came of the runs of a round."""
        before = trials[0].run.processes
        for trial in trials:
            run, aftermath = trial.run, trial.aftermath.result()
            if trial.hit:
                self.report.seconds.append(aftermath.seconds)
            if aftermath.seconds > LIMIT_SECONDS:
                self._complain(f"processes were left after {LIMIT_SECONDS} s of {trial.hit}", run)
            if aftermath.torn:
                self._complain(f"half written after {trial.hit}: {', '.join(aftermath.torn)}", run)
            if OWN_FRAME.search(run.text):
                self._complain(f"a traceback after {trial.hit}", run)
            if resumed := re.search(r"resuming at epoch (\d+)", run.text):
                self.report.resumed.append(Resumption(int(resumed[1]), before, run.processes))
            if "\nepoch " in run.text:
                before = run.processes

    def _complain(self, words: str, run: Run) -> None:
        self.report.problems.append(f"round {self.report.rounds}: {words}:\n{run.text}")


def disturb(kills: int, seed: int, processes: int = 1, log: bool = True) -> Report:
    """Kill so many runs of so many processes and compare what comes out in the end."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        project, content = prepare(Path(name), shards=processes)
        with UnrulyServer(content, chunk_seconds=0.005).running() as server:
            project.change_params({"data.urls": [server.url]})
            project.commit("small data")
            chaos = Chaos(project, processes, random.Random(seed), pool)
            report = chaos.report
            chaos.leave_alone()
            while report.kills_of(processes) < kills and len(report.problems) < 10:
                chaos.play_round()
                if log:
                    print(
                        f"round {report.rounds}: {report.kills.total()} kills, {len(report.problems)} problems",
                        flush=True,
                    )
    return report


def main() -> None:
    """Kill, compare, report; status 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="that train together, in two runs of three")
    options = parser.parse_args()
    # A shell has what it starts in the background ignore SIGINT, and so would all that this starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report = disturb(options.kills, options.seed, options.processes)
    print(report)
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()

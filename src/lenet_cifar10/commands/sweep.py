"""Search for good parameters: each trial a whole DVC experiment, scored on the validation images."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from lenet_cifar10.experiments import Configuration, Stop
    from lenet_cifar10.search import Search

SCORE = ("metrics/train.json", "validation_accuracy")
PICTURES = Path("dvc_plots")
DATABASE = Path(".resume/sweeps.sqlite3")
SHOWN_TRIALS = 5


def sweep(
    trials: Annotated[int, typer.Option(help="How many trials the study is to have in all.", min=1, max=1_000_000)],
    workers: Annotated[int, typer.Option(help="Trials at the same time.", min=1, max=64)] = 1,
    study: Annotated[
        str | None,
        typer.Option(help=f"The database, as an SQLAlchemy URL; else {DATABASE}.", metavar="URL", show_default=False),
    ] = None,
    ranges: Annotated[Path | None, typer.Option(help="What is searched, and where; else sweep.yaml.")] = None,
    set_param: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="KEY=VALUE for a parameter, in every trial.", metavar="KEY=VALUE"),
    ] = None,
    grace: Annotated[
        int, typer.Option(help="Seconds without a sign of life after which a worker counts as dead.", min=2)
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print the study as JSON.")] = False,
) -> None:
    """Search the ranges of sweep.yaml for the parameters with the best validation accuracy.

    Optuna chooses the parameters of each trial, which is a whole DVC experiment in a copy. The test images have no
    say. The same command goes on where an earlier one was stopped. Other code, parameters or ranges are another study;
    another commit, device or version of a library alone is not.

    Several commands, also in several clones with one --study, share the trials. One that was stopped is taken up
    again, one whose worker died too, up to twice. A trial whose training failed counts as one and is not repeated; any
    other mistake, such as data that cannot be fetched, stops the command and leaves the trial for the next one.

    While an experiment starts DVC puts your changes aside for a moment: leave tracked files, git and dvc alone then,
    or run this in a clone of its own.

    Ends with 0, with 1 if no trial completed, with 130 or 143 when it is stopped.

    \b
    Examples:
      lenet-cifar10 sweep --trials 20
      lenet-cifar10 sweep --trials 100 --workers 2 --study postgresql://me@host/studies
    """
    from lenet_cifar10 import experiments, revisions, search  # here, for importing DVC and Optuna takes a second

    root = revisions.project_root()
    file = ranges or root / "sweep.yaml"
    space = search.read_space(file)
    overrides = _join(set_param or [], space.fixed, list(space.ranges), str(file))
    configuration = experiments.configure(root, overrides)
    if configuration.params.data.validation_size == 0:
        raise UserError(
            "data.validation_size: found 0, expected images held out to score trials on (the test images are not for "
            "choosing); set it to 5000, say"
        )
    search.check_space(space, configuration.params, str(file))
    if study is None:
        (root / DATABASE).parent.mkdir(exist_ok=True)
    url = study or f"sqlite:///{root / DATABASE}"
    storage = search.open_storage(url, grace)
    say: Callable[[str], None] = terminal.say_aside if as_json else terminal.say
    with search.answering_database_errors(url):
        found = search.Search(storage, f"sweep-{space.digest_of(configuration.digest)}", space, trials)
        say(f"study {found.name}: {len(found.finished())} of {trials} trials are finished")
        with experiments.resumable(lambda: len(found.finished()), trials, say) as stop:
            _work(root, configuration, found, workers, stop, say, as_json)
        _report(root, found, say, as_json)


def _join(set_param: list[str], fixed: dict[str, Any], searched: list[str], source: str) -> list[str]:
    """The overrides of every trial: those of the ranges file and of the command line, no parameter twice."""
    from lenet_cifar10 import experiments

    for override in set_param:
        if (key := experiments.key_of(override)) in [*fixed, *searched]:
            raise UserError(f"-S {override}: {source} has {key} too; leave one out, or --ranges another file")
    return [*(experiments.override_of(key, value) for key, value in fixed.items()), *set_param]


def _evaluate(
    root: Path,
    configuration: "Configuration",
    study: str,
    stop: "Stop",
    say: Callable[[str], None],
    values: dict[str, Any],
    trial: "Trial",
) -> float:
    """Have the experiment of a trial, and its score."""
    from lenet_cifar10 import experiments, results, revisions

    try:
        chosen = configuration.having(values)
    except UserError as error:  # each is right, but not beside the others
        raise experiments.FailedError(str(error)) from None
    name = f"{study}-{chosen.digest}"
    trial.set_user_attr("experiment", name)
    experiments.run(root, chosen, name, stop, say)
    path, key = SCORE
    return float(revisions.read_json(path, name, {key: results.FRACTIONS})[key])


def _work(
    root: Path,
    configuration: "Configuration",
    found: "Search",
    workers: int,
    stop: "Stop",
    say: Callable[[str], None],
    is_quiet: bool,
) -> None:
    """Run the trials that are left, so many at a time. The first mistake stops all workers."""
    from lenet_cifar10 import experiments, search

    evaluate = partial(_evaluate, root, configuration, found.name, stop, say)
    lock = threading.Lock()
    with nullcontext() if is_quiet else terminal.steps_bar() as bar:
        task = bar.add_task("trials", total=found.trials, completed=len(found.finished())) if bar else None

        def report(number: int) -> None:
            with lock:
                finished = found.finished()
                for trial in finished:
                    if trial.number == number:  # and not taken over by another worker
                        say(_line(trial, finished))
                if bar and task is not None:
                    bar.update(task, completed=len(finished))

        def work() -> None:
            try:
                one = search.Search(found.storage, found.name, found.space, found.trials)
                search.work(one, evaluate, stop, report)
            except BaseException:
                stop.end()
                raise

        with ThreadPoolExecutor(workers) as pool:
            ends = [future.exception() for future in [pool.submit(work) for _ in range(workers)]]
    mistakes = [end for end in ends if end and not isinstance(end, experiments.StoppedError)]
    for end in [*mistakes, *filter(None, ends)]:
        raise end


def _line(trial: "FrozenTrial", finished: "list[FrozenTrial]") -> str:
    """What a finished trial has come to."""
    from lenet_cifar10 import search

    if trial.value is None:
        return f"trial {trial.number}: failed: {search.failure_of(trial)}"
    best = search.rank(finished, 1)[0]
    told = f"validation accuracy {trial.value:.4f}, best {best.value:.4f} (trial {best.number})"
    return f"trial {trial.number}: {told}; {_values(trial)}"


def _name(trial: "FrozenTrial") -> str:
    """The experiment of a completed trial."""
    return trial.user_attrs["experiment"]


def _values(trial: "FrozenTrial") -> str:
    return ", ".join(f"{key}={_shown(value)}" for key, value in trial.params.items())


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _report(root: Path, found: "Search", say: Callable[[str], None], as_json: bool) -> None:
    """The best trials, how to apply the best, what mattered, as tables or JSON and as pictures."""
    from lenet_cifar10 import experiments, search

    finished = found.finished()
    best = search.rank(finished, SHOWN_TRIALS)
    failed = [trial for trial in finished if trial.value is None]
    if not best:
        reasons = [f"trial {trial.number}: {search.failure_of(trial)}" for trial in failed]
        advice = "choose other ranges, or more --trials to go on with these"
        raise UserError("\n".join([*reasons, f"study {found.name}: no trial completed; {advice}"]))
    shares = search.importance(found.study, len(finished) - len(failed))
    folder = root / PICTURES / found.name
    search.save(search.draw_history(finished, "validation accuracy"), folder / "history.png")
    if shares:
        search.save(search.draw_importance(shares), folder / "importance.png")
    if as_json:
        typer.echo(json.dumps(_as_json(found, finished, shares), indent=2))
        return
    # A column a trial: there may be many parameters. The names of the experiments differ in their ends alone.
    table = terminal.table(f"Best trials of {found.name}", "", *(f"trial {trial.number}" for trial in best))
    table.add_row("validation accuracy", *(terminal.show_figure(trial.value) for trial in best))
    table.add_row(
        f"{found.name}-...", *(_name(trial).removeprefix(f"{found.name}-") for trial in best), end_section=True
    )
    for key in found.space.ranges:
        table.add_row(key, *(_shown(trial.params[key]) for trial in best))
    terminal.console.print(table)
    if failed:
        say(f"{len(failed)} of {len(finished)} trials failed; {DATABASE.parent}/experiments/ has their output")
    if shares:
        say("importance: " + ", ".join(f"{key} {share:.2f}" for key, share in shares.items()))
    else:
        say(f"importance: too few trials, it takes {search.FEWEST_FOR_IMPORTANCE} that complete")
    say(f"pictures: {', '.join(sorted(str(path) for path in folder.glob('*.png')))}")
    name = _name(best[0])
    if name not in experiments.existing(root):
        ways = f"there dvc exp push origin {name}, here dvc exp pull origin {name}, with one DVC remote for both"
        say(f"{name} is not here: it was removed, or run in another clone ({ways})")
    say(f"apply the best: dvc exp apply {name}")


def _as_json(found: "Search", finished: "list[FrozenTrial]", shares: dict[str, float] | None) -> dict[str, Any]:
    from lenet_cifar10 import search

    return {
        "study": found.name,
        "best": _name(search.rank(finished, 1)[0]),
        "trials": [
            {
                "trial": trial.number,
                "experiment": trial.user_attrs.get("experiment"),
                "validation_accuracy": trial.value,
                "failure": search.failure_of(trial) if trial.value is None else None,
                "params": trial.params,
            }
            for trial in finished
        ],
        "importance": shares,
    }

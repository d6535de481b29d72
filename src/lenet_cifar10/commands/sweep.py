"""Search for good parameters: each trial is one DVC experiment, scored on the validation images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lenet_cifar10.common.console import console, say, show_figure, table
from lenet_cifar10.common.stage import UserError

if TYPE_CHECKING:
    from optuna import Study

DATABASE = Path(".checkpoints/optuna.db")
PICTURES = Path("dvc_plots")


def sweep(
    trials: Annotated[int, typer.Option(help="How many finished trials the study shall have.", min=1, max=1_000_000)],
    study: Annotated[
        str | None,
        typer.Option(help=f"The study's database, an SQLAlchemy URL; else {DATABASE}.", metavar="URL"),
    ] = None,
    ranges: Annotated[Path | None, typer.Option(help="What is searched; else sweep.yaml.")] = None,
    set_param: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="A parameter's value in every trial.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Search the ranges of sweep.yaml for the parameters with the best validation accuracy.

    Optuna chooses the parameters. Each trial is one DVC experiment, sweep-DIGEST; the digest is of code and
    parameters. The test images are not looked at. The same command continues where an earlier one was stopped; other
    code, parameters or ranges are another study. A trial whose training fails counts and is not repeated.

    A clone runs one trial at a time. For more, run the same command in several clones with one --study: they share the
    trials. A trial that is stopped is run again by the next command; one that is killed, 60 seconds later.

    While an experiment starts, DVC sets your changes aside for a moment: do not edit, and run neither git nor dvc.

    \b
    Examples:
      lenet-cifar10 sweep --trials 20
      lenet-cifar10 sweep --trials 100 --study postgresql://me@host/studies
    """
    from lenet_cifar10.experiments.revisions import project_root
    from lenet_cifar10.experiments.runs import Configuration, configure, list_experiments, measure, parse_settings
    from lenet_cifar10.experiments.sweep import open_study, read_space, run_trials

    root = project_root()
    space = read_space(ranges or root / "sweep.yaml", configure(root, parse_settings(set_param or [])))
    if space.base.params.data.validation_size == 0:
        raise UserError(
            "data.validation_size: found 0, expected images to score trials on (test images are not for choosing); "
            "set it to 5000, for example"
        )

    def run(configuration: Configuration) -> tuple[str, float]:
        name = f"sweep-{configuration.digest()}"
        return name, measure(root, configuration, name)["validation_accuracy"]

    (root / DATABASE).parent.mkdir(exist_ok=True)
    with open_study(study or f"sqlite:///{root / DATABASE}", space.study_name()) as found:
        run_trials(found, space, trials, run)
        _report(found, root, list_experiments(root))


def _report(study: "Study", root: Path, experiments: set[str]) -> None:
    """The five best trials, a column each, the pictures, and how to apply the best."""
    from lenet_cifar10.experiments.sweep import draw, rank

    best = rank(study)[:5]
    if not best:
        raise UserError(f"{study.study_name}: no trial completed; choose other ranges, or more trials")
    rows = table(f"Best trials of {study.study_name}", "", *(f"trial {trial.number}" for trial in best))
    rows.add_row("validation accuracy", *(show_figure(trial.value) for trial in best))
    rows.add_row("experiment", *(trial.user_attrs["experiment"] for trial in best), end_section=True)
    for key in best[0].params:
        values = (trial.params[key] for trial in best)
        rows.add_row(key, *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values))
    console.print(rows)
    say(f"pictures: {', '.join(str(path) for path in draw(study, root / PICTURES / study.study_name))}")
    name = best[0].user_attrs["experiment"]
    if name not in experiments:
        say(f"{name} is in another clone, or was removed; there: dvc exp push origin {name}, here: dvc exp pull ...")
    say(f"apply the best: dvc exp apply {name}")

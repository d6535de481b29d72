"""Write one page with the figures, charts and pictures of runs."""

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from lenet_cifar10.common.console import say
from lenet_cifar10.common.stage import Stopped, UserError

PAGE = "dvc_plots/report.html"  # beside DVC's own page, where Git ignores it
HISTORY, IMAGES = "plots/history.csv", "plots/images"
CURVES = "curves"  # the picture that shows what charts show
SECONDS = 3  # between two looks at the files, and between two loads of the page


def page(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(help="Commits, branches, tags, experiments or workspace; without them, the workspace."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help=f"The file to write; without it, {PAGE}.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again when a file changes, until Ctrl-C.")] = False,
) -> None:
    """Write one page with the figures, charts and pictures of a run, or of several side by side.

    The page is one file that needs no network: open it anywhere, send it to anyone. Its charts are those that
    dvc.yaml defines.

    With --watch the page is written again whenever a file of the workspace changes, and reloads itself every few
    seconds: curves grow while training runs.

    \b
    Examples:
      lenet-cifar10 page
      lenet-cifar10 page main calm workspace
      lenet-cifar10 page --watch
    """
    from lenet_cifar10.experiments.revisions import WORKSPACE, project_root

    names, root = list(dict.fromkeys(revisions or [WORKSPACE])), project_root()
    path = (output or root / PAGE).resolve()
    _write(path, names, SECONDS if watch else 0)
    say(path.as_uri())
    if watch:
        say("written again when a file changes, until Ctrl-C")
        try:
            _watch(root, path, names)
        except Stopped:  # the usual end, not an error
            _write(path, names)


def _watch(root: Path, path: Path, names: list[str]) -> None:
    seen: list[tuple[Path, int]] = []
    while True:
        try:
            files = [root / "params.yaml", root / "dvc.lock", *root.glob("metrics/*"), *root.glob("plots/**/*")]
            state = [(file, file.stat().st_mtime_ns) for file in files if file.exists()]
            if state != seen:
                seen = state
                _write(path, names, SECONDS)
        except (UserError, FileNotFoundError) as error:  # a file may change while it is read: the page stays
            say(f"waiting: {error}")
        time.sleep(SECONDS)


def _write(path: Path, names: list[str], refresh_seconds: int = 0) -> None:
    from lenet_cifar10.common.files import atomic_write
    from lenet_cifar10.experiments.revisions import differing_params, params_of_run, read_params, read_stages

    runs = [_describe(name) for name in names]
    # dvc.lock has the parameters of the results, params.yaml has those of a training that still runs.
    params = [
        read_params(name) | ({} if "Training" in run else params_of_run(read_stages(name)))
        for name, run in zip(names, runs, strict=True)
    ]
    shown = differing_params(params) if len(names) > 1 else {key: [value] for key, value in params[0].items()}
    charts, pictures = _draw(names)
    data = {run["Data"] for run in runs}
    html = render(
        "page.html",
        heading="LeNet" if len(data) > 1 or "not recorded" in str(data) else f"LeNet on {data.pop()}",
        names=names,
        facts={label: [run.get(label, "–") for run in runs] for label in dict.fromkeys(chain(*runs))},
        params={key: [_show_param(value) for value in values] for key, values in shown.items()},
        charts=charts,
        pictures=pictures,
        refresh_seconds=refresh_seconds,
    )
    atomic_write(path, html)


def _describe(name: str) -> dict[str, str]:
    """What the page says of a revision, by what it is called."""
    from lenet_cifar10.experiments.revisions import WORKSPACE, commit_of, describe_data, describe_device

    train, test = _read_json("metrics/train.json", name), _read_json("metrics/test.json", name)
    facts = {"Data": describe_data(name)}
    if commit := commit_of(name):
        facts = {"Commit": f"{'based on ' * (name == WORKSPACE)}{' of '.join(commit)}"} | facts
    if train:
        facts["Device"] = describe_device(name)
    else:  # it has not begun, or runs: then DVC has deleted its results, but not yet those of the later stages
        train = _last_epoch(name)
        facts["Training"] = f"epoch {train.pop('epoch'):g} so far" if train else "not begun"
        if test:
            facts["Training"] += "; test results are of an earlier run"
    for key, value in (test | train).items():
        if not key.endswith(("_low", "_high")):
            ends = [_show(key, test[end]) for end in (f"{key}_low", f"{key}_high") if end in test]
            facts[key.replace("_", " ").capitalize()] = _show(key, value) + (f" ({' to '.join(ends)})" if ends else "")
    return facts


def _read_json(path: str, revision: str) -> dict[str, Any]:
    from lenet_cifar10.common.files import parse_json
    from lenet_cifar10.experiments.revisions import MissingFileError, describe, read_file

    try:
        return parse_json(read_file(path, revision), describe(path, revision))
    except MissingFileError:
        return {}


def _last_epoch(revision: str) -> dict[str, Any]:
    """The last row of a history that still grows."""
    from lenet_cifar10.common.files import parse_table
    from lenet_cifar10.experiments.revisions import MissingFileError, describe, read_file

    try:
        history = parse_table(read_file(HISTORY, revision), describe(HISTORY, revision), ["epoch"])
    except MissingFileError:
        return {}
    return history.drop(columns="learning_rate", errors="ignore").iloc[-1].to_dict()


def _show_param(value: object) -> str:
    """A parameter's value as YAML has it; a dash where a revision has no such parameter."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _show(key: str, value: object) -> str:
    """Losses to four digits; other fractions as percentages."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if "loss" in key else f"{100 * value:.2f}\N{NO-BREAK SPACE}%"


def _draw(names: list[str]) -> tuple[dict[str, Any], dict[str, list[tuple[str, str]]]]:
    """The charts that DVC draws, in Vega-Lite by their titles, and its pictures of each revision by theirs.

    Raises:
        UserError: DVC cannot draw them, such as for a damaged table.
    """
    from lenet_cifar10.experiments.revisions import WORKSPACE, project_root

    # Without a second revision `diff` would take the workspace as well.
    words = ["show"] if names == [WORKSPACE] else ["diff", *(names if len(names) > 1 else names * 2)]
    charts, pictures = {}, defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dvc", "plots", *words, "--json", "--out", folder]
        result = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"dvc plots {' '.join(words)}: {' '.join(result.stderr.split())}")
        drawn = json.loads(result.stdout)
        for error in drawn.get("errors", []):
            if error["type"] != "FileNotFoundError" and error["name"] != IMAGES:  # a folder that is not there
                reason = " ".join(error["msg"].split())
                raise UserError(f"{error['name']} in {error['rev']}: {reason}; run dvc repro, or name another revision")
        for name, versions in drawn["data"].items():
            for version in versions:
                if version["type"] == "vega":
                    charts[version["content"].pop("title")["text"]] = version["content"]
                elif (stem := Path(name).stem) != CURVES:
                    content = base64.b64encode(Path(version["url"]).read_bytes()).decode()
                    pictures[stem.capitalize()].append((version["revisions"][0], f"data:image/png;base64,{content}"))
    return charts, pictures


@cache
def bundle() -> str:
    """Vega, Vega-Lite (the version that DVC writes for) and Vega-Embed as one script, 0.9 MB, made in three seconds."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version="5.20")


def render(template: str, **values: Any) -> str:
    """HTML from a template, with the program that draws charts; whatever the values hold is text in it, not markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("lenet_cifar10")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(bundle=bundle(), **values)

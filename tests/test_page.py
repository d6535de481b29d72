"""The page of lenet-cifar10 page, and dvc's own pages, as files and as a browser shows them."""

import csv
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import browser
import pytest
from playwright.sync_api import Browser
from project import Project, environment
from ruamel.yaml import YAML
from typer.testing import CliRunner

from lenet_cifar10.commands import app
from lenet_cifar10.commands.page import CAPTIONS, REFRESH_SECONDS
from lenet_cifar10.commands.page import _read as read_run
from lenet_cifar10.errors import UserError
from lenet_cifar10.page import Caption, Run, render
from lenet_cifar10.results import Answer

PAGE = "dvc_plots/report.html"
HOSTILE = ("</script><b>bold</b>", "a&b\"c'd", "<img src=x onerror=document.title=1>", "{{constructor}}", "$title")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser."""
    if browser.EXECUTABLE is None:
        pytest.skip(f"no browser to look at the pages with: none of {', '.join(browser.NAMES)} is on the path")
    with browser.start_browser() as started:
        yield started


@pytest.fixture(scope="module")
def pages(pipeline_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The four pages of a run and an experiment beside it."""
    folder = tmp_path_factory.mktemp("pages") / "project"
    shutil.copytree(pipeline_template, folder, symlinks=True)
    project = Project(folder)
    project.run("lenet-cifar10", "offline-plots")
    project.dvc("exp", "run", "--quiet", "--temp", "--name", "other", "-S", "train.epochs=3", "-S", "seed=5")
    made = {}
    for name, command in {
        "page": "lenet-cifar10 page",
        "page of two": "lenet-cifar10 page HEAD other",
        "dvc plots show": "dvc plots show",
        "dvc plots diff": "dvc plots diff HEAD other",
    }.items():
        address = re.search(r"file://(\S+)", project.run(*command.split()).text)
        assert address is not None
        # Pictures of dvc's pages lie beside them.
        shutil.move(Path(address[1]).parent, folder / name)
        made[name] = folder / name / Path(address[1]).name
    return made


@pytest.mark.parametrize(
    ("name", "charts", "pictures"),
    [("page", 6, 6), ("page of two", 7, 12), ("dvc plots show", 6, 6), ("dvc plots diff", 6, 12)],
)
def test_a_page_shows_everything_and_fetches_nothing(
    chromium: Browser, pages: dict[str, Path], name: str, charts: int, pictures: int
) -> None:
    for width in (1280, 400):
        for is_dark in (False, True):
            with browser.look_at(chromium, pages[name], width, is_dark) as look:
                marks = look.count_marks(".chart" if "page" in name else "main > div:not(:has(img))")
                assert len(marks) == charts
                assert min(marks) > 0, marks
                assert len(look.pictures()) == pictures
                assert min(look.pictures()) > 0
                assert look.overhang() <= 0, f"at {width} pixels"
                assert (look.requests, look.complaints) == ([], [])


@pytest.mark.parametrize("name", ["page", "dvc plots show"])
def test_a_page_follows_a_change_between_light_and_dark(chromium: Browser, pages: dict[str, Path], name: str) -> None:
    with browser.look_at(chromium, pages[name]) as look:
        label, ground = look.page.locator(".role-axis-label text").first, look.page.locator("body")
        before = [label.get_attribute("fill"), ground.evaluate("body => getComputedStyle(body).backgroundColor")]
        look.page.emulate_media(color_scheme="dark")
        look.page.locator(f".role-axis-label text:not([fill='{before[0]}'])").first.wait_for(state="attached")
        assert ground.evaluate("body => getComputedStyle(body).backgroundColor") != before[1]
        assert min(look.count_marks(".chart, main > div:not(:has(img))")) > 0


def test_a_pointer_on_a_curve_is_told_what_it_is_on(chromium: Browser, pages: dict[str, Path]) -> None:
    with browser.look_at(chromium, pages["page of two"]) as look:
        look.page.locator(".chart").first.hover()
        tip = look.page.locator("#vg-tooltip-element.visible")
        tip.wait_for()
        words = tip.inner_text().split("\n")
        assert [word for word in words if word][::2] == [
            "epoch", "HEAD, training", "HEAD, validation", "other, training", "other, validation",
        ]  # fmt: skip
        assert float([word for word in words if word][3]) > 0


def test_a_page_can_be_read_without_seeing_it(chromium: Browser, pages: dict[str, Path]) -> None:
    with browser.look_at(chromium, pages["page of two"]) as look:
        page = look.page
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.title() == "HEAD, other \N{MIDDLE DOT} LeNet on CIFAR-10"
        assert page.locator("h1").all_inner_texts() == ["HEAD and other"]
        assert page.locator("h2").all_inner_texts() == ["Training", "Test", "Pictures"]
        told = [chart.get_attribute("aria-label") or "" for chart in page.locator(".chart").all()]
        assert "Loss (cross-entropy) over 3 epochs" in told[0]
        assert all(len(words) > 30 for words in told)
        alternatives = [picture.get_attribute("alt") or "" for picture in page.locator("img").all()]
        assert len(set(alternatives)) == 12
        rows = page.locator("table tr").all_inner_texts()
        assert [row.split("\t") for row in rows if row.startswith(("seed", "train.epochs"))] == [
            ["seed", "0", "5"],
            ["train.epochs", "2", "3"],
        ]


def test_a_page_is_one_file_that_may_fetch_nothing(pages: dict[str, Path]) -> None:
    text = pages["page"].read_text(encoding="utf-8")
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'; script-src 'sha256-[\w+/=]{44}';", text)
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r"\bhref=|\burl\(|\bsrc=\"(?!data:image/png;base64,)", markup) == []
    assert "data-refresh=" not in text.partition("<head>")[0]


def hostile_run(name: str) -> Run:
    curves = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
    pairs = [(actual, predicted) for actual in HOSTILE for predicted in HOSTILE]
    return Run(
        name=name,
        params={"seed": HOSTILE[0], "train.epochs": 1},
        history=[{"epoch": 1, **dict.fromkeys(curves, 0.5)}],
        is_trained=True,
        test={"accuracy": 0.2, "loss": 1.5, "per_class": dict.fromkeys(HOSTILE, 0.2)},
        predictions=[Answer(index, *pair, 0.5) for index, pair in enumerate(pairs)],
        calibration=[{"confidence": 0.5, "accuracy": 0.2, "count": 25}],
        pictures={},
    )


@pytest.mark.parametrize("names", [HOSTILE[:1], HOSTILE])
def test_names_from_files_and_of_revisions_are_text_and_nothing_else(
    chromium: Browser, tmp_path: Path, names: tuple[str, ...]
) -> None:
    path = tmp_path / "page.html"
    path.write_text(render([hostile_run(name) for name in names], {}), encoding="utf-8")
    with browser.look_at(chromium, path) as look:
        assert look.page.locator("b, img").count() == 0
        assert look.page.title() == f"{', '.join(names)} \N{MIDDLE DOT} LeNet on CIFAR-10"
        labels = look.page.locator(".chart").nth(3).locator("text").all_text_contents()
        assert {"</script><b>bold</b>"[:8], "a&b\"c'd", "$title"} <= {label[:8] for label in labels}
        assert min(look.count_marks(".chart")) > 0
        assert (look.requests, look.complaints) == ([], [])


def test_what_is_not_there_yet_is_said_in_its_place(bare_project: Project, chromium: Browser) -> None:
    bare_project.run("lenet-cifar10", "page")
    with browser.look_at(chromium, bare_project.folder / PAGE) as look:
        assert "No epoch has ended yet" in look.page.locator("header").inner_text()
        cards = look.page.locator(".card").all_inner_texts()
        assert len(cards) == 6
        assert all("comes" in card for card in cards)
        assert look.page.locator(".chart").count() == 0
        assert look.complaints == []


def test_test_figures_of_an_earlier_training_are_not_shown(pipeline: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline.folder)
    assert read_run("workspace").test != {}
    # As DVC does before it runs train, after which the history grows.
    (pipeline.folder / "metrics/train.json").unlink()
    run = read_run("workspace")
    assert len(run.history) == 2
    assert (run.is_trained, run.test, run.predictions, run.calibration, run.pictures) == (False, {}, [], [], {})
    text = render([replace(run, params=dict(run.params) | {"train.epochs": 9})], {})
    assert "Epoch 2 of 9 so far" in text
    assert "It comes when the trained network has been evaluated." in text


def test_test_figures_of_other_weights_are_not_shown(pipeline: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.change_params({"seed": 3})
    pipeline.dvc("repro", "--quiet", "train")
    monkeypatch.chdir(pipeline.folder)
    run = read_run("workspace")
    assert (run.is_trained, run.test, run.pictures) == (True, {}, {})
    assert "Trained; not evaluated yet" in render([run], {})
    pipeline.dvc("repro", "--quiet", "evaluate")  # figures is stale now, evaluate is not
    run = read_run("workspace")
    assert len(run.predictions) == 100
    assert run.pictures == {}
    assert "not evaluated" not in render([run], {})


def test_fresh_results_are_shown_where_only_the_card_is_stale(
    pipeline: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    flips = YAML(typ="safe").load(pipeline.read("params.yaml"))["evaluate"]["test_time_flips"]
    pipeline.change_params({"evaluate.test_time_flips": not flips})
    pipeline.dvc("repro", "--quiet", "figures")
    assert "card:" in pipeline.dvc("status")
    monkeypatch.chdir(pipeline.folder)
    run = read_run("workspace")
    assert ("accuracy_with_flips" in run.test) == (not flips)
    assert sorted(run.pictures) == sorted(CAPTIONS)


def test_a_commit_has_what_the_workspace_had(pipeline: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline.folder / "src")
    workspace = read_run("workspace")
    shutil.rmtree(pipeline.folder / "plots")
    assert replace(read_run("HEAD"), name="workspace") == workspace
    assert sorted(workspace.pictures) == sorted(CAPTIONS)


def test_a_project_may_lie_in_a_folder_of_its_repository(
    pipeline: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(pipeline.folder / ".git")
    outer = Project(tmp_path / "outer")
    outer.folder.mkdir()
    shutil.move(pipeline.folder, outer.folder / "inner")
    outer.git("init", "--quiet")
    outer.commit("both")
    monkeypatch.chdir(outer.folder / "inner")
    assert replace(read_run("HEAD"), name="workspace") == read_run("workspace")
    assert read_run("HEAD").test != {}


def test_parameters_are_those_that_a_run_had(pipeline: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.change_params({"seed": 3})
    monkeypatch.chdir(pipeline.folder)
    assert read_run("workspace").params["seed"] == 0


def test_a_picture_that_all_runs_share_stands_there_once() -> None:
    run = replace(hostile_run("one"), pictures={"a.png": b"same", "b.png": b"first"})
    other = replace(run, name="two", pictures={"a.png": b"same", "b.png": b"second"})
    text = render([run, other], {"b.png": Caption("Above", "All above")})
    assert re.findall(r'<img alt="([^"]+)"', text) == ["All above, one", "All above, two", "The picture a.png"]
    assert "The same in all runs." in text


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("plots/history.csv", "epoch\n1\n", "is damaged (it lacks the column train_loss)"),
        ("plots/history.csv", "", "is damaged (it lacks the column epoch)"),
        ("plots/predictions.csv", "index,actual,predicted,confidence\n0,cat\n", "(row 1 has 2 cells, expected 4)"),
        ("plots/calibration.csv", "confidence,accuracy,count\n0.5,nan,3\n", "holds 'nan'"),
        ("plots/calibration.csv", "confidence,accuracy,count\n0.5,\N{SNOWMAN},3\n", "holds '\N{SNOWMAN}'"),
        ("metrics/test.json", "{", "is not JSON"),
        ("metrics/test.json", '{"accuracy": "high", "loss": 1}', "accuracy: found 'high', expected a number"),
        ("metrics/test.json", '{"accuracy": true, "loss": 1}', "accuracy: found True, expected a number"),
        ("metrics/test.json", '{"accuracy": NaN, "loss": 1}', "accuracy: found nan, expected a number"),
    ],
)
def test_a_damaged_file_is_named_and_the_page_stays(pipeline: Project, path: str, content: str, words: str) -> None:
    (pipeline.folder / "dvc_plots").mkdir()
    (pipeline.folder / PAGE).write_text("as it was")
    (pipeline.folder / path).write_text(content, encoding="utf-8")
    result = pipeline.run("lenet-cifar10", "page", check=False)
    assert result.status == 1
    assert result.text.startswith(f"error: {path}: ")
    assert words in result.text
    assert result.text.endswith("; run dvc repro, or name a revision that is whole\n")
    assert result.text.count("\n") == 1
    assert (pipeline.folder / PAGE).read_text() == "as it was"


def test_a_damaged_file_of_a_commit_is_named_with_it(pipeline: Project) -> None:
    (pipeline.folder / "plots/history.csv").write_bytes(b"epoch\n\xff\n")
    pipeline.commit("damaged")
    result = pipeline.run("lenet-cifar10", "page", "HEAD", "HEAD~1", check=False)
    assert result.status == 1
    assert result.text.startswith("error: plots/history.csv in HEAD: is damaged")


def test_revisions_that_are_not_there_or_too_many_are_told(pipeline: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline.folder)
    for words, told in (
        (["nowhere"], "nowhere: is no commit, branch, tag or experiment"),
        ([*"ABCDEFG"], "found 7 revisions, expected 6 at most, for so many colours can be told apart; name fewer"),
        (["HEAD", "main", "--watch"], "--watch: nothing of HEAD, main changes; name workspace as well, or leave"),
    ):
        result = CliRunner().invoke(app, ["page", *words])
        assert isinstance(result.exception, UserError)
        assert told in str(result.exception)
    assert not (pipeline.folder / PAGE).exists()


def test_a_watched_page_changes_in_an_open_browser(pipeline: Project, chromium: Browser) -> None:
    history = pipeline.folder / "plots/history.csv"
    (pipeline.folder / "metrics/train.json").unlink()
    rows = list(csv.reader(history.open(newline="")))
    watch = subprocess.Popen(
        ["lenet-cifar10", "page", "--watch"],
        cwd=pipeline.folder,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("file://")
        with browser.look_at(chromium, pipeline.folder / PAGE) as look:
            status = look.page.locator(".status")
            assert status.inner_text() == "Epoch 2 of 2 so far"
            look.page.locator("details").evaluate("part => part.open = true")
            look.page.evaluate("window.scrollTo(0, 400)")
            before = look.count_marks(".chart")
            # A file that is half there is waited for.
            history.write_text("epoch,train_loss\n3")
            waiting = ""
            while "plots/history.csv: is damaged" not in waiting:
                waiting = watch.stdout.readline()
                assert waiting, "the watch has ended"
            with history.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([*rows, ["3", *rows[-1][1:]]])
            look.page.locator(".status", has_text="Epoch 3 of").wait_for(timeout=browser.PATIENCE)
            look.wait_until_drawn()
            assert all(now > then for now, then in zip(look.count_marks(".chart"), before, strict=True))
            assert look.page.evaluate("window.scrollY") == 400
            assert look.page.locator("details").evaluate("part => part.open")
            # Everything goes, as when DVC starts the stages anew.
            shutil.rmtree(pipeline.folder / "plots")
            look.page.locator(".status", has_text="No epoch").wait_for(timeout=browser.PATIENCE)
            assert (look.requests, look.complaints) == ([], [])
        assert f'data-refresh="{REFRESH_SECONDS}"' in pipeline.read(PAGE).decode()[:100]
        watch.send_signal(signal.SIGINT)
        rest = watch.communicate(timeout=60)[0]
        assert watch.returncode == 0, rest
        assert "written a last time" in rest
        assert "data-refresh" not in pipeline.read(PAGE).decode()[:100]
    finally:
        watch.kill()


def test_a_watch_that_is_terminated_leaves_a_page_that_does_not_load_itself_again(pipeline: Project) -> None:
    watch = subprocess.Popen(
        ["lenet-cifar10", "page", "--watch"],
        cwd=pipeline.folder,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("file://")
        assert "data-refresh" in pipeline.read(PAGE).decode()[:100]
        watch.terminate()
        rest = watch.communicate(timeout=60)[0]
        assert watch.returncode == 143, rest
        assert "data-refresh" not in pipeline.read(PAGE).decode()[:100]
    finally:
        watch.kill()


def test_without_setup_dvc_writes_its_own_page(pipeline: Project) -> None:
    assert not (pipeline.folder / ".dvc/config.local").exists()
    pipeline.dvc("plots", "show")
    assert "vega-embed@" in (pipeline.folder / "dvc_plots/index.html").read_text(encoding="utf-8")


def test_offline_plots_can_be_repeated_and_keeps_other_settings(bare_project: Project) -> None:
    bare_project.dvc("config", "--local", "core.autostage", "true")
    bare_project.run("lenet-cifar10", "offline-plots")
    template = bare_project.read(".dvc/plots.html")
    (bare_project.folder / ".dvc/plots.html").unlink()
    bare_project.run("lenet-cifar10", "offline-plots")
    assert bare_project.read(".dvc/plots.html") == template
    assert bare_project.dvc("config", "--local", "--list").split() == [
        "core.autostage=true",
        "plots.html_template=plots.html",
    ]
    assert bare_project.git("status", "--porcelain") == ""
    for placeholder in (b"{plot_divs}", b"{refresh_tag}"):
        assert template.count(placeholder) == 1
    assert b"{scripts}" not in template  # DVC puts addresses there


def test_offline_plots_leaves_a_template_of_one_s_own(bare_project: Project) -> None:
    (bare_project.folder / ".dvc/mine.html").write_text("{plot_divs}")
    bare_project.dvc("config", "--local", "plots.html_template", "mine.html")
    assert "left as it is" in bare_project.run("lenet-cifar10", "offline-plots").text
    assert bare_project.dvc("config", "--local", "plots.html_template").strip() == "mine.html"
    assert not (bare_project.folder / ".dvc/plots.html").exists()


def test_a_template_that_cannot_be_written_is_not_named(bare_project: Project) -> None:
    (bare_project.folder / ".dvc/.plots.html.part").mkdir()
    result = bare_project.run("lenet-cifar10", "offline-plots", check=False)
    assert result.status == 1
    assert result.text.startswith("error: ")
    assert "Traceback" not in result.text
    assert not (bare_project.folder / ".dvc/config.local").exists()


def test_a_broken_configuration_is_told(bare_project: Project) -> None:
    (bare_project.folder / ".dvc/config.local").write_text("[plots\n")
    result = bare_project.run("lenet-cifar10", "offline-plots", check=False)
    assert result.status == 1
    assert result.text.startswith("error: DVC cannot read its configuration")

"""`lenet-cifar10 page`: what its page says and shows, in a browser and as text."""

import csv
import json
import re
import shutil
import signal
import sys
from contextlib import chdir
from pathlib import Path

import browser
import pytest
from playwright.sync_api import Browser
from project import SOURCE, change_params, commit, run, start, wait_for_line
from typer.testing import CliRunner

from lenet_cifar10.commands import app
from lenet_cifar10.common.stage import UserError

PATH = str(SOURCE / "src")
HOSTILE = "</script><b>bold</b><img src=x onerror=document.title=1>{{ 7 * 7 }}"


def write_page(folder: Path, *words: str) -> Path:
    """Call page in this process; the page that it wrote."""
    with chdir(folder):
        result = CliRunner().invoke(app, ["page", *words], catch_exceptions=False)
    return Path(result.stdout.strip().removeprefix("file://"))


def text_of(path: Path) -> str:
    """A page without its script, styles, charts and tags."""
    html = re.sub(r"(?s)<(script|style).*?</\1>", "", path.read_text(encoding="utf-8"))
    return " ".join(re.sub("<[^>]+>", " ", html).split())  # a no-break space becomes a space


@pytest.fixture(scope="module")
def two_runs(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline and a commit after it, `bare`, that has other results, no dvc.lock, and nothing in the cache."""
    folder = Path(shutil.copytree(pipeline, tmp_path_factory.mktemp("pages") / "project", symlinks=True))
    test = json.loads((folder / "metrics/test.json").read_text())
    (folder / "metrics/test.json").write_text(json.dumps(test | {"test_accuracy": 0.875}))
    change_params(folder, {"seed": 12})
    run(folder, "git", "rm", "--quiet", "dvc.lock")
    commit(folder, "without dvc.lock")
    run(folder, "git", "tag", "bare")
    shutil.rmtree(folder / ".dvc/cache")
    shutil.rmtree(folder / "data/model")
    return folder


@pytest.mark.parametrize("revisions", [["HEAD~1"], ["HEAD~1", "bare"]])
def test_a_page_shows_everything_at_every_width_and_asks_for_nothing(
    chromium: Browser, two_runs: Path, tmp_path: Path, revisions: list[str]
) -> None:
    path = write_page(two_runs, *revisions, "--output", str(tmp_path / "page.html"))
    assert path == tmp_path / "page.html"
    for width, is_dark in ((1280, False), (400, True)):
        with browser.open_page(chromium, path, 6, width, is_dark) as opened:
            assert len(opened.count_marks()) == 6
            widths = opened.page.evaluate("[...document.images].map(image => image.naturalWidth)")
            assert len(widths) == 3 * len(revisions)
            assert min(widths) > 0
            assert opened.overhang() <= 0, f"at {width} pixels"
            assert (opened.requests, opened.errors) == ([], [])
            ground = opened.page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
            assert (ground == "rgb(15, 18, 22)") == is_dark


def test_a_page_of_one_run_says_what_it_shows(two_runs: Path) -> None:
    path = write_page(two_runs, "HEAD~1")
    assert path == two_runs / "dvc_plots/report.html"
    text = text_of(path)
    assert text.startswith("LeNet on generated images: HEAD~1 LeNet on generated images Results HEAD~1 Commit ")
    short, date = run(two_runs, "git", "log", "-1", "--format=%h %cs", "HEAD~1").stdout.split()
    assert f"Commit {short} of {date} Data generated images Device device not recorded, see metrics/README.md" in text
    test = json.loads(run(two_runs, "git", "show", "HEAD~1:metrics/test.json").stdout)
    accuracy, low, high = (f"{100 * test[f'test_accuracy{end}']:.2f} %" for end in ("", "_low", "_high"))
    assert f"Test accuracy {accuracy} ({low} to {high})" in text
    assert "train.batch_size 50" in text


def test_a_page_of_two_runs_compares_them(two_runs: Path) -> None:
    text = text_of(write_page(two_runs, "HEAD~1", "bare"))
    assert "Data generated images data not recorded, see metrics/README.md Device" in text
    assert "87.50 %" in text
    assert "Parameters that differ HEAD~1 bare seed 0 12 Loss" in text
    assert "CIFAR-10" not in text


def test_without_git_the_workspace_has_a_page(project_copy: Path) -> None:
    shutil.rmtree(project_copy / ".git")
    text = text_of(write_page(project_copy))
    assert "Data generated images" in text
    assert "Commit" not in text


def test_what_runs_hold_is_text_and_nothing_else(chromium: Browser, project_copy: Path) -> None:
    for path in ("plots/per_class.csv", "plots/predictions.csv"):
        table = list(csv.reader((project_copy / path).read_text().splitlines()))
        with (project_copy / path).open("w", newline="") as file:
            csv.writer(file).writerows([[HOSTILE if cell == "ring" else cell for cell in row] for row in table])
    change_params(project_copy, {"train.schedule": HOSTILE})
    (project_copy / "dvc.lock").unlink()
    with browser.open_page(chromium, write_page(project_copy), 6) as opened:
        assert opened.page.locator("b, img[onerror]").count() == 0
        assert opened.page.title().startswith("LeNet")
        labels = opened.page.locator(".chart").nth(4).locator("text").all_text_contents()
        assert any(label.startswith("</script>") for label in labels)
        assert HOSTILE in opened.page.locator("table").last.inner_text()
        assert (opened.requests, opened.errors) == ([], [])


def test_a_damaged_table_is_named_and_the_page_stays(project_copy: Path) -> None:
    (project_copy / "dvc_plots").mkdir()
    (project_copy / "dvc_plots/report.html").write_text("as it was")
    (project_copy / "plots/history.csv").write_text("epoch\n1\n")
    with pytest.raises(UserError, match=r"^Loss in workspace: .*; run dvc repro, or name another revision$"):
        write_page(project_copy)
    assert (project_copy / "dvc_plots/report.html").read_text() == "as it was"


def test_an_unknown_revision_is_refused(project_copy: Path) -> None:
    with pytest.raises(UserError, match=r"^nowhere: is no commit, branch, tag or experiment"):
        write_page(project_copy, "nowhere")
    assert not (project_copy / "dvc_plots").exists()


def test_a_watched_page_grows_in_an_open_browser(chromium: Browser, project_copy: Path) -> None:
    history = project_copy / "plots/history.csv"
    rows = history.read_text().splitlines(keepends=True)
    for name in ("metrics/train.json", "data/model", "plots/history.csv"):  # as dvc does before it runs train
        run(project_copy, "rm", "-r", name)
    watch = start(project_copy, sys.executable, "-m", "lenet_cifar10.commands", "page", "--watch", PYTHONPATH=PATH)
    try:
        wait_for_line(watch, "written again")
        path = project_copy / "dvc_plots/report.html"
        with browser.open_page(chromium, path, 3) as opened:
            assert "not begun; test results are of an earlier run" in opened.page.locator("table").first.inner_text()
            opened.page.evaluate("window.scrollTo(0, 300)")
            history.write_text("".join(rows[:5]))
            opened.page.locator("td", has_text="epoch 4 so far").wait_for(timeout=1000 * browser.PATIENCE_SECONDS)
            opened.page.locator(".chart").nth(5).locator("svg").wait_for(timeout=1000 * browser.PATIENCE_SECONDS)
            opened.page.wait_for_timeout(500)
            assert opened.page.evaluate("window.scrollY") == 300
            assert (opened.requests, opened.errors) == ([], [])
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=100) == 0
        assert "seconds = 0;" in path.read_text()
    finally:
        watch.kill()

"""`lenet-cifar10 page`: what its page says and shows, in a browser and as text."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import browser
import pytest
from playwright.sync_api import Browser
from project import SOURCE, change_params, commit, environment, run
from typer.testing import CliRunner

from lenet_cifar10.commands import app
from lenet_cifar10.common.stage import UserError

HOSTILE = "</script><b>bold</b><img src=x onerror=document.title=1>{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser."""
    if browser.EXECUTABLE is None:
        pytest.skip(f"no browser to open the pages with: none of {', '.join(browser.NAMES)} is on the path")
    with browser.start_browser() as started:
        yield started


def write_page(folder: Path, *words: str) -> Path:
    """Call page in this process; the page that it wrote."""
    with chdir(folder):
        result = CliRunner().invoke(app, ["page", *words], catch_exceptions=False)
    return Path(result.stdout.strip().removeprefix("file://"))


def text_of(path: Path) -> str:
    """A page without its script, styles, charts and tags."""
    html = re.sub(r"(?s)<(script|style).*?</\1>", "", path.read_text(encoding="utf-8"))
    return " ".join(re.sub("<[^>]+>", " ", html).split())


def heading_of(path: Path) -> str:
    match = re.search("<h1>(.*)</h1>", path.read_text(encoding="utf-8"))
    assert match
    return match[1]


def charts_of(path: Path) -> list[str]:
    return re.findall('aria-label="([^"]+)"', path.read_text(encoding="utf-8"))


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
    html = path.read_text(encoding="utf-8")
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'; script-src 'sha256-[\w+/=]{44}';", html)
    for width in (1280, 400):
        for is_dark in (False, True):
            with browser.open_page(chromium, path, width, is_dark) as opened:
                marks = opened.count_marks()
                assert len(marks) == 6
                assert min(marks) > 0, marks
                widths = opened.page.evaluate("[...document.images].map(image => image.naturalWidth)")
                assert len(widths) == 3 * len(revisions)
                assert min(widths) > 0
                assert opened.overhang() <= 0, f"at {width} pixels"
                assert (opened.requests, opened.errors) == ([], [])
                ground = opened.page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
                assert (ground == "rgb(15, 18, 22)") == is_dark


def test_a_pointer_on_a_curve_reads_it(chromium: Browser, two_runs: Path, tmp_path: Path) -> None:
    path = write_page(two_runs, "HEAD~1", "bare", "--output", str(tmp_path / "page.html"))
    with browser.open_page(chromium, path) as opened:
        opened.page.locator(".chart").first.hover()
        tip = opened.page.locator("#vg-tooltip-element.visible")
        tip.wait_for()
        assert "HEAD~1::train_loss" in tip.inner_text()


def test_a_page_of_one_run_says_what_it_shows(two_runs: Path) -> None:
    path = write_page(two_runs, "HEAD~1")
    assert path == two_runs / "dvc_plots/report.html"
    short, date = run(two_runs, "git", "log", "-1", "--format=%h %cs", "HEAD~1").stdout.split()
    assert heading_of(path) == "LeNet on generated images"
    assert f"<title>LeNet on generated images · HEAD~1 ({short} of {date})</title>" in path.read_text()
    text = text_of(path)
    test = json.loads(run(two_runs, "git", "show", "HEAD~1:metrics/test.json").stdout)
    low, high = (f"{100 * test[f'test_accuracy_{end}']:.2f} %" for end in ("low", "high"))
    assert f"Test accuracy {100 * test['test_accuracy']:.2f} % {low} to {high}" in text.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "train.batch_size 50" in text


def test_a_page_of_two_runs_compares_them(two_runs: Path) -> None:
    text = text_of(write_page(two_runs, "HEAD~1", "bare"))
    assert "generated images" in text
    assert "bare · " in text
    assert "data not recorded, see metrics/README.md · device not recorded, see metrics/README.md" in text
    assert "87.50 %" in text
    assert text.split("Parameters that differ")[1].split("Charts")[0].split() == ["seed", "0", "12"]
    assert "CIFAR-10" not in text


def test_what_runs_hold_is_text_and_nothing_else(chromium: Browser, project_copy: Path) -> None:
    for path in ("plots/per_class.csv", "plots/predictions.csv"):
        table = list(csv.reader((project_copy / path).read_text().splitlines()))
        with (project_copy / path).open("w", newline="") as file:
            csv.writer(file).writerows([[HOSTILE if cell == "ring" else cell for cell in row] for row in table])
    change_params(project_copy, {"train.schedule": HOSTILE})
    (project_copy / "dvc.lock").unlink()
    with browser.open_page(chromium, write_page(project_copy)) as opened:
        assert opened.page.locator("b:not(.runs b), img[onerror]").count() == 0
        assert opened.page.title().startswith("LeNet")
        labels = opened.page.locator(".chart").nth(4).locator("text").all_text_contents()
        assert any(label.startswith("</script>") for label in labels)
        opened.page.locator("summary").click()
        assert HOSTILE in opened.page.locator("details").inner_text()
        assert (opened.requests, opened.errors) == ([], [])


def test_before_and_during_training_a_page_shows_what_there_is(chromium: Browser, project_copy: Path) -> None:
    for name in ("metrics/train.json", "data/model"):  # as dvc does before it runs train
        run(project_copy, "rm", "-r", name)
    history = (project_copy / "plots/history.csv").read_text().splitlines(keepends=True)
    (project_copy / "plots/history.csv").write_text("".join(history[:2]))
    path = write_page(project_copy)
    text = text_of(path)
    assert "epoch 1 of 6 so far" in text
    assert "Validation accuracy" in text
    assert "Test accuracy" not in text
    with browser.open_page(chromium, path) as opened:
        assert opened.page.locator("h3").all_inner_texts() == ["Loss (cross-entropy)", "Accuracy", "Learning rate"]
        assert min(opened.count_marks()) > 0
        assert opened.errors == []
    (project_copy / "plots/history.csv").unlink()
    path = write_page(project_copy)
    assert "not trained yet" in text_of(path)
    assert charts_of(path) == []


def test_test_figures_of_other_weights_are_not_shown(project_copy: Path) -> None:
    assert len(charts_of(write_page(project_copy))) == 6
    lock = (project_copy / "dvc.lock").read_text()
    entry = re.search(r"path: data/model/lenet.safetensors\n +hash: md5\n +md5: (\w+)", lock)
    assert entry
    (project_copy / "dvc.lock").write_text(lock.replace(entry[1], "f" * 32, 1))  # as after dvc repro train
    path = write_page(project_copy)
    assert "trained, not evaluated yet" in text_of(path)
    assert "Test accuracy" not in text_of(path)
    assert len(charts_of(path)) == 3
    assert 'src="data:image' not in path.read_text()


@pytest.mark.parametrize("content", ["epoch\n1\n", "epoch,train_loss\n\udcff,2\n"])
def test_a_damaged_table_is_named_and_the_page_stays(project_copy: Path, content: str) -> None:
    (project_copy / "dvc_plots").mkdir()
    (project_copy / "dvc_plots/report.html").write_text("as it was")
    (project_copy / "plots/history.csv").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=r"^Loss in workspace: .*; run dvc repro, or name another revision$"):
        write_page(project_copy)
    assert (project_copy / "dvc_plots/report.html").read_text() == "as it was"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: is no commit, branch, tag or experiment"),
        ([*"ABCDEFG"], "found 7 revisions, expected at most 6, a colour each; name fewer"),
        (["HEAD", "--watch"], "--watch: HEAD never change; name workspace too"),
    ],
)
def test_wrong_revisions_are_refused(project_copy: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        write_page(project_copy, *words)
    assert not (project_copy / "dvc_plots").exists()


def test_a_watched_page_changes_in_an_open_browser(chromium: Browser, project_copy: Path) -> None:
    (project_copy / "metrics/train.json").unlink()
    history = project_copy / "plots/history.csv"
    rows = history.read_text().splitlines(keepends=True)
    history.write_text("".join(rows[:3]))
    watch = subprocess.Popen(
        [sys.executable, "-m", "lenet_cifar10.commands", "page", "--watch"],
        cwd=project_copy,
        env=environment(PYTHONPATH=str(SOURCE / "src"), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("file://")
        assert watch.stdout.readline().startswith("written")
        with browser.open_page(chromium, project_copy / "dvc_plots/report.html") as opened:
            assert opened.page.locator(".state").inner_text() == "epoch 2 of 6 so far"
            opened.page.locator("details").evaluate("part => part.open = true")
            opened.page.evaluate("window.scrollTo(0, 300)")
            history.write_text("".join(rows[:5]))
            opened.page.locator(".state", has_text="epoch 4 of 6").wait_for(timeout=browser.PATIENCE)
            opened.wait_until_drawn()
            assert opened.page.evaluate("window.scrollY") == 300
            assert opened.page.locator("details").evaluate("part => part.open")
            assert (opened.requests, opened.errors) == ([], [])
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=100)
        assert watch.returncode == 0
        assert "data-refresh" not in (project_copy / "dvc_plots/report.html").read_text()[:100]
    finally:
        watch.kill()

"""`lenet-cifar10 offline-plots`: the template that DVC then uses, and whose choice it respects."""

from contextlib import chdir
from pathlib import Path

import browser
import pytest
from project import run
from typer.testing import CliRunner

from lenet_cifar10.commands import app
from lenet_cifar10.common.stage import UserError


def call(folder: Path) -> str:
    with chdir(folder):
        return CliRunner().invoke(app, ["offline-plots"], catch_exceptions=False).output


def test_dvc_s_own_pages_need_no_network(project_copy: Path) -> None:
    if browser.EXECUTABLE is None:
        pytest.skip(f"no browser to open the pages with: none of {', '.join(browser.NAMES)} is on the path")
    run(project_copy, "dvc", "plots", "show")
    assert "https://cdn" in (project_copy / "dvc_plots/index.html").read_text()
    call(project_copy)
    assert run(project_copy, "git", "status", "--porcelain").stdout == ""
    with browser.start_browser() as chromium:
        for command in ("show", "diff HEAD workspace"):
            run(project_copy, "dvc", "plots", *command.split())
            with browser.open_page(chromium, project_copy / "dvc_plots/index.html", 400) as opened:
                assert len(opened.count_marks()) == 6
                assert min(opened.count_marks()) > 0
                assert opened.page.locator("img").count() >= 6
                assert opened.overhang() <= 0
                assert (opened.requests, opened.errors) == ([], [])


def test_it_can_be_repeated_and_keeps_other_settings(project_copy: Path) -> None:
    run(project_copy, "dvc", "config", "--local", "core.autostage", "true")
    call(project_copy)
    template = (project_copy / ".dvc/plots.html").read_bytes()
    (project_copy / ".dvc/plots.html").unlink()
    call(project_copy)
    assert (project_copy / ".dvc/plots.html").read_bytes() == template
    settings = run(project_copy, "dvc", "config", "--local", "--list").stdout.split()
    assert settings == ["core.autostage=true", "plots.html_template=plots.html"]


def test_a_template_of_one_s_own_stays(project_copy: Path) -> None:
    (project_copy / ".dvc/mine.html").write_text("{plot_divs}")
    run(project_copy, "dvc", "config", "--local", "plots.html_template", "mine.html")
    assert "left as it is: plots.html_template is mine.html" in call(project_copy)
    assert run(project_copy, "dvc", "config", "--local", "plots.html_template").stdout.strip() == "mine.html"
    assert not (project_copy / ".dvc/plots.html").exists()


def test_a_template_that_cannot_be_written_is_not_named(project_copy: Path) -> None:
    (project_copy / ".dvc/plots.html").mkdir()
    with pytest.raises(OSError, match=r"plots\.html"):
        call(project_copy)
    assert not (project_copy / ".dvc/config.local").exists()


def test_a_broken_configuration_is_named(project_copy: Path) -> None:
    (project_copy / ".dvc/config.local").write_text("[plots\n")
    with pytest.raises(UserError, match=r"^dvc config: .*; fix \.dvc/config or"):
        call(project_copy)

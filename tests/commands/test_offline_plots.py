"""`lenet-cifar10 offline-plots`: the template that DVC then uses."""

from contextlib import chdir
from pathlib import Path

import pytest
from browser import open_page
from playwright.sync_api import Browser
from project import run
from typer.testing import CliRunner

from lenet_cifar10.commands import app
from lenet_cifar10.common.stage import UserError


def call(folder: Path) -> None:
    with chdir(folder):
        CliRunner().invoke(app, ["offline-plots"], catch_exceptions=False)


def test_dvc_s_own_pages_need_no_network(chromium: Browser, project_copy: Path) -> None:
    run(project_copy, "dvc", "config", "--local", "core.autostage", "true")
    run(project_copy, "dvc", "plots", "show")
    assert "https://cdn" in (project_copy / "dvc_plots/index.html").read_text()
    call(project_copy)
    call(project_copy)
    assert run(project_copy, "git", "status", "--porcelain").stdout == ""
    settings = run(project_copy, "dvc", "config", "--local", "--list").stdout.split()
    assert settings == ["core.autostage=true", "plots.html_template=plots.html"]
    for command in ("show", "diff HEAD workspace"):
        run(project_copy, "dvc", "plots", *command.split())
        with open_page(chromium, project_copy / "dvc_plots/index.html", charts=6) as opened:
            assert opened.page.locator("img").count() >= 4
            assert (opened.requests, opened.errors) == ([], [])


def test_a_template_of_one_s_own_stays(project_copy: Path) -> None:
    run(project_copy, "dvc", "config", "plots.html_template", "mine.html")
    call(project_copy)
    assert run(project_copy, "dvc", "config", "plots.html_template").stdout == "mine.html\n"
    assert not (project_copy / ".dvc/plots.html").exists()


def test_a_broken_configuration_is_named(project_copy: Path) -> None:
    (project_copy / ".dvc/config.local").write_text("[plots\n")
    with pytest.raises(UserError, match=r"^dvc config: .*; fix \.dvc/config or"):
        call(project_copy)

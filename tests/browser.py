"""A headless browser that opens pages of ours, and notes what a page asks for and complains about."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next((path for name in NAMES if (path := shutil.which(name))), None)
PATIENCE_SECONDS = 120

# The marks of Vega's drawings that stand for data, rather than for axes and legends.
_COUNT_MARKS = """charts => charts.map(chart => [
    ".mark-symbol.role-mark path", ".mark-line path", ".mark-rect.role-mark path",
].map(marks => chart.querySelectorAll(marks).length).reduce((sum, count) => sum + count))"""


@dataclass
class OpenPage:
    """An open page, the addresses outside of itself that it asked for, and the errors on its console."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def note_request(self, address: str) -> None:
        if not address.startswith(("file:", "data:")):
            self.requests.append(address)

    def count_marks(self) -> list[int]:
        """How many marks that stand for data are drawn in each chart."""
        return self.page.eval_on_selector_all(".vega-embed", _COUNT_MARKS)

    def overhang(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Start the browser that is installed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def open_page(
    browser: Browser, path: Path, charts: int, width: int = 1280, is_dark: bool = False
) -> Iterator[OpenPage]:
    """Open a page from its file, as people do, and wait until so many charts have marks."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if is_dark else "light")
    opened = OpenPage(context.new_page())
    opened.page.on("request", lambda request: opened.note_request(request.url))
    opened.page.on("console", lambda message: opened.errors.append(message.text) if message.type == "error" else None)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.goto(path.as_uri())
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(marks := opened.count_marks()) < charts or 0 in marks:
        assert time.monotonic() < deadline, f"{marks} marks in {charts} charts; {opened.errors}"
        opened.page.wait_for_timeout(100)
    yield opened
    context.close()

"""A headless browser that looks at pages of ours, and notes what a page asks for and complains about."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 120_000  # milliseconds

# The marks of Vega's drawings that stand for data, rather than for axes and legends.
_COUNT_MARKS = """charts => charts.map(chart => [
    ".mark-symbol.role-mark path", ".mark-line path", ".mark-rect.role-mark path", ".mark-text.role-mark text",
].map(marks => chart.querySelectorAll(marks).length).reduce((sum, count) => sum + count))"""


@dataclass
class Look:
    """An open page, the addresses that it asked for outside of files and itself, and its complaints."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def wait_until_drawn(self) -> None:
        """Wait for the last chart: by an element, for the page's policy lets no words of ours be run as a script."""
        self.page.locator("html[data-state=drawn]").wait_for(state="attached", timeout=PATIENCE)

    def count_marks(self, selector: str) -> list[int]:
        """How many marks that stand for data are drawn in each element found."""
        return self.page.eval_on_selector_all(selector, _COUNT_MARKS)

    def pictures(self) -> list[int]:
        """The width of each picture in its own pixels; 0 if it has not loaded."""
        return self.page.evaluate("[...document.images].map(image => image.naturalWidth)")

    def overhang(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Start the browser that is installed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def look_at(browser: Browser, path: Path, width: int = 1280, is_dark: bool = False) -> Iterator[Look]:
    """Open a page from its file, as people do, and wait until nothing more is drawn."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if is_dark else "light")
    page = context.new_page()
    look = Look(page)

    def note_request(address: str) -> None:
        if not address.startswith(("file:", "data:")):
            look.requests.append(address)

    def note_words(kind: str, words: str) -> None:
        if kind == "error":
            look.complaints.append(words)

    page.on("request", lambda request: note_request(request.url))
    page.on("console", lambda message: note_words(message.type, message.text))
    page.on("pageerror", lambda error: note_words("error", str(error)))
    page.goto(path.as_uri())
    look.wait_until_drawn()
    yield look
    context.close()

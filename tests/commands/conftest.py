"""What tests of commands share: a browser."""

from collections.abc import Iterator

import browser
import pytest
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser."""
    if browser.EXECUTABLE is None:
        pytest.skip(f"no browser to open the pages with: none of {', '.join(browser.NAMES)} is on the path")
    with browser.start_browser() as started:
        yield started

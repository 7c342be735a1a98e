"""One Chromium for all browser tests; each page records what it asked for and complained of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# Runs before the page: any way for its text to execute code or to speak is written down.
TRAPS = """
window.__hits = [];
for (const name of ["alert", "confirm", "prompt", "open", "fetch"])
  window[name] = (...args) => { window.__hits.push(name); };
document.addEventListener("securitypolicyviolation",
  (event) => window.__hits.push("csp " + event.violatedDirective + " " + event.blockedURI));
"""


@dataclass
class Visit:
    """An open page and what was observed of it."""

    page: Any
    """Playwright's page."""
    requests: list[str] = field(default_factory=list)
    """Every address asked for, the page's own first."""
    refused: list[str] = field(default_factory=list)
    """Addresses that the page's own policy stopped before they left."""
    complaints: list[str] = field(default_factory=list)
    """Console messages, page errors and dialogs."""

    def draw_all(self) -> int:
        """Scroll every figure into view and wait until it is drawn; returns their number."""
        figures = self.page.locator(".figure")
        for index in range(figures.count()):
            figures.nth(index).scroll_into_view_if_needed()
            self.page.locator(f"#f{index + 1}[data-state=drawn]").wait_for(timeout=30_000)
        return figures.count()

    def hits(self) -> list[str]:
        """What fell into the traps."""
        return self.page.evaluate("window.__hits")


Open = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser(chromium_path: str) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: install [dev]")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def visits(browser: Any) -> Iterator[Open]:
    """`visits(path, width=, scripts=)` opens a file, offline."""
    contexts = []

    def open_page(path: Path, width: int = 1280, scripts: bool = True) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, java_script_enabled=scripts
        )
        contexts.append(context)
        seen = Visit(context.new_page())
        if scripts:
            context.add_init_script(TRAPS)
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on(
            "requestfailed",
            lambda request: seen.refused.append(request.url) if request.failure == "csp" else None,
        )
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("dialog", lambda dialog: seen.complaints.append("dialog " + dialog.message))
        seen.page.goto(path.as_uri())
        return seen

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def visit(visits: Open) -> Open:
    """The same, for tests that open a page of their own."""
    return visits

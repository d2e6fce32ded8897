"""A real Chromium, Debian's, and what a page may not do in it: log an error, open a dialog, ask anybody else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "google-chrome", "chromium-browser")
GRAVE = ("serious", "critical")


def chromium_path() -> str:
    """Where Chromium is: the variable CHROMIUM, or a name on the PATH. A test without one fails, it does not skip."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "no Chromium: `make browser` installs it (as root, on Debian), or set CHROMIUM to its path"
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, for some tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        yield browser
        browser.close()


class Reader:
    """Somebody at the pages: opens them, and keeps what they did that no page may do."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.address = address
        self.context: BrowserContext = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("console", lambda said: said.type == "error" and self.wrong.append(f"console {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(self.address):
            self.wrong.append(f"asked {request.url}")

    def open(self, path: str) -> Page:
        """The page at a path, loaded."""
        self.page.goto(self.address + path)
        return self.page

    def press(self, text: str) -> None:
        """Come to a link or button by the Tab key alone, and press Enter."""
        for _ in range(200):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("document.activeElement.innerText") == text:
                with self.page.expect_navigation():
                    self.page.keyboard.press("Enter")
                return
        raise AssertionError(f"the Tab key never came to {text!r} on {self.page.title()!r}")

    def barriers(self, scheme: str) -> list[str]:
        """What axe finds on this page that is serious or critical; in the dark of the colours, which alone differ."""
        options = {"runOnly": ["color-contrast"]} if scheme == "dark" else None
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found
            if each["impact"] in GRAVE
            for node in each["nodes"]
        ]

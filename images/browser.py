"""The browser that shows the report, for the README's picture and for the tests."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# As root in a container, and without asking anybody on the network for updates.
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def launch_browser(playwright: "Playwright") -> "Browser | None":
    """Start the machine's Chromium or Chrome, or else Playwright's own; None where there is none."""
    own = Path(playwright.chromium.executable_path)
    path = next(filter(None, map(shutil.which, NAMES)), own if own.exists() else None)
    return path and playwright.chromium.launch(executable_path=path, args=_FLAGS)

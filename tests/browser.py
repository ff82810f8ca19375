"""A real Chromium, driven by its own driver."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.programs import lacking, need

AXE = Path(__file__).parent / "browser_npm" / "node_modules" / "axe-core" / "axe.min.js"

Scheme = Literal["light", "dark"]

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One window of Chromium, and all that its page said and asked for."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._messages: list[dict[str, Any]] = []

    def size(self, width: int, height: int = 900, *, scale: float = 1.0) -> None:
        """Make the page this wide, also where a window could not be."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False},
        )

    def prefers(self, scheme: Scheme, *, motion: bool = False) -> None:
        """Make the reader one who likes light or dark."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "no-preference" if motion else "reduce"},
        ]
        self._command("Emulation.setEmulatedMedia", {"features": features})

    def scripts(self, *, run: bool) -> None:
        """Switch JavaScript on or off, for the pages that are opened from now on."""
        self._command("Emulation.setScriptExecutionDisabled", {"value": not run})

    def offline(self, cut: bool) -> None:
        """Cut the browser off the network, or connect it again."""
        self._command("Network.enable", {})
        self._command(
            "Network.emulateNetworkConditions",
            {"offline": cut, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )

    def open(self, address: str) -> None:
        """Open a page, and forget what the one before said."""
        self.driver.get("about:blank")
        self._messages.clear()
        for kind in ("browser", "performance"):
            self._log(kind)
        self.driver.get(address)

    def run(self, script: str, *arguments: object) -> Any:
        """Return what a script returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Return the text of the first element that ``selector`` finds, as it is shown; empty where nothing is."""
        found = self.run(
            "const e = document.querySelector(arguments[0]); return e && e.checkVisibility() ? e.innerText : ''",
            selector,
        )
        return str(found)

    def complaints(self) -> list[str]:
        """Return the errors and warnings in the page's console since it was opened."""
        return [str(entry["message"]) for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """Return the address of everything that was asked for since the page was opened."""
        for entry in self._log("performance"):
            message: dict[str, Any] = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._messages.append(message)
        return [str(message["params"]["request"]["url"]) for message in self._messages]

    def axe(self) -> list[str]:
        """Return what axe-core finds wrong with the page."""
        if not AXE.exists():
            lacking("no axe-core: run npm ci in tests/browser_npm")
        if not self.run("return 'axe' in window"):
            self._command("Runtime.evaluate", {"expression": AXE.read_text()})
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then("
            "result => done(result.violations.map(each => each.id + ': ' + each.help + ': ' + "
            "each.nodes.slice(0, 4).map(node => node.html + ' ' + node.failureSummary).join(' | '))))"
        )
        return [str(each) for each in found]

    def picture(self, *, whole: bool = True) -> bytes:
        """Return the page as it looks, as PNG."""
        taken = self._command("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        return base64.b64decode(taken["data"])

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def _command(self, name: str, parameters: dict[str, object]) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)


@contextmanager
def browser(*more: str) -> Iterator[Browser]:
    """Run one Chromium with a profile of its own; nothing of it is left behind."""
    need("chromium", "chromium")
    need("chromedriver", "chromium-driver")
    folder = tempfile.mkdtemp(prefix="fw-browser-")
    try:
        options = Options()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*_FLAGS, f"--user-data-dir={folder}", *more):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.set_page_load_timeout(60)
            driver.set_script_timeout(60)
            yield Browser(driver)
        finally:
            driver.quit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""A headless Chromium, a page of 300 layers, and what the page asked for or complained about."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.page import big_report

from sepify.report.render import save
from sepify.report.report import compare_reports

AXE = Path(__file__).parent / "axe-core.tgz"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


class Browser:
    """A page in a window of a given size, in the light or the dark scheme."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Load `page`; the logs before it are dropped."""
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(page.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """What the script returns."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since `open`."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since `open`."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def screenshot(self, path: Path) -> None:
        """The whole page, however long."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        asked = {"captureBeyondViewport": True, "clip": clip}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and its driver are not installed: `make test-browser` installs them")
    selenium = pytest.importorskip("selenium.webdriver", reason="pip install 'sepify[browser]'")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    # no sandbox: it cannot be had as root in a container, and the pages are ours
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(DRIVER)
    driver = selenium.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    big_report().save(path)
    return path


@pytest.fixture(scope="session")
def comparison_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three reports side by side, as `sepify report a.json b.json c.json` saves them."""
    folder = tmp_path_factory.mktemp("comparison")
    for name in ("rank1", "rank2", "a-variant-with-a-rather-long-name"):
        big_report().save(folder / f"{name}.report.json")
    save(compare_reports(sorted(folder.glob("*.json"))), folder / "all.html")
    return folder / "all.html"


@pytest.fixture
def keep() -> Callable[[str], Path]:
    """Where an artefact is kept: SEPIFY_ARTEFACTS, or artefacts/ in the working folder."""
    folder = Path(os.environ.get("SEPIFY_ARTEFACTS", "artefacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: folder / name


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, as npm packs it."""
    if not AXE.is_file():
        pytest.skip(f"{AXE.name} is not there: `make test-browser` fetches it with npm")
    with tarfile.open(AXE) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode("utf-8")

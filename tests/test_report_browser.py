"""``report.html`` in a browser: opened from disk, sorted, searched, samples opened, at a phone's width
and in the dark, by keyboard too. Needs Chromium and its driver (Debian's chromium, chromium-driver).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rr_bench.report import write_report
from tests.fabricate import FULL, RR, open_cell, record

selenium = pytest.importorskip("selenium", reason="needs the package selenium")

from selenium.webdriver import Chrome, ChromeOptions  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the PATH"
)

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1200,1000",
)
PICTURES = os.environ.get("RR_BENCH_SCREENSHOTS")
"""Folder that screenshots go to, for people who look at them."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    profile = tmp_path_factory.mktemp("profile")
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    driver.get("about:blank")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of 2 methods, 8 lengths, and 3 samples each: the first sparse one fails at half of the
    lengths, the last has three graded questions.
    """
    out = tmp_path_factory.mktemp("store")
    for step in range(1, 9):
        for method, answers in ((FULL, ["7 it is", "7"]), (RR, ["7 is it", "7"])):
            bits = "111" if method is FULL else "101"
            with open_cell(out, method, length=1024 * step) as cell:
                for uid, text in enumerate(answers):
                    score = 0.0 if text == "7 is it" and step > 4 else 1.0
                    head = "Find the number.\nIt is 7." if method is FULL else ""
                    made = {"output": text, "density": 0.3, "prompt_head": head}
                    cell.append(record(str(uid), score, length=1024 * step, **made))
                graded = {"output": bits, "questions": 3, "golds": ["a", "b", "c"]}
                cell.append(record("2", 1.0, length=1024 * step, **graded))
                cell.finish(3)
    write_report(out)
    return (out / "report.html").as_uri()


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    """The page, newly opened; at the end nothing may be on the console, and nothing was asked for."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get("about:blank")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    assert requests(browser) <= {"about:blank", address}


def requests(browser: Chrome) -> set[str]:
    messages = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return {one["request"]["url"] for one in sent if not one["request"]["url"].startswith("data:")}


def column(page: Chrome, name: str) -> list[str]:
    """Visible texts of a column of the table of cells."""
    heads = [one.text for one in page.find_elements(By.CSS_SELECTOR, "#table-1 th")]
    place = next(i for i, head in enumerate(heads, 1) if head.split()[0] == name)
    cells = page.find_elements(By.CSS_SELECTOR, f"#table-1 tbody td:nth-child({place})")
    return [cell.text for cell in cells if cell.is_displayed()]


def until(page: Chrome, done: Callable[[], object]) -> None:
    """Wait for what the page does after it was told to go somewhere."""
    WebDriverWait(page, 10).until(lambda _: done())


def head(page: Chrome, name: str) -> Any:
    return page.find_element(By.XPATH, f"//table[@id='table-1']//th/button[text()='{name}']")


def look(page: Chrome, name: str, width: int = 1200, dark: bool = False) -> None:
    """Set width and colours; keep a picture where one is wanted."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        page.save_screenshot(str(Path(PICTURES) / f"{name}.png"))


def test_tables_sort_by_number_and_word_and_filter(page):
    lengths = [f"{step}K" for step in range(1, 9) for _ in range(2)]
    head(page, "length").click()
    assert column(page, "length") == lengths
    head(page, "length").click()
    assert column(page, "length") == lengths[::-1]
    head(page, "recovery").click()
    values = column(page, "recovery")
    assert values[:8] == ["66.7 (0–100)"] * 4 + ["100.0 (100–100)"] * 4 and values[8:] == ["–"] * 8
    head(page, "method").click()
    assert column(page, "method") == ["full"] * 8 + ["rr(tau=0.95)"] * 8
    page.find_element(By.CSS_SELECTOR, "input[data-filters='table-1']").send_keys("rr 8k")
    assert column(page, "method") == ["rr(tau=0.95)"]
    look(page, "sorted")


def test_a_row_leads_to_its_samples_and_back(page):
    page.find_element(By.CSS_SELECTOR, "input[data-filters='table-1']").send_keys("rr 8k")
    page.find_element(By.CSS_SELECTOR, "#table-1 tbody tr:not([hidden]) a").click()
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, ".sample"))
    samples = page.find_elements(By.CSS_SELECTOR, ".sample")
    assert [sample.text.split("\n")[0] for sample in samples] == ["0", "1", "2"]
    assert "differs from dense at character 4" in samples[0].text
    assert "output as dense" in samples[1].text
    assert "1 question of 3 differ, first 2" in samples[2].text
    samples[0].find_element(By.TAG_NAME, "summary").click()
    until(page, lambda: samples[0].find_elements(By.CSS_SELECTOR, "dd.text"))
    shown = samples[0].find_elements(By.CSS_SELECTOR, "dd.text")
    assert [one.text for one in shown] == ["Find the number.\nIt is 7.", "7", "7 is it", "7 it is"]
    marks = samples[0].find_elements(By.TAG_NAME, "mark")
    assert [mark.text for mark in marks] == ["s it", "t is"]
    samples[2].find_element(By.TAG_NAME, "summary").click()
    until(page, lambda: samples[2].find_elements(By.TAG_NAME, "mark"))
    marks = samples[2].find_elements(By.TAG_NAME, "mark")
    assert [mark.text for mark in marks] == ["0", "1"]
    look(page, "sample")
    page.back()
    page.find_element(By.CSS_SELECTOR, "#cell option:nth-child(2)").click()
    assert len(page.find_elements(By.CSS_SELECTOR, ".sample")) == 3


def test_a_keyboard_is_enough(page):
    button = head(page, "length")
    page.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    link = page.find_element(By.CSS_SELECTOR, "#table-1 tbody a")
    link.send_keys(Keys.ENTER)
    until(page, lambda: page.switch_to.active_element.get_attribute("id") == "samples-title")
    # The choice of a cell comes next, then the samples.
    for _ in range(2):
        page.switch_to.active_element.send_keys(Keys.TAB)
    summary = page.switch_to.active_element
    assert summary.tag_name == "summary"
    summary.send_keys(Keys.SPACE)
    assert page.find_element(By.CSS_SELECTOR, ".sample").get_attribute("open") is not None


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling_and_the_dark_is_dark(page, dark):
    page.find_element(By.CSS_SELECTOR, "#table-1 tbody a").click()
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, ".sample"))
    for width in (360, 1200):
        look(page, f"{'dark' if dark else 'light'}-{width}", width, dark)
        wide, seen = (
            page.execute_script(f"return document.documentElement.{name}")
            for name in ("scrollWidth", "clientWidth")
        )
        assert wide == seen
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    text = page.execute_script("return getComputedStyle(document.body).color")
    levels = [int(one.strip("rgb()").split(",")[0]) for one in (ground, text)]
    assert (levels[0] < 60 and levels[1] > 200) if dark else (levels[0] > 240 and levels[1] < 60)


def test_every_figure_is_drawn(page):
    boxes = page.find_elements(By.CSS_SELECTOR, "#figures svg")
    assert boxes and all(box.size["width"] > 200 and box.size["height"] > 100 for box in boxes)
    markers = page.find_elements(By.CSS_SELECTOR, "#figures use")
    assert any(one.size["width"] > 0 for one in markers)

"""The notebook in JupyterLab, driven through a real browser as a reader would.

Skipped where Chromium and its driver (Debian's packages chromium and chromium-driver) are missing.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_notebook import SMALL, tagged, with_parameters

import nst_helpers as nst

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromium-driver is not installed"),
]
NAME = "neural_style_transfer.ipynb"


def lay_out(folder, **values):
    """A copy of the project to work in: the notebook with these parameters, outputs of its own.

    Of the cells that only teach, which other tests run, it keeps the panel.
    """
    nb = nbformat.read(ROOT / NAME, as_version=4)
    teaching = [nb.cells[index] for index in tagged(nb, "teaching")]
    nb.cells = [cell for cell in nb.cells if cell not in teaching or "show_panel" in cell.source]
    (parameters,) = tagged(nb, "parameters")
    nb.cells[parameters].source = with_parameters(nb.cells[parameters].source, values)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(nb, folder / NAME)
    shutil.copy(ROOT / "nst_helpers.py", folder)
    shutil.copytree(ROOT / "images", folder / "images")
    (folder / "weights").symlink_to(ROOT / "weights")
    for name, settings in (
        ("notebook-extension/tracker", {"windowingMode": "none"}),  # every cell in the page
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
    ):
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    return folder


class Lab:
    """JupyterLab with the notebook open in headless Chromium."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        closed = "http://127.0.0.1:9"  # a proxy that refuses: no download of weights succeeds
        environment = {**os.environ, "https_proxy": closed, "KERAS_HOME": str(folder / "keras")}
        options = [
            "--allow-root", "--no-browser", f"--port={self.port}", "--IdentityProvider.token=",
            "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}",
            f"--LabApp.user_settings_dir={folder / 'settings'}",
        ]  # fmt: skip
        log = (folder / "server.log").open("w")
        self.server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            self._wait(self._answers, 60, "JupyterLab to answer")
            self.driver = self._browser()
        except BaseException:
            self.server.kill()
            raise

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _browser(self):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in (
            "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
            "disable-background-networking", "disable-component-update", "disable-sync", "disable-quic",
            "window-size=1500,1100", f"user-data-dir={self.folder / 'profile'}",
        ):  # fmt: skip
            options.add_argument(f"--{option}")
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def close(self):
        self.driver.quit()
        self.server.terminate()
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()

    def _wait(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except Exception as error:  # the page is changing under the query
                last = error
            else:
                last = None
            time.sleep(0.3)
        raise AssertionError(f"Waited {seconds} s for {what}; {last or ''}")

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def find(self, xpath, seconds=30):
        """The first visible element of an XPath, waited for."""
        from selenium.webdriver.common.by import By

        return self._wait(
            lambda: next((e for e in self.driver.find_elements(By.XPATH, xpath) if e.is_displayed()), None),
            seconds,
            xpath,
        )

    def click(self, xpath):
        element = self.find(xpath)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        self._wait(lambda: element.click() or True, 20, f"{xpath} to take a click")

    def open(self):
        self.driver.get(f"http://127.0.0.1:{self.port}/lab/tree/{NAME}")
        self.find("//div[contains(@class, 'jp-Notebook')]//div[contains(@class, 'jp-CodeCell')]", 90)
        self._wait(lambda: self.js(KERNEL_IS_IDLE), 90, "the kernel")

    def menu(self, *names):
        for position, name in enumerate(names):
            place = "lm-MenuBar-itemLabel" if position == 0 else "lm-Menu-itemLabel"
            self.click(f"//div[contains(@class, '{place}') and normalize-space()='{name}']")
            time.sleep(0.7)  # a menu that is still opening takes no click

    def prompts(self):
        return self.js(PROMPTS)

    def run_all(self, seconds):
        self.menu("Run", "Run All Cells")
        self._wait(lambda: "[*]:" in self.prompts(), 60, "the run to begin")
        self._wait(lambda: "[*]:" not in self.prompts(), seconds, "all cells")

    def shoot(self, name):
        self.driver.save_screenshot(str(self.folder / f"{name}.png"))

    # The panel

    def panel_select(self, label, value):
        from selenium.webdriver.support.ui import Select

        Select(self.find(f"{PANEL}//label[normalize-space()='{label}']/..//select")).select_by_visible_text(value)

    def button(self, name):
        return self.find(f"{PANEL}//button[normalize-space()='{name}']")

    def panel_text(self):
        return self.find(PANEL).text


PANEL = "//div[contains(@class, 'nst-panel')]"
PROMPTS = """
    return [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(e => e.textContent.trim())
"""
KERNEL_IS_IDLE = "return document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]') !== null"
ERRORS = """
    return [...document.querySelectorAll('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"],'
        + '.jp-Notebook [data-mime-type="application/vnd.jupyter.stderr"]')].map(e => e.textContent)
"""
PICTURES = """
    const cell = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].filter(
        e => e.querySelector('.jp-InputArea').textContent.includes(arguments[0]))[0];
    return [...cell.querySelectorAll('.jp-OutputArea img')].map(e => [e.naturalWidth, e.naturalHeight])
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(lay_out(tmp_path_factory.mktemp("lab"), **SMALL))
    try:
        lab.open()
        yield lab
    finally:
        lab.close()


def test_run_all_cells_from_the_menu(lab):
    lab.run_all(600)
    assert lab.js(ERRORS) == []
    numbers = lab.prompts()
    assert numbers == [f"[{n}]:" for n in range(1, len(numbers) + 1)] and len(numbers) > 35
    for width, height in lab.js(PICTURES, "The result in full."):
        assert width > 200 and height > 200
    # Somebody is watching here: while it ran there were the picture, 512 pixels wide, and the curves.
    live = lab.js(PICTURES, "stylized_image, history, recipe = paint(")
    assert len(live) == 2 and live[0][0] == 512
    lab.shoot("notebook")
    saved = lab.folder / "outputs" / "neuschwanstein_castle-church_at_auvers.png"
    assert max(Image.open(saved).size) == SMALL["IMAGE_SIZE"]


def test_the_panel_paints_stops_and_saves(lab):
    lab.panel_select("style", "great_wave.jpg")
    lab.panel_select("content", "mont_saint_michel.jpg")
    lab.panel_select("size", "512")
    before = lab.find(f"{PANEL}//img").get_attribute("src")
    lab.click(f"{PANEL}//button[normalize-space()='Run']")
    lab._wait(lambda: "left;" in lab.panel_text(), 120, "the run to be under way")
    lab.shoot("panel-running")
    assert not lab.button("Run").is_enabled() and not lab.button("Save").is_enabled()
    lab.click(f"{PANEL}//button[normalize-space()='Stop']")
    lab._wait(lambda: "Stopped after" in lab.panel_text(), 60, "it to stop")
    assert lab.find(f"{PANEL}//img").get_attribute("src") != before
    lab.click(f"{PANEL}//button[normalize-space()='Save']")
    lab._wait(lambda: "Saved:" in lab.panel_text(), 30, "the file")
    lab.shoot("panel-saved")
    path = lab.folder / "outputs" / "mont_saint_michel-great_wave.png"
    assert Image.open(path).size == (512, 288)
    call = nst.read_recipe(path)["call"]
    assert (call["content"], call["style"], call["size"]) == ("mont_saint_michel.jpg", "great_wave.jpg", 512)
    photograph = nst.load_image("mont_saint_michel.jpg", 512)
    assert np.abs(nst.load_image(path) - photograph).mean() > 0.02
    assert "paint('mont_saint_michel.jpg', 'great_wave.jpg'" in lab.panel_text()

"""The notebook's panel in JupyterLab, driven through a real browser as a reader would.

Skipped where Chromium and its driver (Debian's packages chromium and chromium-driver) are missing.
"""

import json
import shutil
import socket
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT

import nst_helpers as nst

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
PANEL = "//div[contains(@class, 'nst-panel')]"
ERRORS = "//*[contains(@data-mime-type, 'jupyter.error') or contains(@data-mime-type, 'jupyter.stderr')]"


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab that serves a copy of the project, with the notebook down to what the panel needs."""
    notebook = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [c for c in cells if "teaching" not in c.metadata.get("tags", []) or "show_panel" in c.source]
    for cell in notebook.cells:
        cell.outputs = []
        cell.source = cell.source.replace('MODEL = "vgg19"', 'MODEL = "vgg16"').replace("= 512", "= 64")
    nbformat.write(notebook, tmp_path / "a.ipynb")
    for name in ("nst_helpers.py", "images", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = tmp_path / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    plain.parent.mkdir(parents=True)
    plain.write_text(json.dumps({"windowingMode": "none"}))  # every cell in the page
    options = ["--allow-root", "--no-browser", f"--port={port}", "--IdentityProvider.token="]
    options += [f"--ServerApp.root_dir={tmp_path}", f"--LabApp.user_settings_dir={tmp_path / 'settings'}"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], cwd=tmp_path, stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}/lab/tree/a.ipynb", tmp_path
    server.terminate()
    server.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromium-driver is not installed")
def test_all_cells_run_and_the_panel_paints_stops_and_saves(lab):
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    address, folder = lab
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1500,1100"):
        options.add_argument(f"--{option}")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        wait = WebDriverWait(driver, 300, ignored_exceptions=[WebDriverException])  # while the page still changes

        def do(xpath, action):
            wait.until(lambda _: action(driver.find_element(By.XPATH, xpath)) is not False)

        def click(xpath):
            do(xpath, lambda element: element.click())

        def select(label, value):
            path = f"{PANEL}//label[normalize-space()='{label}']/..//select"
            do(path, lambda element: Select(element).select_by_visible_text(value))

        wait.until(lambda _: driver.get(address) is None)
        do("//*[@data-status='idle' and contains(@class, 'ExecutionIndicator')]", lambda element: True)
        click("//div[contains(@class, 'MenuBar-itemLabel') and text()='Run']")
        click("//div[contains(@class, 'Menu-itemLabel') and text()='Run All Cells']")
        select("content", "mont_saint_michel.jpg")
        select("style", "great_wave.jpg")
        select("size", "512")
        click(f"{PANEL}//button[normalize-space()='Run']")
        do(PANEL, lambda element: "left;" in element.text)
        click(f"{PANEL}//button[normalize-space()='Stop']")
        do(PANEL, lambda element: "Stopped after" in element.text)
        click(f"{PANEL}//button[normalize-space()='Save']")
        do(PANEL, lambda element: "Saved:" in element.text)
        assert driver.find_elements(By.XPATH, ERRORS) == []
    path = folder / "outputs" / "mont_saint_michel-great_wave.png"
    assert nst.read_recipe(path)["call"]["size"] == 512

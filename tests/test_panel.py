"""The panel, driven through its widgets, with a stand-in for the notebook's `paint`."""

import io
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import nst_helpers as nst


def everything_in(widget):
    return [widget, *(found for child in getattr(widget, "children", ()) for found in everything_in(child))]


@pytest.fixture
def panel(monkeypatch, tmp_path):
    """The panel's widgets by name. What paints waits for a word, and fails with The Great Wave."""
    word = threading.Event()
    calls = []
    boxes = []

    def paint(content, style, callback, **how):
        calls.append((content, style, how))
        if style == "great_wave.jpg":
            raise ValueError("no <wave>")
        history = {"seconds": [2.0]} | dict.fromkeys(("total", "content", "style", "tv"), [1.0])
        now = nst.Step(1, (8, 6), history, 0.5, np.zeros((1, 6, 8, 3)))
        while callback(now) and not word.is_set():
            time.sleep(0.01)
        recipe = {"call": {"content": content, "style": [style]}, "network": {}, "steps": 2}
        return np.full((1, 6, 8, 3), 0.25), {"total": [4.0, 3.0], "seconds": [0.5, 1.0]}, recipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nst, "is_live", lambda: True)
    monkeypatch.setattr(nst, "display", boxes.append)
    nst.show_panel(paint, nst.Settings(style_weight=1e4, content_weight=0, colours="matched"), "the network")
    widgets = everything_in(boxes[0])
    named = {getattr(widget, "description", "") or type(widget).__name__: widget for widget in widgets}
    text = lambda: " ".join(widget.value for widget in widgets if type(widget).__name__ == "HTML")
    yield SimpleNamespace(named=named, word=word, calls=calls, text=text)
    word.set()


def wait_for(text, panel):
    """Waits until the panel says so, and takes clicks again unless it is running."""
    end = time.monotonic() + 30
    while text not in panel.text() or ("left;" not in text and panel.named["Run"].disabled):
        assert time.monotonic() < end, f"waited for {text!r}, got {panel.text()!r}"
        time.sleep(0.01)


def test_it_paints_shows_and_saves(panel, tmp_path):
    named = panel.named
    assert named["size"].value == 256 and named["style weight"].value == 1e4
    assert named["Save"].disabled and not named["Run"].disabled
    named["content"].value = "mont_saint_michel.jpg"
    named["style"].value = "church_at_auvers.jpg"
    named["size"].value = 128
    named["tv weight"].value = 0.5
    named["Run"].click()
    wait_for("step 1, about 2.0 s left;", panel)
    assert named["Run"].disabled
    named["Run"].click()  # the second click of two
    panel.word.set()
    wait_for("Done after 2 steps and 1.0 s.", panel)
    ((content, style, how),) = panel.calls
    assert (content, style, how["size"]) == ("mont_saint_michel.jpg", "church_at_auvers.jpg", 128)
    assert (how["tv_weight"], how["style_weight"], how["content_weight"]) == (0.5, 1e4, 0)
    assert (how["colours"], how["extractor"], how["quiet"]) == ("matched", "the network", True)
    pixels = np.asarray(Image.open(io.BytesIO(named["Image"].value))) / 255
    assert pixels.shape == (384, 512, 3) and np.abs(pixels - 0.25).max() < 0.02
    named["Save"].click()
    wait_for("Saved: outputs/mont_saint_michel-church_at_auvers.png", panel)
    path = tmp_path / "outputs" / "mont_saint_michel-church_at_auvers.png"
    assert nst.read_recipe(path)["call"]["content"] == "mont_saint_michel.jpg"


def test_a_run_is_stopped_by_the_button_and_by_a_new_panel(panel):
    panel.named["style"].value = "church_at_auvers.jpg"
    for stop in panel.named["Stop"].click, lambda: nst.show_panel(None, nst.Settings(), None):
        panel.named["Run"].click()
        wait_for("left;", panel)
        stop()
        wait_for("Stopped after 2 steps", panel)


def test_it_says_what_goes_wrong(panel, tmp_path):
    panel.named["style"].value = "great_wave.jpg"
    panel.named["Run"].click()
    wait_for("ValueError: no &lt;wave&gt;", panel)
    panel.named["style"].value = "night_cafe.jpg"
    panel.word.set()
    panel.named["Run"].click()
    wait_for("Done", panel)
    (tmp_path / "outputs").touch()
    panel.named["Save"].click()
    wait_for("Not saved: ", panel)


def test_where_nobody_watches_a_call_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(nst, "is_live", lambda: False)
    nst.show_panel(None, None, None)
    assert 'paint("mont_saint_michel.jpg", "great_wave.jpg"' in capsys.readouterr().out

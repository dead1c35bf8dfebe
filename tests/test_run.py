"""A run while it goes on: what is recorded, said and shown, how it is stopped; and the panel."""

import datetime
import io
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image

import nst_helpers as nst


def image_of(width, height, value=0.5):
    return tf.fill((1, height, width, 3), value)


def losses_of(total):
    """Losses as the notebook's objective returns them."""
    names = {"total": total, "content": 1.0, "style": 2.0, "tv": 3.0}
    return {name: tf.constant(value) for name, value in names.items()} | {"layers": {"a": tf.constant(0.5), "b": 1.5}}


def watched(result=None):
    """An observer, and the list of what it has seen."""
    seen = []

    def observer(now):
        seen.append(now)
        return result

    return observer, seen


# --- What is recorded and said ---------------------------------------------------------------


def test_a_step_is_written_into_the_history():
    run = nst.Run([(8, 6, 2)], quiet=True)
    with run:
        assert run.record(losses_of(9.0), image_of(8, 6)) is True
        assert run.record(losses_of(7.0), image_of(8, 6)) is True
    history = run.history
    assert history["total"] == [9, 7] and history["content"] == [1, 1]
    assert history["style"] == [2, 2] and history["tv"] == [3, 3] and history["size"] == [8, 8]
    assert history["layers"] == {"a": [0.5, 0.5], "b": [1.5, 1.5]}
    assert 0 <= history["seconds"][0] <= history["seconds"][1] < 60
    assert not run.stopped


def test_observers_are_told_of_every_step():
    observer, seen = watched()
    run = nst.Run([(4, 8, 1), (8, 16, 2)], observers=[observer], quiet=True, finish=lambda image: np.asarray(image) / 2)
    with run:
        run.record(losses_of(9.0), image_of(4, 8))
        run.record(losses_of(8.0), image_of(8, 16))
        run.record(losses_of(7.0), image_of(8, 16))
    assert [now.step for now in seen] == [1, 2, 3]
    assert [now.size for now in seen] == [(4, 8), (8, 16), (8, 16)]
    assert [now.done for now in seen] == pytest.approx([32 / 288, 160 / 288, 1])  # by pixels
    assert [now.losses["total"] for now in seen] == [9, 8, 7]
    assert set(seen[0].losses) == {"total", "content", "style", "tv"}
    assert seen[2].history is run.history
    np.testing.assert_array_equal(seen[2].image, np.full((1, 16, 8, 3), 0.25))


def test_every_size_is_reported_and_the_time_at_the_end(capsys):
    with nst.Run([(4, 4, 2), (8, 8, 1)]) as run:
        run.record(losses_of(9.0), image_of(4, 4))
        run.record(losses_of(8.0), image_of(4, 4))
        run.record(losses_of(7.0), image_of(8, 8))
    small, large, last = capsys.readouterr().out.splitlines()
    assert small == "4 x 4: 2 steps; content 1, style 2, tv 3, total 8"
    assert large == "8 x 8: 1 steps; content 1, style 2, tv 3, total 7"
    assert last.startswith("Took 0.") and "expected" not in last


def test_the_expectation_is_the_sum_over_sizes_of_timed_steps(vgg16, capsys, monkeypatch):
    """With steps of a known length: 10 steps of 0.1 s and 10 of 0.2 s are 3 s."""
    clock = [0.0]
    monkeypatch.setattr(nst.time, "perf_counter", lambda: clock[0])

    def trial(seconds):
        clock[0] += 7  # the first step compiles
        while True:
            clock[0] += seconds
            yield tf.constant(0.0), {}

    with nst.Run([(8, 8, 10), (16, 16, 10)]) as run:
        run.expect([trial(0.1), trial(0.2)], vgg16)
        clock[0] += 4
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Expected: 3.0 s and ") and "GB of memory (10 steps at 8 x 8, 10 steps at 16 x 16" in first
    assert last == "Took 4.0 s (expected: 3.0 s)."


def test_a_size_that_takes_long_is_not_tried_but_estimated_by_its_pixels(vgg16, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(nst.time, "perf_counter", lambda: clock[0])

    def trial(seconds):
        while True:
            clock[0] += seconds
            yield tf.constant(0.0), {}

    nst.Run([(8, 8, 10), (16, 16, 1)]).expect([trial(0.5), iter(())], vgg16)  # 4 times 0.5 s
    assert capsys.readouterr().out.startswith("Expected: 7.0 s and ")


def test_a_quiet_run_says_nothing_and_tries_nothing(capsys, vgg16):
    with nst.Run([(4, 4, 1)], quiet=True) as run:
        run.expect([iter(())], vgg16)
        run.record(losses_of(9.0), image_of(4, 4))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "0:01:00"),
        (190, "0:03:10"),
        (3790, "1:03:10"),
    ],
)
def test_durations_are_written_as_people_do(seconds, text):
    assert nst.duration(seconds) == text


def test_a_step_is_described_with_the_time_that_is_left():
    losses = {"content": 1, "style": 2, "tv": 3, "total": 4.00004}
    now = nst.Step(3, (8, 6), losses, {"seconds": [5, 8, 10]}, 0.25, np.zeros((1, 6, 8, 3)))
    assert str(now) == "8 x 6, step 3, about 30 s left; content 1, style 2, tv 3, total 4"


def test_nobody_watches_a_script_or_a_test():
    assert not nst.is_live()


@pytest.mark.parametrize("where", ["jupyter", "vs code", "colab", "papermill"])
def test_somebody_watches_an_open_notebook(monkeypatch, where):
    names = {"__vsc_ipynb_file__": "a.ipynb"} if where == "vs code" else {}
    sent = {"metadata": {"cellId": "1"} if where == "jupyter" else {}}
    shell = SimpleNamespace(kernel=None, user_ns=names, get_parent=lambda: sent)
    monkeypatch.setattr(nst, "get_ipython", lambda: shell)
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")  # which papermill, started from a notebook, inherits
    if where == "colab":
        monkeypatch.setitem(sys.modules, "google.colab", None)
    assert nst.is_live() == (where != "papermill")


class Handle:
    """What `display` returns, keeping what it was updated with."""

    def __init__(self):
        self.shown = []

    def update(self, content):
        self.shown.append(content)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_live_view_shows_the_last_step(monkeypatch, steps):
    handles = []
    monkeypatch.setattr(nst, "is_live", lambda: True)
    monkeypatch.setattr(nst, "display", lambda *_, **__: handles.append(Handle()) or handles[-1])
    with nst.Run([(32, 16, steps)]) as run:
        for step in range(steps):
            run.record(losses_of(9.0 - step), image_of(32, 16, 0.2 * (step + 1)))
    bar, picture, curves = (handle.shown[-1].data for handle in handles)
    assert "value='1.0'" in bar and f"step {steps}," in bar and f"total {10 - steps}" in bar
    pixels = np.asarray(Image.open(io.BytesIO(picture)))
    assert pixels.shape == (256, 512, 3) and np.abs(pixels / 255 - 0.2 * steps).max() < 0.02
    assert Image.open(io.BytesIO(curves)).width > 500


@pytest.mark.parametrize("size, shown", [((1, 512), (4, 2048)), ((512, 1), (512, 1)), ((30, 120), (512, 2048))])
def test_a_thin_picture_is_shown_within_bounds(size, shown):
    assert Image.open(io.BytesIO(nst._encoded(np.zeros((1, size[1], size[0], 3))))).size == shown


def test_the_live_view_takes_a_small_part_of_the_time(monkeypatch):
    handles = []
    monkeypatch.setattr(nst, "display", lambda *_, **__: handles.append(Handle()) or handles[-1])
    view = nst.LiveView({"total": 1.0})
    observer, seen = watched()
    run = nst.Run([(8, 8, 50)], observers=[observer, view], quiet=True)
    for _ in range(40):
        run.record(losses_of(1.0), image_of(8, 8))
    assert len(seen) == 40 and len(handles[0].shown) == 1


# --- Stopping --------------------------------------------------------------------------------


@contextmanager
def no_interrupt_raised():
    """An interrupt that gets out of a run would end all of the tests."""
    try:
        yield
    except KeyboardInterrupt:
        pytest.fail("an interrupt was raised")


@pytest.mark.parametrize("result, stops", [(False, True), (np.False_, True), (None, False), (0, False), (True, False)])
def test_an_observer_stops_the_run_with_false(capsys, result, stops):
    observer, _ = watched(result)
    other, seen = watched()
    with nst.Run([(4, 4, 5)], observers=[observer, other]) as run:
        assert run.record(losses_of(9.0), image_of(4, 4)) is (not stops)
    assert run.stopped == stops and len(seen) == 1  # the other one was told, too
    assert ("Stopped after" in capsys.readouterr().out) == stops


def test_an_interrupt_waits_for_the_end_of_a_step(capsys):
    """A real signal in the middle of a step; twice, as impatient people press."""
    before = signal.getsignal(signal.SIGINT)
    with no_interrupt_raised(), nst.Run([(4, 4, 5)]) as run:
        assert run.record(losses_of(9.0), image_of(4, 4))
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert not run.record(losses_of(8.0), image_of(4, 4))
    assert run.stopped and run.history["total"] == [9, 8]
    assert signal.getsignal(signal.SIGINT) is before
    assert "and 2 steps: here is the picture" in capsys.readouterr().out


def test_a_third_interrupt_is_raised_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with nst.Run([(4, 4, 5)]):
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
            pytest.fail("the third one was not raised")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_ends_a_loop_of_quiet_runs_unless_somebody_observes_them():
    with pytest.raises(KeyboardInterrupt):
        with nst.Run([(4, 4, 5)], quiet=True) as run:
            signal.raise_signal(signal.SIGINT)
            run.record(losses_of(9.0), image_of(4, 4))
    assert run.stopped and run.history["total"] == [9]
    with no_interrupt_raised(), nst.Run([(4, 4, 5)], quiet=True, observers=[watched()[0]]) as run:
        signal.raise_signal(signal.SIGINT)
        assert not run.record(losses_of(9.0), image_of(4, 4))


def test_a_run_in_a_thread_leaves_interrupts_alone():
    def work():
        with nst.Run([(4, 4, 1)], quiet=True) as run:
            handlers.append(signal.getsignal(signal.SIGINT))
            run.record(losses_of(9.0), image_of(4, 4))
            totals.append(run.history["total"])

    handlers, totals, before = [], [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before] and totals == [[9]]


def test_an_error_in_a_run_is_passed_on_without_a_word(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        with nst.Run([(4, 4, 5)]):
            raise ZeroDivisionError
    assert capsys.readouterr().out == "" and signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("total, value", [(float("nan"), 0.5), (float("inf"), 0.5), (1.0, float("nan"))])
def test_what_is_not_finite_stops_the_run(capsys, total, value):
    with nst.Run([(4, 4, 5)], quiet=True) as run:
        assert run.record(losses_of(9.0), image_of(4, 4))
        assert not run.record(losses_of(total), image_of(4, 4, value))
    assert run.stopped and np.isfinite(run.history["total"]).all()
    assert "step 2" in capsys.readouterr().out
    with (
        nst.Run([(4, 4, 5)], quiet=True) as run,
        pytest.raises(ValueError, match="at step 1: expected a finite number"),
    ):
        run.record(losses_of(float("nan")), image_of(4, 4))


# --- The panel -------------------------------------------------------------------------------


def test_the_panel_explains_itself_where_there_is_no_front_end(capsys):
    nst.show_panel(None, None, None)
    text = capsys.readouterr().out
    assert "JupyterLab" in text and 'paint("mont_saint_michel.jpg", "great_wave.jpg"' in text


def test_importing_the_helpers_does_not_load_the_widgets():
    code = "import sys, nst_helpers; print('ipywidgets' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "False"


def widgets_in(widget):
    """All widgets of a box, by their descriptions (or their kinds)."""
    found = {getattr(widget, "description", "") or type(widget).__name__: widget}
    for child in getattr(widget, "children", ()):
        found |= widgets_in(child)
    return found


@pytest.fixture
def panel(monkeypatch, vgg16, tmp_path):
    """The panel's widgets by name, shown with a stand-in for the notebook's function, which waits for a word."""
    word, calls, boxes = threading.Event(), [], []

    def paint(content, style, **how):
        calls.append((content, style, how))
        if style == "great_wave.jpg":
            raise ValueError("no <wave>")
        step = nst.Step(1, (8, 6), dict.fromkeys(nst._LOSSES, 1.0), {"seconds": [2.0]}, 0.5, image_of(8, 6))
        while how["callback"](step) and not word.is_set():
            time.sleep(0.01)
        history = {"total": [4.0, 3.0], "seconds": [0.5, 1.0]}
        return (
            np.full((1, 6, 8, 3), 0.25),
            history,
            {"call": {"content": content, "style": style}, "network": {}, "steps": 2},
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nst, "is_live", lambda: True)
    monkeypatch.setattr(nst, "display", boxes.append)
    nst.show_panel(paint, nst.Settings(style_weight=1e9), vgg16, size=100)
    assert "nst-panel" in boxes[0]._dom_classes
    shown = widgets_in(boxes[0])
    yield SimpleNamespace(shown=shown, word=word, calls=calls, says=lambda: shown["HTML"], box=boxes[0])
    word.set()
    monkeypatch.setattr(nst, "_panel", None)


def text_of(widget):
    """All texts of a box."""
    if hasattr(widget, "children"):
        return " ".join(text_of(child) for child in widget.children)
    return widget.value if type(widget).__name__ == "HTML" else ""


def wait_for(text, panel):
    end = time.monotonic() + 30
    while text not in text_of(panel.box):
        assert time.monotonic() < end, f"waited for {text!r}, got {text_of(panel.box)!r}"
        time.sleep(0.01)


def test_the_panel_paints_shows_and_saves(panel, tmp_path):
    shown = panel.shown
    assert shown["size"].value == 100 and shown["network"].value == "vgg16" and shown["style weight"].value == 1e4
    assert shown["Stop"].disabled and shown["Save"].disabled and not shown["Run"].disabled
    shown["content"].value, shown["keep colours"].value = "mont_saint_michel.jpg", "luminance"
    shown["style"].value, shown["tv weight"].value = "church_at_auvers.jpg", 0.5
    shown["enlarge a photograph that is smaller"].value = True
    before = shown["Image"].value
    assert Image.open(io.BytesIO(before)).width == 512
    shown["Run"].click()
    wait_for("step 1, about 2.0 s left", panel)
    assert shown["Run"].disabled and not shown["Stop"].disabled and shown["FloatProgress"].value == 0.5
    shown["Run"].click()  # the second click of two
    panel.word.set()
    wait_for("Done after 2 steps and 1.0 s; total loss 3.", panel)
    ((content, style, how),) = panel.calls
    assert (content, style) == ("mont_saint_michel.jpg", "church_at_auvers.jpg")
    assert how["enlarge"] is True
    assert (how["size"], how["tv_weight"], how["style_weight"], how["colours"]) == (100, 0.5, 1e4, "luminance")
    pixels = np.asarray(Image.open(io.BytesIO(shown["Image"].value)))
    assert pixels.shape == (384, 512, 3) and np.abs(pixels / 255 - 0.25).max() < 0.02
    call = "paint(&#x27;mont_saint_michel.jpg&#x27;, &#x27;church_at_auvers.jpg&#x27;, size=100, enlarge=True, "
    assert call in text_of(panel.box)
    end = time.monotonic() + 10
    while shown["Save"].disabled and time.monotonic() < end:
        time.sleep(0.01)
    shown["Save"].click()
    shown["Save"].click()
    wait_for("Saved: outputs/mont_saint_michel-church_at_auvers.png", panel)
    path = tmp_path / "outputs" / "mont_saint_michel-church_at_auvers.png"
    assert nst.read_recipe(path)["call"]["content"] == "mont_saint_michel.jpg"


def test_the_panel_s_run_is_stopped_by_the_button_and_by_a_new_panel(panel, vgg16):
    panel.shown["style"].value = "church_at_auvers.jpg"
    panel.shown["Run"].click()
    wait_for("left;", panel)
    panel.shown["Stop"].click()
    wait_for("Stopped after 2 steps", panel)
    end = time.monotonic() + 10
    while panel.shown["Run"].disabled and time.monotonic() < end:
        time.sleep(0.01)
    panel.shown["Run"].click()
    wait_for("left;", panel)
    nst.show_panel(None, nst.Settings(), vgg16)
    wait_for("Stopped after 2 steps", panel)


def test_the_panel_says_what_goes_wrong(panel, tmp_path, monkeypatch):
    panel.shown["style"].value = "great_wave.jpg"
    panel.shown["Run"].click()
    wait_for("ValueError: no &lt;wave&gt;", panel)
    upload = panel.shown["Upload a photograph"]
    monkeypatch.setattr(nst, "IMAGES", tmp_path)
    (tmp_path / "content").mkdir()
    upload.value = (
        {"name": "a.png", "type": "", "size": 2, "content": b"no", "last_modified": datetime.datetime.now()},
    )
    wait_for("a.png was not taken", panel)


def test_the_panel_takes_uploads(panel, tmp_path, monkeypatch):
    monkeypatch.setattr(nst, "IMAGES", tmp_path)
    (tmp_path / "content").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    file = {
        "name": "mine.png",
        "type": "",
        "size": 2,
        "content": memoryview(buffer.getvalue()),
        "last_modified": datetime.datetime.now(),
    }
    panel.shown["Upload a photograph"].value = (file,)
    wait_for("mine.png is in images/content/ now.", panel)
    assert panel.shown["content"].value == "mine.png"
    assert np.asarray(Image.open(io.BytesIO(panel.shown["Image"].value)))[0, 0, 0] > 250


def test_the_panel_builds_each_network_once(panel, monkeypatch, vgg16):
    built = []
    monkeypatch.setattr(nst, "build_feature_extractor", lambda *names, **how: built.append((names, how)) or vgg16)
    panel.word.set()
    panel.shown["style"].value, panel.shown["network"].value = "church_at_auvers.jpg", "vgg19"
    for runs in (1, 2):
        panel.shown["Run"].click()
        wait_for("VGG19&#x27;s weights could not be had: VGG16 stood in.", panel)
        end = time.monotonic() + 10
        while panel.shown["Run"].disabled and time.monotonic() < end:
            time.sleep(0.01)
        assert len(panel.calls) == runs
    assert built == [(("vgg19",), {"pooling": "avg", "precision": "float32"})]
    assert "extractor=nst.build_feature_extractor(&#x27;vgg19&#x27;" in text_of(panel.box)

"""A run while it goes on: what is recorded, said and shown, and how it is stopped and resumed."""

import io
import signal
import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import nst_helpers as nst

NETWORK = SimpleNamespace(model="vgg16", weights=None)  # all that a run asks of it


def image_of(width, height, value=0.5):
    return tf.fill((1, height, width, 3), value)


def losses_of(total):
    """Losses as the notebook's objective returns them."""
    return {
        name: tf.constant(value) for name, value in zip(("total", "content", "style", "tv"), (total, 1.0, 2.0, 3.0))
    }


def palette_of(size, finish=np.asarray):
    black = np.zeros((1, size[1], size[0], 3))
    return nst.Palette(black, black, [], finish)


def run_of(plan=((1.0, 5),), callback=None, quiet=True, size=(4, 4), finish=np.asarray, checkpoint=None):
    """A run at scales of a picture of some width and height."""
    return nst.Run(plan, palette_of(size, finish), nst.Settings(), NETWORK, callback, quiet, checkpoint)


def test_a_callback_is_told_of_every_picture_and_its_losses():
    seen = []
    halved = lambda image: np.asarray(image) / 2
    with run_of([(0.5, 0), (1.0, 1)], seen.append, size=(8, 16), finish=halved) as run:
        for total, size in ((9.0, (4, 8)), (8.0, (8, 16)), (7.0, (8, 16))):
            assert run.record(losses_of(total), image_of(*size))
    assert not run.stopped
    assert run.history["total"] == [9, 8, 7] and run.history["content"] == [1, 1, 1]
    assert run.history["style"] == [2, 2, 2] and run.history["tv"] == [3, 3, 3] and run.history["size"] == [8, 16, 16]
    assert 0 <= run.history["seconds"][0] <= run.history["seconds"][1] < 60
    assert [now.step for now in seen] == [1, 2, 3]
    assert [now.size for now in seen] == [(4, 8), (8, 16), (8, 16)]
    assert [now.done for now in seen] == pytest.approx([32 / 288, 160 / 288, 1])  # by pixels
    np.testing.assert_array_equal(seen[2].image, np.full((1, 16, 8, 3), 0.25))


def test_every_size_is_reported_and_the_time_at_the_end(capsys):
    with run_of([(0.5, 1), (1.0, 0)], size=(8, 8), quiet=False) as run:
        run.record(losses_of(9.0), image_of(4, 4))
        run.record(losses_of(8.0), image_of(4, 4))
        run.record(losses_of(7.0), image_of(8, 8))
    small, large, last = capsys.readouterr().out.splitlines()
    assert small == "4 x 4: content 1, style 2, tv 3, total 8"
    assert large == "8 x 8: content 1, style 2, tv 3, total 7"
    assert last.startswith("Took 0.")


@pytest.mark.parametrize("seconds, text", [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "0:01:00"), (3790, "1:03:10")])
def test_durations_are_written_as_people_do(seconds, text):
    assert nst.duration(seconds) == text


def test_a_step_is_described_with_the_time_that_is_left():
    history = {"seconds": [10, 20], "content": [1, 9], "style": [2, 9], "tv": [3, 9], "total": [4.00004, 9]}
    now = nst.Step(1, (8, 6), history, 0.25, np.zeros((1, 6, 8, 3)))  # kept, while the history went on
    assert str(now) == "8 x 6, step 1, about 30.0 s left; content 1, style 2, tv 3, total 4"


@pytest.mark.parametrize("where", ["jupyter", "vs code", "colab", "papermill", "script"])
def test_somebody_watches_an_open_notebook(monkeypatch, where):
    names = {"__vsc_ipynb_file__": "a.ipynb"} if where == "vs code" else {}
    sent = {"metadata": {"cellId": "1"} if where == "jupyter" else {}}
    shell = SimpleNamespace(kernel=None, user_ns=names, get_parent=lambda: sent)
    monkeypatch.setattr(nst, "get_ipython", lambda: None if where == "script" else shell)
    if where == "colab":
        monkeypatch.setitem(sys.modules, "google.colab", None)
    assert nst.is_live() == (where not in ("papermill", "script"))


@pytest.mark.parametrize("size, shown", [((32, 16), (512, 256)), ((1, 512), (4, 2048)), ((512, 1), (512, 1))])
@pytest.mark.parametrize("steps", [0, 2])
def test_the_live_view_shows_the_last_picture_within_bounds(monkeypatch, recwarn, steps, size, shown):
    handles = []

    def display(*_, **__):
        """What keeps all that it was updated with."""
        handles.append([])
        return SimpleNamespace(update=handles[-1].append)

    monkeypatch.setattr(nst, "is_live", lambda: True)
    monkeypatch.setattr(nst, "display", display)
    with run_of([(1.0, steps)], quiet=False, size=size) as run:
        for step in range(steps + 1):
            run.record(losses_of(9.0 - step), image_of(*size, 0.2 * (step + 1)))
    bar, picture, curves = (updates[-1].data for updates in handles)
    assert "value='1.0'" in bar and f"step {steps + 1}," in bar and f"total {9 - steps}" in bar
    pixels = Image.open(io.BytesIO(picture))
    assert pixels.size == shown and np.abs(np.asarray(pixels) / 255 - 0.2 * (steps + 1)).max() < 0.02
    assert Image.open(io.BytesIO(curves)).width > 500
    assert not recwarn.list


# --- Stopping --------------------------------------------------------------------------------
def test_a_callback_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="callback to be a function of a step, got 'show'"):
        run_of(callback="show")


@pytest.mark.parametrize(
    "answer, stops",
    [(False, True), (np.bool_(False), True), (np.array(False), True), (tf.constant(False), True), (None, False)]
    + [(True, False), (tf.constant(True), False), (np.zeros(2), False)],
)
def test_a_callback_stops_the_run_with_false(capsys, answer, stops):
    with run_of(callback=lambda now: answer, quiet=False) as run:
        assert run.record(losses_of(9.0), image_of(4, 4)) is not stops
    assert run.stopped == stops
    assert ("Stopped after" in capsys.readouterr().out) == stops


def test_an_interrupt_waits_for_the_end_of_a_step(capsys):
    """Twice, as impatient people press."""
    before = signal.getsignal(signal.SIGINT)
    with run_of(quiet=False) as run:
        assert run.record(losses_of(9.0), image_of(4, 4))
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert not run.record(losses_of(8.0), image_of(4, 4))
    assert run.stopped and run.history["total"] == [9, 8]
    assert signal.getsignal(signal.SIGINT) is before
    assert "and 2 steps: here is the best picture" in capsys.readouterr().out


def test_an_interrupt_ends_a_loop_of_quiet_runs_unless_somebody_watches_them(capsys):
    for callback in (None, bool):
        with pytest.raises(KeyboardInterrupt) if callback is None else nullcontext(), run_of(callback=callback) as run:
            run.expect(pytest.fail)  # a quiet run tries nothing
            signal.raise_signal(signal.SIGINT)
            assert not run.record(losses_of(9.0), image_of(4, 4))
    assert capsys.readouterr().out == ""


def test_a_run_in_a_thread_leaves_interrupts_alone():
    def work():
        with run_of():
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("total", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(capsys, total):
    with run_of() as run:
        assert run.record(losses_of(9.0), image_of(4, 4))
        assert not run.record(losses_of(total), image_of(4, 4))
    assert run.stopped and run.history["total"] == [9]
    assert f"Total loss {total} at step 2: the run stops" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"Expected a finite total loss, got {total} at step 1. Lower the weights"):
        run_of().record(losses_of(total), image_of(4, 4))


def test_what_is_kept_is_the_best_picture_of_the_size(tmp_path):
    path = tmp_path / "run.npz"
    run = run_of([(0.5, 1), (1.0, 3)], lambda now: now.step < 5, checkpoint=path)
    for total, value in ((1.0, 0.1), (1.0, 0.1), (9.0, 0.2), (2.0, 0.3), (8.0, 0.4)):
        run.record(losses_of(total), image_of(4, 4, value))
    assert np.mean(run_of([(0.5, 1), (1.0, 3)], checkpoint=path).resume(image_of(4, 4), 1)[0]) == pytest.approx(0.3)


@pytest.mark.parametrize("done", range(8))
def test_a_resumed_run_paints_what_was_left(tmp_path, done):
    """Of 3 pictures at one size and 4 at the next; what was kept is white, all else black."""
    path = tmp_path / "run.npz"
    sizes = [4, 4, 4, 8, 8, 8, 8]
    history = {name: [1.0] * done for name in ("seconds", *losses_of(1.0))} | {"size": sizes[:done]}
    kept_size = sizes[done - 1]
    if done:
        made_of = [palette_of((8, 8))[:3], nst.Settings(tile_size=None), "vgg16", "None"]
        nst.Checkpoint(path, made_of).write(np.ones((1, kept_size, kept_size, 3), np.float32), history)
    run = run_of([(0.5, 2), (1.0, 3)], size=(8, 8), checkpoint=path)
    for number, size in enumerate((4, 8)):
        image, steps = run.resume(image_of(size, size, 0.0), number)
        assert np.mean(image) == (done > 0 and size == kept_size)
        for _ in range(steps + 1 if steps else 0):
            run.record(losses_of(1.0), image)
    assert run.history["size"] == sizes
    assert (steps == 0) == (done == 7)

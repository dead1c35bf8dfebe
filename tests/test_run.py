"""A run while it goes on, how it is stopped, and what a picture remembers."""

import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import nst_helpers as nst
from conftest import ROOT

PAIR = "neuschwanstein_castle.jpg", "church_at_auvers.jpg"


@pytest.fixture(scope="module")
def pair():
    return [nst.load_image(name, 96) for name in PAIR]  # 96 x 64 and 76 x 96


# ---------------------------------------------------------------------------------------------
# What is said


def test_says_what_to_expect_and_what_it_took(defined, pair, capsys):
    defined.stylize(*pair, steps=3, coarsest=48)
    first, *sizes, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Expected: ") and "GB of memory (3 steps at 48 x 32 and 96 x 64, on CPU" in first
    assert [line.split(":")[0] for line in sizes] == ["48 x 32", "96 x 64"]
    assert all("3 steps in" in line and "style" in line and "total" in line for line in sizes)
    assert last.startswith("Took ") and "(expected: " in last
    defined.stylize(*pair, steps=1, coarsest=96, quiet=True)
    assert capsys.readouterr().out == ""


def test_the_expectation_is_the_sum_over_sizes_of_timed_steps(defined, capsys, monkeypatch):
    """With steps of a known length: 10 steps of 0.2 s and 10 of 0.1 s are 3 s."""
    clock = [0.0]
    monkeypatch.setattr(nst.time, "perf_counter", lambda: clock[0])

    def optimizer(evaluate, image, steps, learning_rate):
        for number in range(steps):
            clock[0] += evaluate + 7 * (number == 0)  # the first step compiles
            yield tf.constant(image), {}

    levels = [(np.zeros((1, 8, 8, 3)), 0.2), (np.zeros((1, 16, 16, 3)), 0.1)]
    nst.Progress().expect(levels, optimizer, 10, 0.05)
    assert capsys.readouterr().out.startswith("Expected: 3.0 s and ")


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (190, "3 min 10 s")],
)
def test_durations(seconds, text):
    assert nst._duration(seconds) == text


def test_the_peak_of_the_memory_while_it_is_in_use():
    with nst._peak_memory() as peak:
        before = [peak() for _ in range(20_000)][-1]  # read while the watching thread writes
        held = np.ones(25_000_000)  # 200 MB
        nst.time.sleep(0.1)
        del held
        assert 150e6 < peak() - before < 400e6


def test_nobody_watches_a_script_or_a_test():
    assert nst.is_live() is False
    assert list(nst.each("abc", "letters")) == ["a", "b", "c"]


def test_done_counts_pixels(defined, pair):
    done = []
    defined.stylize(*pair, steps=2, coarsest=48, quiet=True, callback=lambda now: done.append(now.done))
    small, large = 48 * 32, 96 * 64
    expected = np.cumsum([small, small, large, large]) / (2 * (small + large))
    np.testing.assert_allclose(done, expected, rtol=1e-9)


# ---------------------------------------------------------------------------------------------
# Stopping


def stop_at(step):
    def callback(now):
        if now.step == step:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("step, size", [(3, 48), (8, 96)])
def test_an_interrupt_returns_the_best_picture_so_far(defined, pair, capsys, step, size):
    image, history = defined.stylize(*pair, steps=5, coarsest=48, callback=stop_at(step))
    assert image.shape == pair[0].shape and image.min() >= 0 and image.max() <= 1
    assert {len(values) for values in history.values()} == {step}
    assert history["size"][-1] == size
    assert "Stopped after" in capsys.readouterr().out
    assert np.abs(image - pair[0]).mean() > 0.01  # painted, not the photograph


def test_what_is_returned_has_the_least_loss(defined, pair):
    seen = [pair[0]]

    def callback(now):
        seen.append(np.array(now.image))
        if now.step == 6:
            raise KeyboardInterrupt

    image, history = defined.stylize(*pair, steps=9, coarsest=96, callback=callback, quiet=True)
    np.testing.assert_array_equal(image, seen[int(np.argmin(history["total"]))])


def test_an_interrupt_before_the_first_step_stays_one(defined, pair):
    def optimizer(evaluate, image, steps, learning_rate):
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        defined.descend(optimizer, None, pair[0], 5, defined.defaultdict(list), nst.Progress(quiet=True))


def test_an_interrupt_between_two_entries_leaves_even_lists():
    progress = nst.Progress(callback=print, quiet=True)
    names = ("seconds", "size", "content", "style", "tv", "total")
    history = {name: [1.0, 2.0] for name in names} | {"total": [1.0]}
    progress.stop(history)
    assert history == {name: [1.0] for name in names}
    assert progress.stopped and progress.step == 1
    with pytest.raises(KeyboardInterrupt):
        progress.stop({"seconds": [1.0]})  # not one whole step


def test_an_interrupt_ends_a_loop_of_quiet_runs(defined, pair, monkeypatch):
    def interrupted(evaluate, image, steps, learning_rate):
        for number, step in enumerate(defined.lbfgs(evaluate, image, steps, learning_rate)):
            yield step
            if number == 2:
                raise KeyboardInterrupt

    monkeypatch.setitem(defined.OPTIMIZERS, "lbfgs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        defined.stylize(*pair, steps=5, coarsest=96, quiet=True)


def test_an_interrupt_waits_for_the_end_of_a_step(defined, pair):
    """A real signal in the middle of a step; twice, as impatient people press."""

    def optimizer(evaluate, image, steps, learning_rate):
        for step in defined.lbfgs(evaluate, image, steps, learning_rate):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            finished.append(True)
            yield step

    finished, history = [], defined.defaultdict(list)
    evaluate = defined.objective(*pair, {"content": 1.0, "style": 100.0, "tv": 1.0})
    progress = nst.Progress(callback=lambda now: None, quiet=True)
    before = signal.getsignal(signal.SIGINT)
    defined.descend(optimizer, evaluate, pair[0], 5, history, progress)
    assert finished == [True] and len(history["total"]) == 1 and progress.stopped
    assert signal.getsignal(signal.SIGINT) is before


def test_a_picture_that_is_no_longer_finite_is_not_returned(defined, pair):
    with pytest.raises(ValueError, match="nan at step 2 .or the picture after it"):
        defined.stylize(*pair, steps=2, coarsest=96, content_weight=1e30, quiet=True)


# ---------------------------------------------------------------------------------------------
# Recipes


@pytest.fixture(scope="module")
def painted(defined):
    """A picture with regions and settings of its own, and its recipe."""
    styles = [
        {"image": "great_wave.jpg", "mask": "neuschwanstein_castle_sky.png"},
        {"image": "church_at_auvers.jpg", "weight": 0.5, "scale": 2.0},
    ]
    return defined.paint(
        PAIR[0],
        styles,
        size=64,
        steps=4,
        coarsest=32,
        style_weight=np.float32(30),
        colours="matched",
        quiet=True,
    )


def test_the_recipe_survives_the_file(painted, tmp_path):
    image, history, recipe = painted
    path = nst.save_image(image, tmp_path / "a.png", recipe)
    found = nst.read_recipe(path)
    assert found == recipe
    call = found["call"]
    assert (call["content"], call["size"], call["steps"], call["style_weight"]) == (PAIR[0], 64, 4, 30)
    assert call["style"][1] == {"image": "church_at_auvers.jpg", "weight": 0.5, "scale": 2.0}
    assert {"tv_weight", "content_weight", "coarsest", "optimizer", "learning_rate", "colours"} <= set(call)
    assert not {"quiet", "callback", "extractor"} & set(call)
    assert found["network"]["model"] == "vgg16" and found["network"]["pooling"] == "avg"
    assert found["losses"]["total"] == history["total"][-1]
    assert found["software"]["tensorflow"] == tf.__version__
    # What any program sees of it: one text in the file.
    assert json.loads(Image.open(path).text["nst-recipe"]) == found


def test_a_picture_again_from_its_recipe(defined, painted, tmp_path):
    image, _, recipe = painted
    found = nst.read_recipe(nst.save_image(image, tmp_path / "a.png", recipe))
    network = nst.build_feature_extractor(**found["network"])
    again, _, _ = defined.paint(**found["call"], extractor=network, quiet=True)
    np.testing.assert_array_equal(again, image)


def test_a_start_from_a_file_is_in_the_recipe(defined, painted, tmp_path):
    first = nst.save_image(painted[0], tmp_path / "first.png")
    image, _, recipe = defined.paint(*PAIR, size=64, start=first, steps=2, coarsest=64, quiet=True)
    assert recipe["call"]["start"] == str(first)  # given as a Path
    again, _, _ = defined.paint(**recipe["call"], quiet=True)
    np.testing.assert_array_equal(again, image)


def test_a_recipe_is_a_copy_of_plain_values(defined, tmp_path):
    style, layers = {"image": ROOT / "images" / "style" / "great_wave.jpg"}, {"block1_conv1": np.float32(2)}
    image, _, recipe = defined.paint(
        ROOT / "images" / "content" / PAIR[0], style, size=np.int64(64), steps=np.int64(2), coarsest=64,
        style_layers=layers, quiet=True,
    )  # fmt: skip
    call = nst.read_recipe(nst.save_image(image, tmp_path / "a.png", recipe))["call"]
    assert (
        call["steps"] == 2
        and isinstance(call["steps"], int)
        and call["style_layers"] == {"block1_conv1": 2.0}
    )
    again, _, _ = defined.paint(**call, quiet=True)
    np.testing.assert_array_equal(again, image)
    recipe["call"]["style"]["image"] = recipe["network"]["style_layers"] = None
    assert style["image"] and layers and defined.extractor.style_layers


def test_paint_takes_names_not_arrays(defined, pair):
    for content, style in (
        (pair[0], PAIR[1]),
        (PAIR[0], pair[1]),
        (PAIR[0], nst.Style(pair[1])),
        (PAIR[0], None),
    ):
        with pytest.raises(ValueError, match="name of a picture's file, got"):
            defined.paint(content, style, size=64)


def test_refuses_what_has_no_recipe(picture, painted, tmp_path):
    plain = nst.save_image(picture, tmp_path / "plain.png")
    jpeg = nst.save_image(picture, tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("no picture")
    for path in (plain, jpeg, tmp_path / "text.png"):
        with pytest.raises(ValueError, match=f"PNG with a recipe.*{path.name}"):
            nst.read_recipe(path)
    with pytest.raises(FileNotFoundError, match="none.png"):
        nst.read_recipe(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"ending in \.png.*photo\.jpg"):
        nst.save_image(picture, jpeg, painted[2])


# ---------------------------------------------------------------------------------------------
# Names, animations, figures


def test_a_bare_name_is_looked_for_in_the_folders(monkeypatch, tmp_path):
    by_path = nst.load_image(ROOT / "images" / "style" / "great_wave.jpg", 32)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(nst.load_image("great_wave.jpg", 32), by_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "great_wave.jpg")  # one that is here comes first
    assert nst.load_image("great_wave.jpg", 32).shape == (1, 8, 8, 3)
    with pytest.raises(FileNotFoundError, match="(?s)'nothing.jpg'.*brandenburg_gate.jpg.*great_wave.jpg"):
        nst.load_image("nothing.jpg")


def test_one_name_in_several_folders(monkeypatch, tmp_path):
    for number, kind in enumerate(("content", "masks", "style")):
        (tmp_path / "images" / kind).mkdir(parents=True)
        Image.new("RGB", (4, 4), (number * 100,) * 3).save(tmp_path / "images" / kind / "a [1].png")
    monkeypatch.setattr(nst, "IMAGES", tmp_path / "images")
    found = {
        kind: float(nst.load_image("a [1].png", 8, kind).max()) for kind in ("content", "masks", "style")
    }
    assert found == pytest.approx({"content": 0, "masks": 100 / 255, "style": 200 / 255})
    photograph = np.zeros((1, 4, 4, 3), np.float32)
    assert nst.load_mask("a [1].png", photograph).max() == pytest.approx(100 / 255)
    (style,) = nst.load_styles("a [1].png", photograph, 8)
    assert style.image.max() == pytest.approx(200 / 255)


def test_the_panel_keeps_uploads_under_free_names(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    names = [
        nst._Panel._kept(tmp_path, name, buffer.getvalue())
        for name in ("a.png", "a.png", "b.jpg_large", "", "..")
    ]
    assert names == ["a.png", "a-2.png", "b.png", "upload.png", "upload-2.png"]
    with pytest.raises(OSError):
        nst._Panel._kept(tmp_path, "c.png", b"no picture")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_an_animation(tmp_path, ending):
    sizes, greys = ((8, 12), (16, 24), (16, 24)), (0.1, 0.5, 0.9)
    frames = [np.full((1, *size, 3), grey, np.float32) for size, grey in zip(sizes, greys)]
    path = nst.save_animation(frames, tmp_path / "new" / f"a.{ending}", seconds=3)
    with Image.open(path) as file:
        assert (file.n_frames, file.size, file.info["loop"]) == (3, (24, 16), 0)
        for number, grey in enumerate(greys):
            file.seek(number)
            file.load()
            assert file.info["duration"] == (1000 if number < 2 else 2000)
            np.testing.assert_allclose(np.asarray(file.convert("RGB")), 255 * grey, atol=4)


def test_refuses_animations(tmp_path):
    frame = np.zeros((1, 8, 8, 3))
    for frames, name in (([], "a.gif"), ([frame], "a.png")):
        with pytest.raises(ValueError, match=r"ending in \.webp or \.gif"):
            nst.save_animation(frames, tmp_path / name)
    with pytest.raises(ValueError, match="seconds.*above 0, got -1"):
        nst.save_animation([frame], tmp_path / "a.gif", seconds=-1)


def test_a_grid_with_labels(tmp_path, capsys):
    images = [np.full((1, 20, 30, 3), value) for value in (0.1, 0.3, 0.5, 0.7, 0.9, 0.2)]
    path = tmp_path / "new" / "grid.jpg"
    nst.show_images(images, ["a", "b", "c"], rows=["one", "two"], path=path)
    with Image.open(path) as file:
        assert file.width > file.height > 100
    with pytest.raises(ValueError, match="rows times titles, got 6 images, 3 titles and 3 rows"):
        nst.show_images(images, ["a", "b", "c"], rows=["one", "two", "three"])


def test_the_panel_explains_itself_where_there_is_no_front_end(capsys):
    nst.show_panel(None, None, None)
    text = capsys.readouterr().out
    assert "JupyterLab" in text and 'paint("mont_saint_michel.jpg", "great_wave.jpg"' in text


def test_importing_the_helpers_does_not_load_the_widgets():
    code = "import sys, nst_helpers; print('ipywidgets' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "False"

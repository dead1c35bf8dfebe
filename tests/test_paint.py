"""From files to a picture and its recipe; what is said of a run, and how it is stopped."""

import signal

import numpy as np
import pytest
from conftest import ROOT

import nst_helpers as nst

PAIR = "neuschwanstein_castle.jpg", "church_at_auvers.jpg"
FAST = {"size": 64, "coarsest": 64, "steps": 3, "style_loss": "gram", "quiet": True}


@pytest.fixture(scope="module")
def pair():
    return [nst.load_image(name, 96) for name in PAIR]  # 96 x 64 and 76 x 96


def test_says_what_to_expect_and_what_it_took(defined, pair, capsys):
    defined.stylize(*pair, steps=3, coarsest=48)
    first, *sizes, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Expected: ")
    assert "GB of memory on CPU" in first
    assert [line.split(":")[0] for line in sizes] == ["48 x 32", "96 x 64"]
    assert all("style" in line and "total" in line for line in sizes)
    assert last.startswith("Took ")
    defined.stylize(*pair, steps=1, coarsest=96, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("step, size", [(3, 48), (13, 96)])
def test_a_callback_that_returns_false_stops_with_the_best_picture_so_far(defined, pair, capsys, step, size):
    seen = []

    def callback(now):
        seen.append(now.image)
        return now.step != step

    image, history = defined.stylize(*pair, steps=5, coarsest=48, callback=callback)
    assert image.shape == pair[0].shape and image.min() >= 0 and image.max() <= 1
    assert len(history["total"]) == len(seen) == step and history["size"][-1] == size
    assert f"and {step} steps: here is the best picture so far" in capsys.readouterr().out
    assert np.abs(image - pair[0]).mean() > 0.01  # painted, not the photograph
    if size == 96:  # of the pictures of this size, the one whose loss was noted least
        np.testing.assert_array_equal(image, seen[8 + np.argmin(history["total"][8:])])


def test_an_interrupt_waits_for_the_end_of_a_step(defined, pair, monkeypatch):
    """A real signal in the middle of a step; twice, as impatient people press."""
    finished, before = [], signal.getsignal(signal.SIGINT)

    plain = defined.lbfgs

    def optimizer(*arguments):
        for step in plain(*arguments):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            finished.append(True)
            yield step

    monkeypatch.setattr(defined, "lbfgs", optimizer)
    image, history = defined.stylize(*pair, steps=5, coarsest=96, quiet=True, callback=lambda now: None)
    assert finished == [True] and len(history["total"]) == 1
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):  # a loop of quiet runs ends, as any cell does
        defined.stylize(*pair, steps=5, coarsest=96, quiet=True)


@pytest.mark.parametrize("what, bad", [("loss", 1), ("loss", 12), ("gradient", 5)])
def test_numbers_that_break_stop_the_run_and_keep_the_best_picture(defined, pair, monkeypatch, capsys, what, bad):
    plain, calls = defined.objective, []

    def objective(*arguments):
        evaluate = plain(*arguments)

        def breaks(image):
            losses, gradient = evaluate(image)
            calls.append(1)
            if len(calls) == bad and what == "loss":
                losses = losses | {"total": losses["total"] * np.nan}
            return losses, gradient * (np.nan if len(calls) == bad else 1)

        return breaks

    monkeypatch.setattr(defined, "objective", objective)
    how = {"steps": 4, "coarsest": 48, "optimizer": "adam", "quiet": True}
    if bad == 1:
        with pytest.raises(ValueError, match="finite total loss, got nan at step 1. Lower the weights"):
            defined.stylize(*pair, **how)
        return
    image, history = defined.stylize(*pair, **how)
    assert np.isfinite(image).all() and image.shape == pair[0].shape
    assert np.isfinite(history["total"]).all() and len(history["total"]) == (bad if what == "gradient" else bad - 1)
    assert ": the run stops with the best picture before. Lower the weights" in capsys.readouterr().out


MASKED = {"image": "great_wave.jpg", "mask": "neuschwanstein_castle_sky.png"}
CALLS = {
    "regions": ([MASKED, {"image": PAIR[1], "weight": 0.5}], {"style_loss": "wasserstein", "colours": "matched"}),
    "a Style": (nst.Style("great_wave.jpg", scale=2.0), {"style_weight": np.float32(30), "steps": np.int64(2)}),
    "a Path": ({"image": ROOT / "images" / "style" / "great_wave.jpg"}, {"style_layers": {"block1_conv1": 2.0}}),
    "a start": (PAIR[1], {"start": "cup_of_coffee.jpg"}),
}


@pytest.mark.parametrize("style, options", CALLS.values(), ids=CALLS)
def test_a_picture_again_from_its_recipe(defined, tmp_path, style, options):
    image, history, recipe = defined.paint(PAIR[0], style, **FAST | options)
    found = nst.read_recipe(nst.save_image(image, tmp_path / "a.png", recipe))
    assert found == recipe and found["steps"] == len(history["total"])
    again, _, _ = defined.paint(**found["call"], quiet=True)
    np.testing.assert_array_equal(again, image)


def test_the_recipe_names_files_settings_network_and_versions(defined, pair):
    style = [{"image": PAIR[1], "mask": np.ones((43, 64))}, nst.Style("great_wave.jpg", np.float32(0.5), scale=2)]
    _, _, recipe = defined.paint(PAIR[0], style, **FAST)
    call = recipe["call"]
    assert (call["content"], call["size"], call["steps"], call["enlarge"]) == (PAIR[0], 64, 3, False)
    assert call["style"][0]["image"] == PAIR[1] and call["style"][0]["mask"].startswith("[[1.")
    assert call["style"][1] == {"image": "great_wave.jpg", "weight": 0.5, "mask": None, "scale": 2, "image_mask": None}
    assert set(call) == {"content", "style", "size", "enlarge", *nst.Settings.__dataclass_fields__}
    assert recipe["software"]["numpy"] == np.__version__
    features = nst.FeatureExtractor(**recipe["network"])(pair[0])
    for layer, expected in defined.extractor(pair[0]).items():
        np.testing.assert_array_equal(features[layer], expected)
    recipe["network"]["style_layers"].clear()
    assert defined.extractor.style_layers  # a copy


def test_a_picture_without_a_recipe_is_refused(tmp_path, picture):
    with pytest.raises(ValueError, match="Expected a PNG with a recipe.*a.png.*Take the file as it was saved"):
        nst.read_recipe(nst.save_image(picture, tmp_path / "a.png"))


def test_paint_takes_names_not_arrays(defined, pair):
    for content, style in ((pair[0], PAIR[1]), (PAIR[0], pair[1]), (PAIR[0], nst.Style(pair[1])), (PAIR[0], None)):
        with pytest.raises(ValueError, match="name of a picture's file, got"):
            defined.paint(content, style, **FAST)

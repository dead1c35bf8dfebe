"""The notebook's descent, its sizes, and `stylize`, on small pictures."""

import ast
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_bfloat16

import nst_helpers as nst

SHORT = {"steps": 4, "coarsest": 32, "quiet": True}


@pytest.fixture(scope="module")
def pair(castle, church):
    return castle, church


# --- L-BFGS -------------------------------------------------------------------------------------


def as_tensor(values):
    return tf.constant(values, tf.float32)


def test_the_two_loops_against_the_matrix(defined, random):
    """The recursion, against BFGS with the whole matrix written down (Nocedal & Wright, 6.17)."""
    n = 6
    hessian = np.diag(np.arange(1.0, n + 1)) + 0.2
    pairs = [(s, hessian @ s) for s in random.normal(size=(4, n))]
    start = np.diag(random.uniform(0.5, 2, n))
    s, y = pairs[-1]
    B = start * (s @ y) / (y @ start @ y)
    for s, y in pairs:
        rho = 1 / (s @ y)
        V = np.eye(n) - rho * np.outer(y, s)
        B = V.T @ B @ V + rho * np.outer(s, s)
    g = random.normal(size=n)
    tensors = [(as_tensor(s), as_tensor(y)) for s, y in pairs]
    found = defined.inverse_hessian_times(as_tensor(g), tensors, lambda q: tf.linalg.matvec(as_tensor(start), q))
    np.testing.assert_allclose(found, B @ g, rtol=1e-3, atol=1e-4)


def test_the_preconditioner_against_numpy(defined, random):
    q = random.normal(size=(1, 9, 14, 3)).astype(np.float32)
    f = np.hypot(np.fft.fftfreq(9)[:, None], np.fft.fftfreq(14))[None, :, :, None]
    expected = np.fft.ifft2(np.fft.fft2(q, axes=(1, 2)) / (f + 0.1), axes=(1, 2)).real
    np.testing.assert_allclose(defined.even_out(as_tensor(q)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precondition", ["even_out", None])
def test_lbfgs_finds_the_minimum_of_a_bowl(defined, random, precondition):
    """A badly conditioned quadratic whose minimum is known, inside [0, 1]."""
    target = random.uniform(0.2, 0.8, (1, 6, 8, 3)).astype(np.float32)
    curvature = 10.0 ** random.uniform(-2, 2, target.shape).astype(np.float32)

    def evaluate(image):
        error = image - target
        return {"total": 0.5 * tf.reduce_sum(curvature * error**2)}, curvature * error

    precondition = defined.even_out if precondition else tf.identity
    *_, (image, losses) = defined.lbfgs(evaluate, tf.fill(target.shape, 0.5), 400, 0.05, precondition)
    np.testing.assert_allclose(image, target, atol=0.01)
    assert float(losses["total"]) == pytest.approx(float(evaluate(image)[0]["total"]))  # those of this very image


def test_lbfgs_stays_where_there_is_no_slope(defined, picture):
    def flat(image):
        return {"total": tf.constant(1.0)}, tf.zeros_like(image)

    for image, _ in defined.lbfgs(flat, tf.constant(picture), 4):
        np.testing.assert_array_equal(image, picture)


def test_lbfgs_takes_no_step_that_makes_the_loss_much_larger(defined, picture):
    """A narrow valley, over whose sides the first step would jump."""

    def evaluate(image):
        error = image - picture
        return {"total": 1 + 1e4 * tf.reduce_sum(error**2)}, 2e4 * error

    start = tf.constant(picture + 0.001)
    totals = [float(losses["total"]) for _, losses in defined.lbfgs(evaluate, start, 20, learning_rate=0.5)]
    assert max(np.divide(totals[1:], totals[:-1])) <= 1.2
    assert totals[-1] < 1.01


def test_lbfgs_does_not_hide_a_slope_that_is_no_number(defined, picture):
    def steep(image):
        return {"total": tf.reduce_sum(image)}, image * np.nan

    *_, (_, losses) = defined.lbfgs(steep, tf.constant(picture), 1)
    assert np.isnan(losses["total"])


# --- Sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale, steps, expected", [(1, 8, 8), (0.5, 8, 11), (0.25, 8, 16), (0.125, 1, 3)])
def test_steps_by_hand(defined, scale, steps, expected):
    assert defined.steps_at(scale, steps) == expected


@pytest.mark.parametrize(
    "size, coarsest, expected",
    [
        ((342, 512), 64, [0.125, 0.25, 0.5, 1]),
        ((512, 342), 128, [0.25, 0.5, 1]),
        ((342, 512), 4000, [1]),
        ((20, 512), 128, [0.25, 0.5, 1]),
    ],
)
def test_scales_by_hand(defined, size, coarsest, expected):
    assert defined.scales_of(np.zeros((1, *size, 3)), coarsest) == expected


def test_the_next_size_starts_from_the_photograph_and_the_change(defined, random):
    small, large = (random.uniform(0.3, 0.6, (1, side, side, 3)).astype(np.float32) for side in (8, 16))
    brighter = small + 0.25  # an even change, which enlarging leaves as it is
    np.testing.assert_allclose(defined.next_start(large, brighter, small), large + 0.25, atol=1e-5)
    chessboard = small + 0.25 * (-1.0) ** np.indices((8, 8)).sum(axis=0)[:, :, np.newaxis]  # too fine to be handed on
    np.testing.assert_allclose(defined.next_start(large, chessboard, small), large, atol=1e-5)
    assert defined.next_start(large, small + 0.6, small).numpy().max() == 1


# --- stylize ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_returns_picture_and_history(defined, pair, optimizer, share):
    before = [image.copy() for image in pair]
    image, history = defined.stylize(*pair, **SHORT, optimizer=optimizer, photograph_share=share)
    assert image.shape == pair[0].shape and image.dtype == np.float32
    assert 0 <= image.min() and image.max() <= 1
    assert set(history) == {"seconds", "size", "total", "content", "style", "tv"}
    assert history["size"] == [32] * 7 + [64] * 5  # each size's start, and its steps
    assert min(history["total"][9:]) < 0.7 * history["total"][0]
    content, style, tv = (np.array(history[name]) for name in ("content", "style", "tv"))  # unweighted
    content *= np.repeat([2, 1], [7, 5])  # which counts twice at half the size
    total = defined.CONTENT_WEIGHT * content + defined.STYLE_WEIGHT * style + defined.TV_WEIGHT * tv
    np.testing.assert_allclose(history["total"], total, rtol=1e-5)
    for image, copy in zip(pair, before):
        np.testing.assert_array_equal(image, copy)


def test_a_size_ends_with_the_best_picture_it_saw(defined, pair):
    """What is returned has the least loss of its size, measured anew."""
    image, history = defined.stylize(*pair, steps=6, coarsest=64, quiet=True, photograph_share=1.0)
    settings = defined.settings_now(defined.extractor, photograph_share=1.0)
    evaluate = defined.objective(pair[0], [nst.Style(pair[1])], settings, defined.extractor)
    found = float(evaluate(nst.framed(image, 8))[0]["total"])
    assert found < 1.2 * min(history["total"])  # not the same, for its margins are mirrored now, not painted
    assert found < 0.5 * history["total"][0]


@pytest.mark.parametrize("kind", ["gram", "wasserstein"])
def test_never_worse_than_the_photograph(defined, kind):
    """A logo, whose first steps are far too long."""
    logo = np.ones((1, 96, 96, 3), np.float32)
    logo[:, 20:50, 20:50] = [1, 0, 0]
    rows, columns = np.ogrid[:96, :96]
    logo[0, (rows - 65) ** 2 + (columns - 60) ** 2 < 400] = 0
    wave = nst.load_image("great_wave.jpg", 96)
    _, history = defined.stylize(logo, wave, steps=4, coarsest=96, style_loss=kind, quiet=True)
    assert max(np.divide(history["total"][1:], history["total"][:-1])) <= 1.2
    assert min(history["total"]) < 0.9 * history["total"][0]


def test_the_parameters_are_looked_up_when_a_picture_is_painted(defined, pair, monkeypatch):
    for name, value in {"STYLE_WEIGHT": 7.0, "STEPS": 2, "COARSEST": 64, "PHOTOGRAPH_SHARE": 1.0}.items():
        monkeypatch.setattr(defined, name, value)
    _, history = defined.stylize(*pair, quiet=True)
    assert len(history["total"]) == 3
    parts = history["content"][0] + 7 * history["style"][0] + 6 * history["tv"][0]
    assert history["total"][0] == pytest.approx(parts, rel=1e-5)
    with pytest.raises(ValueError, match="Unknown setting 'weight_of_style'. Valid: "):
        defined.stylize(*pair, weight_of_style=3)


EDITS = {  # what stands in a function of the lesson, and what it is changed into
    "relative_error": ("target) ** 2", "target) ** 4"),
    "content_loss": ("return relative_error", "return 5 * relative_error"),
    "gram_matrix": ("F, F, transpose_a=True), tf.float32)", "F, F ** 2, transpose_a=True), tf.float32)"),
    "style_loss": ("share * distance", "share * 5 * distance"),
    "total_variation_loss": ("return", "return 50 *"),
    "total_loss": ("weight * losses", "weight ** 2 * losses"),
    "losses_and_gradient": ("tape.gradient(losses['total'], image)", "tape.gradient(losses['style'], image)"),
    "lbfgs": ("image - length * move", "image - 0.5 * length * move"),
    "even_out": ("0.1", "0.001"),
    "hypercolumns": ("maps.append(", "maps.append(F ** 2 + "),
    "most_alike": ("tf.argmax", "tf.argmin"),
    "moments": ("return (tf", "return (0 * tf"),
    "wasserstein": ("- 2 * overlap", "- overlap"),
    "trace_of_root": ("tf.sqrt(", "2 * tf.sqrt("),
    "covariance": ("mean[:, tf.newaxis]", "0 * mean[:, tf.newaxis]"),
    "dot": ("a * b", "2 * a * b"),
    "next_start": ("plain + tf", "0.9 * plain + tf"),
    "rows_of": ("return", "features = features[:, :-1]\n    return"),
}


@pytest.mark.parametrize("name, tile_size", [*((name, None) for name in EDITS), ("gram_matrix", 64)])
def test_editing_a_function_changes_the_picture_and_no_other_cell_has_to_run(
    defined, pair, monkeypatch, name, tile_size
):
    """Each idea has one definition, and the one that is explained is the one that paints, in tiles as well."""
    settings = {"steps": 2, "coarsest": 32, "quiet": True, "tile_size": tile_size}
    before, _ = defined.stylize(*pair, **settings)
    function = next(node for node in ast.parse(defined.source).body if getattr(node, "name", "") == name)
    old, new = EDITS[name]
    edited = ast.unparse(function).replace(old, new)
    assert edited != ast.unparse(function)
    monkeypatch.setattr(defined, "STYLE_LOSSES", dict(defined.STYLE_LOSSES))
    monkeypatch.setattr(defined, name, None)  # so that it is put back
    exec(edited, vars(defined))
    if name in defined.STYLE_LOSSES:
        defined.STYLE_LOSSES[name] = defined.gaussian, defined.wasserstein
    after, _ = defined.stylize(*pair, **settings)
    assert np.abs(after - before).max() > 1e-3


def test_is_repeatable_whatever_was_painted_before(defined, pair):
    one, _ = defined.stylize(*pair, **SHORT)
    defined.stylize(pair[0][:, :40], pair[1], **SHORT)
    other, _ = defined.stylize(*pair, **SHORT)
    np.testing.assert_array_equal(one, other)


def test_nothing_is_compiled_twice(defined, pair):
    """Another weight, another painting, another size: the function is that of the first run."""
    defined.stylize(*pair, **SHORT)
    _, function = defined.extractor.compiled["whole_picture"]
    before = function.experimental_get_tracing_count()
    defined.stylize(pair[0][:, :50], pair[1][:, ::-1], **SHORT, style_weight=7.5, tv_weight=0)
    assert function.experimental_get_tracing_count() == before


def test_a_network_goes_when_nobody_holds_it_and_so_do_its_graphs(defined, pair):
    graphs = []
    for _ in range(3):
        extractor = nst.FeatureExtractor("vgg16", weights=None)
        defined.stylize(*pair, **SHORT, extractor=extractor)
        watched = weakref.ref(extractor)
        del extractor
        gc.collect()
        assert watched() is None
        graphs.append(sum(type(each).__name__ == "FuncGraph" for each in gc.get_objects()))
    assert graphs[1] == graphs[2]


@pytest.mark.parametrize("content, style", [((18, 160), (140, 20)), ((160, 18), (20, 140)), ((5, 40), (64, 64))])
def test_paints_any_shape(defined, random, content, style):
    images = [random.uniform(size=(1, *size, 3)).astype(np.float32) for size in (content, style)]
    image, _ = defined.stylize(*images, steps=1, quiet=True)
    assert image.shape == images[0].shape and np.isfinite(image).all()


@pytest.mark.parametrize("model", nst.MODELS)
def test_paints_through_every_network(defined, pair, model):
    """With random weights: at its own default layers, smoothed where the network needs it."""
    extractor = nst.FeatureExtractor(model, weights=None)
    _, history = defined.stylize(*pair, steps=8, coarsest=64, extractor=extractor, quiet=True)
    assert min(history["total"]) < history["total"][0]


@needs_bfloat16
def test_bfloat16_ends_where_float32_does(defined, pair):
    short = nst.FeatureExtractor("vgg16", precision="bfloat16")
    ends = [min(defined.stylize(*pair, steps=30, coarsest=64, extractor=each, quiet=True)[1]["total"])
            for each in (defined.extractor, short)]  # fmt: skip
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_paints_through_a_network_cut_off_early(defined, pair):
    layers = {"style_layers": {"block1_conv1": 1.0}, "content_layer": "block2_conv2"}
    extractor = nst.FeatureExtractor("vgg16", **layers)
    image, _ = defined.stylize(*pair, steps=1, coarsest=64, extractor=extractor, quiet=True)
    assert image.shape == pair[0].shape and np.ptp(image - pair[0]) > 0.01


def test_takes_other_layers(defined, pair):
    one = {"block2_conv1": 5.0}
    settings = {"style_layers": one, "content_layer": "block1_conv1", "photograph_share": 1.0, "style_loss": "gram"}
    _, history = defined.stylize(*pair, steps=1, coarsest=64, quiet=True, **settings)
    start, target = (defined.gram_matrix(defined.extractor(nst.framed(image, 8))["block2_conv1"]) for image in pair)
    expected = float(np.sum((start - target) ** 2) / np.sum(target**2))  # one layer: its weight cancels
    assert history["style"][0] == pytest.approx(expected, rel=1e-4)
    for wrong in ({"content_layer": "block3_conv2"}, {"style_layers": {"block1_conv1": 1.0, "block3_conv2": 1.0}}):
        with pytest.raises(ValueError, match="Unknown layer of this extractor 'block3_conv2'.*block1_conv1, .*conv2"):
            defined.stylize(*pair, **wrong, quiet=True)


def test_blends_masks_colours_starts_and_protection_go_through(defined, pair, random):
    """All of it at once: finite, in range, and untouched where no mask is."""
    castle, church = pair
    left = np.zeros(castle.shape[1:3])
    left[:, :20] = 1
    middle = np.zeros(castle.shape[1:3])
    middle[:, 20:40] = 1
    styles = [nst.Style(church, 1, left), nst.Style(church[:, ::-1], 2, left), nst.Style(church, 1, middle, 1.5)]
    start = random.uniform(size=castle.shape).astype(np.float32)
    image, _ = defined.stylize(castle, styles, start=start, colours="matched", **SHORT)
    np.testing.assert_allclose(image[:, :, 46:], castle[:, :, 46:], atol=1e-6)
    assert np.abs(image[:, :, :36] - castle[:, :, :36]).mean() > 0.02


def test_neighbours_put_colours_where_they_belong(defined):
    """A painting of dark above and light below; a photograph of light below dark, upside down: each finds its own."""
    rows = np.linspace(0, 1, 64)[:, None, None] > 0.5
    noise = np.random.default_rng(0).normal(0, 0.05, (64, 64, 1))
    painting = np.clip(np.where(rows, [0.9, 0.6, 0.1], [0.1, 0.1, 0.5]) + noise, 0, 1)[None].astype(np.float32)
    photo = np.clip(np.where(rows, 0.2, 0.8) + noise.swapaxes(0, 1) + np.zeros(3), 0, 1)[None].astype(np.float32)
    image, _ = defined.stylize(photo, painting, steps=20, coarsest=64, photograph_share=0.0, quiet=True)
    red = image[0, :, :, 0]
    assert red[8:24].mean() > red[40:56].mean() + 0.3  # light above, where the photograph is light

"""The notebook's `stylize`, on small pictures."""

import numpy as np
import pytest
import tensorflow as tf

import nst_helpers as nst
from conftest import STYLE_LAYERS, needs_bfloat16

WEIGHTS = {"content_weight": 1.0, "style_weight": 100.0, "tv_weight": 1.0}


@pytest.fixture(scope="module")
def pair():
    folder = nst.HERE / "images"
    return (
        nst.load_image(folder / "content" / "neuschwanstein_castle.jpg", 64),
        nst.load_image(folder / "style" / "church_at_auvers.jpg", 64),
    )


def test_returns_picture_and_history(defined, pair):
    before = [image.copy() for image in pair]
    image, history = defined.stylize(*pair, steps=12, **WEIGHTS)
    assert image.shape == pair[0].shape and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    by_layer = [f"style {layer}" for layer in STYLE_LAYERS]
    assert set(history) == {"seconds", "size", "total", "content", "style", "tv", *by_layer}
    assert set(history["size"]) == {64}
    assert {len(values) for values in history.values()} == {12}
    assert history["seconds"] == sorted(history["seconds"]) and history["seconds"][0] >= 0
    assert history["total"][-1] < history["total"][0]
    # the three are unweighted
    total = np.dot(list(WEIGHTS.values()), [history["content"], history["style"], history["tv"]])
    np.testing.assert_allclose(history["total"], total, rtol=1e-5)
    np.testing.assert_allclose(history["style"], sum(np.array(history[n]) for n in by_layer), rtol=1e-5)
    for image, copy in zip(pair, before):
        np.testing.assert_array_equal(image, copy)


def test_history_starts_at_the_photograph(defined, pair):
    _, history = defined.stylize(*pair, steps=1, **WEIGHTS)
    grams = {layer: defined.gram_matrix(f) for layer, f in defined.extractor(pair[1]).items()}
    features = defined.extractor(pair[0])
    assert history["content"][0] == pytest.approx(0, abs=1e-6)
    assert history["style"][0] == pytest.approx(
        float(defined.style_loss(features, grams, STYLE_LAYERS)), rel=1e-4
    )
    vertical, horizontal = np.abs(np.diff(pair[0], axis=1)), np.abs(np.diff(pair[0], axis=2))
    assert history["tv"][0] == pytest.approx(vertical.mean() + horizontal.mean(), rel=1e-5)


def test_is_repeatable(defined, pair):
    (one, _), (other, _) = (defined.stylize(*pair, steps=5, **WEIGHTS) for _ in range(2))
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_content_weight_alone_leaves_the_photograph(defined, pair, optimizer):
    image, _ = defined.stylize(
        *pair, content_weight=1, style_weight=0, tv_weight=0, steps=3, coarsest=32, optimizer=optimizer
    )
    assert np.abs(image - pair[0]).mean() < 1e-2


def test_a_larger_style_weight_gives_less_style_loss(defined, pair):
    ends = [
        defined.stylize(*pair, content_weight=1, style_weight=weight, tv_weight=0.2, steps=40)[1]["style"][-1]
        for weight in (1, 10, 100)
    ]
    assert ends[0] > ends[1] > ends[2]


def test_a_larger_tv_weight_gives_a_smoother_picture(defined, pair):
    ends = [
        defined.stylize(*pair, content_weight=1, style_weight=10, tv_weight=weight, steps=30)[1]["tv"][-1]
        for weight in (0, 10)
    ]
    assert ends[0] > ends[1]


def test_every_size_gets_its_steps_from_coarse_to_fine(defined):
    folder = nst.HERE / "images"
    content = nst.load_image(folder / "content" / "neuschwanstein_castle.jpg", 96)  # 96 x 64 pixels
    style = nst.load_image(folder / "style" / "church_at_auvers.jpg", 96)
    seen = []
    image, history = defined.stylize(
        content,
        style,
        steps=4,
        coarsest=48,
        callback=lambda now: seen.append((now.step, now.image)),
        **WEIGHTS,
    )
    assert image.shape == content.shape
    assert history["size"] == [48] * 4 + [96] * 4
    assert {len(values) for values in history.values()} == {8}
    assert history["seconds"] == sorted(history["seconds"])
    assert [step for step, _ in seen] == list(range(1, 9))
    assert [tuple(now.shape) for _, now in seen] == [(1, 32, 48, 3)] * 4 + [(1, 64, 96, 3)] * 4


def test_the_next_size_starts_from_the_photograph_and_the_change(defined, random):
    small, large = random.uniform(0.3, 0.6, (1, 8, 8, 3)), random.uniform(0.3, 0.6, (1, 16, 16, 3))
    small, large = small.astype(np.float32), large.astype(np.float32)
    brighter = np.clip(small + 0.25, 0, 1)  # an even change, which enlarging leaves as it is
    np.testing.assert_allclose(defined.start_of_next(large, brighter, small), large + 0.25, atol=1e-5)
    assert defined.start_of_next(large, small + 0.6, small).numpy().max() == 1


def test_resized_keeps_flat_colours_and_averages_stripes(defined):
    stripes = np.zeros((1, 32, 64, 3), np.float32)
    stripes[:, :, ::2] = 1
    half = defined.resized(stripes, 0.5).numpy()
    assert half.shape == (1, 16, 32, 3)
    np.testing.assert_allclose(half[:, :, 4:-4], 0.5, atol=0.03)
    np.testing.assert_allclose(defined.resized(stripes, 1.0), stripes, atol=1e-6)


@pytest.mark.parametrize(
    "size, coarsest, expected",
    [
        ((342, 512), 128, [0.25, 0.5, 1]),
        ((512, 342), 128, [0.25, 0.5, 1]),
        ((683, 1024), 128, [0.125, 0.25, 0.5, 1]),
        ((333, 500), 128, [0.25, 0.5, 1]),
        ((342, 512), 512, [1]),
        ((342, 512), 4000, [1]),
        ((60, 512), 128, [1]),  # half of it would be less than twice the network's 16 pixels high
        ((64, 512), 128, [0.5, 1]),
        ((64, 64), 1, [0.5, 1]),
        ((20, 20), 128, [1]),
    ],
)
def test_scales_by_hand(size, coarsest, expected):
    square = nst.Style(np.zeros((1, 512, 512, 3)))
    assert nst.scales(np.zeros((1, *size, 3)), [square], coarsest, 16) == expected


def test_scales_mind_a_small_style():
    large, small = np.zeros((1, 512, 512, 3)), np.zeros((1, 40, 90, 3))
    assert nst.scales(large, [nst.Style(small)], 64, 16) == [1]
    assert nst.scales(large, [nst.Style(large), nst.Style(small)], 64, 16) == [1]
    assert nst.scales(large, [nst.Style(small, scale=2)], 64, 16) == [0.5, 1]
    assert nst.scales(large, [nst.Style(large, scale=0.1)], 64, 16) == [1]


def test_lbfgs_ends_below_adam(defined, pair):
    ends = {
        name: defined.stylize(*pair, steps=60, optimizer=name, **WEIGHTS)[1]["total"][-1]
        for name in ("adam", "lbfgs")
    }
    assert ends["lbfgs"] < 0.95 * ends["adam"]


@needs_bfloat16
def test_bfloat16_ends_where_float32_does(defined, pair):
    short = nst.build_feature_extractor("vgg16", precision="bfloat16")
    ends = []
    for extractor in (defined.extractor, short):
        image, _ = defined.stylize(*pair, steps=60, extractor=extractor, **WEIGHTS)
        weights = {"content": 1.0, "style": 100.0, "tv": 1.0}
        evaluate = defined.objective(*pair, weights)  # both measured in float32
        ends.append(float(evaluate(tf.constant(image))[0]["total"]))
    assert ends[1] == pytest.approx(ends[0], rel=0.03)


def test_the_two_loops_against_the_matrix(defined, random):
    """The recursion, against BFGS with the whole matrix written down (Nocedal & Wright, 6.17)."""
    n = 6
    hessian = np.diag(np.arange(1.0, n + 1)) + 0.2
    steps = random.normal(size=(4, n))
    pairs = [(s, hessian @ s) for s in steps]
    start = np.diag(random.uniform(0.5, 2, n))
    s, y = pairs[-1]
    B = start * (s @ y) / (y @ start @ y)
    for s, y in pairs:
        rho, identity = 1 / (s @ y), np.eye(n)
        V = identity - rho * np.outer(y, s)
        B = V.T @ B @ V + rho * np.outer(s, s)
    g = random.normal(size=n)
    tensors = [(tf.constant(s, tf.float32), tf.constant(y, tf.float32), s @ y) for s, y in pairs]
    found = defined.inverse_hessian_times(
        tf.constant(g, tf.float32), tensors, lambda q: tf.linalg.matvec(tf.constant(start, tf.float32), q)
    )
    np.testing.assert_allclose(found, B @ g, rtol=1e-3, atol=1e-4)


def test_the_preconditioner_against_numpy(defined, random):
    v, q = (random.uniform(0.1, 1, (1, 9, 14, 3)).astype(np.float32) for _ in range(2))
    scale = 1 / np.sqrt(np.sqrt(v) + np.sqrt(v).mean())
    f = np.hypot(np.fft.fftfreq(9)[:, None], np.fft.fftfreq(14))[None, :, :, None]
    smooth = np.fft.ifft2(np.fft.fft2(scale * q, axes=(1, 2)) / (f + 0.1), axes=(1, 2)).real
    found = defined.preconditioner(tf.constant(v), defined.frequency_gain(9, 14))(q)
    np.testing.assert_allclose(found, scale * smooth, rtol=1e-3, atol=1e-3)


def test_the_preconditioner_is_symmetric_and_positive(defined, random):
    v = tf.constant(random.uniform(0, 1, (1, 8, 10, 3)), tf.float32)
    a, b = (tf.constant(random.normal(size=(1, 8, 10, 3)), tf.float32) for _ in range(2))
    apply = defined.preconditioner(v, defined.frequency_gain(8, 10))
    assert float(defined.dot(a, apply(b))) == pytest.approx(float(defined.dot(b, apply(a))), rel=1e-3)
    assert float(defined.dot(a, apply(a))) > 0


def test_lbfgs_finds_the_minimum_of_a_bowl(defined, random):
    """A badly conditioned quadratic whose minimum is known, inside [0, 1]."""
    target = random.uniform(0.2, 0.8, (1, 6, 8, 3)).astype(np.float32)
    curvature = 10.0 ** random.uniform(-2, 2, target.shape).astype(np.float32)

    def evaluate(image):
        error = image - target
        return {"total": 0.5 * tf.reduce_sum(curvature * error**2)}, curvature * error

    for image, _ in defined.lbfgs(evaluate, tf.fill(target.shape, 0.5), 200, 0.05):
        pass
    np.testing.assert_allclose(image, target, atol=0.01)


def test_lbfgs_stays_where_there_is_no_slope(defined, picture):
    flat = lambda image: ({"total": tf.constant(1.0)}, tf.zeros_like(image))  # noqa: E731
    for image, _ in defined.lbfgs(flat, tf.constant(picture), 4, 0.05):
        np.testing.assert_array_equal(image, picture)


@pytest.mark.parametrize("weights", [(1, 1e6, 0), (0, 1e-6, 0), (0, 0, 1), (1e-8, 1e-6, 1e-8), (1, 100, 50)])
def test_lbfgs_descends_at_any_weights(defined, pair, weights):
    names = ("content_weight", "style_weight", "tv_weight")
    image, history = defined.stylize(*pair, steps=25, **dict(zip(names, weights)))
    assert np.isfinite(image).all()
    assert history["total"][-1] < 0.7 * history["total"][0]


def test_takes_other_style_layers(defined, pair):
    one = {"block2_conv1": 5.0}
    _, history = defined.stylize(*pair, steps=5, style_layers=one, **WEIGHTS)
    target = defined.gram_matrix(defined.extractor(pair[1])["block2_conv1"])
    start = defined.gram_matrix(defined.extractor(pair[0])["block2_conv1"])
    expected = float(np.mean((start - target) ** 2) / np.mean(target**2))  # one layer: its weight cancels
    assert history["style"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("number", [int, np.float32, np.float64, np.int64])
def test_takes_numbers_of_any_type(defined, pair, number):
    weights = {name: number(3) for name in WEIGHTS}
    _, history = defined.stylize(*pair, steps=1, learning_rate=number(1), **weights)
    assert history["total"][0] == pytest.approx(3 * (history["style"][0] + history["tv"][0]), rel=1e-4)


@pytest.mark.parametrize("model", nst.MODELS)
def test_paints_through_every_network(defined, pair, model):
    """With random weights: at its own default layers, smoothed where the network needs it."""
    extractor = nst.build_feature_extractor(model, weights=None)
    images = [defined.resized(image, 1.5) for image in pair]  # 96 pixels
    _, history = defined.stylize(*images, steps=8, coarsest=96, extractor=extractor, **WEIGHTS)
    assert history["total"][-1] < history["total"][0]
    assert {name for name in history if name.startswith("style ")} == {
        f"style {layer}" for layer in nst.MODELS[model].style_layers
    }


def test_refuses_layers_that_the_extractor_does_not_return(defined, pair):
    shallow = nst.build_feature_extractor(
        "vgg16", content_layer="block1_conv2", style_layers={"block1_conv1": 1.0}, weights=None
    )
    with pytest.raises(ValueError, match="'block4_conv2' is not among.*block1_conv1.*Name it when building"):
        defined.stylize(*pair, content_layer="block4_conv2", steps=1, extractor=shallow, **WEIGHTS)


def test_another_weight_compiles_nothing(defined, pair):
    defined.stylize(*pair, steps=1, **WEIGHTS)
    before = defined.losses_and_gradient.experimental_get_tracing_count()
    defined.stylize(*pair, content_weight=3, style_weight=7.5, tv_weight=0, steps=1)
    assert defined.losses_and_gradient.experimental_get_tracing_count() == before


def test_the_callback_sees_every_step(defined, pair):
    seen = []
    image, _ = defined.stylize(
        *pair, steps=3, callback=lambda now: seen.append((now.step, now.image.numpy())), **WEIGHTS
    )
    assert [step for step, _ in seen] == [1, 2, 3]
    np.testing.assert_array_equal(seen[-1][1], image)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"style_weight": -1}, "style_weight.*at least 0, got -1"),
        ({"content_weight": float("nan")}, "content_weight.*finite.*nan"),
        ({"tv_weight": float("inf")}, "tv_weight.*finite.*inf"),
        ({"tv_weight": "much"}, "tv_weight.*much"),
        ({"steps": 0}, "steps.*at least 1, got 0"),
        ({"coarsest": 0}, "coarsest.*at least 1, got 0"),
        ({"coarsest": 64.0}, "coarsest.*whole number.*64.0"),
        ({"optimizer": "sgd"}, "Unknown optimizer 'sgd'. Valid optimizers: adam, lbfgs"),
        ({"optimizer": None}, "Unknown optimizer None. Valid optimizers: adam, lbfgs"),
        ({"steps": 2.5}, "steps.*whole number.*2.5"),
        ({"learning_rate": 0}, "learning_rate.*above 0"),
        ({"learning_rate": -1}, "learning_rate.*above 0, got -1"),
        ({"learning_rate": "fast"}, "learning_rate.*above 0, got 'fast'"),
        ({"style_layers": {"block9_conv1": 1.0}}, "block9_conv1.*block1_conv1.*block5_conv1"),
        ({"style_layers": {"block1_conv1": -1.0}}, "block1_conv1.*got -1"),
        ({"style_layers": {"block1_conv1": 0.0}}, "at least one of style_layers"),
        ({"style_layers": {}}, "at least one of style_layers"),
        ({"style_layers": ["block1_conv1"]}, "style_layers as a dict.*got \\['block1_conv1'\\]"),
        ({"content_weight": 0, "style_weight": 0, "tv_weight": 0}, "at least one of the weights"),
        ({"content_weight": 10**400}, "content_weight.*finite"),
        ({"style_weight": 3e38, "steps": 5}, "total loss is (nan|inf) at step"),
    ],
)
def test_refuses_bad_settings(defined, pair, wrong, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        defined.stylize(*pair, **{**WEIGHTS, "steps": 1, **wrong})


@pytest.mark.parametrize("which, name", [(0, "content_image"), (1, "style_image")])
def test_refuses_bad_images(defined, pair, which, name):
    for bad, message in [
        (lambda image: image * 255, r"range 0 to 1, got 0 to 2\d\d\."),
        (lambda image: image[0], r"shape \(1, height, width, 3\), got"),
        (lambda image: image * np.nan, "got NaN"),
    ]:
        images = list(pair)
        images[which] = bad(images[which])
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            defined.stylize(*images, steps=1, **WEIGHTS)


def test_refuses_a_picture_too_small_for_the_network(defined, pair):
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, got 15 x 20"):
        defined.stylize(pair[0][:, :15, :20], pair[1], steps=1, **WEIGHTS)

"""The notebook's `stylize`, on small pictures."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import STYLE_LAYERS, needs_bfloat16

import nst_helpers as nst

WEIGHTS = {"content_weight": 1.0, "style_weight": 100.0, "tv_weight": 1.0, "style_loss": "gram", "quiet": True}


@pytest.fixture(scope="module")
def pair():
    folder = nst.HERE / "images"
    return (
        nst.load_image(folder / "content" / "neuschwanstein_castle.jpg", 64),
        nst.load_image(folder / "style" / "church_at_auvers.jpg", 64),
    )


def objective(defined, content, style, **changes):
    """The function from an image to its losses and gradient, with the Gram loss."""
    settings = nst.Settings(**changes)
    return defined.objective(content, nst.as_styles(style, content), settings, defined.extractor)


@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
def test_returns_picture_and_history(defined, pair, kind):
    before = [image.copy() for image in pair]
    image, history = defined.stylize(*pair, steps=12, **WEIGHTS | {"style_loss": kind})
    assert image.shape == pair[0].shape and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    layers = history.pop("layers")
    assert set(history) == {"seconds", "size", "total", "content", "style", "tv"} and set(layers) == set(STYLE_LAYERS)
    assert set(history["size"]) == {64}
    assert {len(values) for values in [*history.values(), *layers.values()]} == {12}
    assert history["seconds"] == sorted(history["seconds"]) and history["seconds"][0] >= 0
    assert history["total"][-1] < 0.7 * history["total"][0]
    total = np.dot([1, 100, 1], [history["content"], history["style"], history["tv"]])  # the three are unweighted
    np.testing.assert_allclose(history["total"], total, rtol=1e-5)
    np.testing.assert_allclose(history["style"], sum(np.array(values) for values in layers.values()), rtol=1e-5)
    for image, copy in zip(pair, before):
        np.testing.assert_array_equal(image, copy)


def test_the_parameters_are_looked_up_when_a_picture_is_painted(defined, pair, monkeypatch):
    """Never frozen: the weights, the steps, the sizes, the network."""
    for name, value in {"STYLE_WEIGHT": 7.0, "STEPS": 2, "COARSEST": 64, "STYLE_LOSS": "gram"}.items():
        monkeypatch.setattr(defined, name, value)
    _, history = defined.stylize(*pair, quiet=True)
    assert len(history["total"]) == 2
    parts = history["content"][0] + 7 * history["style"][0] + history["tv"][0]
    assert history["total"][0] == pytest.approx(parts, rel=1e-5)
    first = defined.extractor
    assert defined.current_extractor() is first
    monkeypatch.setattr(defined, "PRECISION", "bfloat16")
    assert defined.current_extractor().precision == "bfloat16" and defined.extractor is not first
    defined.extractor = first
    with pytest.raises(ValueError, match="Unknown style loss 'gran'. Valid style losss: gram, wasserstein"):
        defined.settings_now(style_loss="gran")
    with pytest.raises(TypeError, match="weight_of_style"):
        defined.stylize(*pair, weight_of_style=3)


def test_history_starts_at_the_photograph(defined, pair):
    _, history = defined.stylize(*pair, steps=1, **WEIGHTS)
    features, painted = ({layer: nst.inner(F) for layer, F in defined.extractor(image).items()} for image in pair)
    grams = {layer: defined.gram_matrix(F) for layer, F in painted.items()}
    assert history["content"][0] == pytest.approx(0, abs=1e-6)
    assert history["style"][0] == pytest.approx(float(defined.style_loss(features, grams, STYLE_LAYERS)), rel=1e-4)
    vertical, horizontal = np.abs(np.diff(pair[0], axis=1)), np.abs(np.diff(pair[0], axis=2))
    assert history["tv"][0] == pytest.approx(vertical.mean() + horizontal.mean(), rel=1e-5)


def test_is_repeatable(defined, pair):
    (one, _), (other, _) = (defined.stylize(*pair, steps=5, **WEIGHTS) for _ in range(2))
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_content_weight_alone_leaves_the_photograph(defined, pair, optimizer):
    image, _ = defined.stylize(
        *pair, content_weight=1, style_weight=0, tv_weight=0, steps=3, coarsest=32, optimizer=optimizer, quiet=True
    )
    assert np.abs(image - pair[0]).mean() < 1e-2


@pytest.mark.slow
def test_a_larger_style_weight_gives_less_style_loss(defined, pair):
    ends = [
        defined.stylize(*pair, content_weight=1, style_weight=weight, tv_weight=0.2, steps=40)[1]["style"][-1]
        for weight in (1, 10, 100)
    ]
    assert ends[0] > ends[1] > ends[2]


@pytest.mark.slow
def test_a_larger_tv_weight_gives_a_smoother_picture(defined, pair):
    ends = [
        defined.stylize(*pair, content_weight=1, style_weight=10, tv_weight=weight, steps=30)[1]["tv"][-1]
        for weight in (0, 10)
    ]
    assert ends[0] > ends[1]


def test_every_size_gets_its_steps_from_coarse_to_fine(defined):
    content, style = (nst.load_image(name, 96) for name in ("neuschwanstein_castle.jpg", "church_at_auvers.jpg"))
    seen = []
    image, history = defined.stylize(content, style, steps=4, coarsest=48, callback=seen.append, **WEIGHTS)
    assert image.shape == content.shape
    assert history["size"] == [48] * 8 + [96] * 4
    assert [now.step for now in seen] == list(range(1, 13))
    assert [now.size for now in seen] == [(48, 32)] * 8 + [(96, 64)] * 4
    assert [now.image.shape for now in seen] == [(1, 32, 48, 3)] * 8 + [(1, 64, 96, 3)] * 4
    small, large = 48 * 32, 96 * 64
    expected = np.cumsum([small] * 8 + [large] * 4) / (8 * small + 4 * large)
    np.testing.assert_allclose([now.done for now in seen], expected, rtol=1e-9)
    np.testing.assert_array_equal(seen[-1].image, image)


@pytest.mark.parametrize(
    "scale, steps, expected", [(1, 30, 30), (0.5, 30, 60), (0.25, 30, 120), (0.125, 30, 150), (0.25, 200, 200)]
)
def test_steps_by_hand(defined, scale, steps, expected):
    assert defined.steps_at(scale, steps) == expected


def test_the_next_size_starts_from_the_photograph_and_the_change(defined, random):
    small, large = random.uniform(0.3, 0.6, (1, 8, 8, 3)), random.uniform(0.3, 0.6, (1, 16, 16, 3))
    small, large = small.astype(np.float32), large.astype(np.float32)
    brighter = np.clip(small + 0.25, 0, 1)  # an even change, which enlarging leaves as it is
    np.testing.assert_allclose(defined.next_start(large, brighter, small), large + 0.25, atol=1e-5)
    assert defined.next_start(large, small + 0.6, small).numpy().max() == 1


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
def test_scales_by_hand(defined, size, coarsest, expected):
    assert defined.scales_of(np.zeros((1, *size, 3)), coarsest, 16) == expected


def test_a_small_painting_takes_no_sizes_away(defined, random):
    castle = random.uniform(size=(1, 128, 128, 3)).astype(np.float32)
    small = random.uniform(size=(1, 20, 30, 3)).astype(np.float32)
    _, history = defined.stylize(castle, small, steps=1, coarsest=64, quiet=True)
    assert sorted(set(history["size"])) == [64, 128]


@pytest.mark.slow
def test_lbfgs_ends_below_adam(defined, pair):
    ends = {
        name: defined.stylize(*pair, steps=60, optimizer=name, **WEIGHTS)[1]["total"][-1] for name in ("adam", "lbfgs")
    }
    assert ends["lbfgs"] < 0.95 * ends["adam"]


@pytest.mark.slow
@needs_bfloat16
def test_bfloat16_ends_where_float32_does(defined, pair):
    short = nst.build_feature_extractor("vgg16", precision="bfloat16")
    ends = []
    for extractor in (defined.extractor, short):
        image, _ = defined.stylize(*pair, steps=60, extractor=extractor, **WEIGHTS)
        evaluate = objective(defined, *pair)  # both measured in float32
        ends.append(float(evaluate(tf.constant(image))[0]["total"]))
    assert ends[1] == pytest.approx(ends[0], rel=0.03)


def test_the_two_loops_against_the_matrix(defined, random):
    """The recursion, against BFGS with the whole matrix written down (Nocedal & Wright, 6.17); empty pairs do nothing."""
    n = 6
    hessian = np.diag(np.arange(1.0, n + 1)) + 0.2
    pairs = [(s, hessian @ s) for s in random.normal(size=(4, n))]
    start = np.diag(random.uniform(0.5, 2, n))
    s, y = pairs[-1]
    B = start * (s @ y) / (y @ start @ y)
    for s, y in pairs:
        rho, identity = 1 / (s @ y), np.eye(n)
        V = identity - rho * np.outer(y, s)
        B = V.T @ B @ V + rho * np.outer(s, s)
    g = random.normal(size=n)
    as_tensor = lambda values: tf.constant(values, tf.float32)
    empty = defined.Pair(tf.zeros(n), tf.zeros(n), tf.constant(0.0))
    tensors = [empty, empty, *(defined.Pair(*map(as_tensor, (s, y, s @ y))) for s, y in pairs)]
    precondition = lambda q: tf.linalg.matvec(as_tensor(start), q)
    found = defined.inverse_hessian_times(as_tensor(g), tensors, precondition)
    np.testing.assert_allclose(found, B @ g, rtol=1e-3, atol=1e-4)
    first = defined.inverse_hessian_times(as_tensor(g), [empty], precondition, 0.05)
    np.testing.assert_allclose(first, start @ g * 0.05 / np.abs(start @ g).max(), rtol=1e-5)


def test_the_preconditioner_against_numpy(defined, random):
    v, q = (random.uniform(0.1, 1, (1, 9, 14, 3)).astype(np.float32) for _ in range(2))
    scale = 1 / np.sqrt(np.sqrt(v) + np.sqrt(v).mean())
    f = np.hypot(np.fft.fftfreq(9)[:, None], np.fft.fftfreq(14))[None, :, :, None]
    smooth = np.fft.ifft2(np.fft.fft2(scale * q, axes=(1, 2)) / (f + 0.1), axes=(1, 2)).real
    found = defined.even_out(tf.constant(q), tf.constant(v))
    np.testing.assert_allclose(found, scale * smooth, rtol=1e-3, atol=1e-3)


def test_the_preconditioner_is_symmetric_and_positive(defined, random):
    v = tf.constant(random.uniform(0, 1, (1, 8, 10, 3)), tf.float32)
    a, b = (tf.constant(random.normal(size=(1, 8, 10, 3)), tf.float32) for _ in range(2))
    apply = lambda q: defined.even_out(q, v)
    assert float(defined.dot(a, apply(b))) == pytest.approx(float(defined.dot(b, apply(a))), rel=1e-3)
    assert float(defined.dot(a, apply(a))) > 0


@pytest.mark.parametrize("preconditioned", [True, False])
def test_lbfgs_finds_the_minimum_of_a_bowl(defined, random, preconditioned):
    """A badly conditioned quadratic whose minimum is known, inside [0, 1]."""
    target = random.uniform(0.2, 0.8, (1, 6, 8, 3)).astype(np.float32)
    curvature = 10.0 ** random.uniform(-2, 2, target.shape).astype(np.float32)

    def evaluate(image):
        error = image - target
        return {"total": 0.5 * tf.reduce_sum(curvature * error**2)}, curvature * error

    how = {"preconditioner": defined.even_out} if preconditioned else {}
    for image, *_ in defined.lbfgs(evaluate, tf.fill(target.shape, 0.5), 300, 0.05, **how):
        pass
    np.testing.assert_allclose(image, target, atol=0.01)


def test_lbfgs_stays_where_there_is_no_slope(defined, picture):
    flat = lambda image: ({"total": tf.constant(1.0)}, tf.zeros_like(image))  # noqa: E731
    for image, *_ in defined.lbfgs(flat, tf.constant(picture), 4, 0.05):
        np.testing.assert_array_equal(image, picture)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(1, 1e6, 0), (0, 1e-6, 0), (0, 0, 1), (1e-8, 1e-6, 1e-8), (1, 100, 50)])
def test_lbfgs_descends_at_any_weights(defined, pair, weights):
    names = ("content_weight", "style_weight", "tv_weight")
    image, history = defined.stylize(*pair, steps=25, style_loss="gram", quiet=True, **dict(zip(names, weights)))
    assert np.isfinite(image).all()
    assert history["total"][-1] < 0.7 * history["total"][0]


def test_takes_other_style_layers(defined, pair):
    one = {"block2_conv1": 5.0}
    _, history = defined.stylize(*pair, steps=5, style_layers=one, **WEIGHTS)
    start, target = (defined.gram_matrix(nst.inner(defined.extractor(image)["block2_conv1"])) for image in pair)
    expected = float(np.mean((start - target) ** 2) / np.mean(target**2))  # one layer: its weight cancels
    assert history["style"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("number", [int, np.float32, np.float64, np.int64])
def test_takes_numbers_of_any_type(defined, pair, number):
    weights = {f"{name}_weight": number(3) for name in ("content", "style", "tv")}
    _, history = defined.stylize(*pair, steps=1, learning_rate=number(1), quiet=True, **weights)
    assert history["total"][0] == pytest.approx(3 * (history["style"][0] + history["tv"][0]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", nst.MODELS)
def test_paints_through_every_network(defined, pair, model):
    """With random weights: at its own default layers, smoothed where the network needs it."""
    extractor = nst.build_feature_extractor(model, weights=None)
    images = [nst.resized(image, 1.5) for image in pair]  # 96 pixels
    _, history = defined.stylize(*images, steps=8, coarsest=96, extractor=extractor, **WEIGHTS)
    assert history["total"][-1] < history["total"][0]
    assert set(history["layers"]) == set(nst.MODELS[model].style_layers)


def test_refuses_layers_that_the_extractor_does_not_return(defined, pair):
    shallow = nst.build_feature_extractor(
        "vgg16", content_layer="block1_conv2", style_layers={"block1_conv1": 1.0}, weights=None
    )
    with pytest.raises(ValueError, match="Unknown layer 'block4_conv2'.*name others when building.*block1_conv1"):
        defined.stylize(*pair, content_layer="block4_conv2", steps=1, extractor=shallow, **WEIGHTS)


def test_nothing_is_compiled_twice(defined, pair):
    """Another weight, another painting, another number of pairs: the functions are those of the first run."""
    compiled = defined.losses_and_gradient, defined.lbfgs_step
    defined.stylize(*pair, steps=1, **WEIGHTS)
    before = [function.experimental_get_tracing_count() for function in compiled]
    other = {"content_weight": 3, "style_weight": 7.5, "tv_weight": 0, "style_loss": "gram", "quiet": True}
    defined.stylize(pair[0], pair[1][:, ::-1], steps=8, **other)
    assert [function.experimental_get_tracing_count() for function in compiled] == before


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
        ({"colours": "grey"}, "'grey'. Valid colourings: painting, matched, luminance"),
        ({"style_layers": {"block1_conv1": -1.0}}, "block1_conv1.*got -1"),
        ({"style_layers": {"block1_conv1": 0.0}}, "at least one of style_layers"),
        ({"style_layers": {}}, "at least one of style_layers"),
        ({"style_layers": ["block1_conv1"]}, "style_layers as a dict.*got \\['block1_conv1'\\]"),
        ({"content_weight": 0, "style_weight": 0, "tv_weight": 0}, "at least one of the weights"),
        ({"content_weight": 10**400}, "content_weight.*finite"),
        ({"tile_size": 7}, 'tile_size to be None, "auto" or a whole number of at least 64.*got 7'),
        ({"tile_size": 0}, "tile_size.*got 0"),
        ({"tile_size": -1}, "tile_size.*got -1"),
        ({"tile_size": "big"}, "tile_size.*got 'big'"),
        ({"tile_size": True}, "tile_size.*got True"),
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
        (lambda image: image * np.nan, "got nan"),
    ]:
        images = list(pair)
        images[which] = bad(images[which])
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            defined.stylize(*images, steps=1, **WEIGHTS)


def test_refuses_a_picture_too_small_for_the_network(defined, pair):
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, got 15 x 20"):
        defined.stylize(pair[0][:, :15, :20], pair[1], steps=1, **WEIGHTS)


# --- Colours, several styles, regions, scale, start -------------------------------------------


@pytest.fixture(scope="module")
def wave():
    return nst.load_image("great_wave.jpg", 64)


RUN = {"style_loss": "gram", "coarsest": 64, "quiet": True}


def style_loss_and_gradient(defined, content, style, image=None, **changes):
    """The style loss of an image (or the content) and its gradient, as NumPy."""
    only = {"content_weight": 0.0, "style_weight": 1.0, "tv_weight": 0.0}
    evaluate = objective(defined, content, style, **only, **changes)
    losses, gradient = evaluate(tf.constant(content if image is None else image))
    return float(losses["style"]), gradient.numpy()


def half(image):
    """A mask of the left half."""
    mask = np.zeros((1, *image.shape[1:3], 1), np.float32)
    mask[:, :, : image.shape[2] // 2] = 1
    return mask


def test_luminance_only_keeps_the_content_s_chroma(defined, random):
    content = random.uniform(0.35, 0.65, (1, 64, 80, 3)).astype(np.float32)
    style = random.uniform(0.35, 0.65, (1, 64, 64, 3)).astype(np.float32)
    image, _ = defined.stylize(content, style, colours="luminance", steps=4, **RUN)
    found, expected = (tf.image.rgb_to_yuv(each).numpy() for each in (image, content))
    inside = np.all((image > 0) & (image < 1), axis=-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside][:, 1:], expected[inside][:, 1:], atol=1e-5)
    assert np.abs(found[..., 0] - expected[..., 0]).mean() > 1e-3


def test_how_near_the_chroma_stays_to_the_photograph_s(defined, castle, wave):
    ends = {}
    for colours in nst.COLOURINGS:
        image, _ = defined.stylize(castle, wave, colours=colours, steps=15, **RUN)
        ends[colours] = np.abs((tf.image.rgb_to_yuv(image) - tf.image.rgb_to_yuv(castle)).numpy()[..., 1:]).mean()
    assert ends["luminance"] < ends["matched"] < ends["painting"]


def test_the_callback_of_a_luminance_run_sees_colours(defined, castle, wave):
    seen = []
    defined.stylize(castle, wave, colours="luminance", steps=2, callback=seen.append, **RUN)
    assert len(seen) == 2
    assert all(np.abs(now.image[..., 0] - now.image[..., 2]).max() > 0.1 for now in seen)


@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
def test_a_painting_blended_with_itself_is_the_painting(defined, castle, church, kind):
    one = style_loss_and_gradient(defined, castle, church, style_loss=kind)
    for pair in ([church, church], [nst.Style(church, 0.2), nst.Style(church, 3)]):
        two = style_loss_and_gradient(defined, castle, pair, style_loss=kind)
        assert two[0] == pytest.approx(one[0], rel=1e-3)
        np.testing.assert_allclose(two[1], one[1], atol=5e-3 * np.abs(one[1]).max())


def test_a_blend_s_target_is_the_weighted_mean_of_gram_matrices(defined, castle, church, wave):
    loss, _ = style_loss_and_gradient(defined, castle, [nst.Style(church, 3), nst.Style(wave, 7), nst.Style(wave, 0)])
    features = [
        {layer: nst.inner(F) for layer, F in defined.extractor(image).items()} for image in (castle, church, wave)
    ]
    expected, layers = 0.0, defined.extractor.style_layers
    for layer, weight in layers.items():
        maps = [np.reshape(each[layer], (-1, each[layer].shape[-1])).astype(np.float64) for each in features]
        grams = [F.T @ F / len(F) for F in maps]
        target = 0.3 * grams[1] + 0.7 * grams[2]
        expected += weight * np.mean((grams[0] - target) ** 2) / np.mean(target**2)
    assert loss == pytest.approx(expected / sum(layers.values()), rel=1e-3)


@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
def test_an_all_white_mask_gives_the_unmasked_loss(defined, castle, church, kind):
    masks = None, np.ones(castle.shape[1:3]), np.ones((1, *castle.shape[1:3], 1))
    plain, *masked = (
        style_loss_and_gradient(defined, castle, nst.Style(church, mask=mask), style_loss=kind) for mask in masks
    )
    for found in masked:
        assert found[0] == pytest.approx(plain[0], rel=1e-3)
        np.testing.assert_allclose(found[1], plain[1], atol=5e-3 * np.abs(plain[1]).max())


@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
def test_a_masked_style_s_gradient_is_zero_outside_its_region(defined, random, kind):
    """Beyond what the layer sees: at block2_conv1 a position sees 10 pixels across (3, 5, 6, 10)."""
    content, image = (random.uniform(size=(1, 32, 64, 3)).astype(np.float32) for _ in range(2))
    style = nst.Style(random.uniform(size=(1, 32, 32, 3)).astype(np.float32), mask=half(content))
    layers = {"style_layers": {"block2_conv1": 1.0}}
    _, gradient = style_loss_and_gradient(defined, content, style, image, style_loss=kind, **layers)
    by_column = np.abs(gradient).max(axis=(0, 1, 3))
    assert by_column[:32].min() > 0 and by_column[36:].max() == 0


@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
def test_regions_get_their_styles(defined, random, kind):
    """A dark style on the left, a bright one on the right."""
    content = random.uniform(0.3, 0.7, (1, 32, 64, 3)).astype(np.float32)
    dark, bright = (content[:, :, :32] + value for value in (-0.3, 0.3))
    styles = [nst.Style(dark, mask=half(content)), nst.Style(bright, mask=1 - half(content))]
    run = RUN | {"content_weight": 0, "tv_weight": 0, "steps": 30, "style_loss": kind}
    image, _ = defined.stylize(content, styles, **run)
    assert image[:, :, :24].mean() < 0.35 and image[:, :, -24:].mean() > 0.65


def test_a_region_counts_by_its_area(defined, castle, church):
    mask = half(castle)
    both = [nst.Style(church, mask=mask), nst.Style(church, mask=1 - mask)]
    parts = [style_loss_and_gradient(defined, castle, style)[0] for style in both]  # each by half of the area
    assert style_loss_and_gradient(defined, castle, both)[0] == pytest.approx(sum(parts), rel=1e-3)
    thrice = [both[0]._replace(weight=3), both[1]]  # shares of 3/4 and 1/4
    expected = 1.5 * parts[0] + 0.5 * parts[1]
    assert style_loss_and_gradient(defined, castle, thrice)[0] == pytest.approx(expected, rel=1e-3)


def test_says_what_is_in_no_style(defined, castle, church, capsys):
    defined.stylize(castle, nst.Style(church, mask=half(castle)), steps=1, **RUN | {"quiet": False})
    assert "44% of the picture is in no style's mask" in capsys.readouterr().out
    defined.stylize(castle, nst.Style(church, mask=half(castle)), steps=1, **RUN)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("colours", nst.COLOURINGS)
@pytest.mark.parametrize("optimizer", nst.OPTIMIZERS)
def test_what_no_mask_covers_stays_exactly_as_it_was(defined, church, colours, optimizer):
    castle = nst.load_image("neuschwanstein_castle.jpg", 96)  # 96 x 64
    masks, how = half(castle), {"steps": 3, "coarsest": 48, "quiet": True, "colours": colours, "optimizer": optimizer}
    seen = []
    watch = lambda now: seen.append((now.image, now.size))
    painted, _ = defined.stylize(castle, nst.Style(church, mask=masks), callback=watch, **how)
    middle = castle.shape[2] // 2
    np.testing.assert_array_equal(painted[:, :, middle + 4 :], castle[:, :, middle + 4 :])
    np.testing.assert_array_equal(seen[-1][0], painted)
    assert np.abs(painted - castle)[:, :, : middle - 4].mean() > 0.02
    assert len({size for _, size in seen}) == 2


def test_the_gradient_where_a_part_is_protected(random):
    """Of sum(x^2) at x = plain + reach (image - plain), by hand: 2 reach x."""
    plain, image = (np.float32(random.uniform(size=(1, 6, 8, 3))) for _ in range(2))
    reach = np.float32(random.uniform(size=(1, 6, 8, 1)))
    evaluate = nst.protected(lambda x: (np.sum(x**2), 2 * x), plain, reach)
    losses, gradient = evaluate(image)
    x = plain + reach * (image - plain)
    assert float(losses) == pytest.approx(float(np.sum(x**2)), rel=1e-5)
    np.testing.assert_allclose(gradient, 2 * reach * x, rtol=1e-5)
    assert nst.protected(len, plain, None) is len


@pytest.mark.parametrize("colours", ["painting", "matched"])
@pytest.mark.parametrize("optimizer", nst.OPTIMIZERS)
def test_grey_stays_grey(defined, castle, church, colours, optimizer):
    how = {"steps": 3, "coarsest": 32, "quiet": True, "optimizer": optimizer}
    for content, style in (
        (nst.grey(castle), nst.grey(church)),
        (castle, nst.grey(church)),
        (nst.grey(castle), church),
    ):
        painted, _ = defined.stylize(content, style, colours=colours, **how)
        grey = np.ptp(painted, axis=3).mean() < 1 / 255
        colour_expected = (style is church and colours == "painting") or (content is castle and colours == "matched")
        assert grey != colour_expected


def test_a_part_of_the_painting(defined, castle, church):
    """A white mask changes nothing; that of the left half measures what the cut-out left half does, but for the cut."""
    left, rows, middle = half(church), church.shape[1:3], church.shape[2] // 2
    plain, _ = style_loss_and_gradient(defined, castle, church)
    white, _ = style_loss_and_gradient(defined, castle, nst.Style(church, image_mask=np.ones(rows)))
    assert white == pytest.approx(plain, rel=1e-5)
    shallow = {"style_layers": {"block1_conv1": 1.0}}
    masked, _ = style_loss_and_gradient(defined, castle, nst.Style(church, image_mask=left), **shallow)
    cut, _ = style_loss_and_gradient(defined, castle, nst.Style(church[:, :, :middle]), **shallow)
    other, _ = style_loss_and_gradient(defined, castle, nst.Style(church), **shallow)
    assert masked == pytest.approx(cut, rel=0.1) and abs(masked - cut) < abs(masked - other)
    with pytest.raises(ValueError, match="image_mask of style_image.*in the picture's size"):
        nst.as_styles(nst.Style(church, image_mask=np.ones((3, 3))), castle)


def test_a_mask_that_is_empty_at_a_layer_is_refused(defined, castle, church):
    mask = np.zeros(castle.shape[1:3])
    mask[:10, :10] = 1  # of 43 x 64 pixels, as 2 x 4 positions: 10 / (43 / 2) * 10 / (64 / 4) = 0.29
    with pytest.raises(ValueError, match="empty at the layer block5_conv1.*2 x 4 positions.*0.29"):
        defined.stylize(castle, nst.Style(church, mask=mask), steps=1, **RUN)


def test_the_scale_of_a_style(defined, castle, church):
    enlarged = nst.resized(church, 2.0)
    scaled = style_loss_and_gradient(defined, castle, nst.Style(church, scale=2.0))[0]
    assert scaled == pytest.approx(style_loss_and_gradient(defined, castle, enlarged)[0], rel=1e-5)
    assert scaled != pytest.approx(style_loss_and_gradient(defined, castle, church)[0], rel=0.01)


def test_another_content_layer(defined, castle, church):
    """The content loss belongs to the layer that was named."""
    evaluate = objective(defined, castle, church, content_layer="block1_conv1")
    dark = tf.constant(0.5 * castle)
    target, found = (np.asarray(defined.extractor(x)["block1_conv1"], np.float64) for x in (castle, dark))
    expected = np.mean((found - target) ** 2) / np.mean(target**2)
    assert float(evaluate(dark)[0]["content"]) == pytest.approx(expected, rel=1e-3)


def test_starts_from_another_picture(defined, castle, church, random):
    noise = random.uniform(size=castle.shape).astype(np.float32)
    plain, *from_noise = (
        defined.stylize(castle, church, start=start, steps=3, **RUN)[1] for start in (castle, noise, noise)
    )
    assert plain["content"][0] == pytest.approx(0, abs=1e-6) and from_noise[0]["content"][0] > 0.3
    assert from_noise[0]["total"] == from_noise[1]["total"]
    first, _ = defined.stylize(castle, church, steps=15, **RUN)
    _, further = defined.stylize(castle, church, start=nst.resized(first, 0.5), steps=1, **RUN)
    assert further["style"][0] < 0.5 * plain["style"][0]
    with pytest.raises(ValueError, match="start in the range 0 to 1"):
        defined.stylize(castle, church, start=255 * castle, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
@pytest.mark.parametrize("optimizer", nst.OPTIMIZERS)
def test_all_of_it_together(defined, kind, optimizer):
    """Regions, one of them a blend, at two scales, matched colours, from noise, coarse to fine."""
    names = "neuschwanstein_castle.jpg", "church_at_auvers.jpg", "great_wave.jpg"
    castle, church, wave = (nst.load_image(name, 96) for name in names)
    mask = half(castle)
    styles = [nst.Style(church, 0.5, mask, 2.0), nst.Style(wave, 0.5, mask), nst.Style(wave, 1, 1 - mask, 1.5)]
    noise = np.random.default_rng(0).uniform(0.3, 0.7, castle.shape).astype(np.float32)
    layers = {"style_layers": {"block1_conv1": 4.0, "block3_conv1": 1.0}, "content_layer": "block3_conv1"}
    run = {"start": noise, "steps": 10, "coarsest": 48, "quiet": True, "style_loss": kind, "optimizer": optimizer}
    for colours in nst.COLOURINGS:
        image, history = defined.stylize(castle, styles, colours=colours, **run, **layers)
        assert image.shape == castle.shape and history["size"] == [48] * 20 + [96] * 10
        assert history["total"][-1] < 0.5 * history["total"][0]

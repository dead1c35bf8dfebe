"""The notebook's `stylize`, on small pictures."""

import numpy as np
import pytest

import nst_helpers as nst

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
    assert set(history) == {"seconds", "total", "content", "style", "tv"}
    assert {len(values) for values in history.values()} == {12}
    assert history["seconds"] == sorted(history["seconds"]) and history["seconds"][0] >= 0
    assert history["total"][-1] < history["total"][0]
    # the three are unweighted
    total = np.dot(list(WEIGHTS.values()), [history["content"], history["style"], history["tv"]])
    np.testing.assert_allclose(history["total"], total, rtol=1e-5)
    for image, copy in zip(pair, before):
        np.testing.assert_array_equal(image, copy)


def test_history_starts_at_the_photograph(defined, pair):
    _, history = defined.stylize(*pair, steps=1, **WEIGHTS)
    grams = {layer: defined.gram_matrix(f) for layer, f in defined.extractor(pair[1]).items()}
    features = defined.extractor(pair[0])
    assert history["content"][0] == pytest.approx(0, abs=1e-6)
    assert history["style"][0] == pytest.approx(
        float(defined.style_loss(features, grams, defined.STYLE_LAYERS)), rel=1e-4
    )
    vertical, horizontal = np.abs(np.diff(pair[0], axis=1)), np.abs(np.diff(pair[0], axis=2))
    assert history["tv"][0] == pytest.approx(vertical.mean() + horizontal.mean(), rel=1e-5)


def test_is_repeatable(defined, pair):
    (one, _), (other, _) = (defined.stylize(*pair, steps=5, **WEIGHTS) for _ in range(2))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_content_weight_alone_leaves_the_photograph(defined, pair):
    image, _ = defined.stylize(*pair, content_weight=1, style_weight=0, tv_weight=0, steps=3)
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


def test_paints_through_vgg19(defined, pair):
    vgg19 = nst.build_feature_extractor([*defined.STYLE_LAYERS, defined.CONTENT_LAYER], "vgg19", weights=None)
    _, history = defined.stylize(*pair, steps=8, extractor=vgg19, **WEIGHTS)
    assert history["total"][-1] < history["total"][0]


def test_refuses_an_extractor_without_the_content_layer(defined, pair):
    shallow = nst.build_feature_extractor(list(defined.STYLE_LAYERS), "vgg16", weights=None)
    with pytest.raises(ValueError, match="'block4_conv2' is not among.*block1_conv1.*Name it when building"):
        defined.stylize(*pair, steps=1, extractor=shallow, **WEIGHTS)


def test_another_weight_compiles_nothing(defined, pair):
    defined.stylize(*pair, steps=1, **WEIGHTS)
    before = defined.losses_and_gradient.experimental_get_tracing_count()
    defined.stylize(*pair, content_weight=3, style_weight=7.5, tv_weight=0, steps=1)
    assert defined.losses_and_gradient.experimental_get_tracing_count() == before


def test_the_callback_sees_every_step(defined, pair):
    seen = []
    image, _ = defined.stylize(
        *pair, steps=3, callback=lambda step, now: seen.append((step, now.numpy())), **WEIGHTS
    )
    assert [step for step, _ in seen] == [0, 1, 2]
    np.testing.assert_array_equal(seen[-1][1], image)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"style_weight": -1}, "style_weight.*at least 0, got -1"),
        ({"content_weight": float("nan")}, "content_weight.*finite.*nan"),
        ({"tv_weight": float("inf")}, "tv_weight.*finite.*inf"),
        ({"tv_weight": "much"}, "tv_weight.*much"),
        ({"steps": 0}, "steps.*at least 1, got 0"),
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

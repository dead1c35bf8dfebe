"""The losses, as the notebook's own cells define them, against numbers worked out otherwise."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_bfloat16
from scipy.linalg import sqrtm

import nst_helpers as nst


def test_gram_matrix_by_hand(defined):
    features = tf.constant([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [2.0, 0.0]]]])  # 2 x 2 positions
    # 1 + 9 + 0 + 4, 2 + 12 + 0 + 0, 4 + 16 + 1 + 0, each over 4 positions
    np.testing.assert_allclose(defined.gram_matrix(features), [[3.5, 3.5], [3.5, 5.25]])


def test_gram_matrix_is_the_mean_of_outer_products(defined, random):
    features = random.normal(size=(1, 5, 7, 6)).astype(np.float32)
    expected = np.mean([np.outer(f, f) for f in features.reshape(-1, 6).astype(np.float64)], axis=0)
    np.testing.assert_allclose(defined.gram_matrix(tf.constant(features)), expected, rtol=1e-5, atol=1e-6)


def test_gram_matrix_forgets_positions_and_size(defined, random):
    features = random.normal(size=(1, 6, 8, 4)).astype(np.float32)
    shuffled = random.permutation(features.reshape(-1, 4)).reshape(1, 8, 6, 4)
    twice = np.concatenate([features, features], axis=1)
    expected = defined.gram_matrix(tf.constant(features))
    np.testing.assert_allclose(defined.gram_matrix(tf.constant(shuffled)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(defined.gram_matrix(tf.constant(twice)), expected, rtol=1e-5, atol=1e-6)


def test_content_loss_by_hand(defined):
    # (9 + 1) / 2 over (1 + 4) / 2
    assert float(defined.content_loss(tf.constant([4.0, 3.0]), tf.constant([1.0, 2.0]))) == pytest.approx(2.0)


def test_content_loss_is_relative(defined, random):
    features, target = (tf.constant(random.normal(size=(1, 4, 4, 3)), tf.float32) for _ in range(2))
    assert float(defined.content_loss(target, target)) == 0
    assert float(defined.content_loss(0 * target, target)) == pytest.approx(1)
    once, scaled = defined.content_loss(features, target), defined.content_loss(50 * features, 50 * target)
    assert float(scaled) == pytest.approx(float(once), rel=1e-5)


def test_style_loss_by_hand(defined):
    features = {"a": tf.constant([[[[2.0]]]]), "b": tf.constant([[[[3.0]]]])}  # Gram matrices 4 and 9
    grams = {"a": tf.constant([[2.0]]), "b": tf.constant([[3.0]])}
    # errors (4 - 2)^2 / 2^2 = 1 and (9 - 3)^2 / 3^2 = 4, weighted 3 : 1
    assert float(defined.style_loss(features, grams, {"a": 3.0, "b": 1.0})) == pytest.approx((3 * 1 + 1 * 4) / 4)


def test_style_loss_against_numpy(defined, random):
    layers = {"a": 4.0, "b": 1.0}
    features = {name: random.normal(size=(1, 5, 6, 3)) for name in layers}
    targets = {name: random.normal(size=(3, 3)) for name in layers}
    expected = 0.0
    for name, weight in layers.items():
        F = features[name].reshape(30, 3)
        expected += weight * np.mean((F.T @ F / 30 - targets[name]) ** 2) / np.mean(targets[name] ** 2)
    as_float32 = [{k: tf.constant(v, tf.float32) for k, v in d.items()} for d in (features, targets)]
    assert float(defined.style_loss(*as_float32, layers)) == pytest.approx(expected / 5, rel=1e-5)


def test_total_variation_loss_against_tensorflow(defined, random):
    image = random.uniform(size=(1, 9, 9, 3)).astype(np.float32)
    # TensorFlow sums; a square has as many vertical as horizontal neighbours: 8 * 9 * 3 of each
    expected = float(tf.image.total_variation(tf.constant(image))[0]) / (8 * 9 * 3)
    assert float(defined.total_variation_loss(tf.constant(image))) == pytest.approx(expected, rel=1e-5)


def test_total_variation_loss_takes_the_mean_in_each_direction(defined):
    ramp = np.tile(np.float32([0, 0.1, 0.2, 0.3])[None, None, :, None], (1, 2, 1, 3))
    assert float(defined.total_variation_loss(tf.constant(ramp))) == pytest.approx(0.1)
    upright = np.swapaxes(ramp, 1, 2)
    assert float(defined.total_variation_loss(tf.constant(upright))) == pytest.approx(0.1)


@needs_bfloat16
def test_losses_of_short_numbers_are_computed_in_float32(defined, random):
    """bfloat16 feature maps: the values are rounded, the arithmetic on them is not."""
    features = tf.cast(random.normal(size=(1, 60, 80, 16)), tf.bfloat16)
    exact = features.numpy().astype(np.float64)
    loss = defined.content_loss(features, 0 * features + 1)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(np.mean((exact - 1) ** 2), rel=1e-5)
    gram = defined.gram_matrix(features)
    expected = exact.reshape(-1, 16).T @ exact.reshape(-1, 16) / 4800
    assert gram.dtype == tf.float32
    # The sum is in float32; its result may be rounded to bfloat16, to half of 1 in 2 ** 8.
    np.testing.assert_allclose(np.diag(gram), np.diag(expected), rtol=2**-8)
    np.testing.assert_allclose(gram, expected, rtol=2**-8, atol=1e-3)


@needs_bfloat16
def test_a_long_sum_of_short_numbers_loses_nothing(defined):
    """100 000 ones: a sum kept in bfloat16 would stop at 256."""
    ones = tf.ones((1, 250, 400, 8), tf.bfloat16)
    np.testing.assert_allclose(defined.gram_matrix(ones), np.ones((8, 8)), rtol=2**-8)


# --- The Wasserstein distance of two Gaussians ------------------------------------------------


def gaussian_of(features):
    """The mean and the covariance of a feature map's positions, in float64."""
    F = np.float64(features).reshape(-1, features.shape[-1])
    return F.mean(axis=0), np.cov(F.T, ddof=0)


def exact_distance(features, target):
    """The formula as it stands in the notebook, with SciPy's root of a matrix."""
    (m, C), (m2, C2) = gaussian_of(features), gaussian_of(target)
    root = sqrtm(C2)
    overlap = np.trace(sqrtm(root @ C @ root)).real
    square = m2 @ m2 + np.trace(C2)
    return (np.sum((m - m2) ** 2) + np.trace(C) + np.trace(C2) - 2 * overlap) / square


def moments(defined, features, guide=None):
    """The means of what the notebook adds up over the positions."""
    number = np.prod(features.shape[1:3])
    return tuple(sums / number for sums in defined.moments(tf.convert_to_tensor(features), guide))


def distance(defined, features, target, block=256):
    return defined.wasserstein(moments(defined, features), defined.gaussian(moments(defined, target), block))


def test_wasserstein_distance_in_one_dimension_by_hand(defined):
    points, target = ([[[[1.0], [3.0]]]], [[[[2.0], [8.0]]]])  # mean 2, deviation 1; mean 5, deviation 3
    found = distance(defined, tf.constant(points), tf.constant(target))
    assert float(found) == pytest.approx((9 + 4) / 34, rel=1e-5)


@pytest.mark.parametrize("positions", [(12, 15), (3, 4)], ids=["M > N", "M < N"])
def test_wasserstein_distance_against_scipy(defined, random, positions):
    mix = random.normal(size=(24, 24))
    features, target = (np.float32(np.maximum(random.normal(size=(1, *positions, 24)) @ mix, 0)) for _ in range(2))
    found = float(distance(defined, tf.constant(features), tf.constant(target)))
    assert found == pytest.approx(exact_distance(features, target), rel=2e-3)
    assert float(distance(defined, tf.constant(target), tf.constant(target))) == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("layer", ["block2_conv1", "block5_conv1"])  # more positions than channels, and fewer
def test_wasserstein_distance_of_real_features_against_scipy(vgg16, defined, layer):
    content, style = (nst.load_image(name, 96) for name in ("neuschwanstein_castle.jpg", "great_wave.jpg"))
    features, target = (vgg16(image)[layer] for image in (content, style))
    assert float(distance(defined, features, target)) == pytest.approx(exact_distance(features, target), rel=5e-3)


def test_gradient_of_the_wasserstein_distance_against_finite_differences(defined, random):
    target = np.float32(random.normal(size=(1, 6, 7, 5)))
    features = tf.constant(random.normal(size=(1, 6, 7, 5)), tf.float32)
    aim = defined.gaussian(moments(defined, target))
    with tf.GradientTape() as tape:
        tape.watch(features)
        value = defined.wasserstein(moments(defined, features), aim)
    gradient = tape.gradient(value, features).numpy()
    direction, h = gradient / np.abs(gradient).max(), 1e-2
    up, down = (float(defined.wasserstein(moments(defined, features + sign * h * direction), aim)) for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(float(np.sum(np.float64(gradient) * direction)), rel=0.02)


def test_blocks_leave_out_only_what_is_between_them(defined, random):
    """Channels that never respond together need no more than their own block."""
    features, target = (np.zeros((1, 8, 8, 6), np.float32) for _ in range(2))
    for cloud in (features, target):  # two groups of three channels with means of 0, each at its own positions
        for half, scale in enumerate((1.0, 5.0)):
            part = random.normal(size=(1, 4, 8, 3)) * scale
            cloud[:, 4 * half : 4 * half + 4, :, 3 * half : 3 * half + 3] = part - part.mean(axis=(0, 1, 2))
    whole, blocks = (float(distance(defined, tf.constant(features), tf.constant(target), n)) for n in (256, 3))
    assert blocks == pytest.approx(whole, rel=1e-3)


def test_a_layer_that_is_silent_has_a_finite_loss_and_gradient(defined, random):
    aim = defined.gaussian(moments(defined, np.float32(random.uniform(size=(1, 6, 6, 4)))))
    silent = tf.zeros((1, 6, 6, 4))
    with tf.GradientTape() as tape:
        tape.watch(silent)
        value = defined.wasserstein(moments(defined, silent), aim)
    assert float(value) == pytest.approx(1, rel=1e-4)  # as far off as nothing at all
    assert np.isfinite(tape.gradient(value, silent)).all()


@needs_bfloat16
def test_wasserstein_distance_of_short_numbers(defined, random):
    features, target = (np.float32(random.uniform(size=(1, 20, 30, 16)) ** 3) for _ in range(2))
    exact = float(distance(defined, tf.constant(features[..., ::-1] * 1.5), tf.constant(target)))
    short = tf.cast(features[..., ::-1] * 1.5, tf.bfloat16)
    found = defined.wasserstein(moments(defined, short), defined.gaussian(moments(defined, target)))
    assert found.dtype == tf.float32 and float(found) == pytest.approx(exact, rel=0.03)


def test_moments_of_a_region_against_numpy(defined, random):
    features, mask = random.normal(size=(1, 6, 8, 3)), random.uniform(size=(1, 6, 8, 1))
    F, m = features.reshape(-1, 3), mask.reshape(-1) / mask.sum()
    guide = nst.guide(np.float32(mask), (6, 8))  # a small map, which is taken whole
    mean, products = moments(defined, tf.constant(features, tf.float32), guide)
    np.testing.assert_allclose(mean, m @ F, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(products, (F * m[:, None]).T @ F, rtol=1e-4, atol=1e-5)


def inner(features):
    """The outermost positions of each map left out, where it has eight each way."""
    return {layer: F[:, 1:-1, 1:-1] if min(F.shape[1:3]) >= 8 else F for layer, F in features.items()}


@pytest.mark.parametrize("shape", [(8, 8), (8, 30), (7, 30), (1, 1)])
def test_the_inner_positions(random, shape):
    features = random.uniform(size=(1, *shape, 3)).astype(np.float32)
    np.testing.assert_array_equal(nst.inner(tf.constant(features)), inner({"a": features})["a"])


# --- The total, and its gradient --------------------------------------------------------------


def weighted(content, style, tv, **changes):
    return nst.Settings(content_weight=content, style_weight=style, tv_weight=tv, **changes)


def objective(defined, content, style, settings):
    return defined.objective(content, [nst.Style(style)], settings, defined.extractor)


@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
def test_the_total_is_the_weighted_sum(defined, picture, random, kind):
    style = random.uniform(size=(1, 24, 24, 3)).astype(np.float32)
    settings = weighted(2.0, 3.0, 0.5, style_loss=kind)
    losses, _ = objective(defined, picture, style, settings)(tf.constant(picture[:, ::-1]))
    expected = sum(weight * float(losses[name]) for name, weight in settings.weights.items())
    assert float(losses["total"]) == pytest.approx(expected, rel=1e-6)
    assert float(losses["style"]) == pytest.approx(sum(map(float, losses["layers"].values())), rel=1e-6)
    assert all(float(losses[name]) > 0 for name in settings.weights)


def test_the_style_loss_of_a_descent_is_that_of_the_lesson_without_the_border(defined, picture, random):
    style = random.uniform(size=(1, 24, 24, 3)).astype(np.float32)
    losses, _ = objective(defined, picture, style, weighted(1, 1, 1))(tf.constant(picture))
    layers = defined.extractor.style_layers
    grams = {layer: defined.gram_matrix(F) for layer, F in inner(defined.extractor(style)).items()}
    expected = defined.style_loss(inner(defined.extractor(picture)), grams, layers)
    assert float(losses["style"]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 100, 0.2)])
@pytest.mark.parametrize("kind", nst.STYLE_LOSSES)
def test_gradient_against_finite_differences(defined, picture, random, weights, kind):
    style = random.uniform(size=(1, 32, 32, 3)).astype(np.float32)
    evaluate = objective(defined, picture, style, weighted(*weights, style_loss=kind))
    image = random.uniform(0.1, 0.9, picture.shape).astype(np.float32)
    _, gradient = evaluate(tf.constant(image))
    # Along the gradient itself the change is largest, and least of it is lost to rounding.
    direction = gradient.numpy() / np.abs(gradient).max()
    h = 1e-3 if kind == "gram" else 4e-3
    up, down = (float(evaluate(tf.constant(image + sign * h * direction))[0]["total"]) for sign in (1, -1))
    expected = float(np.sum(gradient.numpy().astype(np.float64) * direction))
    assert (up - down) / (2 * h) == pytest.approx(expected, rel=0.03)


def test_compiling_with_xla_changes_nothing(defined, picture, random, monkeypatch):
    """XLA is on only where there is a GPU; here it is run on what there is."""
    style, found = random.uniform(size=(1, 32, 32, 3)).astype(np.float32), []
    plain = defined.losses_and_gradient.python_function
    for xla in (False, True):
        monkeypatch.setitem(vars(defined), "losses_and_gradient", tf.function(plain, autograph=False, jit_compile=xla))
        found.append(objective(defined, picture, style, weighted(1, 100, 1))(tf.constant(1 - picture)))
    for name in ("content", "style", "tv", "total"):
        assert float(found[0][0][name]) == pytest.approx(float(found[1][0][name]), rel=1e-3)
    assert np.abs(found[0][1] - found[1][1]).max() < 1e-3 * np.abs(found[0][1]).max()

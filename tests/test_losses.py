"""The losses, as the notebook's own cells define them, against numbers worked out otherwise."""

import types

import numpy as np
import pytest
import tensorflow as tf

import nst_helpers as nst
from conftest import needs_bfloat16


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
    assert float(defined.style_loss(features, grams, {"a": 3.0, "b": 1.0})) == pytest.approx(
        (3 * 1 + 1 * 4) / 4
    )


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


@pytest.mark.parametrize(
    "precision, tolerance", [("float32", 1e-5), pytest.param("bfloat16", 0.02, marks=needs_bfloat16)]
)
def test_gradient_of_the_inner_products_against_automatic_differentiation(random, precision, tolerance):
    F = tf.cast(random.normal(size=(50, 6)), precision)
    weights = tf.constant(random.normal(size=(6, 6)), tf.float32)  # not symmetric
    gradients = []
    for product in (nst.inner_products, lambda F: tf.matmul(F, F, transpose_a=True)):
        x = F if product is nst.inner_products else tf.cast(F, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(weights * product(x) ** 2)
        gradients.append(np.float32(tape.gradient(value, x)))
    scale = np.abs(gradients[1]).max()
    np.testing.assert_allclose(gradients[0] / scale, gradients[1] / scale, atol=tolerance)


def test_the_total_is_the_weighted_sum(defined, picture, random):
    style = random.uniform(size=(1, 24, 24, 3)).astype(np.float32)
    weights = {"content": 2.0, "style": 3.0, "tv": 0.5}
    losses, _ = defined.objective(picture, style, weights)(tf.constant(picture[:, ::-1]))
    expected = sum(weight * float(losses[name]) for name, weight in weights.items())
    assert float(losses["total"]) == pytest.approx(expected, rel=1e-6)
    assert all(float(losses[name]) > 0 for name in weights)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 100, 0.2)])
def test_gradient_against_finite_differences(defined, picture, random, weights):
    style = random.uniform(size=(1, 32, 32, 3)).astype(np.float32)
    evaluate = defined.objective(picture, style, dict(zip(("content", "style", "tv"), weights)))
    image = random.uniform(0.1, 0.9, picture.shape).astype(np.float32)
    _, gradient = evaluate(tf.constant(image))
    # Along the gradient itself the change is largest, and least of it is lost to rounding.
    direction = gradient.numpy() / np.abs(gradient).max()
    h = 1e-3
    up, down = (float(evaluate(tf.constant(image + sign * h * direction))[0]["total"]) for sign in (1, -1))
    expected = float(np.sum(gradient.numpy().astype(np.float64) * direction))
    assert (up - down) / (2 * h) == pytest.approx(expected, rel=0.02)


def test_gradient_of_one_pixel(defined, picture, random):
    style = random.uniform(size=(1, 32, 32, 3)).astype(np.float32)
    evaluate = defined.objective(picture, style, {"content": 1.0, "style": 100.0, "tv": 0.2})
    _, gradient = evaluate(tf.constant(1 - picture))
    where = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
    step = np.zeros_like(picture)
    step[where] = 5e-3
    up, down = (float(evaluate(tf.constant(1 - picture + sign * step))[0]["total"]) for sign in (1, -1))
    assert (up - down) / 1e-2 == pytest.approx(float(gradient.numpy()[where]), rel=0.05)


def test_compiling_with_xla_changes_nothing(defined, picture, random):
    """XLA is on only where there is a GPU; here it is run on what there is."""
    style = random.uniform(size=(1, 32, 32, 3)).astype(np.float32)
    weights = {"content": 1.0, "style": 100.0, "tv": 1.0}
    plain = defined.losses_and_gradient
    found = []
    for xla in (False, True):
        compiled = tf.function(plain.python_function, jit_compile=xla)
        names = {**vars(defined), "losses_and_gradient": compiled}
        objective = types.FunctionType(
            defined.objective.__code__, names, argdefs=defined.objective.__defaults__
        )
        found.append(objective(picture, style, weights)(tf.constant(1 - picture)))
    for name in ("content", "style", "tv", "total"):
        assert float(found[0][0][name]) == pytest.approx(float(found[1][0][name]), rel=1e-3)
    error = np.abs(found[0][1] - found[1][1]).max() / np.abs(found[0][1]).max()
    assert error < 1e-3

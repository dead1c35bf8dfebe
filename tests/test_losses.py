"""The losses, as the notebook's own cells define them, against numbers worked out otherwise."""

import numpy as np
import pytest
import tensorflow as tf

from conftest import CONTENT_LAYER, STYLE_LAYERS


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


def arguments_for(defined, content, style, weights):
    content_target = defined.extractor(content)[CONTENT_LAYER]
    style_features = defined.extractor(style)
    grams = {layer: defined.gram_matrix(style_features[layer]) for layer in STYLE_LAYERS}
    layers = defined.as_tensors(defined.STYLE_LAYERS)
    return defined.extractor, CONTENT_LAYER, content_target, grams, layers, defined.as_tensors(weights)


def test_the_total_is_the_weighted_sum(defined, picture, random):
    style = random.uniform(size=(1, 24, 24, 3)).astype(np.float32)
    weights = {"content": 2.0, "style": 3.0, "tv": 0.5}
    losses, _ = defined.losses_and_gradient(
        tf.constant(picture[:, ::-1]), *arguments_for(defined, picture, style, weights)
    )
    expected = sum(weight * float(losses[name]) for name, weight in weights.items())
    assert float(losses["total"]) == pytest.approx(expected, rel=1e-6)
    assert all(float(losses[name]) > 0 for name in weights)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 100, 0.2)])
def test_gradient_against_finite_differences(defined, picture, random, weights):
    style = random.uniform(size=(1, 32, 32, 3)).astype(np.float32)
    weights = dict(zip(("content", "style", "tv"), weights))
    arguments = arguments_for(defined, picture, style, weights)
    image = random.uniform(0.1, 0.9, picture.shape).astype(np.float32)
    _, gradient = defined.losses_and_gradient(tf.constant(image), *arguments)
    # Along the gradient itself the change is largest, and least of it is lost to rounding.
    direction = gradient.numpy() / np.abs(gradient).max()
    h = 1e-3
    up, down = (
        float(defined.losses_and_gradient(tf.constant(image + sign * h * direction), *arguments)[0]["total"])
        for sign in (1, -1)
    )
    expected = float(np.sum(gradient.numpy().astype(np.float64) * direction))
    assert (up - down) / (2 * h) == pytest.approx(expected, rel=0.02)


def test_gradient_of_one_pixel(defined, picture, random):
    style = random.uniform(size=(1, 32, 32, 3)).astype(np.float32)
    arguments = arguments_for(defined, picture, style, {"content": 1.0, "style": 100.0, "tv": 0.2})
    _, gradient = defined.losses_and_gradient(tf.constant(1 - picture), *arguments)
    where = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
    step = np.zeros_like(picture)
    step[where] = 5e-3
    up, down = (
        float(defined.losses_and_gradient(tf.constant(1 - picture + sign * step), *arguments)[0]["total"])
        for sign in (1, -1)
    )
    assert (up - down) / 1e-2 == pytest.approx(float(gradient.numpy()[where]), rel=0.05)

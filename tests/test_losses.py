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


def test_content_loss_by_hand(defined):
    # (9 + 1) / 2 over (1 + 4) / 2
    assert float(defined.content_loss(tf.constant([4.0, 3.0]), tf.constant([1.0, 2.0]))) == pytest.approx(2.0)


def test_style_loss_by_hand(defined):
    grams = [tf.constant([[4.0]]), tf.constant([[9.0]])]
    wanted = [tf.constant([[2.0]]), tf.constant([[3.0]])]
    # errors (4 - 2)^2 / 2^2 = 1 and (9 - 3)^2 / 3^2 = 4, weighted 3 : 1
    assert float(defined.style_loss(grams, wanted, [0.75, 0.25])) == pytest.approx(0.75 * 1 + 0.25 * 4)


def test_total_loss_by_hand(defined):
    losses = {"content": tf.constant(2.0), "style": tf.constant(3.0), "tv": tf.constant(5.0)}
    assert float(defined.total_loss(losses, {"content": 1.0, "style": 10.0, "tv": 0.5})) == pytest.approx(34.5)


def test_a_guide_weighs_the_positions_of_an_error(defined, random):
    values, target = random.normal(size=(2, 1, 4, 5, 3))
    guide = random.uniform(size=(1, 4, 5, 1))
    expected = np.sum(guide * (values - target) ** 2)
    found = defined.relative_error(*(tf.constant(each, tf.float32) for each in (values, target, guide)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_total_variation_loss_against_tensorflow(defined, random):
    image = random.uniform(size=(1, 9, 9, 3)).astype(np.float32)
    # TensorFlow sums; a square has as many vertical as horizontal neighbours: 8 * 9 * 3 of each
    expected = float(tf.image.total_variation(tf.constant(image))[0]) / (8 * 9 * 3)
    assert float(defined.total_variation_loss(tf.constant(image))) == pytest.approx(expected, rel=1e-5)


def test_total_variation_loss_takes_the_mean_in_each_direction(defined):
    ramp = np.tile(np.float32([0, 0.1, 0.2, 0.3])[None, None, :, None], (1, 2, 1, 3))
    for image in (ramp, np.swapaxes(ramp, 1, 2)):
        assert float(defined.total_variation_loss(tf.constant(image))) == pytest.approx(0.1)


def alike(features):
    """A guide by which all positions count alike."""
    height, width = features.shape[1:3]
    return tf.fill((1, height, width, 1), 1 / (height * width))


@needs_bfloat16
def test_losses_of_short_numbers_are_computed_in_float32(defined, random):
    """bfloat16 feature maps: the values are rounded, the arithmetic on them is not; a sum would stop at 256."""
    features = tf.cast(random.normal(size=(1, 60, 80, 16)), tf.bfloat16)
    exact = features.numpy().astype(np.float64)
    loss = defined.content_loss(features, 0 * features + 1)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(np.mean((exact - 1) ** 2), rel=1e-5)
    mean, gram = defined.moments(features, alike(features))
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-6)
    expected = exact.reshape(-1, 16).T @ exact.reshape(-1, 16) / 4800
    assert gram.dtype == tf.float32
    np.testing.assert_allclose(gram, expected, rtol=2**-7, atol=1e-3)  # each may be rounded to bfloat16 twice


# --- The Wasserstein distance of two Gaussians ------------------------------------------------
def exact_distance(features, target):
    """The formula as it stands in the notebook, with SciPy's root of a matrix."""
    F, F2 = (np.float64(each).reshape(-1, each.shape[-1]) for each in (features, target))
    m, m2 = F.mean(axis=0), F2.mean(axis=0)
    C, C2 = np.cov(F.T, ddof=0), np.cov(F2.T, ddof=0)
    root = sqrtm(C2)
    overlap = np.trace(sqrtm(root @ C @ root)).real
    return (np.sum((m - m2) ** 2) + np.trace(C) + np.trace(C2) - 2 * overlap) / (m2 @ m2 + np.trace(C2))


def distance(defined, features, target, block=256):
    wanted = defined.gaussian(*defined.moments(target, alike(target)), block)
    return defined.wasserstein(defined.moments(features, alike(features)), wanted)


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


def test_blocks_leave_out_only_what_is_between_them(defined, random):
    """Channels that never respond together need no more than their own block."""
    features, target = (np.zeros((1, 8, 8, 6), np.float32) for _ in range(2))
    for cloud in (features, target):  # two groups of three channels with means of 0, each at its own positions
        for half, scale in enumerate((1.0, 5.0)):
            part = random.normal(size=(1, 4, 8, 3)) * scale
            cloud[:, 4 * half : 4 * half + 4, :, 3 * half : 3 * half + 3] = part - part.mean(axis=(0, 1, 2))
    whole, blocks = (float(distance(defined, tf.constant(features), tf.constant(target), n)) for n in (256, 3))
    assert blocks == pytest.approx(whole, rel=1e-3)
    assert [R.shape for R in defined.gaussian(tf.zeros(256), tf.eye(256))[2]] == [(256, 128)] * 2


def test_a_layer_that_is_silent_has_a_finite_loss_and_gradient(defined, random):
    target = tf.constant(random.uniform(size=(1, 6, 6, 4)), tf.float32)
    wanted = defined.gaussian(*defined.moments(target, alike(target)))
    silent = tf.zeros((1, 6, 6, 4))
    with tf.GradientTape() as tape:
        tape.watch(silent)
        value = defined.wasserstein(defined.moments(silent, alike(silent)), wanted)
    assert float(value) == pytest.approx(1, rel=1e-4)  # as far off as nothing at all
    assert np.isfinite(tape.gradient(value, silent)).all()


def test_moments_against_numpy(defined, random):
    """Of a region; and the Gram matrix without a guide, of all."""
    features, mask = random.normal(size=(1, 6, 8, 3)), random.uniform(size=(1, 6, 8, 1))
    F = features.reshape(-1, 3)
    q = mask / mask.sum()
    mean, gram = defined.moments(tf.constant(features, tf.float32), tf.constant(q, tf.float32))
    np.testing.assert_allclose(mean, q.ravel() @ F, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gram, (F * q.reshape(-1, 1)).T @ F, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(defined.gram_matrix(tf.constant(features)), F.T @ F / 48, rtol=1e-4, atol=1e-5)


# --- Neighbours ---------------------------------------------------------------------------------
def test_hypercolumns_by_hand(defined):
    """All at a quarter of the picture's size: finer maps averaged, coarser ones enlarged, each over its length."""
    fine = np.tile(np.float32([0, 8] * 6), (1, 8, 1))[..., np.newaxis]  # columns of 0 and 8 in turn
    features = {"fine": tf.constant(fine), "middle": tf.ones((1, 4, 6, 2)), "coarse": 6 * tf.ones((1, 2, 3, 5))}
    lengths = {"fine": 4.0, "middle": 2.0, "coarse": 3.0}
    columns = defined.hypercolumns(features, lengths, {"fine": 2, "middle": 4, "coarse": 8})
    assert columns.shape == (1, 4, 6, 8)
    np.testing.assert_allclose(columns[0, 0, 0], [1, 0.5, 0.5, 2, 2, 2, 2, 2])


def test_lengths_against_numpy(defined, vgg16, castle):
    views = nst.Views(castle, vgg16, None)
    found = defined.lengths_in(views, vgg16.style_layers)
    assert list(found) == list(vgg16.style_layers)
    for layer, length in found.items():
        F = vgg16(views.image)[layer].numpy().reshape(-1, vgg16(views.image)[layer].shape[-1])
        assert float(length) == pytest.approx(np.sqrt(np.mean(np.sum(np.float64(F) ** 2, axis=1))), rel=1e-4)


@pytest.mark.parametrize("block", [7, 2048])
def test_the_neighbour_has_the_largest_cosine_once_the_means_are_off(defined, random, block):
    wanted, offered = random.normal(size=(30, 5)), random.normal(size=(40, 5))
    a, b = wanted - wanted.mean(axis=0), offered - offered.mean(axis=0)
    cosines = (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T
    found = defined.most_alike(tf.constant(wanted, tf.float32), tf.constant(offered, tf.float32), block)
    np.testing.assert_array_equal(found, cosines.argmax(axis=1))


def test_a_blend_offers_5000_rows_shared_by_the_weights(defined, vgg16, random):
    """Of 4,096 places each: every fourth, for 1,250 are allowed; and every second, for 3,750 are."""
    paintings = random.uniform(size=(2, 1, 240, 240, 3)).astype(np.float32)
    styles = [nst.Style(image, weight) for image, weight in zip(paintings, (0.25, 0.75))]
    lengths = dict.fromkeys(vgg16.style_layers, 1.0)
    _, cloud = defined.wanted_in(nst.Region(1.0, None, styles), vgg16.style_layers, lengths, vgg16, None)
    assert len(cloud) == 1024 + 2048


def test_each_region_looks_up_in_its_own_paintings(defined, vgg16, castle, church):
    left = np.zeros(castle.shape[1:3])
    left[:, :32] = 1
    regions = nst.regions(nst.as_styles([nst.Style(church, mask=left), nst.Style(castle, mask=1 - left)], castle))
    views = nst.Views(castle, vgg16, None)
    lengths = defined.lengths_in(views, vgg16.style_layers)
    clouds = [defined.wanted_in(region, vgg16.style_layers, lengths, vgg16, None)[1] for region in regions]
    from_first = defined.look_up(views, regions, clouds, lengths).numpy()[0] < len(clouds[0])
    assert from_first[:, :8].all() and not from_first[:, 12:].any()


# --- The total, and its gradient ----------------------------------------------------------------
def objective(defined, content, styles, extractor=None, tile_size=None, **changes):
    extractor = extractor or defined.extractor
    settings = defined.settings_now(extractor, **changes)
    return defined.objective(content, nst.as_styles(styles, content), settings, extractor, tile_size)


def evaluated(evaluate, extractor, image):
    losses, gradient = evaluate(nst.framed(image, extractor.stride))
    return {name: float(loss) for name, loss in losses.items()}, gradient.numpy()


def test_losses_against_numpy_for_masks_on_both_sides_and_a_blend(defined, vgg16, castle, church, random):
    """Gram matrices; two regions, the first of a blend, the second of a part of a painting."""
    wave = nst.load_image("great_wave.jpg", 64)
    mask = random.uniform(size=castle.shape[1:3]).astype(np.float32)
    image_mask = random.uniform(size=church.shape[1:3]).astype(np.float32)
    styles = [nst.Style(church, 1, mask), nst.Style(wave, 3, mask), nst.Style(church, 2, 1 - mask, 1.0, image_mask)]
    evaluate = objective(defined, castle, styles, style_loss="gram", photograph_share=1.0)
    image = np.roll(castle[:, ::-1], 5, axis=2)
    losses, _ = evaluated(evaluate, vgg16, image)

    def gram(picture, layer, where=None):
        F = vgg16(nst.framed(picture, 8))[layer].numpy()[0].astype(np.float64)
        if where is None:
            where = np.ones(picture.shape[1:3])
        q = nst.framed(where[np.newaxis, :, :, np.newaxis].astype(np.float32), 8).numpy()[0, :, :, 0]
        step = q.shape[0] // F.shape[0]
        q = q.reshape(F.shape[0], step, F.shape[1], step).mean(axis=(1, 3))
        return np.einsum("hw,hwi,hwj->ij", q / q.sum(), F, F)

    areas = np.array([mask.mean(), 1 - mask.mean()])
    weights = np.array([4, 2])
    shares = areas * weights / np.average(weights, weights=areas)
    style = 0.0
    for layer, weight in vgg16.style_layers.items():
        wanted = [gram(church, layer) / 4 + 3 / 4 * gram(wave, layer), gram(church, layer, image_mask)]
        for share, where, A in zip(shares, (mask, 1 - mask), wanted):
            error = np.sum((gram(image, layer, where) - A) ** 2) / np.sum(A**2)
            style += share * weight / sum(vgg16.style_layers.values()) * error
    assert losses["style"] == pytest.approx(style, rel=1e-3)
    P, F = (vgg16(nst.framed(each, 8))["block4_conv2"].numpy().astype(np.float64) for each in (castle, image))
    assert losses["content"] == pytest.approx(np.sum((F - P) ** 2) / np.sum(P**2), rel=1e-3)


def test_the_content_loss_by_neighbours_against_numpy(defined, vgg16, castle, church):
    """Both parts of it, with the target put together by hand."""
    image = np.roll(castle[:, ::-1], 5, axis=2)
    losses, _ = evaluated(objective(defined, castle, church, photograph_share=0.25), vgg16, image)
    maps = [vgg16(nst.framed(each, 8)) for each in (castle, church, image)]
    lengths = defined.lengths_in(nst.Views(castle, vgg16, None), vgg16.style_layers)
    photo, painting, ours = (defined.hypercolumns(each, lengths, vgg16.strides).numpy() for each in maps)
    rows, offered = (each.reshape(-1, 960).astype(np.float64) for each in (photo, painting))
    a, b = rows - rows.mean(axis=0), offered - offered.mean(axis=0)
    nearest = ((a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T).argmax(axis=1)
    target = offered[nearest].reshape(photo.shape)
    P, F = (each["block4_conv2"].numpy() for each in (maps[0], maps[2]))
    expected = 0.25 * np.sum((F - P) ** 2) / np.sum(P**2) + 0.75 * np.sum((ours - target) ** 2) / np.sum(target**2)
    assert losses["content"] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 100, 0.2)])
@pytest.mark.parametrize("kind", ["gram", "wasserstein"])
def test_gradient_against_finite_differences(defined, picture, random, kind, weights):
    style = random.uniform(size=(1, 32, 32, 3)).astype(np.float32)
    named = dict(zip(("content_weight", "style_weight", "tv_weight"), weights))
    evaluate = objective(defined, picture, style, style_loss=kind, **named)
    image = nst.framed(random.uniform(0.1, 0.9, picture.shape).astype(np.float32), 8)
    _, gradient = evaluate(image)
    # Along the gradient itself the change is largest, and least of it is lost to rounding.
    direction = gradient.numpy() / np.abs(gradient).max()
    h = 1e-3 if kind == "gram" else 4e-3
    up, down = (float(evaluate(image + sign * h * direction)[0]["total"]) for sign in (1, -1))
    expected = float(np.sum(gradient.numpy().astype(np.float64) * direction))
    assert (up - down) / (2 * h) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("model, size", [("vgg16", (100, 140)), ("resnet50", (32, 150))])
def test_tiles_against_whole(defined, church, random, model, size):
    """A picture of 2 x 3, or 1 x 3, tiles: the same losses and gradient, but for rounding; with masks on both sides."""
    extractor = defined.extractor
    if model == "resnet50":
        layers = {"style_layers": {"conv1_relu": 1.0, "conv2_block3_out": 1.0}, "content_layer": "conv3_block1_out"}
        extractor = nst.FeatureExtractor(model, **layers, weights=None)
    content, image = random.uniform(size=(2, 1, *size, 3)).astype(np.float32)
    left = np.zeros(size, np.float32)
    left[:, : size[1] // 2] = 1
    image_mask = random.uniform(size=church.shape[1:3]).astype(np.float32)
    styles = [nst.Style(church, mask=left, image_mask=image_mask), nst.Style(church, mask=1 - left)]
    found = []
    for tile_size in (None, 64):
        evaluate = objective(defined, content, styles, extractor, tile_size, style_loss="gram")
        found.append(evaluated(evaluate, extractor, image))
    (whole, gradient), (tiled, same) = found
    assert {name: round(tiled[name] / whole[name], 2) for name in whole} == dict.fromkeys(whole, 1.0)
    assert np.linalg.norm(same - gradient) < 0.02 * np.linalg.norm(gradient)

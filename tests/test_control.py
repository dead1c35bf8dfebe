"""How the reader directs the picture: colours, several styles, regions, stroke size, layers, start."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import nst_helpers as nst

WEIGHTS = {"content": 1.0, "style": 100.0, "tv": 1.0}


@pytest.fixture(scope="module")
def castle():
    return nst.load_image("neuschwanstein_castle.jpg", 64)  # 64 x 43


@pytest.fixture(scope="module")
def church():
    return nst.load_image("church_at_auvers.jpg", 64)


@pytest.fixture(scope="module")
def wave():
    return nst.load_image("great_wave.jpg", 64)


def style_loss_and_gradient(defined, content, style, image=None):
    """The style loss of an image (or the content) and its gradient, as NumPy."""
    evaluate = defined.objective(content, style, {"content": 0.0, "style": 1.0, "tv": 0.0})
    losses, gradient = evaluate(tf.constant(content if image is None else image))
    return float(losses["style"]), gradient.numpy()


@pytest.fixture(scope="module")
def large():
    """Castle, church and wave, large enough for two sizes."""
    names = "neuschwanstein_castle.jpg", "church_at_auvers.jpg", "great_wave.jpg"
    return [nst.load_image(name, 96) for name in names]


# ---------------------------------------------------------------------------------------------
# Colours


def colours_of(image):
    pixels = np.reshape(image, (-1, 3)).astype(np.float64)
    return pixels.mean(axis=0), np.cov(pixels.T, ddof=0)


def cloud(random, mean, spread):
    """A picture whose colours are correlated, far enough from 0 and 1 that nothing is clipped."""
    mixed = random.normal(size=(1, 40, 50, 3)) @ random.normal(size=(3, 3)) * spread
    return np.float32(np.clip(mixed + mean, mean - 0.25, mean + 0.25))


def test_matching_gives_the_target_s_mean_and_covariance(defined, random):
    image, target = cloud(random, 0.5, 0.05), cloud(random, 0.45, 0.03)
    before = image.copy()
    matched = defined.match_colours(image, target)
    assert matched.min() > 0 and matched.max() < 1 and matched.dtype == np.float32
    for found, expected in zip(colours_of(matched), colours_of(target)):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(image, before)


def test_matching_minds_the_mask(defined, random):
    image, left, right = cloud(random, 0.5, 0.05), cloud(random, 0.4, 0.03), cloud(random, 0.6, 0.03)
    mask = np.zeros((1, 40, 100, 1), np.float32)
    mask[:, :, :50] = 1
    matched = defined.match_colours(image, np.concatenate([left, right], axis=2), mask)
    for found, expected in zip(colours_of(matched), colours_of(left)):
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("flat", ["image", "target"])
def test_matching_takes_pictures_of_one_colour(defined, random, flat):
    pictures = {"image": cloud(random, 0.5, 0.05), "target": cloud(random, 0.5, 0.05)}
    pictures[flat] = np.full_like(pictures[flat], 0.3)
    matched = defined.match_colours(**pictures)
    assert np.isfinite(matched).all()
    np.testing.assert_allclose(matched.mean(axis=(0, 1, 2)), colours_of(pictures["target"])[0], atol=1e-3)


def test_luminance_only_keeps_the_content_s_chroma(defined, random):
    content = random.uniform(0.35, 0.65, (1, 64, 80, 3)).astype(np.float32)
    style = random.uniform(0.35, 0.65, (1, 64, 64, 3)).astype(np.float32)
    image, _ = defined.stylize(content, style, colours="luminance", steps=4, coarsest=64, quiet=True)
    found, expected = (tf.image.rgb_to_yuv(each).numpy()[..., 1:] for each in (image, content))
    inside = np.all((image > 0) & (image < 1), axis=-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-5)
    luminance = [tf.image.rgb_to_yuv(each).numpy()[..., 0] for each in (image, content)]
    assert np.abs(luminance[0] - luminance[1]).mean() > 1e-3


def test_how_near_the_chroma_stays_to_the_photograph_s(defined, castle, wave):
    chroma = lambda image: tf.image.rgb_to_yuv(image).numpy()[..., 1:]  # noqa: E731
    ends = {}
    for colours in defined.COLOURINGS:
        image, _ = defined.stylize(castle, wave, colours=colours, steps=15, coarsest=64, quiet=True)
        ends[colours] = np.abs(chroma(image) - chroma(castle)).mean()
    assert ends["luminance"] < ends["matched"] < ends["painting"]


def test_the_callback_of_a_luminance_run_sees_colours(defined, large):
    seen, (castle, _, wave) = [], large
    defined.stylize(
        castle, wave, colours="luminance", steps=2, coarsest=48, quiet=True,
        callback=lambda now: seen.append(np.array(now.image)),
    )  # fmt: skip
    assert [each.shape[2] for each in seen] == [48, 48, 96, 96]
    assert all(np.abs(each[..., 0] - each[..., 2]).max() > 0.1 for each in seen)


def test_refuses_an_unknown_colouring(defined, castle, wave):
    with pytest.raises(ValueError, match="'grey'. Valid colourings: painting, matched, luminance"):
        defined.stylize(castle, wave, colours="grey", steps=1)


# ---------------------------------------------------------------------------------------------
# Several styles


def test_two_equal_styles_at_half_weight_are_one(defined, castle, church):
    one = style_loss_and_gradient(defined, castle, church)
    for pair in ([church, church], [nst.Style(church, 0.5), nst.Style(church, 0.5)]):
        two = style_loss_and_gradient(defined, castle, pair)
        assert two[0] == pytest.approx(one[0], rel=1e-4)
        np.testing.assert_allclose(two[1], one[1], atol=1e-4 * np.abs(one[1]).max())


def test_a_blend_s_target_is_the_weighted_mean_of_gram_matrices(defined, castle, church, wave):
    loss, _ = style_loss_and_gradient(defined, castle, [nst.Style(church, 0.3), nst.Style(wave, 0.7)])
    features = [defined.extractor(image) for image in (castle, church, wave)]
    expected, layers = 0.0, defined.extractor.style_layers
    for layer, weight in layers.items():
        maps = [np.reshape(each[layer], (-1, each[layer].shape[-1])).astype(np.float64) for each in features]
        grams = [F.T @ F / len(F) for F in maps]
        target = 0.3 * grams[1] + 0.7 * grams[2]
        expected += weight * np.mean((grams[0] - target) ** 2) / np.mean(target**2)
    assert loss == pytest.approx(expected / sum(layers.values()), rel=1e-3)


def test_weights_multiply_the_style_loss(defined, castle, church):
    once, twice = (
        style_loss_and_gradient(defined, castle, nst.Style(church, weight))[0] for weight in (1, 2)
    )
    assert twice == pytest.approx(2 * once, rel=1e-4)


def test_a_style_of_weight_0_is_left_out(defined, castle, church, wave):
    one = style_loss_and_gradient(defined, castle, church)[0]
    assert style_loss_and_gradient(defined, castle, [nst.Style(church), nst.Style(wave, 0)])[0] == one


# ---------------------------------------------------------------------------------------------
# Regions


def half(image, left=1.0, right=0.0):
    """A mask: one value on the left half, another on the right."""
    mask = np.full((1, *image.shape[1:3], 1), left, np.float32)
    mask[:, :, image.shape[2] // 2 :] = right
    return mask


@pytest.mark.parametrize("shape", ["two axes", "four axes"])
def test_an_all_white_mask_gives_the_unmasked_loss(defined, castle, church, shape):
    white = np.ones(castle.shape[1:3] if shape == "two axes" else (1, *castle.shape[1:3], 1))
    plain, masked = (
        style_loss_and_gradient(defined, castle, nst.Style(church, mask=mask)) for mask in (None, white)
    )
    assert masked[0] == pytest.approx(plain[0], rel=1e-4)
    np.testing.assert_allclose(masked[1], plain[1], atol=1e-4 * np.abs(plain[1]).max())


def test_guided_gram_matrix_against_numpy(defined, random):
    features = random.normal(size=(1, 8, 12, 5)).astype(np.float32)
    mask = random.uniform(size=(1, 8, 12, 1)).astype(np.float32)
    F, m = features.reshape(-1, 5).astype(np.float64), mask.reshape(-1)
    expected = sum(weight * np.outer(f, f) for weight, f in zip(m, F)) / m.sum()
    found = defined.gram_matrix(features * defined.guide(mask, tf.constant(features), "a layer"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_masks_are_averaged_down_to_a_layer(defined):
    mask = np.zeros((1, 8, 8, 1), np.float32)
    mask[:, :, :3] = 1  # 2 x 2 positions of 4 x 4 pixels: three quarters and nothing
    guide = defined.guide(mask, tf.zeros((1, 2, 2, 1)), "a layer").numpy()
    np.testing.assert_allclose(guide[0, :, :, 0] ** 2, [[2, 0], [2, 0]], atol=1e-6)  # over a mean of 3/8


def test_a_masked_style_s_gradient_is_zero_outside_its_region(defined, random):
    """Beyond what the layer sees: at block2_conv1 a position sees 10 pixels across (3, 5, 6, 10)."""
    content, image = (random.uniform(size=(1, 32, 64, 3)).astype(np.float32) for _ in range(2))
    style = nst.Style(random.uniform(size=(1, 32, 32, 3)).astype(np.float32), mask=half(content))
    evaluate = defined.objective(
        content, style, {"content": 0.0, "style": 1.0, "tv": 0.0}, style_layers={"block2_conv1": 1.0}
    )
    gradient = np.abs(evaluate(tf.constant(image))[1].numpy()).max(axis=(0, 1, 3))  # by column
    assert gradient[:32].min() > 0
    assert gradient[36:].max() == 0


def test_what_is_outside_a_region_does_not_count(defined, random, church):
    """The loss of the left half does not change with the right half, far from the border."""
    content = random.uniform(size=(1, 32, 96, 3)).astype(np.float32)
    other = content.copy()
    other[:, :, 60:] = random.uniform(size=(1, 32, 36, 3))
    evaluate = defined.objective(
        content, nst.Style(church, mask=half(content)), WEIGHTS, style_layers={"block2_conv1": 1.0}
    )
    ends = [float(evaluate(tf.constant(image))[0]["style"]) for image in (content, other)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


def test_regions_get_their_styles(defined, random):
    """A dark style on the left, a bright one on the right."""
    content = np.full((1, 32, 64, 3), 0.5, np.float32)
    dark, bright = (np.full((1, 32, 32, 3), value, np.float32) for value in (0.1, 0.9))
    styles = [nst.Style(dark, mask=half(content)), nst.Style(bright, mask=1 - half(content))]
    image, _ = defined.stylize(
        content, styles, content_weight=0, tv_weight=0, steps=30, coarsest=64, quiet=True
    )
    assert image[:, :, :24].mean() < 0.4 and image[:, :, -24:].mean() > 0.6


def test_a_region_counts_by_its_area(defined, castle, church):
    whole, mask = style_loss_and_gradient(defined, castle, church)[0], half(castle)
    both = [nst.Style(church, mask=mask), nst.Style(church, mask=1 - mask)]
    parts = [style_loss_and_gradient(defined, castle, style)[0] for style in both]
    assert style_loss_and_gradient(defined, castle, both)[0] == pytest.approx(sum(parts), rel=1e-4)
    assert 0.3 * whole < sum(parts) < 3 * whole


def test_refuses_masks_that_do_not_fit(defined, castle, church):
    height, width = castle.shape[1:3]
    for mask, message in [
        (np.ones((height, width + 1)), rf"style 1.*\({height}, {width}\).*\({height}, {width + 1}\)"),
        (np.zeros((height, width)), "only 0 .black."),
        (np.full((height, width), 255), "range 0 .does not count. to 1.*255 to 255.*by 255"),
        (np.ones((height, width, 3)), r"shape \(height, width\)"),
        (np.full((height, width), np.nan), "range 0"),
        ([["white"]], "as numbers"),
    ]:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            defined.stylize(castle, nst.Style(church, mask=mask), steps=1)


def test_refuses_a_mask_that_is_empty_at_a_layer(defined, castle, church):
    mask = np.zeros(castle.shape[1:3])
    mask[:10, :10] = 1  # of 43 x 64 pixels, as 2 x 4 positions: 10 / (43 / 2) * 10 / (64 / 4) = 0.29
    with pytest.raises(ValueError, match="empty at the layer block5_conv1.*2 x 4 positions.*0.29"):
        defined.stylize(castle, nst.Style(church, mask=mask), steps=1, coarsest=64)


def test_says_what_is_in_no_style(defined, castle, church, capsys):
    defined.stylize(castle, nst.Style(church, mask=half(castle)), steps=1, coarsest=64, quiet=True)
    assert "50% of the picture is in no style's mask" in capsys.readouterr().out
    defined.stylize(castle, church, steps=1, coarsest=64, quiet=True)
    assert capsys.readouterr().out == ""


def test_masks_from_files(tmp_path, castle):
    height, width = castle.shape[1:3]
    pixels = np.zeros((height * 4, width * 4), np.uint8)
    pixels[:, : width * 2], pixels[: height * 2] = 255, 128
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask = nst.load_mask(tmp_path / "mask.png", castle)
    assert mask.shape == (1, height, width, 1) and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() == 1
    assert mask[0, 5, 5, 0] == pytest.approx(128 / 255, abs=0.01)
    assert mask[0, -5, 5, 0] == 1 and mask[0, -5, -5, 0] == 0
    Image.fromarray(pixels[:, : width * 3]).save(tmp_path / "narrow.png")
    with pytest.raises(ValueError, match="proportions.*narrow.png"):
        nst.load_mask(tmp_path / "narrow.png", castle)
    with pytest.raises(FileNotFoundError, match="no picture 'none.png'.*masks.*neuschwanstein_castle_sky"):
        nst.load_mask("none.png", castle)


def test_the_mask_of_the_default_photograph():
    content = nst.load_image("neuschwanstein_castle.jpg", 128)
    sky = nst.load_mask("neuschwanstein_castle_sky.png", content)
    blue = content[0, :, :, 2] - content[0, :, :, 0]
    assert 0.3 < sky.mean() < 0.5
    assert blue[sky[0, :, :, 0] > 0.9].mean() > 0.15 > blue[sky[0, :, :, 0] < 0.1].mean()


# ---------------------------------------------------------------------------------------------
# Stroke size, layers, start, weights


def test_the_scale_of_a_style(defined, castle, church):
    enlarged = defined.resized(church, 2.0)
    assert enlarged.shape[1:3] == (church.shape[1] * 2, church.shape[2] * 2)
    scaled = style_loss_and_gradient(defined, castle, nst.Style(church, scale=2.0))[0]
    assert scaled == pytest.approx(style_loss_and_gradient(defined, castle, enlarged)[0], rel=1e-5)
    assert scaled != pytest.approx(style_loss_and_gradient(defined, castle, church)[0], rel=0.01)
    first = defined.stylize(castle, nst.Style(church, scale=2.0), steps=1, coarsest=64, quiet=True)[1]
    assert first["style"][0] == pytest.approx(scaled, rel=1e-5)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), "large", 9])
def test_refuses_a_scale(defined, castle, church, scale):
    with pytest.raises(ValueError, match="scale of style_image.*(above 0|8 at most)"):
        defined.stylize(castle, nst.Style(church, scale=scale), steps=1)


def test_another_content_layer(defined, castle, church):
    """The content loss belongs to the layer that was named."""
    evaluate = defined.objective(castle, church, WEIGHTS, content_layer="block1_conv1")
    dark = tf.constant(0.5 * castle)
    target, found = (np.asarray(defined.extractor(x)["block1_conv1"], np.float64) for x in (castle, dark))
    expected = np.mean((found - target) ** 2) / np.mean(target**2)
    assert float(evaluate(dark)[0]["content"]) == pytest.approx(expected, rel=1e-3)


def test_starts_from_another_picture(defined, castle, church, random):
    noise = random.uniform(size=castle.shape).astype(np.float32)
    runs = [
        defined.stylize(castle, church, start=start, steps=3, coarsest=64, quiet=True)[1]
        for start in (castle, noise, noise)
    ]
    assert runs[0]["content"][0] == pytest.approx(0, abs=1e-6)
    assert runs[1]["content"][0] > 0.3
    assert runs[1]["total"] == runs[2]["total"]
    first, _ = defined.stylize(castle, church, steps=15, coarsest=64, quiet=True)
    _, further = defined.stylize(castle, church, start=first, steps=5, coarsest=64, quiet=True)
    assert further["style"][0] < 0.3 * runs[0]["style"][0]


def test_a_start_of_another_size_is_brought_to_the_photograph_s(defined, castle, church):
    half_size = defined.resized(castle, 0.5).numpy()
    image, _ = defined.stylize(castle, church, start=half_size, steps=1, coarsest=64, quiet=True)
    assert image.shape == castle.shape
    with pytest.raises(ValueError, match="start in the range 0 to 1"):
        defined.stylize(castle, church, start=255 * castle, steps=1)


def test_a_grid_s_style_loss_falls_with_its_weight(defined, castle, church):
    for content_weight in (0.3, 3.0):
        ends = [
            defined.stylize(
                castle, church, content_weight=content_weight, style_weight=style_weight,
                steps=25, coarsest=64, quiet=True,
            )[1]["style"][-1]
            for style_weight in (10, 100, 1000)
        ]  # fmt: skip
        assert ends == sorted(ends, reverse=True)


def test_all_of_it_together(defined, large):
    """Regions, one of them a blend, at two scales, matched colours, from noise, coarse to fine."""
    castle, church, wave = large
    mask = half(castle)
    styles = [
        nst.Style(church, 0.5, mask, 2.0), nst.Style(wave, 0.5, mask), nst.Style(wave, 1, 1 - mask, 1.5)
    ]  # fmt: skip
    noise = np.random.default_rng(0).uniform(0.3, 0.7, castle.shape).astype(np.float32)
    layers = {"style_layers": {"block1_conv1": 4.0, "block3_conv1": 1.0}, "content_layer": "block3_conv1"}
    for colours in defined.COLOURINGS:
        image, history = defined.stylize(
            castle, styles, colours=colours, start=noise, steps=10, coarsest=48, quiet=True, **layers
        )
        assert image.shape == castle.shape and history["size"] == [48] * 10 + [96] * 10
        assert history["total"][-1] < 0.5 * history["total"][0]


# ---------------------------------------------------------------------------------------------
# What may be passed as a style


def test_refuses_what_is_no_style(castle):
    for bad, message in [
        ([], "at least one of the styles' weights"),
        ([nst.Style(castle, 0)], "at least one of the styles' weights"),
        ([nst.Style(castle, -1), castle], "style 1 of the styles' weights.*-1"),
        ([castle, castle[0]], r"style 2 in the shape"),
        ("church_at_auvers.jpg", "style_image"),
    ]:
        with pytest.raises(ValueError, match=message):
            nst.as_styles(bad)


def test_styles_from_files(castle):
    styles = nst.load_styles("great_wave.jpg", castle, 64)
    assert len(styles) == 1 and styles[0].weight == 1 and max(styles[0].image.shape) == 64
    styles = nst.load_styles(
        [
            {"image": "great_wave.jpg", "mask": "neuschwanstein_castle_sky.png"},
            {"image": "church_at_auvers.jpg", "weight": 3, "scale": 2.0},
        ],
        castle,
        64,
    )
    assert [style.weight for style in styles] == [1, 3]
    assert [style.scale * max(style.image.shape) for style in styles] == [64, 128]
    assert max(styles[1].image.shape) == 128  # the file has more pixels than 64, and they are used
    assert styles[0].mask.shape == (*castle.shape[:3], 1) and styles[1].mask is None
    assert [style.weight for style in nst.load_styles(["great_wave.jpg"] * 2, castle, 64)] == [0.5, 0.5]
    sky, ground = (
        {"image": "great_wave.jpg", "mask": f"neuschwanstein_castle_{n}.png"} for n in ("sky", "ground")
    )
    assert [style.weight for style in nst.load_styles([sky, ground], castle, 64)] == [1, 1]
    large = nst.load_styles({"image": "great_wave.jpg", "scale": 2.0}, castle, 600)[0]  # of 661 pixels
    assert max(large.image.shape) == 661 and large.scale * 661 == pytest.approx(1200)
    for bad in ({"mask": "a.png"}, {"image": "great_wave.jpg", "colour": 1}):
        with pytest.raises(ValueError, match="'image' and any of weight, mask, scale"):
            nst.load_styles(bad, castle, 64)

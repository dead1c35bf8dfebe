"""What a picture is painted with: settings, styles, regions, frames, guides and colours."""

import dataclasses
import re

import numpy as np
import pytest

import nst_helpers as nst


def half(image, left=1.0, right=0.0):
    """A mask: one value on the left half, another on the right."""
    mask = np.full((1, *image.shape[1:3], 1), left, np.float32)
    mask[:, :, image.shape[2] // 2 :] = right
    return mask


# --- Settings --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"content_weight": -1}, "content_weight.*at least 0.*got -1"),
        ({"style_weight": float("nan")}, "style_weight.*got nan"),
        ({"tv_weight": float("inf")}, "tv_weight.*finite.*got inf"),
        ({"content_weight": 0, "style_weight": 0, "tv_weight": 0}, "at least one of"),
        ({"photograph_share": 1.1}, "photograph_share between 0 .* and 1 .*got 1.1"),
        ({"steps": 0}, "steps.*whole number of at least 1, got 0"),
        ({"coarsest": "128"}, "coarsest.*got '128'"),
        ({"learning_rate": 0}, "learning_rate.*above 0, got 0"),
        ({"learning_rate": 5}, "learning_rate at 1 at most, got 5"),
        ({"colours": "grey"}, "'grey'. Valid: painting, matched, luminance"),
        ({"optimizer": "sgd"}, "'sgd'. Valid: adam, lbfgs"),
        ({"style_layers": {"block1_conv1": -1}}, "block1_conv1 of style_layers.*got -1"),
        ({"style_layers": ["block1_conv1"]}, r"style_layers as a dict.*got \['block1_conv1'\]"),
        ({"tile_size": 63}, 'tile_size to be None, "auto" or .* at least 64.*got 63'),
        ({"tile_size": 96.0}, "tile_size.*got 96.0"),
    ],
)
def test_settings_refuse_what_is_wrong(wrong, message):
    with pytest.raises(ValueError, match=message):
        nst.Settings(**wrong)


def test_settings_take_numpy_s_numbers_and_weights_of_0_and_are_frozen():
    numbers = {"steps": np.int64(3), "learning_rate": np.float32(0.5), "tile_size": np.int64(64)}
    settings = nst.Settings(content_weight=0, style_weight=100, tv_weight=np.float64(2), **numbers)
    assert settings.weights == {"content": 0, "style": 100, "tv": 2}
    assert settings.replace(steps=4).steps == 4 and settings.steps == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 0


# --- What may be passed as a style -----------------------------------------------------------
def test_a_style_is_an_image_a_style_a_dict_or_a_list_of_these(castle, church):
    mask = np.ones(castle.shape[1:3])
    for style, weight, scale, masked in [
        (church, 1, 1, False),
        (nst.Style(church, 3, mask, 2.0), 3, 2, True),
        ({"image": church, "weight": 3, "scale": 0.5, "mask": mask}, 3, 0.5, True),
        ((church, nst.Style(castle, 0)), 1, 1, False),  # that of weight 0 is left out
    ]:
        (found,) = nst.as_styles(style, castle)
        np.testing.assert_array_equal(found.image, church)
        assert (found.weight, found.scale, found.mask is not None) == (weight, scale, masked)


def test_a_style_s_image_and_its_masks_are_read_from_files(castle):
    sky = "neuschwanstein_castle_sky.png"
    (style,) = nst.as_styles({"image": "neuschwanstein_castle.jpg", "mask": sky, "image_mask": sky}, castle)
    np.testing.assert_array_equal(style.image, castle)
    for mask in (style.mask, style.image_mask):
        np.testing.assert_array_equal(mask, nst.load_mask(sky, castle))


# The file has no more than 661 pixels.
@pytest.mark.parametrize("scale, size, longest, rest", [(0.5, 64, 64, 0.5), (2, 64, 128, 1), (2, 600, 661, 1200 / 661)])
def test_a_style_s_file_is_read_at_the_size_that_its_scale_needs(scale, size, longest, rest):
    (style,) = nst.as_styles({"image": "great_wave.jpg", "scale": scale}, np.zeros((1, size // 2, size, 3)))
    assert max(style.image.shape) == longest and style.scale == pytest.approx(rest)


def test_what_is_no_style_is_refused(castle):
    for bad, message in [
        ([], "one style or more, got an empty list"),
        ([nst.Style(castle, 0)], "at least one of the styles' weights"),
        ([nst.Style(castle, -1), castle], "style 1 of the styles' weights.*-1"),
        ([castle, castle[0]], r"style 2 in the shape"),
        (castle * 255, "style 1 in the range 0 to 1"),
        (None, "style 1 in the shape .*got None"),
        ({"mask": "a.png"}, "a dict of image, weight, mask, scale"),
        ({"image": "great_wave.jpg", "colour": 1}, "a dict of image, weight, mask, scale"),
        *((nst.Style(castle, scale=scale), "scale of style 1.*above 0") for scale in (0, -1, np.nan, "large")),
        (nst.Style(castle, scale=9), "scale of style 1 to make it 8 times the picture at most, got 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            nst.as_styles(bad, castle)
    with pytest.raises(FileNotFoundError, match="nothing.jpg"):
        nst.as_styles("nothing.jpg", castle)
    with pytest.raises(ValueError, match="name of a picture's file, got"):
        nst.as_styles(castle, castle, from_files=True)


def test_masks_that_do_not_fit_are_refused(castle, church):
    height, width = castle.shape[1:3]
    for mask, message in [
        (np.ones((height, width + 1)), rf"style 1.*\({height}, {width}\).*\({height}, {width + 1}\)"),
        (np.zeros((height, width)), "only 0 .black."),
        (np.full((height, width), 255), "range 0 .does not count. to 1.*255 to 255.*by 255"),
        (np.ones((height, width, 3)), r"shape \(height, width\)"),
        (np.full((height, width), np.nan), "range 0"),
        (np.full((height, width), "white"), "as numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            nst.as_styles([nst.Style(church, mask=mask)], castle)


# --- Regions ---------------------------------------------------------------------------------
def test_without_masks_there_is_one_region_whose_blend_adds_up_to_1(church):
    (region,) = nst.regions([nst.Style(church, 1), nst.Style(church, 3)])
    assert region.share == pytest.approx(1) and region.mask is None
    assert [style.weight for style in region.styles] == pytest.approx([0.25, 0.75])


def test_styles_of_one_mask_are_blended_and_share_by_their_area_times_their_weight(castle, church):
    left, right = half(castle), half(castle, 0, 0.5)
    masks = [(1, left), (2, right), (3, left.copy()), (2, None)]
    found = nst.regions([nst.Style(church, weight, mask) for weight, mask in masks])
    assert [[style.weight for style in region.styles] for region in found] == [[0.25, 0.75], [1], [1]]
    mean = (4 * 0.5 + 2 * 0.25 + 2 * 1) / 1.75  # weights 4, 2 and 2 on areas of a half, a quarter and 1
    assert [region.share for region in found] == pytest.approx([0.5 * 4 / mean, 0.25 * 2 / mean, 2 / mean])
    np.testing.assert_array_equal(found[1].mask, right)


def test_how_much_of_each_pixel_is_painted(castle, church):
    def reach(*masks):
        """How much of a black painting shows over a white photograph."""
        styles = [nst.Style(church, 1, mask) for mask in masks]
        white = np.ones_like(castle)
        return 1 - nst.prepared(white, None, styles, nst.Settings(), quiet=True).finish(0 * white)

    left = half(castle)
    for masks in ([None], [left, None], [left, 1 - left]):
        assert (reach(*masks) == 1).all()
    found = reach(left, left.copy())  # the same mask counts once
    middle = castle.shape[2] // 2
    assert found[:, :, : middle - 4].min() == pytest.approx(1) and found[:, :, middle + 4 :].max() < 1e-6
    for masks, most in (([0.5 * left], 0.5), ([left, half(castle, 1, 0.5)], 1)):  # the second overlap
        assert reach(*masks).max() == pytest.approx(most)


# --- Frames and guides -----------------------------------------------------------------------
@pytest.mark.parametrize("stride", [8, 32])
@pytest.mark.parametrize("height, width", [(32, 48), (43, 64), (560, 14), (1, 33)])
def test_a_frame_is_mirrored_and_cut_off_again(random, height, width, stride):
    image = random.random((1, height, width, 3), np.float32)
    framed = nst.framed(image, stride).numpy()
    margins = []
    for side, whole in zip((height, width), framed.shape[1:3]):
        assert whole % stride == 0 and 16 <= whole - side < 16 + stride
        margins.append(((whole - side) // 2, (whole - side + 1) // 2))
    np.testing.assert_array_equal(framed, np.pad(image, [(0, 0), *margins, (0, 0)], "symmetric"))
    np.testing.assert_array_equal(nst.unframed(framed, image), image)


@pytest.fixture
def views(vgg16, random):
    """Of a picture of 32 x 48 pixels, which is 48 x 64 in its frame: 6 x 8 positions of 8 pixels."""
    return nst.Views(random.random((1, 32, 48, 3), np.float32), vgg16, None)


def test_a_guide_is_the_mask_s_average_and_adds_up_to_1(views):
    mask = np.zeros((1, 32, 48, 1), np.float32)
    mask[:, :, :20] = 0.8  # with the margin 28 pixels, or 3.5 positions, in 6 rows
    expected = np.tile([1, 1, 1, 0.5, 0, 0, 0, 0], (6, 1)) / 21
    (tile,) = views.tiles
    np.testing.assert_allclose(views.guide(tile, mask, 8)[0, :, :, 0], expected, rtol=1e-5)


def test_a_mask_is_at_its_place_at_every_size(vgg16):
    """That of a picture of 160 x 240 pixels, on a picture of half the size: margins are as wide as there."""
    mask = np.zeros((1, 160, 240, 1), np.float32)
    mask[:, :16, 224:] = 1  # a corner: 8 x 8 pixels of the small picture
    for size, corner in (((80, 120), 1), ((160, 240), 2)):
        views = nst.Views(np.zeros((1, *size, 3), np.float32), vgg16)
        covered = views.covered(mask, 8)[0, :, :, 0]  # margins of 8 pixels: a position, which mirrors the next
        expected = np.zeros_like(covered)
        expected[: corner + 1, -corner - 1 :] = 1
        np.testing.assert_allclose(covered, expected, atol=1e-6)


def test_without_a_mask_all_positions_of_all_tiles_count_alike(vgg16):
    tiled = nst.Views(np.zeros((1, 32, 112, 3), np.float32), vgg16, 64)  # two tiles; 6 x 16 positions
    own_and_halo = [[1 / 96] * 8 + [0] * 5, [0] * 5 + [1 / 96] * 8]
    for tile, expected in zip(tiled.tiles, own_and_halo, strict=True):
        guide = tiled.guide(tile, None, 8)[0, :, :, 0]
        np.testing.assert_allclose(guide, np.tile(expected, (6, 1)), rtol=1e-6)


def test_a_mask_of_less_than_a_position_is_refused(views):
    mask = np.zeros((1, 32, 48, 1), np.float32)
    mask[:, 16:20, 16:24] = 1  # 32 of a position's 64 pixels
    with pytest.raises(ValueError, match="got 0.5 of 6 x 8 positions of 8 pixels. Enlarge"):
        views.guide(views.tiles[0], mask, 8)
    assert np.max(views.guide(views.tiles[0], mask, 4)) == 0.5  # two positions of 16 pixels


# --- Colours ---------------------------------------------------------------------------------
def colours_of(image):
    pixels = np.reshape(image, (-1, 3)).astype(np.float64)
    return pixels.mean(axis=0), np.cov(pixels.T, ddof=0)


def cloud(random, mean, spread):
    """A picture whose colours are correlated, far enough from 0 and 1 that nothing is clipped."""
    mixed = random.normal(size=(1, 40, 50, 3)) @ random.normal(size=(3, 3)) * spread
    return np.float32(np.clip(mixed + mean, mean - 0.25, mean + 0.25))


@pytest.mark.parametrize("masked", ["target", "image", None])
def test_matching_gives_the_target_s_mean_and_covariance(random, masked):
    """Where a mask is given, of what it leaves."""
    pictures = {"image": cloud(random, 0.5, 0.05), "target": cloud(random, 0.45, 0.03)}
    expected = colours_of(pictures["target"])
    masks = {}
    if masked:
        pictures[masked] = np.concatenate([pictures[masked], cloud(random, 0.6, 0.03)], axis=2)
        masks = {"mask" if masked == "target" else "image_mask": half(pictures[masked])}
    before = pictures["image"].copy()
    matched = nst.match_colours(**pictures, **masks)
    assert matched.dtype == np.float32
    for found, wanted in zip(colours_of(matched[:, :, :50]), expected):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    np.testing.assert_array_equal(pictures["image"], before)


@pytest.mark.parametrize("flat", ["image", "target"])
def test_matching_takes_pictures_of_one_colour(random, flat):
    """Large ones, too: a float32 sum of two million numbers is off by percents."""
    pictures = {"image": cloud(random, 0.5, 0.05), "target": cloud(random, 0.5, 0.05)}
    pictures[flat] = np.full((1, 1500, 1500, 3), 0.3, np.float32)
    matched = nst.match_colours(**pictures)
    np.testing.assert_allclose(colours_of(matched)[0], colours_of(pictures["target"])[0], atol=1e-4)


def test_what_is_nearly_grey_is_not_blown_up(castle, random):
    """A grey drawing whose chroma is noise of 0.004: no colour is spread more than fourfold."""
    drawing = np.repeat(random.uniform(0.2, 0.8, (1, 60, 60, 1)), 3, axis=3) + random.normal(0, 0.004, (1, 60, 60, 3))
    matched = nst.match_colours(drawing, castle)
    before, after = (np.linalg.eigvalsh(colours_of(each)[1])[:2] for each in (drawing, matched))
    assert (after < 4.05**2 * before).all()


def test_with_luminance_keeps_the_chroma_and_takes_the_luminance(random):
    image, other = (random.uniform(0.4, 0.6, (1, 8, 9, 3)).astype(np.float32) for _ in range(2))
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(nst.grey(image), np.repeat(image @ weights, 3).reshape(image.shape), atol=2e-4)
    mixed = nst.prepared(image, None, other, nst.Settings(colours="luminance"), True).finish(other)
    np.testing.assert_allclose(mixed @ weights, other @ weights, atol=1e-4)
    np.testing.assert_allclose(mixed - mixed[..., :1], image - image[..., :1], atol=1e-5)


@pytest.mark.parametrize("colours", ["painting", "matched", "luminance"])
def test_each_colouring_prepares_what_is_painted(castle, church, colours):
    mask = half(castle)
    start = np.float32(0.5 * castle)
    styles = [nst.Style(church), nst.Style(church, 2.0, mask, 0.5)]
    palette = nst.prepared(castle, start, styles, nst.Settings(colours=colours), quiet=True)
    images = {"content": castle, "start": start, "style": church}
    if colours == "luminance":
        images = {name: nst.grey(image) for name, image in images.items()}
    np.testing.assert_array_equal(palette.content, images["content"])
    np.testing.assert_array_equal(palette.start, images["start"])
    for style, where in zip(palette.styles, (None, mask)):
        expected = images["style"]
        if colours != "painting":
            expected = nst.match_colours(expected, images["content"], where)
        np.testing.assert_array_equal(style.image, expected)
    assert palette.styles[1].scale == 0.5
    np.testing.assert_allclose(palette.finish(palette.content), castle, atol=2e-4)  # nothing changed: the photograph
    assert palette.finish(palette.content[:, ::2, ::2]).shape == castle[:, ::2, ::2].shape


def test_a_start_of_other_proportions_is_refused(castle, church):
    with pytest.raises(ValueError, match="start in the picture's proportions, 64 x 43 pixels, got 51 x 64"):
        nst.prepared(castle, church, church, nst.Settings())


def test_grey_paintings_paint_in_grey(castle, church):
    for painting, grey in ((nst.grey(church), True), ([nst.grey(church), church], False)):
        finished = nst.prepared(castle, None, painting, nst.Settings(), quiet=True).finish(castle)
        assert (np.ptp(finished, axis=3).max() < 1e-5) == grey


def test_what_no_mask_covers_is_the_photograph_again(castle, church):
    finished = nst.prepared(castle, None, nst.Style(church, 1, half(castle)), nst.Settings(), True).finish(0 * castle)
    np.testing.assert_array_equal(finished[:, :, 36:], castle[:, :, 36:])  # the edge, at 32, is 4 pixels soft
    assert finished[:, :, :28].max() < 1e-5


def test_says_how_much_stays(castle, church, capsys):
    for style, said in [
        (nst.Style(church, 1, half(castle)), r"^4\d% of the picture is in no style's mask and stays"),
        (church, "^$"),
    ]:
        nst.prepared(castle, None, style, nst.Settings(), quiet=True)
        assert capsys.readouterr().out == ""
        nst.prepared(castle, None, style, nst.Settings())
        assert re.search(said, capsys.readouterr().out)

"""What a picture is painted with: settings, styles, regions, colours, and recipes."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image, PngImagePlugin

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
        ({"tv_weight": "1"}, "tv_weight.*got '1'"),
        ({"content_weight": 0, "style_weight": 0, "tv_weight": 0}, "at least one of"),
        ({"steps": 0}, "steps.*whole number of at least 1, got 0"),
        ({"steps": 1.0}, "steps.*got 1.0"),
        ({"steps": True}, "steps.*got True"),
        ({"coarsest": "128"}, "coarsest.*got '128'"),
        ({"learning_rate": 0}, "learning_rate.*above 0, got 0.*usual"),
        ({"learning_rate": float("inf")}, "learning_rate.*got inf"),
        ({"learning_rate": None}, "learning_rate.*got None"),
        ({"colours": "grey"}, "'grey'. Valid colourings: painting, matched, luminance"),
        ({"optimizer": "sgd"}, "'sgd'. Valid optimizers: adam, lbfgs"),
        ({"style_layers": {}}, "at least one of style_layers"),
        ({"style_layers": {"block1_conv1": -1}}, "block1_conv1 of style_layers.*got -1"),
        ({"style_layers": ["block1_conv1"]}, r"style_layers as a dict.*got \['block1_conv1'\]"),
    ],
)
def test_settings_refuse_what_is_wrong(wrong, message):
    with pytest.raises(ValueError, match=message):
        nst.Settings(**wrong)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(nst.Settings(), **wrong)


def test_settings_take_numpy_s_numbers_and_weights_of_0():
    settings = nst.Settings(steps=np.int64(3), learning_rate=np.float32(0.5), content_weight=0, tv_weight=np.float64(2))
    assert settings.weights == {"content": 0, "style": 100, "tv": 2}
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 0


# --- What may be passed as a style -----------------------------------------------------------


def test_a_style_is_an_image_a_style_a_dict_or_a_list_of_these(castle, church):
    mask = np.ones(castle.shape[1:3])
    for style, weight, scale, masked in [
        (church, 1, 1, False),
        (nst.Style(church, 3, mask, 2.0), 3, 2, True),
        ({"image": church, "weight": 3, "scale": 0.5, "mask": mask}, 3, 0.5, True),
        ((church,), 1, 1, False),
    ]:
        (found,) = nst.as_styles(style, castle)
        np.testing.assert_array_equal(found.image, church)
        assert (found.weight, found.scale, found.mask is not None) == (weight, scale, masked)
    styles = nst.as_styles([church, nst.Style(castle, 0.5), {"image": "great_wave.jpg"}], castle)
    assert [style.weight for style in styles] == [1, 0.5, 1]
    assert styles[2].image.shape[2] == 64


def test_a_style_of_weight_0_is_left_out(castle, church):
    styles = nst.as_styles([nst.Style(church, 0), castle], castle)
    assert len(styles) == 1
    np.testing.assert_array_equal(styles[0].image, castle)


def test_a_style_s_file_is_read_at_the_size_that_its_scale_needs(castle):
    wave = {"image": "great_wave.jpg"}  # a file of 661 pixels
    longest = {}
    for scale in (0.5, 1.0, 2.0):
        (style,) = nst.as_styles(wave | {"scale": scale}, castle)
        longest[scale] = max(style.image.shape)
        assert style.scale * longest[scale] == pytest.approx(64 * scale)
    assert longest == {0.5: 64, 1.0: 64, 2.0: 128}
    (style,) = nst.as_styles(wave | {"scale": 2.0}, np.zeros((1, 400, 600, 3)))
    assert max(style.image.shape) == 661 and style.scale * 661 == pytest.approx(1200)
    (style,) = nst.as_styles(wave, np.zeros((1, 400, 800, 3)))  # smaller than the picture: enlarged
    assert max(style.image.shape) == 661 and style.scale * 661 == pytest.approx(800)


def test_a_mask_s_file_is_read_at_the_picture_s_size(castle):
    (style,) = nst.as_styles({"image": "great_wave.jpg", "mask": "neuschwanstein_castle_sky.png"}, castle)
    np.testing.assert_array_equal(style.mask, nst.load_mask("neuschwanstein_castle_sky.png", castle))
    assert style.mask.shape == (*castle.shape[:3], 1)


def test_what_is_no_style_is_refused(castle):
    for bad, message in [
        ([], "at least one of the styles' weights"),
        ([nst.Style(castle, 0)], "at least one of the styles' weights"),
        ([nst.Style(castle, -1), castle], "style 1 of the styles' weights.*-1"),
        ([castle, castle[0]], r"style 2 in the shape"),
        (castle * 255, "style_image in the range 0 to 1"),
        (None, r"style_image in the shape .*got \(\)"),
        ({"mask": "a.png"}, "'image' and any of weight, mask, scale"),
        ({"image": "great_wave.jpg", "colour": 1}, "'image' and any of weight, mask, scale"),
    ]:
        with pytest.raises(ValueError, match=message):
            nst.as_styles(bad, castle)
    with pytest.raises(FileNotFoundError, match="nothing.jpg"):
        nst.as_styles("nothing.jpg", castle)


def test_a_recipe_s_styles_must_be_files(castle):
    assert nst.as_styles("great_wave.jpg", castle, from_files=True)[0].image.shape[2] == 64
    for bad in (castle, nst.Style(castle), {"image": castle}, None):
        with pytest.raises(ValueError, match="name of a picture's file, got"):
            nst.as_styles(bad, castle, from_files=True)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), "large", 9])
def test_a_scale_that_is_not_above_0_or_too_large_is_refused(castle, church, scale):
    with pytest.raises(ValueError, match="scale of style_image.*(above 0|8 times the picture at most)"):
        nst.as_styles(nst.Style(church, scale=scale), castle)


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
        with pytest.raises(ValueError, match=f"(?s){message}"):
            nst.as_styles([nst.Style(church, mask=mask)], castle)


# --- Regions ---------------------------------------------------------------------------------


def test_without_masks_there_is_one_region_whose_blend_adds_up_to_1(castle, church):
    for weights, parts in (((2,), [1]), ((1, 3), [0.25, 0.75])):
        styles = [nst.Style(church, weight) for weight in weights]
        (region,) = nst.regions(styles, {"a": (4, 4)})
        assert region.share == pytest.approx(1) and region.guides == {"a": None}
        assert [style.weight for style in region.styles] == pytest.approx(parts)


@pytest.mark.parametrize("weights", [(1, 1), (2, 2), (3, 1), (0.1, 7)])
def test_a_region_s_share_is_its_area_times_its_weight_over_their_mean(castle, church, weights):
    left = half(castle)
    left[:, :10] = 0
    masks = [left, half(castle, 0, 0.5)]
    styles = [nst.Style(church, weight, mask) for weight, mask in zip(weights, masks)]
    found = nst.regions(styles, {"a": (8, 8)})
    areas = np.array([mask.mean() for mask in masks])
    expected = areas * weights / np.average(weights, weights=areas)
    assert [region.share for region in found] == pytest.approx(list(expected), rel=1e-5)
    assert sum(region.share for region in found) == pytest.approx(areas.sum(), rel=1e-5)  # what is covered
    assert [region.styles[0].weight for region in found] == [1, 1]


def test_one_masked_style_counts_by_its_area_whatever_its_weight(castle, church):
    for weight in (1, 2, 0.3):
        (region,) = nst.regions([nst.Style(church, weight, half(castle))], {"a": (8, 8)})
        assert region.share == pytest.approx(0.5)


def test_styles_of_the_same_mask_are_blended(castle, church):
    left, right = half(castle), half(castle, 0, 1)
    styles = [
        nst.Style(church, 1, left),
        nst.Style(castle, 2, right),
        nst.Style(castle, 3, left.copy()),
        nst.Style(church, 2),
    ]
    found = nst.regions(styles, {"a": (8, 8)})
    assert [[style.weight for style in region.styles] for region in found] == [[0.25, 0.75], [1], [1]]
    mean = (4 * 0.5 + 2 * 0.5 + 2 * 1) / 2  # weights 4, 2 and 2 on areas of a half, a half and 1
    assert [region.share for region in found] == pytest.approx([0.5 * 4 / mean, 0.5 * 2 / mean, 2 / mean])
    assert found[2].guides["a"] is None and found[0].guides["a"].shape == (1, 8, 8, 1)


def test_a_guided_gram_matrix_is_that_of_the_mask_s_region(random):
    features = random.normal(size=(1, 8, 12, 5)).astype(np.float32)
    mask = random.uniform(size=(1, 8, 12, 1)).astype(np.float32)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    F, m = features[inside].reshape(-1, 5).astype(np.float64), mask[inside].reshape(-1)
    expected = sum(weight * np.outer(f, f) for weight, f in zip(m, F)) / m.sum()
    guided = np.reshape(nst.inner(features * nst.guide(mask, (8, 12))), (-1, 5))
    np.testing.assert_allclose(guided.T @ guided / len(guided), expected, rtol=1e-4, atol=1e-5)


def test_a_mask_is_averaged_down_to_a_layer():
    mask = np.zeros((1, 8, 8, 1), np.float32)
    mask[:, :, :3] = 1  # 2 x 2 positions of 4 x 4 pixels: three quarters and nothing
    guide = nst.guide(mask, (2, 2))
    np.testing.assert_allclose(np.float32(guide)[0, :, :, 0] ** 2, [[2, 0], [2, 0]], atol=0.02)  # over 3/8
    assert nst.guide(None, (2, 2)) is None


def test_a_mask_that_is_empty_at_a_layer_is_refused(church):
    mask = np.zeros((1, 40, 64, 1), np.float32)
    mask[:, :10, :10] = 1  # 100 of 2560 pixels, as 2 x 4 positions: 100 / (20 * 16) = 0.31
    with pytest.raises(ValueError, match="empty at the layer deep.*2 x 4 positions.*0.31"):
        nst.regions([nst.Style(church, 1, mask)], {"deep": (2, 4)})
    assert nst.guide(mask, (4, 8)) is not None  # 1.25 positions


def test_how_much_of_each_pixel_is_painted(castle, church):
    left = half(castle)
    assert nst.reach([nst.Style(church)]) is None
    assert nst.reach([nst.Style(church, 1, left), nst.Style(church)]) is None
    assert nst.reach([nst.Style(church, 1, left), nst.Style(church, 1, 1 - left)]) is None
    found = nst.reach(
        [nst.Style(church, 1, left), nst.Style(castle, 2, left.copy())]
    )  # the same mask twice counts once
    middle = castle.shape[2] // 2
    assert found[:, :, : middle - 4].min() == pytest.approx(1) and (found[:, :, middle + 4 :] == 0).all()
    soft = nst.reach([nst.Style(church, 1, 0.5 * left)])
    assert soft.max() == pytest.approx(0.5)


def test_says_how_much_stays_and_which_paintings_are_small(castle, church, capsys):
    left = half(castle)
    styles = [nst.Style(church, 1, left), nst.Style(church, 1, half(castle, 0.5))]
    nst.remark(styles, castle, nst.reach(styles))
    assert re.search(r"(3\d|4\d|50)% of the picture is in no style's mask and stays", capsys.readouterr().out)
    nst.remark([nst.Style(church), nst.Style(church, 1, 1 - left)], castle, None)
    nst.remark([nst.Style(church, scale=9)], castle, nst.reach([nst.Style(church, 1, left)]), quiet=True)
    assert capsys.readouterr().out == ""
    nst.remark([nst.Style(church[:, :20, :20], scale=3)], castle, None)
    assert "only 20 x 20 pixels and is enlarged 3 times" in capsys.readouterr().out
    nst.remark([nst.Style(church[:, :20, :20])], castle, None)
    assert "only 20 x 20 pixels, the picture 64" in capsys.readouterr().out


# --- Colours ---------------------------------------------------------------------------------


def colours_of(image):
    pixels = np.reshape(image, (-1, 3)).astype(np.float64)
    return pixels.mean(axis=0), np.cov(pixels.T, ddof=0)


def cloud(random, mean, spread):
    """A picture whose colours are correlated, far enough from 0 and 1 that nothing is clipped."""
    mixed = random.normal(size=(1, 40, 50, 3)) @ random.normal(size=(3, 3)) * spread
    return np.float32(np.clip(mixed + mean, mean - 0.25, mean + 0.25))


def test_matching_gives_the_target_s_mean_and_covariance(random):
    image, target = cloud(random, 0.5, 0.05), cloud(random, 0.45, 0.03)
    before = image.copy()
    matched = nst.match_colours(image, target)
    assert matched.min() > 0 and matched.max() < 1 and matched.dtype == np.float32
    for found, expected in zip(colours_of(matched), colours_of(target)):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(image, before)


def test_matching_minds_the_mask(random):
    image, left, right = cloud(random, 0.5, 0.05), cloud(random, 0.4, 0.03), cloud(random, 0.6, 0.03)
    mask = np.zeros((1, 40, 100, 1), np.float32)
    mask[:, :, :50] = 1
    matched = nst.match_colours(image, np.concatenate([left, right], axis=2), mask)
    for found, expected in zip(colours_of(matched), colours_of(left)):
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("flat", ["image", "target"])
def test_matching_takes_pictures_of_one_colour(random, flat):
    pictures = {"image": cloud(random, 0.5, 0.05), "target": cloud(random, 0.5, 0.05)}
    pictures[flat] = np.full_like(pictures[flat], 0.3)
    matched = nst.match_colours(**pictures)
    assert np.isfinite(matched).all()
    np.testing.assert_allclose(matched.mean(axis=(0, 1, 2)), colours_of(pictures["target"])[0], atol=1e-3)


def test_matching_averages_large_pictures_exactly(random):
    """A float32 sum of two million numbers is off by percents."""
    matched = nst.match_colours(cloud(random, 0.5, 0.05), np.full((1, 1500, 1500, 3), 0.3, np.float32))
    np.testing.assert_allclose(colours_of(matched)[0], 0.3, atol=1e-4)


def test_grey_is_the_luminance():
    image = np.float32([[[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]]]])
    expected = np.repeat(np.float32([0.299, 0.587, 0.114, 0.5])[:, np.newaxis], 3, axis=1)
    np.testing.assert_allclose(nst.grey(image)[0, 0], expected, atol=2e-4)


def test_with_luminance_keeps_the_chroma_and_takes_the_luminance(random):
    image, other = (random.uniform(0.4, 0.6, (1, 8, 9, 3)).astype(np.float32) for _ in range(2))
    mixed = nst.with_luminance(image, other)
    weights = np.array([0.2989, 0.587, 0.114])
    np.testing.assert_allclose(mixed @ weights, other @ weights, atol=1e-4)
    np.testing.assert_allclose(mixed - mixed[..., :1], image - image[..., :1], atol=1e-5)
    large = np.full((1, 16, 18, 3), 0.3, np.float32)
    np.testing.assert_allclose(nst.with_luminance(large, nst.grey(image)) @ weights, image @ weights, atol=1e-4)
    assert nst.with_luminance(np.ones_like(image), 0.9 + 0 * image).max() <= 1


def test_each_colouring_prepares_what_is_painted(castle, church):
    mask = half(castle)
    styles = [nst.Style(church), nst.Style(church, 2.0, mask, 0.5)]
    start = np.float32(0.5 * castle)

    content, begin, painted, _, finish = nst.prepare_colours(castle, start, styles, "painting")
    assert (content is castle, begin is start, painted) == (True, True, styles)
    np.testing.assert_array_equal(finish(castle), castle)

    content, _, painted, _, finish = nst.prepare_colours(castle, start, styles, "matched")
    assert content is castle
    for style, where in zip(painted, (None, mask)):
        np.testing.assert_array_equal(style.image, nst.match_colours(church, castle, where))
    assert painted[1][1:] == styles[1][1:]
    np.testing.assert_array_equal(finish(castle), castle)

    content, begin, painted, _, finish = nst.prepare_colours(castle, start, styles, "luminance")
    for image in (content, begin, painted[0].image, painted[1].image):
        assert np.ptp(image, axis=-1).max() < 1e-5
    np.testing.assert_array_equal(content, nst.grey(castle))
    np.testing.assert_allclose(finish(content), castle, atol=2e-4)  # what did not change is the photograph
    assert finish(content[:, ::2, ::2]).shape == castle[:, ::2, ::2].shape  # at a smaller size as well


# --- Recipes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(vgg16):
    style = {"image": ROOT / "images" / "style" / "great_wave.jpg", "scale": np.float32(2)}
    settings = nst.Settings(steps=np.int64(4), style_layers={"block1_conv1": np.float32(3)}, tv_weight=np.float64(0.5))
    history = {name: [3.0, number] for number, name in enumerate(("content", "style", "tv", "total"))}
    files = {"content": "castle.jpg", "style": [style, "church.jpg"], "size": np.int64(64)}
    return nst.make_recipe(files, settings, vgg16, history | {"seconds": [0.01, 1.26], "layers": {}})


def test_a_recipe_holds_files_settings_network_losses_and_versions(recipe, vgg16):
    call = recipe["call"]
    assert (call["content"], call["size"], call["steps"], call["tv_weight"]) == ("castle.jpg", 64, 4, 0.5)
    assert call["style"] == [{"image": str(ROOT / "images/style/great_wave.jpg"), "scale": 2.0}, "church.jpg"]
    assert call["style_layers"] == {"block1_conv1": 3.0} and isinstance(call["steps"], int)
    assert set(call) - {"content", "style", "size"} == {field.name for field in dataclasses.fields(nst.Settings)}
    assert recipe["losses"] == {"content": 0, "style": 1, "tv": 2, "total": 3}
    assert (recipe["steps"], recipe["seconds"]) == (2, 1.3)
    assert recipe["software"]["tensorflow"] == tf.__version__
    again = nst.build_feature_extractor(**recipe["network"])
    assert repr(again) == repr(vgg16) and again.style_layers == vgg16.style_layers


def test_a_recipe_is_a_copy(recipe, vgg16):
    layers = dict(vgg16.style_layers)
    recipe["network"]["style_layers"]["block1_conv1"] = -1.0
    assert vgg16.style_layers == layers


def test_the_recipe_survives_the_file(recipe, picture, tmp_path):
    path = nst.save_image(picture, tmp_path / "a.png", recipe)
    assert nst.read_recipe(path) == recipe
    # What any program sees of it: one text in the file.
    assert json.loads(Image.open(path).text["nst-recipe"]) == recipe
    np.testing.assert_allclose(nst.load_image(path), picture, atol=0.5 / 255 + 1e-6)


def test_what_has_no_recipe_is_refused(picture, recipe, tmp_path):
    plain = nst.save_image(picture, tmp_path / "plain.png")
    jpeg = nst.save_image(picture, tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("no picture")
    for path in (plain, jpeg, tmp_path / "text.png"):
        with pytest.raises(ValueError, match=f"PNG with a recipe.*{path.name}"):
            nst.read_recipe(path)
    with pytest.raises(FileNotFoundError, match="none.png"):
        nst.read_recipe(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"ending in \.png.*photo\.jpg"):
        nst.save_image(picture, jpeg, recipe)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda recipe: [recipe], "got list in"),
        (lambda recipe: recipe | {"call": [1]}, "got call: list, network: dict, steps: int in"),
        (lambda recipe: {"call": {}, "steps": True}, "got call: dict, network: none, steps: bool in"),
        (lambda recipe: recipe | {"steps": 0}, "steps: int, of at least 1, got"),
        (lambda recipe: recipe | {"steps": float("nan")}, "got .*steps: float in"),
    ],
)
def test_a_recipe_of_another_make_is_refused(picture, recipe, tmp_path, change, message):
    path = nst.save_image(picture, tmp_path / "a-b.png", change(recipe))
    with pytest.raises(ValueError, match=f"Expected a recipe .*{message}"):
        nst.read_recipe(path)
    result = {"call": {"content": "a.jpg", "style": "b.jpg"}, "network": {}, "steps": 1}
    assert nst.save_result(picture, result, tmp_path).name == "a-b-2.png"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"call": ' * 100_000, "9" * 5000, "", "{'call': {}}"])
def test_a_recipe_that_cannot_be_read_is_refused(tmp_path, text):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("nst-recipe", text)
    Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ValueError, match="Expected a (PNG with a )?recipe"):
        nst.read_recipe(tmp_path / "a.png")


def test_a_picture_of_too_many_pixels_has_no_recipe(picture, recipe, tmp_path, monkeypatch, recwarn):
    path = nst.save_image(picture, tmp_path / "a.png", recipe)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # it has 1280
    assert nst.read_recipe(path) == recipe and not recwarn
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="Expected a PNG with a recipe"):
        nst.read_recipe(path)


def test_what_is_nearly_grey_is_not_blown_up(castle, random):
    """A grey drawing whose chroma is noise of 0.004: no colour is spread more than fourfold."""
    drawing = nst.grey(random.uniform(0.2, 0.8, (1, 60, 60, 3)).astype(np.float32))
    drawing = np.float32(np.clip(drawing + random.normal(0, 0.004, drawing.shape), 0, 1))
    matched = nst.match_colours(drawing, castle)
    residual = lambda image: np.linalg.svd(np.reshape(image - image.mean(axis=(1, 2)), (-1, 3)), compute_uv=False)
    assert (residual(matched)[1:] < 4.05 * residual(drawing)[1:]).all()


# ---------------------------------------------------------------------------------------------
# Recipes from strangers


def asks(**call):
    call = {"content": "mont_saint_michel.jpg", "style": "great_wave.jpg", "size": 96} | call
    return {"call": call, "network": {"model": "vgg16", "weights": "imagenet"}, "steps": 3}


def test_a_recipe_names_pictures_in_images_only(tmp_path):
    call, network = nst.from_stranger(asks())
    assert call["content"] == str(nst.IMAGES / "content" / "mont_saint_michel.jpg")
    assert call["style"]["image"] == str(nst.IMAGES / "style" / "great_wave.jpg")
    assert network == {"model": "vgg16", "weights": "imagenet"}
    # A path of another machine is taken as a name; one that leads out of the folders finds nothing there.
    call, _ = nst.from_stranger(asks(content="C:\\pictures\\mont_saint_michel.jpg", style="/home/me/great_wave.jpg"))
    assert call["content"] == str(nst.IMAGES / "content" / "mont_saint_michel.jpg")
    call, _ = nst.from_stranger(asks(content="D:mont_saint_michel.jpg"))  # where Windows would look on D:
    assert call["content"] == str(nst.IMAGES / "content" / "mont_saint_michel.jpg")
    (tmp_path / "mine.jpg").touch()
    for name in (
        str(tmp_path / "mine.jpg"),
        "../pyproject.toml",
        "/etc/passwd",
        "~/mine.jpg",
        "..",
        "",
        ".",
        "x" * 300,
        "a\0b",
    ):
        for field in ("content", "style", "start"):
            with pytest.raises(FileNotFoundError, match="There is no picture.*Give from_stranger its folder"):
                nst.from_stranger(asks(**{field: name}))
        for field in ("mask", "image_mask"):
            with pytest.raises(FileNotFoundError, match="There is no picture"):
                nst.from_stranger(asks(style=[{"image": "great_wave.jpg", field: name}]))
    call, _ = nst.from_stranger(asks(content="elsewhere/mine.jpg"), tmp_path)
    assert call["content"] == str(tmp_path / "mine.jpg")


def test_what_a_recipe_asks_for_is_clipped():
    style = {"image": "great_wave.jpg", "scale": 50, "weight": 2}
    call, _ = nst.from_stranger(asks(size=10**6, steps=10**9, style=[style] * 100))
    assert call["size"] == 1024 and call["steps"] == 150 and call["tile_size"] == "auto"
    assert [each["scale"] for each in call["style"]] == [4] * 8 and call["style"][0]["weight"] == 2
    call, _ = nst.from_stranger(asks(steps=20))
    assert call["size"] == 96 and call["steps"] == 20


@pytest.mark.parametrize(
    "recipe, message",
    [
        (asks(checkpoint="/home/me/.profile"), "Unknown argument 'checkpoint'. Valid arguments of a recipe: "),
        (asks(callback="print"), "Unknown argument 'callback'"),
        (asks(content=["a.jpg"]), "Expected a recipe to name a picture's file, got"),
        (asks(style=None), "Expected a recipe to name a picture's file, got None"),
        (asks() | {"network": {"weights": "/tmp/a.h5"}}, "Expected a recipe's weights to be 'imagenet' or None"),
        (
            asks() | {"network": {"network": 1}},
            "Unknown argument 'network'. Valid arguments of a recipe's network: mod",
        ),
    ],
)
def test_what_else_a_recipe_asks_for_is_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        nst.from_stranger(recipe)

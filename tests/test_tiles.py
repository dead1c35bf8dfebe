"""Tiles: the same losses and the same gradient as the whole picture's."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from conftest import defined_in

import nst_helpers as nst


def off(found, expected):
    difference = np.float64(found) - np.float64(expected)
    return np.linalg.norm(difference.ravel()) / np.linalg.norm(np.float64(expected).ravel())


def both(defined, extractor, content, styles, tile, **changes):
    """Losses and gradient, whole and in tiles, at a random picture; and the number of tiles."""
    x = tf.constant(np.random.default_rng(1).uniform(0.1, 0.9, content.shape), tf.float32)
    tiles = functools.partial(defined.tiles_of, tile=tile, extractor=extractor)
    task = content, nst.as_styles(styles, content), defined.settings_now(**changes), extractor
    return defined.objective(*task)(x), defined.objective(*task, tiles)(x), len(tiles(content))


def assert_same(whole, tiled):
    for name in ("content", "style", "tv", "total"):
        assert float(tiled[0][name]) == pytest.approx(float(whole[0][name]), rel=1e-4)
    assert off(tiled[1], whole[1]) < 1e-4


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return lambda height, width: np.float32(random.uniform(0.05, 0.95, (1, height, width, 3)))


def masked(pictures, height, width):
    """Two styles, masks on both sides, one of them soft."""
    left, top = np.zeros((height, width)), np.zeros((200, 180))
    left[:, : width // 2], top[:120] = 1, 0.7
    first, second = pictures(200, 180), pictures(170, 230)
    return [nst.Style(first, 1, left, 1, top), nst.Style(second, 0.5, 1 - left, 1.2)]


@pytest.mark.parametrize(
    "height, width, tile, number, kind",
    [
        (245, 250, 96, 9, "gram"),
        (155, 237, 96, 3, "wasserstein"),
        (120, 330, 128, 3, "gram"),
        (96, 70, 64, 1, "gram"),
        (130, 130, 4000, 1, "gram"),
    ],
)
def test_tiles_give_the_losses_and_the_gradient_of_the_whole(
    defined, vgg16, pictures, height, width, tile, number, kind
):
    styles = masked(pictures, height, width)
    whole, tiled, tiles = both(defined, vgg16, pictures(height, width), styles, tile, style_loss=kind)
    assert tiles == number
    assert_same(whole, tiled)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, pooling", [("vgg16", "max"), ("vgg19", "avg"), ("resnet50", "max"), ("mobilenetv2", "max")]
)
def test_tiles_with_each_network(notebook, pictures, model, pooling):
    tf.keras.utils.set_random_seed(0)
    extractor = nst.build_feature_extractor(model, weights=None, pooling=pooling)
    defined = defined_in(notebook, extractor)
    height, width = (110, 299) if model.startswith("vgg") else (100, 661)  # windows as high as the picture
    whole, tiled, tiles = both(defined, extractor, pictures(height, width), pictures(200, 180), 64, style_loss="gram")
    assert tiles > 1
    assert_same(whole, tiled)


def test_every_pixel_and_position_is_in_one_tile(defined, vgg16):
    image = np.zeros((1, 467, 813, 3))
    tiles, shapes = defined.tiles_of(image, 160, vgg16), vgg16.map_shapes(image)
    assert len({tuple(each.stop - each.start for each in tile.window[1:]) for tile in tiles}) == 1  # one shape
    for layer, shape in shapes.items():
        for use, edge in (("content", 0), ("style", 1)):
            count = np.zeros((1, *shape))
            for tile in tiles:
                count[tile.places[f"{use} {layer}"]] += 1
                top, bottom, left, right = tile.boxes[f"{use} {layer}"].numpy()
                assert count[tile.places[f"{use} {layer}"]].shape[1:] == (bottom - top, right - left)
            inside = count[0, edge : shape[0] - edge, edge : shape[1] - edge]
            assert (inside == 1).all() and count.sum() == inside.size


def test_a_descent_in_tiles_is_that_of_the_whole(defined, pictures):
    content, style = pictures(150, 210), pictures(150, 200)
    how = {"steps": 4, "coarsest": 105, "quiet": True, "colours": "luminance", "style_loss": "gram"}
    (one, first), (other, second) = (defined.stylize(content, style, tile_size=tile, **how) for tile in (None, 64))
    assert second["size"] == first["size"] and set(first["size"]) == {105, 210}
    assert second["total"][0] == pytest.approx(first["total"][0], rel=1e-4)
    assert second["total"][-1] == pytest.approx(first["total"][-1], rel=0.05)  # a descent amplifies rounding
    assert np.abs(one - other).mean() < 0.1 * np.abs(one - content).mean()


def test_in_tiles_where_the_memory_asks_for_it(vgg16, monkeypatch):
    image = np.zeros((1, 1000, 1000, 3))
    free = lambda amount: monkeypatch.setattr(nst.psutil, "virtual_memory", lambda: type("", (), {"available": amount}))
    free(vgg16.memory(image) * 2)
    assert nst.tile_for("auto", vgg16, image) is None
    free(vgg16.memory(image))
    assert nst.tile_for("auto", vgg16, image) == 768
    small, larger = image[:, :400], nst.Style(image[:, :300], scale=2)
    assert nst.tile_for("auto", vgg16, small) is None
    assert nst.tile_for("auto", vgg16, small, [nst.Style(image)]) == 768  # for the painting's sake
    assert nst.tile_for("auto", vgg16, small, [nst.Style(small), larger]) == 768
    assert nst.tile_for("auto", vgg16, small, [nst.Style(image, scale=0.5)]) is None
    assert nst.tile_for(None, vgg16, image) is None and nst.tile_for(100, vgg16, image) == 100
    assert vgg16.memory(image, 256) < 0.5 * vgg16.memory(image)


@pytest.mark.parametrize("model, seen", [("vgg16", 132), ("vgg19", 156)])
def test_the_halo_holds_what_the_deepest_layer_sees(model, seen):
    """The receptive fields that the notebook names; half of one, less half a position, to either side."""
    extractor = nst.build_feature_extractor(model, weights=None)
    assert (seen - 16) / 2 <= extractor.halo < (seen - 16) / 2 + 16

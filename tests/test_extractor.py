"""The feature extractor: which network, which layers, what comes out, and what is refused."""

import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_bfloat16

import nst_helpers as nst

LAYERS = ["block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block4_conv2"]


def test_vgg19_from_a_file_computes_vgg19_with_average_pooling(tmp_path, picture):
    """Against plain TensorFlow operations."""
    network = keras.applications.VGG19(include_top=False, weights=None)
    network.save_weights(tmp_path / "random.weights.h5")
    features = nst.FeatureExtractor("vgg19", weights=tmp_path / "random.weights.h5")(tf.Variable(picture))
    assert list(features) == LAYERS
    x = tf.constant(picture[..., ::-1] * 255 - [103.939, 116.779, 123.68], tf.float32)  # ImageNet's mean, BGR
    for layer in network.layers[1:]:
        if "pool" in layer.name:
            x = tf.nn.pool(x, (2, 2), "AVG", strides=(2, 2))
        else:
            kernel, bias = layer.get_weights()
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
        if layer.name in features:
            np.testing.assert_allclose(features[layer.name], x, rtol=1e-3, atol=1e-3 * np.max(x))


def test_resnet50_computes_what_keras_computes_up_to_its_first_pooling(picture):
    """Against Keras's own model and preprocessing, with random weights."""
    layers = {"content_layer": "conv1_relu", "style_layers": {"conv1_relu": 1.0}}
    extractor = nst.FeatureExtractor("resnet50", **layers, weights=None)
    extractor.smooth = False
    network = keras.applications.ResNet50(include_top=False, weights=None)
    ours = extractor.network.get_weights()
    network.set_weights([*ours, *network.get_weights()[len(ours) :]])
    first = keras.Model(network.input, network.get_layer("conv1_relu").output)
    expected = first(keras.applications.resnet50.preprocess_input(picture * 255))
    np.testing.assert_allclose(extractor(picture)["conv1_relu"], expected, rtol=1e-3, atol=1e-3)


def test_bytes_per_pixel_by_hand(vgg16):
    """What the maps up to block4_conv2 take, at full size, at half, at a quarter and at an eighth."""
    numbers = 3 + 2 * 64 + (64 + 2 * 128) / 4 + (128 + 3 * 256) / 16 + (256 + 2 * 512) / 64
    assert vgg16.bytes_per_pixel == pytest.approx(4 * numbers)


def test_smoothing_by_hand(vgg16, picture):
    smooth = nst.FeatureExtractor("vgg16")
    smooth.smooth = True
    for layer, features in vgg16(picture).items():
        np.testing.assert_allclose(smooth(picture)[layer], np.arcsinh(features), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "model, strides, halo",
    [("vgg16", [1, 2, 4, 8, 8], 40), ("vgg19", [1, 2, 4, 8, 8], 40), ("resnet50", [2, 4, 8, 16], 160)],
)
def test_strides_and_halo(model, strides, halo, random):
    """The maps have a position for each stride; a pixel beyond the halo of a window does not count in it."""
    extractor = nst.FeatureExtractor(model, weights=None)
    assert ("smoothed" in repr(extractor)) == (model == "resnet50")
    assert [extractor.strides[layer] for layer in extractor.layers] == strides
    assert (extractor.stride, extractor.halo) == (max(strides), halo)
    image = random.uniform(size=(1, extractor.stride, 2 * extractor.stride + 2 * halo, 3)).astype(np.float32)
    other = np.array(image)
    other[:, :, : extractor.stride] = 0  # and further from the second window than the halo
    features = extractor(image)
    changed = extractor(other)
    for layer in extractor.layers:
        stride = extractor.strides[layer]
        assert features[layer].shape[1:3] == (image.shape[1] // stride, image.shape[2] // stride)
        window = slice((extractor.stride + halo) // stride, None)
        np.testing.assert_array_equal(features[layer][:, :, window], changed[layer][:, :, window])


def test_returns_the_layers_asked_for_and_stops_there(picture):
    layers = {"content_layer": "block1_conv2", "style_layers": {"block3_conv1": 2.0}}
    extractor = nst.FeatureExtractor("vgg16", **layers, weights=None)
    shapes = {name: feature.shape for name, feature in extractor(picture).items()}
    assert shapes == {"block3_conv1": (1, 8, 10, 256), "block1_conv2": (1, 32, 40, 64)}
    assert (extractor.content_layer, extractor.style_layers) == ("block1_conv2", {"block3_conv1": 2.0})
    assert extractor.network.layers[-1].name == "block3_conv1"
    assert [extractor.strides[name] for name in shapes] == [4, 1]


def test_random_weights_differ_from_imagenet_s_and_are_the_same_each_time(vgg16, picture):
    one, other = (nst.FeatureExtractor("vgg16", weights=None) for _ in range(2))
    for layer, features in one(picture).items():
        assert not np.allclose(features, vgg16(picture)[layer])
        assert np.array_equal(features, other(picture)[layer])
    assert "VGG16, random weights" in repr(one)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model": "vgg20"}, "vgg20.*Valid: vgg16, vgg19, resnet50"),
        ({"precision": "float16"}, "float16.*Valid: auto, float32, bfloat16"),
        ({"content_layer": "block9_conv1"}, "block9_conv1.*block1_conv1', .*block5_conv3"),
        ({"style_layers": {"block3_conv4": 1.0}}, "No such layer: block3_conv4"),
        ({"style_layers": {}}, "at least one of style_layers"),
    ],
)
def test_refuses_unknown_names(wrong, message):
    with pytest.raises(ValueError, match=message):
        nst.FeatureExtractor(**{"model": "vgg16", "weights": None, **wrong})


def test_refuses_images(vgg16):
    for shape, message in (((32, 40, 3), r"got \(32, 40, 3\)"), ((1, 32, 7, 3), r"at least 8, got .*\(1, 32, 7, 3\)")):
        with pytest.raises(ValueError, match=message):
            vgg16(tf.zeros(shape))
    with pytest.raises(ValueError, match="range 0 to 1, got 2 to 2"):
        vgg16(np.full((1, 32, 40, 3), 2.0))


def test_refuses_weights_that_do_not_fit(vgg16, tmp_path):
    text = tmp_path / "text.weights.h5"
    text.write_text("no weights")
    part = tmp_path / "part.weights.h5"
    keras.Model(vgg16.network.input, vgg16.network.get_layer("block1_pool").output).save_weights(part)
    missing = tmp_path / "none.h5"
    for model, path in (("vgg19", nst.VGG16_WEIGHTS), ("vgg16", part), ("vgg16", text), ("vgg16", missing)):
        with pytest.raises(ValueError, match=f"weights file of {model}.*{path.name}' is missing or does not fit"):
            nst.FeatureExtractor(model, weights=path)


@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
def test_where_a_download_fails_vgg16_steps_in(monkeypatch, capsys, model):
    """The sentence names the address that Keras asks, and the folder that the file belongs into."""
    asked = []

    def get_file(name, origin, **_):
        asked.append((origin, socket.getdefaulttimeout()))
        raise Exception(f"URL fetch failure on {origin}")  # as Keras does

    module = sys.modules[nst.MODELS[model].__module__]
    monkeypatch.setattr(module.file_utils, "get_file", get_file)
    monkeypatch.setenv("KERAS_HOME", "/somewhere")
    extractor = nst.FeatureExtractor(model)
    assert (extractor.model, extractor.asked, extractor.layers) == ("vgg16", (model, "float32"), LAYERS)
    [(address, limit)] = asked
    said = capsys.readouterr().out
    assert address in said and "into /somewhere/models" in said
    assert limit == 20 and socket.getdefaulttimeout() is None
    with pytest.raises(ValueError, match="No such layer: conv9.*block5_conv3"):
        nst.FeatureExtractor(model, content_layer="conv9")


def test_keras_runs_on_tensorflow_whatever_is_set_and_nothing_is_logged(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch", "floatx": "float32"}')
    code = "import nst_helpers as nst; print(nst.keras.config.backend()); nst.FeatureExtractor('vgg16')"
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    run = subprocess.run([sys.executable, "-c", code], cwd=nst.HERE, env=environment, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("tensorflow\n", "")


@needs_bfloat16
def test_bfloat16_computes_nearly_the_same(vgg16):
    image = nst.load_image("brandenburg_gate.jpg", 96)
    short = nst.FeatureExtractor("vgg16", precision="bfloat16")
    assert (vgg16.precision, short.precision) == ("float32", "bfloat16") and "bfloat16" in repr(short)
    expected, features = vgg16(image), short(image)
    for layer in LAYERS:
        assert expected[layer].dtype == tf.float32 and features[layer].dtype == tf.bfloat16
        assert np.mean((np.float32(features[layer]) - expected[layer]) ** 2) < 1e-3 * np.mean(expected[layer] ** 2)
    assert (keras.config.dtype_policy().name, keras.config.floatx()) == ("float32", "float32")  # nothing global


@pytest.mark.parametrize("bfloat16, expected", [(1.0, "bfloat16"), (1.9, "float32"), (4.0, "float32")])
def test_precision_is_chosen_by_measurement(monkeypatch, bfloat16, expected):
    monkeypatch.setattr(nst, "_convolution_seconds", {"float32": 2.0, "bfloat16": bfloat16}.get)
    assert nst.choose_precision("auto") == expected
    formats = ["float32", "bfloat16"]
    assert [nst.choose_precision(precision) for precision in formats] == formats


def test_a_device_that_fails_is_named(monkeypatch, capsys):
    def fails(*_):
        raise tf.errors.InternalError(None, None, "no kernel image is available")

    monkeypatch.setattr(nst, "_convolution_seconds", nst._convolution_seconds.__wrapped__)  # not kept for later
    monkeypatch.setattr(nst.tf, "ones", fails)
    assert nst.choose_precision() == "float32"
    said = capsys.readouterr().out
    assert "no kernel image is available" in said and "CUDA_VISIBLE_DEVICES=-1" in said

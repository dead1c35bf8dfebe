"""The feature extractor: which network, which layers, what comes out, and what is refused."""

import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CONTENT_LAYER, STYLE_LAYERS, needs_bfloat16

import nst_helpers as nst

LAYERS = [*STYLE_LAYERS, CONTENT_LAYER]
OFFLINE = "http://127.0.0.1:9"  # a proxy that refuses


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory):
    """A weights file for VGG19, with random weights, and the network that it was saved from."""
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    network = keras.applications.VGG19(include_top=False, weights=None)
    network.save_weights(path)
    return path, network


def run_python(code, **environment):
    """Runs Python offline."""
    proxies = {f"{kind}_proxy": OFFLINE for kind in ("http", "https")} | {"no_proxy": ""}
    proxies |= {name.upper(): value for name, value in proxies.items()}
    environment = {**os.environ, **proxies, **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=nst.HERE, env=environment, capture_output=True, text=True)


def vgg_by_hand(network, image, last):
    """VGG's layers up to `last`, computed with plain TensorFlow operations on RGB in [0, 1]."""
    mean = np.float32([103.939, 116.779, 123.68])  # ImageNet's, of blue, green and red
    x = tf.constant(image[..., ::-1] * 255 - mean)
    for layer in network.layers[1:]:
        if "pool" in layer.name:
            x = tf.nn.pool(x, (2, 2), "AVG", strides=(2, 2))
        else:
            kernel, bias = layer.get_weights()
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
        if layer.name == last:
            return x.numpy()


def test_vgg19_from_a_file_computes_vgg19_with_average_pooling(vgg19_file, picture):
    path, network = vgg19_file
    features = nst.build_feature_extractor("vgg19", weights=path)(picture)
    for layer in ("block1_conv1", "block3_conv1", "block4_conv1"):
        expected = vgg_by_hand(network, picture, layer)
        np.testing.assert_allclose(features[layer], expected, rtol=1e-3, atol=1e-3 * expected.max())


@pytest.mark.parametrize("model, layer", [("vgg16", "block1_conv2"), ("resnet50", "conv1_relu")])
def test_before_the_first_pooling_a_network_computes_what_keras_computes(model, layer):
    """Against Keras's own model and preprocessing, with ImageNet's weights (VGG16) and with random ones."""
    image = nst.load_image("brandenburg_gate.jpg", 96)
    weights = "imagenet" if model == "vgg16" else None
    extractor = nst.build_feature_extractor(model, content_layer=layer, weights=weights, smooth=False)
    network = nst.MODELS[model](include_top=False, weights=None)
    ours = extractor.network.get_weights()
    network.set_weights([*ours, *network.get_weights()[len(ours) :]])
    module = getattr(keras.applications, model)
    expected = keras.Model(network.input, network.get_layer(layer).output)(module.preprocess_input(image * 255))
    np.testing.assert_allclose(extractor(image)[layer], expected, rtol=1e-3, atol=1e-3)


def test_smoothing_by_hand(random):
    image = random.uniform(size=(1, 64, 96, 3)).astype(np.float32)
    plain = nst.build_feature_extractor("resnet50", weights=None, smooth=False)
    smooth = nst.build_feature_extractor("resnet50", weights=None)
    assert "smoothed" not in repr(plain) and "smoothed" in repr(smooth)
    for layer, features in plain(image).items():
        np.testing.assert_allclose(smooth(image)[layer], np.arcsinh(features), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "model, strides, halo",
    [("vgg16", [1, 2, 4, 8, 8], 40), ("vgg19", [1, 2, 4, 8, 8], 40), ("resnet50", [2, 4, 8, 16], 160)],
)
def test_strides_and_halo(model, strides, halo, random):
    """The maps have a position for each stride; a pixel beyond the halo of a window does not count in it."""
    extractor = nst.build_feature_extractor(model, weights=None, smooth=False)
    assert [extractor.strides[layer] for layer in extractor.layers] == strides
    assert (extractor.stride, extractor.halo) == (max(strides), halo)
    image = random.uniform(size=(1, extractor.stride, 2 * extractor.stride + 2 * halo, 3)).astype(np.float32)
    other = np.array(image)
    other[:, :, : extractor.stride] = 0  # and further from the second window than the halo
    features = extractor(image)
    changed = extractor(other)
    for layer, stride in extractor.strides.items():
        assert features[layer].shape[1:3] == (image.shape[1] // stride, image.shape[2] // stride)
        window = slice((extractor.stride + halo) // stride, None)
        np.testing.assert_array_equal(features[layer][:, :, window], changed[layer][:, :, window])


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_returns_the_layers_asked_for_and_stops_there(model, picture):
    layers = {"content_layer": "block1_conv2", "style_layers": {"block3_conv1": 2.0}}
    extractor = nst.build_feature_extractor(model, **layers, weights=None)
    shapes = {name: feature.shape for name, feature in extractor(picture).items()}
    assert shapes == {"block3_conv1": (1, 8, 10, 256), "block1_conv2": (1, 32, 40, 64)}
    assert (extractor.content_layer, extractor.style_layers) == ("block1_conv2", {"block3_conv1": 2.0})
    assert extractor.network.layers[-1].name == "block3_conv1"
    assert extractor.strides == {"block3_conv1": 4, "block1_conv2": 1}


@pytest.mark.parametrize("wrap", [lambda call: call, tf.function], ids=["eager", "compiled"])
def test_is_frozen_and_has_a_gradient(wrap, vgg16, picture):
    assert vgg16.network.trainable_weights == []
    image = tf.Variable(picture)
    with tf.GradientTape() as tape:
        loss = wrap(lambda: tf.reduce_sum(vgg16(image)["block4_conv1"]))()
    assert np.abs(tape.gradient(loss, image)).max() > 0


def test_random_weights_differ_from_imagenet_s_and_are_the_same_each_time(vgg16, picture):
    one, other = (nst.build_feature_extractor("vgg16", weights=None) for _ in range(2))
    for layer, features in one(picture).items():
        assert not np.allclose(features, vgg16(picture)[layer])
        assert np.array_equal(features, other(picture)[layer])
    assert "VGG16, random weights" in repr(one)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model": "vgg20"}, "vgg20.*Valid models: vgg16, vgg19, resnet50"),
        ({"precision": "float16"}, "float16.*Valid precisions: auto, float32, bfloat16"),
        ({"content_layer": "block9_conv1"}, "block9_conv1.*block1_conv1, .*block5_conv3"),
        ({"model": "resnet50", "content_layer": "conv1_pad"}, "conv1_pad.*conv1_conv, "),
        ({"style_layers": {"block3_conv4": 1.0}}, "block3_conv4.*Valid layers of vgg16"),
        ({"style_layers": {}}, "at least one of style_layers"),
        ({"style_layers": {"block1_conv1": -1.0}}, "block1_conv1.*at least 0, got -1"),
        ({"style_layers": ["block1_conv1"]}, "style_layers as a dict"),
    ],
)
def test_refuses_unknown_names(wrong, message):
    with pytest.raises(ValueError, match=message):
        nst.build_feature_extractor(**{"model": "vgg16", "weights": None, **wrong})


def test_layers_that_the_extractor_does_not_return_are_refused(vgg16):
    vgg16.check_layers(nst.Settings(content_layer="block1_conv1", style_layers={"block4_conv2": 1.0}))
    for wrong in ({"content_layer": "block3_conv2"}, {"style_layers": {"block1_conv1": 1.0, "block3_conv2": 1.0}}):
        with pytest.raises(ValueError, match="Unknown layer 'block3_conv2'.*block1_conv1, .*block4_conv2"):
            vgg16.check_layers(nst.Settings(**wrong))


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda image: image * 255, "range 0 to 1"),
        (lambda image: image * np.nan, "got nan to nan"),
        (lambda image: image[0], r"got \(32, 40, 3\)"),
        (lambda image: image[:, :7], "at least 8 x 8 pixels, got 7 x 40"),
    ],
)
def test_refuses_images(vgg16, picture, bad, message):
    with pytest.raises(ValueError, match=message):
        vgg16(bad(picture))
    if "range" not in message and "nan" not in message:  # a compiled function does not know the values
        with pytest.raises(ValueError, match=message):
            tf.function(vgg16)(tf.constant(bad(picture)))


def test_refuses_weights_that_do_not_fit(vgg19_file, tmp_path):
    text = tmp_path / "text.weights.h5"
    text.write_text("no weights")
    for model, path in (("vgg16", vgg19_file[0]), ("vgg19", nst.VGG16_WEIGHTS), ("vgg16", text)):
        with pytest.raises(ValueError, match=f"weights file of {model}.*{path.name}' does not fit"):
            nst.build_feature_extractor(model, weights=path)
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        nst.build_feature_extractor("vgg16", weights=tmp_path / "none.h5")


@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
def test_a_download_that_times_out_names_the_address_that_keras_asks_and_the_folder(monkeypatch, capsys, model):
    asked = []

    def get_file(name, origin, **_):
        asked.append((origin, socket.getdefaulttimeout()))
        raise TimeoutError

    module = sys.modules[nst.MODELS[model].__module__]
    monkeypatch.setattr(module.file_utils, "get_file", get_file)
    assert nst.build_feature_extractor(model).model == "vgg16"
    [(address, limit)] = asked
    said = capsys.readouterr().out
    assert "TimeoutError" in said and address in said and "/models" in said
    assert limit == 20 and socket.getdefaulttimeout() is None


def test_offline_vgg16_steps_in_for_vgg19(tmp_path):
    code = "import nst_helpers as nst, numpy as np; extractor = nst.build_feature_extractor()\n"
    code += "print(extractor.model, extractor.asked, sorted(extractor(np.full((1, 32, 32, 3), 0.5))))\n"
    code += "nst.build_feature_extractor(content_layer='block5_conv4')"
    run = run_python(code, KERAS_HOME=str(tmp_path))
    sentence, last = [line for line in run.stdout.splitlines() if not line.startswith("Downloading")][:2]
    assert "VGG19's ImageNet weights could not be loaded" in sentence and "VGG16 from weights/ stands in" in sentence
    assert f"into {tmp_path}/models" in sentence
    assert last == f"vgg16 ('vgg19', 'float32') {sorted(LAYERS)}"
    assert run.stderr.startswith("Traceback")  # nor does TensorFlow's import log anything
    assert "ValueError: Unknown layer 'block5_conv4'. Valid layers of vgg16" in run.stderr


def test_keras_runs_on_tensorflow_whatever_is_set(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch", "floatx": "float32"}')
    code = "import nst_helpers as nst; print(nst.keras.config.backend())"
    run = run_python(code, KERAS_HOME=str(tmp_path), KERAS_BACKEND="jax")
    assert run.stdout == "tensorflow\n", run.stderr


@needs_bfloat16
def test_bfloat16_computes_nearly_the_same(vgg16):
    image = nst.load_image("brandenburg_gate.jpg", 96)
    short = nst.build_feature_extractor("vgg16", precision="bfloat16")
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
    assert [nst.choose_precision(precision) for precision in nst.PRECISIONS] == list(nst.PRECISIONS)


def test_a_device_that_fails_is_named(monkeypatch, capsys):
    def fails(*_):
        raise tf.errors.InternalError(None, None, "no kernel image is available")

    monkeypatch.setattr(nst, "_convolution_seconds", nst._convolution_seconds.__wrapped__)  # not kept for later
    monkeypatch.setattr(nst.tf, "ones", fails)
    assert nst.choose_precision() == "float32"
    said = capsys.readouterr().out
    assert "no kernel image is available" in said and "CUDA_VISIBLE_DEVICES=-1" in said

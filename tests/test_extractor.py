"""The feature extractor: which network, which layers, what comes out, and what is refused."""

import hashlib
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


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory):
    """A weights file for VGG19, with random weights, and the network that it was saved from."""
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    network = keras.applications.VGG19(include_top=False, weights=None)
    network.save_weights(path)
    return path, network


def vgg_by_hand(network, image, pooling, last):
    """VGG's layers up to `last`, computed with plain TensorFlow operations on RGB in [0, 1]."""
    mean = np.float32([103.939, 116.779, 123.68])  # ImageNet's, of blue, green and red
    x = tf.constant(image[..., ::-1] * 255 - mean)
    for layer in network.layers[1:]:
        if "pool" in layer.name:
            x = tf.nn.pool(x, (2, 2), pooling, strides=(2, 2))
        else:
            kernel, bias = layer.get_weights()
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
        if layer.name == last:
            return x.numpy()


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_vgg19_from_a_file_computes_vgg19(vgg19_file, picture, pooling):
    path, network = vgg19_file
    extractor = nst.build_feature_extractor("vgg19", pooling=pooling, weights=path)
    assert extractor.model == "vgg19"
    features = extractor(picture)
    for layer in ("block1_conv1", "block3_conv1", "block5_conv1"):
        expected = vgg_by_hand(network, picture, pooling.upper(), layer)
        np.testing.assert_allclose(features[layer], expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_vgg16_computes_what_keras_computes():
    image = nst.load_image(nst.HERE / "images" / "content" / "brandenburg_gate.jpg", 96)
    network = keras.applications.VGG16(include_top=False, weights=None)
    network.load_weights(nst.VGG16_WEIGHTS)
    expected = network(keras.applications.vgg16.preprocess_input(image * 255)).numpy()
    last = nst.build_feature_extractor("vgg16", content_layer="block5_pool", pooling="max")
    np.testing.assert_allclose(last(image)["block5_pool"], expected, rtol=1e-3, atol=1e-3)


def test_vgg16_weights_are_the_file_described():
    text = (nst.HERE / "weights" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(nst.VGG16_WEIGHTS.read_bytes()).hexdigest() in text


def test_damaged_weights_are_not_used(tmp_path, monkeypatch):
    data = bytearray(nst.VGG16_WEIGHTS.read_bytes())
    data[len(data) // 2] ^= 1
    monkeypatch.setattr(nst, "VGG16_WEIGHTS", tmp_path / "weights.h5")
    nst.VGG16_WEIGHTS.write_bytes(data)
    with pytest.raises(ValueError, match="weights.h5' is damaged: it has another SHA-256.*git checkout weights"):
        nst.build_feature_extractor("vgg16")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is damaged"):  # by another path
        nst.build_feature_extractor("vgg16", weights="weights.h5")


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_returns_the_layers_asked_for_and_stops_there(model, picture):
    extractor = nst.build_feature_extractor(
        model, content_layer="block1_conv2", style_layers={"block3_conv1": 2.0}, weights=None
    )
    assert (extractor.content_layer, extractor.style_layers) == ("block1_conv2", {"block3_conv1": 2.0})
    features = extractor(picture)
    assert {name: feature.shape for name, feature in features.items()} == {
        "block3_conv1": (1, 8, 10, 256),
        "block1_conv2": (1, 32, 40, 64),
    }
    assert extractor.network.layers[-1].name == "block3_conv1"
    assert extractor.smallest_side == 4


def test_is_frozen(vgg16, picture):
    assert vgg16.network.trainable_weights == []
    with tf.GradientTape() as tape:
        image = tf.Variable(picture)
        loss = tf.reduce_sum(vgg16(image)["block5_conv1"])
    assert np.abs(tape.gradient(loss, image)).max() > 0


@pytest.mark.parametrize("model", ["resnet50", "mobilenetv2"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_other_networks_compute_what_keras_computes(model, pooling, random):
    """Random weights, unsmoothed, against Keras's own model and preprocessing (with max pooling)."""
    image = random.uniform(size=(1, 64, 96, 3)).astype(np.float32)
    extractor = nst.build_feature_extractor(model, pooling=pooling, weights=None, smooth=False)
    entry, features = nst.MODELS[model], extractor(image)
    assert set(features) == {entry.content_layer, *entry.style_layers}
    assert extractor.smallest_side == 32 and "smoothed" not in repr(extractor)
    network = entry.build(include_top=False, weights=None)
    for layer in extractor.network.layers:
        if layer.weights:
            network.get_layer(layer.name).set_weights(layer.get_weights())
    outputs = {name: network.get_layer(name).output for name in features}
    expected = keras.Model(network.input, outputs)(entry.preprocess(image * 255))
    for name in features:
        scale = np.abs(expected[name]).max()
        same = np.allclose(features[name], expected[name], rtol=1e-3, atol=1e-4 * scale)
        assert same == (pooling == "max" or model == "mobilenetv2" or name == "conv1_relu"), name


def test_smoothing_by_hand():
    for values, temperature in (([0.0, 1.0, 0.5], 1), ([0.0, 30.0, 15.0], 10)):
        features = tf.constant([[[values]]], tf.bfloat16)
        assert float(nst.temperature(features)) == temperature
        smoothed = nst.smooth_activations(features, temperature)
        assert smoothed.dtype == tf.float32
        np.testing.assert_allclose(np.ravel(smoothed), np.exp(np.array(values) / temperature), rtol=1e-5)


def test_a_run_s_temperature_is_the_largest_of_its_pictures(random):
    images = [random.uniform(0, top, (1, 64, 96, 3)).astype(np.float32) for top in (0.2, 1.0)]
    extractor = nst.build_feature_extractor("resnet50", weights=None)
    plain = nst.build_feature_extractor("vgg16", weights=None)
    assert plain.temperatures(images) == {}
    found, each = extractor.temperatures(images), [extractor.temperatures([image]) for image in images]
    assert all(float(found[layer]) == max(float(one[layer]) for one in each) for layer in extractor.layers)


def test_residual_networks_are_smoothed_unless_told_otherwise(picture, random):
    image = random.uniform(size=(1, 64, 64, 3)).astype(np.float32)
    for model, smooth in (("vgg16", False), ("vgg19", False), ("resnet50", True), ("mobilenetv2", True)):
        extractor = nst.build_feature_extractor(model, weights=None)
        assert extractor.smooth == smooth == ("smoothed" in repr(extractor))
        if smooth:
            for feature in extractor(image).values():
                assert 1 <= float(tf.reduce_min(feature)) and float(tf.reduce_max(feature)) < 1.001 * np.exp(3)
    assert nst.build_feature_extractor("vgg16", weights=None, smooth=True).smooth


def test_random_weights_differ_from_imagenet_s_and_are_the_same_each_time(vgg16, picture):
    one, other = (nst.build_feature_extractor("vgg16", weights=None) for _ in range(2))
    for layer, features in one(picture).items():
        assert not np.allclose(features, vgg16(picture)[layer])
        assert np.array_equal(features, other(picture)[layer])
    assert "random weights" in repr(one) and "VGG16" in repr(one)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model": "vgg20"}, "vgg20.*Valid models: " + ", ".join(nst.MODELS)),
        ({"pooling": "median"}, "median.*Valid poolings: avg, max"),
        ({"content_layer": "block9_conv1"}, "block9_conv1.*block1_conv1, .*block5_conv3"),
        ({"style_layers": {"block3_conv4": 1.0}}, "block3_conv4.*Valid layers of vgg16"),
        ({"style_layers": {}}, "at least one of style_layers"),
        ({"style_layers": {"block1_conv1": -1.0}}, "block1_conv1.*at least 0, got -1"),
        ({"style_layers": ["block1_conv1"]}, "style_layers as a dict"),
    ],
)
def test_refuses_unknown_names(wrong, message):
    with pytest.raises(ValueError, match=message):
        nst.build_feature_extractor(**{"model": "vgg16", "weights": None, **wrong})


def test_vgg19_from_keras_where_it_can_be_had(monkeypatch, capsys):
    """Keras's download and its failure, played by a stand-in; the line's time limit is put back."""
    limits = []

    def build(include_top, weights):
        if weights == "imagenet":
            limits.append(socket.getdefaulttimeout())
            if not reachable:
                raise Exception("URL fetch failure on https://address: None -- no route")
        return keras.applications.VGG19(include_top=include_top, weights=None)

    monkeypatch.setitem(nst.MODELS, "vgg19", nst.MODELS["vgg19"]._replace(build=build))
    for reachable in (True, False):
        extractor = nst.build_feature_extractor()
        assert extractor.model == ("vgg19" if reachable else "vgg16")
        assert ("no route" in capsys.readouterr().out) == (not reachable)
        assert socket.getdefaulttimeout() is None
    assert limits == [20, 20]


def test_refuses_weights_that_do_not_fit(vgg19_file, tmp_path):
    with pytest.raises(ValueError, match="weights file of vgg16.*does not fit"):
        nst.build_feature_extractor("vgg16", weights=vgg19_file[0])
    with pytest.raises(ValueError, match="weights file of vgg19.*does not fit"):
        nst.build_feature_extractor("vgg19", weights=nst.VGG16_WEIGHTS)
    (tmp_path / "text.weights.h5").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.weights\.h5.*does not fit"):
        nst.build_feature_extractor("vgg16", weights=tmp_path / "text.weights.h5")
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        nst.build_feature_extractor("vgg16", weights=tmp_path / "none.h5")


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda image: image * 255, "range 0 to 1"),
        (lambda image: image - 1, "range 0 to 1"),
        (lambda image: image * np.nan, "got nan to nan"),
        (lambda image: image[0], r"got \(32, 40, 3\)"),
        (lambda image: image[..., :1], r"got \(1, 32, 40, 1\)"),
        (lambda image: image[:, :15], "at least 16 x 16 pixels, got 15 x 40"),
    ],
)
def test_refuses_images(vgg16, picture, bad, message):
    with pytest.raises(ValueError, match=message):
        vgg16(bad(picture))


def test_a_compiled_function_checks_shapes_as_well(vgg16, picture):
    compiled = tf.function(vgg16)
    with pytest.raises(ValueError, match=r"got \(32, 40, 3\)"):
        compiled(tf.constant(picture[0]))
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, got 15 x 40"):
        compiled(tf.constant(picture[:, :15]))


def run_offline(code, tmp_path):
    """Runs Python with an empty Keras cache and every download refused."""
    closed = "http://127.0.0.1:9"
    proxies = {f"{kind}_proxy": closed for kind in ("http", "https", "HTTP", "HTTPS")} | {
        "no_proxy": "",
        "NO_PROXY": "",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=nst.HERE,
        env={**os.environ, **proxies, "KERAS_HOME": str(tmp_path / "keras")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_offline_vgg16_steps_in_for_vgg19(tmp_path):
    code = (
        "import nst_helpers as nst, numpy as np\n"
        "extractor = nst.build_feature_extractor()\n"
        "print(extractor.model, sorted(extractor(np.full((1, 32, 32, 3), 0.5))))\n"
    )
    run = run_offline(code, tmp_path)
    assert run.returncode == 0, run.stderr
    *_, sentence, todo, last = run.stdout.splitlines()
    assert "VGG19's ImageNet weights could not be loaded" in sentence
    assert "VGG16 from weights/ stands in" in sentence and "To get VGG19" in todo
    assert "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/" in todo and "/models" in todo
    assert last == f"vgg16 {sorted(LAYERS)}"
    assert run.stderr == ""  # nor does TensorFlow's import log anything


def test_a_damaged_download_is_not_used(tmp_path, vgg19_file):
    """Keras knows its files by their hashes; one that another network was saved to is not loaded."""
    models = tmp_path / "keras" / "models"
    models.mkdir(parents=True)
    name = nst.MODELS["vgg19"].file.rpartition("/")[2]
    (models / name).write_bytes(vgg19_file[0].read_bytes())
    run = run_offline("import nst_helpers as nst; print(nst.build_feature_extractor('vgg19').model)", tmp_path)
    assert run.stdout.splitlines()[-1] == "vgg16" and "could not be loaded" in run.stdout


def test_offline_a_layer_that_vgg16_lacks_is_named(tmp_path):
    run = run_offline("import nst_helpers as nst; nst.build_feature_extractor(content_layer='block5_conv4')", tmp_path)
    assert "ValueError: Unknown layer 'block5_conv4'. Valid layers of vgg16" in run.stderr


def test_what_tensorflow_logs_is_shown_if_it_fails():
    code = (
        "import os, nst_helpers as nst\nwith nst._quiet_stderr():\n    os.write(2, b'the cause'); raise SystemExit(3)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=nst.HERE, capture_output=True, text=True)
    assert run.returncode == 3 and "the cause" in run.stderr


@needs_bfloat16
def test_bfloat16_computes_nearly_the_same(vgg16):
    image = nst.load_image(nst.HERE / "images" / "content" / "brandenburg_gate.jpg", 96)
    short = nst.build_feature_extractor("vgg16", precision="bfloat16")
    assert (vgg16.precision, short.precision) == ("float32", "bfloat16")
    expected, features = vgg16(image), short(image)
    for layer in LAYERS:
        assert expected[layer].dtype == tf.float32 and features[layer].dtype == tf.bfloat16
        error = np.float32(features[layer]) - expected[layer]
        assert np.mean(error**2) < 1e-3 * np.mean(expected[layer] ** 2)
    assert "bfloat16" in repr(short)


def test_no_global_policy_is_changed():
    before = keras.config.dtype_policy().name, keras.config.floatx()
    nst.build_feature_extractor("vgg16", weights=None, precision="bfloat16")
    nst.choose_precision()
    assert (keras.config.dtype_policy().name, keras.config.floatx()) == before == ("float32", "float32")


def test_precision_is_chosen_by_measurement(monkeypatch):
    for seconds, expected in (((2.0, 1.0), "bfloat16"), ((1.0, 2.0), "float32"), ((1.0, 0.95), "float32")):
        measured = dict(zip(nst.PRECISIONS, seconds))
        monkeypatch.setattr(nst, "_convolution_seconds", lambda measured=measured: measured)
        assert nst.choose_precision("auto") == expected
        assert nst.choose_precision("float32") == "float32"
        assert nst.choose_precision("bfloat16") == "bfloat16"


def test_layers_that_the_extractor_does_not_return_are_refused(vgg16):
    vgg16.check_layers(nst.Settings())
    vgg16.check_layers(nst.Settings(content_layer="block1_conv1", style_layers={"block4_conv2": 1.0}))
    for settings in (
        nst.Settings(content_layer="block3_conv2"),
        nst.Settings(style_layers={"block1_conv1": 1.0, "block3_conv2": 1.0}),
    ):
        with pytest.raises(
            ValueError, match="Unknown layer 'block3_conv2'.*name others when building.*block1_conv1, .*block4_conv2"
        ):
            vgg16.check_layers(settings)


def test_the_measurement_measures():
    seconds = nst._convolution_seconds()
    assert set(seconds) == set(nst.PRECISIONS)
    assert 0 < seconds["float32"] < 60 and seconds["bfloat16"] > 0
    assert nst.choose_precision() == nst.choose_precision("auto") in nst.PRECISIONS


@pytest.mark.parametrize("precision", ["float16", "", None, 32])
def test_refuses_an_unknown_precision(precision):
    with pytest.raises(ValueError, match="Valid precisions: auto, float32, bfloat16"):
        nst.choose_precision(precision)
    with pytest.raises(ValueError, match="Valid precisions: auto, float32, bfloat16"):
        nst.build_feature_extractor("vgg16", weights=None, precision=precision)


def test_keras_runs_on_tensorflow_whatever_is_set(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch", "floatx": "float32"}')
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    code = "import nst_helpers as nst; print(nst.keras.config.backend())"
    run = subprocess.run([sys.executable, "-c", code], cwd=nst.HERE, env=environment, capture_output=True, text=True)
    assert run.stdout == "tensorflow\n", run.stderr


def test_a_download_that_times_out_names_the_address_and_the_folder(monkeypatch, capsys):
    def times_out(*_, **__):
        raise TimeoutError

    for model in ("vgg19", "resnet50", "mobilenetv2"):
        entry = nst.MODELS[model]
        monkeypatch.setitem(nst.MODELS, model, entry._replace(build=times_out))
        _, used = nst._load_backbone(model, "imagenet")
        said = capsys.readouterr().out
        assert used == "vgg16" and "TimeoutError" in said and "models" in said
        assert f"https://storage.googleapis.com/tensorflow/keras-applications/{entry.file}" in said


@pytest.mark.parametrize("model", ["vgg19", "resnet50", "mobilenetv2"])
def test_the_address_is_the_one_that_keras_asks(monkeypatch, capsys, model):
    asked = []

    def get_file(name, origin, **_):
        asked.append(origin)
        raise OSError("offline")

    module = sys.modules[nst.MODELS[model].build.__module__]
    monkeypatch.setattr(module.file_utils, "get_file", get_file)
    nst._load_backbone(model, "imagenet")
    assert asked and asked[0] in capsys.readouterr().out


def test_a_device_that_fails_is_named(monkeypatch, capsys):
    def fails(*_, **__):
        raise tf.errors.InternalError(None, None, "no kernel image is available")

    nst._convolution_seconds.cache_clear()
    monkeypatch.setattr(nst.tf, "ones", fails)
    try:
        assert nst.choose_precision() == "float32"
        said = capsys.readouterr().out
        assert "no kernel image is available" in said and "CUDA_VISIBLE_DEVICES=-1" in said
    finally:
        nst._convolution_seconds.cache_clear()

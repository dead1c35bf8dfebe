"""Small helpers for `neural_style_transfer.ipynb`.

The method itself (the losses and the descent) is in the notebook. This module holds what a
reader would skim: importing TensorFlow quietly, reading and writing pictures, checking what was
passed in, cutting a network down to a feature extractor, choosing its precision and the sizes to
paint at, multiplying a matrix by itself with a lean gradient, and drawing figures.

Everywhere, an image is float32 RGB in [0, 1], of shape `(1, height, width, 3)`. Only the feature
extractor knows what its network wants instead (VGG: BGR, 0 to 255, ImageNet's mean subtracted).
"""

import functools
import io
import itertools
import math
import os
import socket
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image as DisplayedImage
from IPython.display import display
from PIL import ExifTags, Image, ImageCms


@contextmanager
def _quiet_stderr():
    """Holds back what native code writes to the process's stderr; shows it if the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # without it, more is logged after the import
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave memory to other notebooks
with _quiet_stderr():
    import keras
    import tensorflow as tf

    _GPUS = tf.config.list_physical_devices("GPU")  # the first look for one logs, too

keras.config.set_image_data_format("channels_last")  # whatever an old keras.json says

HERE = Path(__file__).resolve().parent
VGG16_WEIGHTS = HERE / "weights" / "vgg16_imagenet_fp16.weights.h5"

# Each network by the name that `MODEL` takes: its builder in Keras, and its own preprocessing.
MODELS = {
    "vgg16": (keras.applications.VGG16, keras.applications.vgg16.preprocess_input),
    "vgg19": (keras.applications.VGG19, keras.applications.vgg19.preprocess_input),
}
POOLINGS = {"avg": keras.layers.AveragePooling2D, "max": keras.layers.MaxPooling2D}
PRECISIONS = ("float32", "bfloat16")
# Much as Keras decides for its own training: with a GPU, but neither on a CPU nor on a Mac.
USE_XLA = len(_GPUS) == 1 and sys.platform != "darwin"
_DOWNLOAD_TIMEOUT = 20  # seconds without an answer
_TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAVED_AS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


# ---------------------------------------------------------------------------------------------
# Pictures in files


def find_images(folder: str | Path) -> list[Path]:
    """Lists the pictures in a folder.

    Args:
        folder: The folder to look in (not in the folders below it).

    Returns:
        The files whose ending is one that Pillow reads, sorted by name.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r} (looked for from {str(Path.cwd())!r}). "
            "Give the path of a folder that holds pictures."
        )
    endings = {end for end, name in Image.registered_extensions().items() if name in Image.OPEN}
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in endings)


def load_image(path: str | Path, max_size: int = 512) -> np.ndarray:
    """Reads a picture in any format and colour mode that Pillow reads.

    The camera's orientation (EXIF) is applied, an embedded colour profile converted to sRGB, and
    transparency laid over white. Of an animation the first frame is taken. Whole and floating-point
    numbers of more than 8 bits are taken as 0 to 1, 0 to 255 or 0 to 65535, whichever holds them.

    Args:
        path: The file.
        max_size: Longest side of the result at most, in pixels. The aspect ratio is kept; a
            smaller picture is not enlarged.

    Returns:
        float32 RGB in [0, 1], shape `(1, height, width, 3)`.

    Raises:
        FileNotFoundError: If there is no such file; the message lists the pictures there are.
        PermissionError: If the file may not be read.
        ValueError: If the file is no picture, is damaged or has too many pixels for Pillow, or if
            `max_size` is not a positive integer.
    """
    path = Path(path).expanduser()
    if isinstance(max_size, bool) or not isinstance(max_size, (int, np.integer)) or max_size < 1:
        raise ValueError(f"max_size must be a positive whole number of pixels, got {max_size!r}.")
    if path.is_dir():
        raise ValueError(f"Expected a picture, got the folder {str(path)!r}. Name a file in it.")
    if not path.exists():
        folder = path.parent
        names = [each.name for each in find_images(folder)] if folder.is_dir() else None
        there = "does not exist" if names is None else f"holds: {', '.join(names) or 'none'}"
        raise FileNotFoundError(
            f"There is no picture {str(path)!r}. The folder {str(folder)!r} {there}. "
            f"Put yours there, or correct the name. (Paths count from {str(Path.cwd())!r}.)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a 108-megapixel phone
            with Image.open(path) as file:
                picture = _to_srgb(_upright(file))
    except PermissionError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{str(path)!r} has more pixels than Pillow opens ({error}). Make it smaller in an image "
            f"editor first: {max_size} pixels on the longest side are enough."
        ) from error
    except Exception as error:  # what Pillow raises on damaged files depends on the format
        raise ValueError(
            f"Expected a picture that Pillow can read, got {str(path)!r} ({error}). If another "
            "program opens it, save it from there as PNG or JPEG."
        ) from error
    scale = min(1, max_size / max(picture.size))
    size = [max(1, round(side * scale)) for side in picture.size]
    if size != list(picture.size):
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32)[np.newaxis] / 255


def _upright(picture: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF orientation says.

    `ImageOps.exif_transpose` does so too, but writes the other EXIF tags anew, and so fails on a
    good picture of which one tag breaks the rules.
    """
    turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    return picture if turn is None else picture.transpose(turn)


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Converts any of Pillow's modes to 8-bit RGB in sRGB, transparency laid over white."""
    if picture.mode.startswith(("I", "F")):  # more than 8 bits a pixel
        values = np.nan_to_num(np.asarray(picture, np.float64), posinf=0, neginf=0)
        peak = values.max()
        ranges = {"F": (1, 255, 65535), "I": (255, 65535)}.get(picture.mode, (65535,))
        full = next((full for full in ranges if peak <= 1.1 * full), peak)
        profile = picture.info.get("icc_profile")
        picture = Image.fromarray(np.uint8(np.clip(np.rint(values / full * 255), 0, 255)))
        picture.info["icc_profile"] = profile
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    if picture.mode in ("P", "PA", "1", "LA", "La", "RGBa", "RGBA", "RGBX"):
        picture = picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")
    profile = picture.info.get("icc_profile")
    srgb = ImageCms.createProfile("sRGB")
    if profile or picture.mode == "LAB":
        source = io.BytesIO(profile) if profile else ImageCms.createProfile("LAB")
        try:
            picture = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
        except ImageCms.PyCMSError:
            pass  # a damaged profile, or one for other channels: the numbers are taken as sRGB
    picture = picture.convert("RGB")
    if alpha is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, "white"), alpha)
    return picture


def save_image(image: Any, path: str | Path) -> Path:
    """Writes an image to a file; the ending of its name chooses the format.

    Args:
        image: RGB in [0, 1], shape `(1, height, width, 3)` or `(height, width, 3)`.
        path: The file, its name ending in .png (exact), .jpg, .webp, .tif or .bmp. Its folder is
            made if need be; a file of that name is replaced.

    Returns:
        The path.

    Raises:
        ValueError: If the image has another shape or range, or the ending is another.
    """
    path = Path(path).expanduser()
    image = np.asarray(image)
    pixels = check_image(image[np.newaxis] if image.ndim == 3 else image, "the image to save")
    if path.suffix.lower() not in _SAVED_AS:
        raise ValueError(f"Expected a file name ending in one of {', '.join(_SAVED_AS)}, got {path.name!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if path.suffix.lower() in (".png", ".bmp") else {"quality": 95}
    Image.fromarray(np.uint8(np.rint(pixels[0] * 255))).save(path, **options)
    return path


# ---------------------------------------------------------------------------------------------
# Checks of what was passed in


def check_image(image: Any, name: str = "the image") -> np.ndarray:
    """Checks an image's shape and range.

    Args:
        image: What should be RGB in [0, 1], shape `(1, height, width, 3)`.
        name: What to call it in the message.

    Returns:
        The image as a float32 NumPy array.

    Raises:
        ValueError: If the shape or the range is another; the message says what to do.
    """
    array = np.asarray(image)
    _check_shape(array.shape, name)
    if array.dtype.kind not in "biuf" and array.dtype != tf.bfloat16.as_numpy_dtype:
        raise ValueError(f"Expected {name} to hold numbers, got the type {array.dtype}.")
    array = array.astype(np.float32)
    low, high = array.min(), array.max()
    if not np.isfinite([low, high]).all():
        raise ValueError(
            f"Expected {name} in the range 0 to 1, got NaN or infinite values. They come from an "
            "earlier computation: look for a division by 0 or a loss weight that is too large."
        )
    if low < 0 or high > 1:
        raise ValueError(
            f"Expected {name} in the range 0 to 1, got {low:g} to {high:g}. "
            "Divide a picture of 0 to 255 by 255; clip one that overshoots with np.clip(image, 0, 1)."
        )
    return array


def _check_shape(shape: Sequence[int | None], name: str) -> None:
    """Raises ValueError unless the shape is (1, height, width, 3); None stands for any number."""
    if len(shape) != 4 or shape[0] not in (1, None) or shape[3] not in (3, None) or 0 in shape:
        raise ValueError(
            f"Expected {name} in the shape (1, height, width, 3), got {tuple(shape)}. "
            "load_image returns that; a single picture of shape (height, width, 3) becomes it "
            "with image[np.newaxis]."
        )


def check_name(name: Any, valid: Iterable[str], what: str) -> None:
    """Checks that a name is one of the valid ones.

    Args:
        name: The name.
        valid: The valid names, such as a table's keys.
        what: What it names, for the message.

    Raises:
        ValueError: If it is not; the message lists the valid names.
    """
    valid = list(valid)
    if name not in valid:
        raise ValueError(f"Unknown {what} {name!r}. Valid {what}s: {', '.join(valid)}.")


def check_weights(weights: Mapping[str, float], name: str = "the weights") -> None:
    """Checks that weights are finite, not negative, and not all 0.

    Args:
        weights: The weights by their names, such as the style layers' or those of the losses.
        name: What to call them together in the message.

    Raises:
        ValueError: If `weights` is no mapping from names to numbers, one of them is negative, NaN
            or infinite, or none is above 0.
    """
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"Expected {name} as a dict from name to weight, such as {{'block1_conv1': 1.0}}, got {weights!r}."
        )
    for key, weight in weights.items():
        try:
            good = math.isfinite(weight) and weight >= 0
        except (TypeError, OverflowError):
            good = False
        if not good:
            raise ValueError(
                f"Expected {key} of {name} to be a finite number of at least 0, got {weight!r}. "
                "0 switches that part off."
            )
    if not any(weights.values()):
        raise ValueError(f"Expected at least one of {name} to be above 0, got {dict(weights)}.")


def check_settings(weights: Mapping[str, float], steps: int, coarsest: int, learning_rate: float) -> None:
    """Checks the numbers that a picture is painted with.

    Args:
        weights: From `content`, `style` and `tv` to the weight of that loss.
        steps: How many steps at each size.
        coarsest: The longest side to begin at, in pixels.
        learning_rate: How far Adam, or L-BFGS's first step, may move a pixel.

    Raises:
        ValueError: If a weight is negative, NaN or infinite, if all are 0, if `steps` or `coarsest`
            is not a whole number above 0, or if `learning_rate` is not a finite number above 0.
    """
    check_weights({f"{name}_weight": weight for name, weight in weights.items()})
    for name, count in (("steps", steps), ("coarsest", coarsest)):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(f"Expected {name} to be a whole number of at least 1, got {count!r}.")
    try:
        good = math.isfinite(learning_rate) and learning_rate > 0
    except TypeError:
        good = False
    if not good:
        raise ValueError(
            f"Expected learning_rate to be a finite number above 0, got {learning_rate!r}. "
            "0.01 to 0.1 are usual."
        )


def check_finite(loss: float, step: int) -> None:
    """Checks that a descent has not gone astray.

    Args:
        loss: The total loss.
        step: The step that it was computed at.

    Raises:
        ValueError: If the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise ValueError(
            f"The total loss is {loss} at step {step}: expected a finite number. A loss weight may be "
            "too large for float32, or a changed loss has an infinite gradient, as a square root has at 0."
        )


# ---------------------------------------------------------------------------------------------
# The network


def choose_precision(wanted: str = "auto") -> str:
    """Chooses the number format that the network computes in, by timing a convolution in each.

    bfloat16 has the range of float32 and 8 of its 24 significant bits: half the memory, and on
    processors made for it (AMX or AVX512-BF16 in a CPU, tensor cores in a GPU since Ampere) twice
    the speed or more. On others it is slower.

    Args:
        wanted: One of `PRECISIONS`, which is then returned as it is; or `"auto"`.

    Returns:
        `"bfloat16"` if wanted or measured to be at least a tenth faster, else `"float32"`.

    Raises:
        ValueError: If `wanted` is none of these.
    """
    check_name(wanted, ("auto", *PRECISIONS), "precision")
    if wanted != "auto":
        return wanted
    seconds = _convolution_seconds()
    return "bfloat16" if seconds["bfloat16"] < 0.9 * seconds["float32"] else "float32"


@functools.cache  # so that running a cell again gives the same answer
def _convolution_seconds() -> dict[str, float]:
    """Times a convolution of the middle of VGG, and its gradient, in each precision."""

    @tf.function
    def convolve(x, kernel):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        return y, tf.nn.conv2d_transpose(y, kernel, x.shape, 1, "SAME")  # the gradient's operation

    seconds = {}
    for precision in PRECISIONS:
        x, kernel = (tf.ones(shape, precision) for shape in ((1, 64, 64, 128), (3, 3, 128, 128)))
        times = []
        try:
            for _ in range(12):
                start = time.perf_counter()
                convolve(x, kernel)[1][0, 0, 0, 0].numpy()
                times.append(time.perf_counter() - start)
        except tf.errors.OpError:  # a device without this kernel
            times = [math.inf]
        seconds[precision] = min(times)  # the least disturbed; the first ones compile
    return seconds


class FeatureExtractor:
    """A trained network, cut off after the deepest layer asked for, frozen.

    Attributes:
        model: The network's name, a key of `MODELS`. Where a fallback stepped in, the name of
            what is really used.
        weights: `"imagenet"`, a file's path, or None (random).
        pooling: `"avg"` or `"max"`.
        precision: `"float32"` or `"bfloat16"`: what the network computes in, and its feature maps.
        layers: Names of the layers whose feature maps are returned.
        network: The Keras model.
        smallest_side: The least height and width of an image, in pixels: each pooling halves the
            feature map, and at the deepest layer one pixel has to be left.
    """

    def __init__(
        self,
        network: keras.Model,
        layers: list[str],
        model: str,
        pooling: str,
        weights: str | Path | None,
        precision: str,
    ):
        self.network = network
        self.layers = layers
        self.model = model
        self.pooling = pooling
        self.weights = weights
        self.precision = precision
        self._preprocess = MODELS[model][1]
        halvings = sum(isinstance(layer, POOLINGS[pooling]) for layer in network.layers)
        self.smallest_side = 2**halvings

    def __call__(self, image: Any) -> dict[str, tf.Tensor]:
        """Computes feature maps.

        Args:
            image: RGB in [0, 1], shape `(1, height, width, 3)`.

        Returns:
            From layer name to feature map (after ReLU), shape `(1, height, width, channels)`, of the
            type `precision`.

        Raises:
            ValueError: If the image is of another shape or range, or too small. (In a compiled
                function the pixels are not known yet: there only the shape is checked.)
        """
        image = tf.cast(tf.convert_to_tensor(image), tf.float32)
        if tf.executing_eagerly():
            check_image(image)
        _check_shape(image.shape, "the image")
        height, width = image.shape[1:3]
        if min(height or math.inf, width or math.inf) < self.smallest_side:
            raise ValueError(
                f"The image is too small for the layer {self.network.layers[-1].name}: expected at "
                f"least {self.smallest_side} x {self.smallest_side} pixels, got {height} x {width} "
                "(height x width). Take a larger or a less narrow picture, load it with a larger "
                "size, or take shallower layers."
            )
        return self.network(self._preprocess(image * 255.0))

    def __repr__(self) -> str:
        weights = {"imagenet": "ImageNet weights", None: "random weights"}.get(
            self.weights, f"weights from {Path(str(self.weights)).name}"
        )
        return (
            f"{self.model.upper()}, {weights}, {self.pooling} pooling, {self.precision}, "
            f"cut off after {self.network.layers[-1].name}"
        )


def build_feature_extractor(
    layers: Iterable[str],
    model: str = "vgg19",
    pooling: str = "avg",
    weights: str | Path | None = "imagenet",
    precision: str = "float32",
) -> FeatureExtractor:
    """Builds the function that turns an image into feature maps.

    VGG16 and VGG19: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", arXiv 1409.1556. Average in place of max pooling: Gatys, Ecker & Bethge, "A
    Neural Algorithm of Artistic Style", arXiv 1508.06576, section Methods.

    Args:
        layers: Names of the layers whose output is wanted, such as `"block4_conv2"`.
        model: A key of `MODELS`.
        pooling: `"avg"` replaces each max pooling by an average pooling; `"max"` keeps it.
        weights: `"imagenet"`; or the path of a weights file for the network without its dense
            layers (`include_top=False`); or None for random weights. VGG16's ImageNet weights
            are in this repository; VGG19's are downloaded by Keras, once, or found in its cache.
            Where they cannot be had, one sentence says so and VGG16 takes VGG19's place.
        precision: One of `PRECISIONS`, such as `choose_precision()` returns.

    Returns:
        The extractor. It is called with an image (RGB in [0, 1], shape `(1, height, width, 3)`;
        the network's own preprocessing is inside) and returns a dict from layer name to feature
        map. Its `model` says which network it is.

    Raises:
        FileNotFoundError: If the weights file is missing.
        ValueError: If a name is unknown, no layer is named, or the file does not fit the network.
    """
    check_name(model, MODELS, "model")
    check_name(pooling, POOLINGS, "pooling")
    check_name(precision, PRECISIONS, "precision")
    layers = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
    _check_layers(layers, model)  # before a download of many megabytes
    backbone, used = _load_backbone(model, weights)
    _check_layers(layers, used)
    pooled = keras.models.clone_model(
        backbone, clone_function=lambda layer: _copied(layer, pooling, precision)
    )
    pooled.set_weights(backbone.get_weights())
    network = keras.Model(pooled.input, {name: pooled.get_layer(name).output for name in layers})
    network.trainable = False
    return FeatureExtractor(network, layers, used, pooling, weights, precision)


@functools.cache
def _layer_names(model: str) -> list[str]:
    """Returns the names of a model's layers, without the input and the dense ones."""
    return [layer.name for layer in MODELS[model][0](include_top=False, weights=None).layers[1:]]


def _check_layers(layers: list[str], model: str) -> None:
    """Raises ValueError unless the model has all of the layers, and there is one."""
    unknown = [name for name in layers if name not in _layer_names(model)]
    if unknown or not layers:
        got = f"Unknown layer {unknown[0]!r}" if unknown else "No layer was named"
        raise ValueError(f"{got}. Valid layers of {model}: {', '.join(_layer_names(model))}.")


def _load_backbone(model: str, weights: str | Path | None) -> tuple[keras.Model, str]:
    """Returns the network without its dense layers, and the name of what it really is."""
    build = MODELS[model][0]
    if weights is None:
        return build(include_top=False, weights=None), model
    if weights == "imagenet" and model != "vgg16":
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # Keras sets none: a dead line would hang
        try:
            return build(include_top=False, weights="imagenet"), model
        except Exception as error:  # Keras raises a bare Exception where a download fails
            folder = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "models"
            print(
                f"{model.upper()}'s ImageNet weights could not be loaded ({error}), so VGG16 from "
                f"weights/ stands in; to get {model.upper()}, connect to the internet and run this "
                f"again, or put the file that this address names into {folder}."
            )
            model, build = "vgg16", MODELS["vgg16"][0]
        finally:
            socket.setdefaulttimeout(timeout)
    path = VGG16_WEIGHTS if weights == "imagenet" else Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no weights file {str(path)!r}. Restore it (git checkout weights), or give "
            "the path of one, or weights=None for random ones."
        )
    backbone = build(include_top=False, weights=None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # all that Keras does on a partial match
            backbone.load_weights(path)
    except Exception as error:
        raise ValueError(
            f"Expected a weights file of {model} without its dense layers (include_top=False), as "
            f"Keras saves it (.weights.h5, or .h5 in the older format), got {str(path)!r}, which does not fit: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return backbone, model


def _copied(layer: keras.Layer, pooling: str, precision: str) -> keras.Layer:
    """Copies a layer, in the precision wanted; where it pools, with the pooling wanted."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.InputLayer):
        return keras.layers.InputLayer.from_config(config)  # pixels are float32
    if isinstance(layer, keras.layers.MaxPooling2D):
        kind, config = POOLINGS[pooling], {key: config[key] for key in ("name", "pool_size", "strides")}
    else:
        kind = layer.__class__
    return kind.from_config({**config, "dtype": precision})


def inner_products(columns: tf.Tensor) -> tf.Tensor:
    """Computes the inner product of each column of a matrix with each other: `F.T @ F`.

    As `tf.matmul(F, F, transpose_a=True)`, but with a leaner gradient: with `dG` the gradient of a
    loss with respect to the product, that with respect to `F` is `F (dG + dG.T)`, one
    multiplication, where automatic differentiation takes `F` for two different matrices and
    multiplies twice.

    Args:
        columns: The matrix, shape `(rows, columns)`, float32 or bfloat16.

    Returns:
        The products, shape `(columns, columns)`, as float32. (Those of bfloat16 columns are
        rounded to bfloat16 first, after the sum: an error of some tenths of a percent.)
    """

    @tf.custom_gradient
    def product(F):
        def gradient(upstream):
            return tf.matmul(F, tf.cast(upstream + tf.transpose(upstream), F.dtype))

        return tf.cast(tf.matmul(F, F, transpose_a=True), tf.float32), gradient

    return product(columns)


def check_layers(extractor: FeatureExtractor, content_layer: str, style_layers: Mapping[str, float]) -> None:
    """Checks the layers that the losses are computed from.

    Args:
        extractor: The feature extractor.
        content_layer: The layer that stands for content.
        style_layers: From each style layer to its weight.

    Raises:
        ValueError: If a weight is negative, NaN or infinite, if all are 0, or if the extractor does
            not return one of the layers.
    """
    check_weights(style_layers, "style_layers")
    for layer in (content_layer, *style_layers):
        if layer not in extractor.layers:
            raise ValueError(
                f"The layer {layer!r} is not among those that the feature extractor returns: "
                f"{', '.join(extractor.layers)}. Name it when building the extractor."
            )


def scales(content_image: Any, style_image: Any, coarsest: int, smallest_side: int) -> list[float]:
    """Lists the sizes to paint at, from coarse to fine, as fractions of the full size.

    Each is twice the one before, and the last is 1. The first is the one whose longest side comes
    nearest to `coarsest` pixels, in powers of two; or a larger one, where in that the shortest side
    of either image would be less than twice what the network needs.

    Args:
        content_image: The content at full size, shape `(1, height, width, 3)`.
        style_image: The style at full size, shape `(1, height, width, 3)`.
        coarsest: Longest side in pixels of the content at the first size. From the longest side of
            the content on, there is only the full size.
        smallest_side: The least side that the network takes, as `FeatureExtractor.smallest_side`.

    Returns:
        Rising powers of two, such as `[0.25, 0.5, 1.0]`.
    """
    longest = max(content_image.shape[1:3])
    shortest = min(*content_image.shape[1:3], *style_image.shape[1:3])
    halvings = min(math.log2(longest / coarsest), math.floor(math.log2(shortest / (2 * smallest_side))))
    return [2.0**-k for k in range(max(0, round(halvings)), -1, -1)]


# ---------------------------------------------------------------------------------------------
# Figures


def describe_device() -> str:
    """Names the device that TensorFlow computes on.

    Returns:
        The first GPU's name, or the number of CPU cores.
    """
    if _GPUS:
        return tf.config.experimental.get_device_details(_GPUS[0]).get("device_name", "a GPU")
    return f"CPU, {os.cpu_count()} cores (no GPU found)"


def show_images(
    images: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    caption: str = "",
    columns: int | None = None,
    height: float = 3.2,
) -> None:
    """Shows images side by side as one figure, stored as JPEG to keep the notebook small.

    Args:
        images: Each RGB in [0, 1], shape `(1, height, width, 3)` or `(height, width, 3)`; or of
            shape `(height, width)`, which is drawn in shades from its least to its largest value.
        titles: One for each image, drawn above it.
        caption: One sentence on what to see, drawn below and kept as the figure's alternative text.
        columns: How many stand in a row; all of them by default.
        height: The height of a row in inches.

    Raises:
        ValueError: If there is no image, or the titles are not as many as the images.
    """
    if len(images) == 0 or (len(titles) and len(titles) != len(images)):
        raise ValueError(
            f"Expected one or more images and as many titles (or none), got {len(images)} images "
            f"and {len(titles)} titles."
        )
    arrays = [np.asarray(image)[0] if np.ndim(image) == 4 else np.asarray(image) for image in images]
    columns = columns or len(arrays)
    rows = math.ceil(len(arrays) / columns)
    aspects = [
        max(a.shape[1] / a.shape[0] for a in arrays[c::columns]) for c in range(min(columns, len(arrays)))
    ]
    widths = np.clip(aspects, 0.75, 6.0)  # of a row's height; room for a title over a narrow picture
    height = min(height, 14 / sum(widths))
    figure, axes = plt.subplots(
        rows,
        len(widths),
        figsize=(height * sum(widths), (height + 0.3) * rows),
        gridspec_kw={"width_ratios": widths},
        squeeze=False,
        layout="constrained",
    )
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index < len(arrays):
            axis.imshow(arrays[index], cmap="magma")
            title = titles[index] if len(titles) else ""
            letters = max(8, int(11 * height * widths[index % columns]))  # that fit on a line
            lines = [textwrap.fill(line, letters) for line in title.splitlines()]
            axis.set_title("\n".join(lines), fontsize=11, parse_math=False)
    if caption:
        figure.supxlabel(textwrap.fill(caption, int(11 * figure.get_figwidth())), fontsize=11, style="italic")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=100, pil_kwargs={"quality": 88})
    plt.close(figure)
    display(DisplayedImage(buffer.getvalue(), format="jpeg", alt=caption or ", ".join(titles)))


# Colours that colour-blind readers can tell apart (Okabe & Ito, https://jfly.uni-koeln.de/color/),
# and a line style and a hatching for those who see none.
_PARTS = {"content": ("#0072B2", "--", ""), "style": ("#D55E00", "-.", "//"), "tv": ("#009E73", ":", "..")}


def plot_history(history: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> None:
    """Plots the total loss and each weighted loss against the steps, on a logarithmic axis.

    Args:
        history: Equally long lists: `size` (the picture's longest side in pixels), `total`,
            `content`, `style` and `tv`, the last three unweighted.
        weights: From `content`, `style` and `tv` to what each was multiplied with.

    Raises:
        ValueError: If a list is missing or empty.
    """
    _check_history(history, ("size", "total", *weights))
    _, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    axis.plot(history["total"], color="black", linewidth=2, label="total")
    lowest = history["total"][-1]
    for name, weight in weights.items():
        color, line, _ = _PARTS[name]
        values = np.multiply(history[name], weight)
        axis.plot(values, color=color, linestyle=line, label=f"{weight:g} × {name}")
        later = values[len(values) // 2 :]  # the content loss begins at 0
        lowest = min([lowest, *later[later > 0]])
    axis.set(
        xlabel="step", ylabel="loss", yscale="log", title="The total loss, and what each part adds to it"
    )
    sizes = np.asarray(history["size"])
    firsts = [0, *np.flatnonzero(np.diff(sizes)) + 1]
    for first in firsts if len(firsts) > 1 else ():
        axis.axvline(first, color="grey", linewidth=0.8)
        axis.annotate(
            f" {sizes[first]:g} pixels", (first, 0.02), xycoords=("data", "axes fraction"), color="dimgrey"
        )
    if lowest > 0:
        axis.set_ylim(bottom=lowest / 2)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3)
    plt.show()


def plot_totals(histories: Mapping[str, Mapping[str, Sequence[float]]], against: str = "step") -> None:
    """Plots the total losses of several descents in one figure, on a logarithmic axis.

    Args:
        histories: From a label to a history: equally long lists `total` and `seconds`.
        against: `"step"` or `"seconds"`: what goes along the horizontal axis.

    Raises:
        ValueError: If a list is missing or empty, or `against` is something else.
    """
    if against not in ("step", "seconds"):
        raise ValueError(f"Expected against to be 'step' or 'seconds', got {against!r}.")
    title = f"The total loss, {'step by step' if against == 'step' else 'second by second'}"
    _, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    lines = zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7"), ("-", "--", "-.", ":"))
    for (label, history), (color, line) in zip(histories.items(), itertools.cycle(lines)):
        _check_history(history, ("total", "seconds"))
        steps = range(len(history["total"]))
        along = history["seconds"] if against == "seconds" else steps
        axis.plot(along, history["total"], color=color, linestyle=line, linewidth=2, label=label)
    axis.set(xlabel=against, ylabel="total loss", yscale="log", title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3, which="both")
    plt.show()


def _check_history(history: Mapping[str, Sequence[float]], names: Iterable[str]) -> None:
    """Raises ValueError unless the history has entries of all these names."""
    missing = [name for name in names if not len(history.get(name, ()))]
    if missing:
        raise ValueError(f"The history has no entries for: {', '.join(missing)}.")


def plot_bars(groups: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Draws the weighted losses of several pictures as groups of bars, on a logarithmic axis.

    Args:
        groups: From a picture's name to its weighted losses `content`, `style` and `tv`.
        title: The figure's title.
    """
    _, axis = plt.subplots(figsize=(8, 3), layout="constrained")
    for index, (part, (color, _, hatch)) in enumerate(_PARTS.items()):
        positions = np.arange(len(groups)) + 0.27 * (index - 1)
        heights = [losses[part] for losses in groups.values()]
        bars = axis.bar(positions, heights, 0.25, color=color, hatch=hatch, edgecolor="white", label=part)
        axis.bar_label(bars, fmt="%.3g", fontsize=9)
    axis.set_yscale("log")
    axis.set_ylim(top=axis.get_ylim()[1] * 2)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set(ylabel="weighted loss", title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()

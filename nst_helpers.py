"""Small helpers for `neural_style_transfer.ipynb`, in the order in which it needs them.

Images are float32 RGB in [0, 1], `(1, height, width, 3)`; masks float32 in [0, 1], `(1, height, width, 1)`.
"""

import base64
import dataclasses
import datetime
import functools
import hashlib
import html
import io
import itertools
import json
import math
import os
import signal
import socket
import sys
import tempfile
import textwrap
import threading
import time
import timeit
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from IPython import get_ipython
from IPython.display import HTML, display
from IPython.display import Image as DisplayedImage
from matplotlib.figure import Figure
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from PIL.ExifTags import Base as Tag

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # without it, more is logged after the import
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave memory to other notebooks
os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever else is set, here or in keras.json
_stderr = os.dup(2)
try:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # what native code logs while it loads; exceptions come through
    import keras
    import tensorflow as tf

    _GPUS = tf.config.list_physical_devices("GPU")  # the first look for one logs, too
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)

with suppress(ImportError):  # photographs of phones, if the package is there
    import pillow_heif

    pillow_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = 2**27  # it refuses twice as many; phones take 200 million
warnings.filterwarnings("ignore", module="PIL")  # of many pixels, and of EXIF that breaks the rules
tf.get_logger().setLevel("ERROR")  # no advice on compiling one function for many shapes
keras.config.set_image_data_format("channels_last")  # whatever an old keras.json says

HERE = Path(__file__).resolve().parent
IMAGES = HERE / "images"  # its folders are searched for pictures given by name only
# The first convolution of each block of VGG, the last activation at each resolution of ResNet50; weighted.
_VGG = {f"block{block}_conv1": 4.0 ** (4 - block) for block in range(1, 5)}
_RESNET = {"conv1_relu": 64.0, "conv2_block3_out": 16.0, "conv3_block4_out": 4.0, "conv4_block6_out": 1.0}
CHECKPOINT_SECONDS = 60  # at least, from one time that a run is kept to the next


# --- Settings, and checks of what is passed in -----------------------------------------------
@dataclasses.dataclass(frozen=True)
class Settings:
    """How a picture is painted. Checked when it is made: what is wrong is a ValueError."""

    content_weight: float = 1.0  # what the content loss is multiplied by at full size; 0 switches it off
    style_weight: float = 60.0  # the same for the style loss
    tv_weight: float = 6.0  # the same for the total variation
    photograph_share: float = 0.1  # of the content loss; the rest goes to the painting's neighbours
    steps: int = 8  # at full size (smaller sizes get more)
    coarsest: int = 64  # the longest side to begin at, in pixels
    colours: str = "painting"  # whose: or the photograph's, "matched" or "luminance"
    optimizer: str = "lbfgs"  # or "adam"
    learning_rate: float = 0.05  # how far Adam, or the first step of L-BFGS, may move a pixel (0 to 1)
    style_loss: str = "wasserstein"  # how styles are compared, a key of the notebook's STYLE_LOSSES
    content_layer: str = "block4_conv2"  # the layer that stands for content
    style_layers: Mapping[str, float] = dataclasses.field(default_factory=_VGG.copy)  # with their weights
    tile_size: int | str | None = "auto"  # in pixels; None: no tiles; "auto": where the memory asks for it

    def __post_init__(self) -> None:
        check_weights({f"{name}_weight": weight for name, weight in self.weights.items()})
        check_weights(self.style_layers, "style_layers")
        check_above_0(self.steps, "steps", whole=True)
        check_above_0(self.coarsest, "coarsest", whole=True)
        check_above_0(self.learning_rate, "learning_rate")
        _expect(self.learning_rate <= 1, "learning_rate at 1 at most", self.learning_rate)
        share = self.photograph_share
        valid = isinstance(share, Real) and 0 <= share <= 1
        _expect(valid, "photograph_share between 0 (neighbours only) and 1 (photograph only)", repr(share))
        tile = self.tile_size
        valid = tile in (None, "auto") or isinstance(tile, Integral) and tile >= 64
        _expect(valid, 'tile_size to be None, "auto" or a whole number of at least 64 (pixels)', repr(tile))
        check_name(self.colours, ("painting", "matched", "luminance"), "colouring")
        check_name(self.optimizer, ("adam", "lbfgs"), "optimizer")

    replace = dataclasses.replace  # the same settings but for some changes, checked

    @property
    def weights(self) -> dict[str, float]:
        """The three loss weights by the losses' names."""
        return {"content": self.content_weight, "style": self.style_weight, "tv": self.tv_weight}


def _expect(valid: bool, wanted: str, got: Any, todo: str = "") -> None:
    """Raises ValueError, in a sentence or two, unless what was passed in is valid."""
    if not valid:
        raise ValueError(f"Expected {wanted}, got {got}. {todo}".rstrip())


def check_image(image: Any, name: str = "the image") -> np.ndarray:
    """Returns an image in float32; raises ValueError unless it is `(1, height, width, 3)`, in [0, 1]."""
    image = np.asarray(image)
    valid = image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3 and image.size > 0
    todo = "load_image returns that; a picture of shape (height, width, 3) becomes it with image[np.newaxis]."
    _expect(valid, f"{name} in the shape (1, height, width, 3)", image.shape or repr(image.item()), todo)
    _expect(image.dtype.kind in "biuf", f"{name} to hold numbers", image.dtype)
    image = image.astype(np.float32, copy=False)
    valid = image.min() >= 0 and image.max() <= 1  # nor NaN
    todo = "Divide one of 0 to 255 by 255, or np.clip it; NaN comes from a division by 0 or a large weight."
    _expect(valid, f"{name} in the range 0 to 1", f"{image.min():g} to {image.max():g}", todo)
    return image


def check_name(name: Any, valid: Iterable[str], what: str) -> None:
    """Raises ValueError, with the valid names, unless a name is one of them."""
    if name not in list(valid):
        raise ValueError(f"Unknown {what} {name!r}. Valid: {', '.join(valid)}.")


def check_weights(weights: Mapping[str, float], name: str = "the weights") -> None:
    """Raises ValueError unless weights are a dict of finite numbers, none below 0 and not all 0."""
    _expect(isinstance(weights, Mapping), f"{name} as a dict such as {{'block1_conv1': 1.0}}", repr(weights))
    for key, weight in weights.items():
        valid = isinstance(weight, Real) and 0 <= weight < 3e38  # what float32 holds
        _expect(valid, f"{key} of {name} to be a finite number of at least 0", repr(weight))
    _expect(any(weights.values()), f"at least one of {name} to be above 0", dict(weights))


def check_above_0(number: Any, name: str, whole: bool = False) -> None:
    """Raises ValueError unless a number is finite, above 0 and, if so asked for, whole."""
    kind = Integral if whole else Real
    valid = isinstance(number, kind) and not isinstance(number, bool) and 0 < number < math.inf
    wanted = "a whole number of at least 1" if whole else "a finite number above 0"
    _expect(valid, f"{name} to be {wanted}", repr(number))


def _check_proportions(rows: int, columns: int, height: int, width: int, name: str) -> None:
    fits = abs(rows * width - columns * height) <= rows + columns + height + width  # but for rounding
    wanted = f"{name} in the picture's proportions, {width} x {height} pixels"
    _expect(fits, wanted, f"{columns} x {rows}", "Crop it, or save it at the photograph's own size.")


# --- Pictures in files -----------------------------------------------------------------------
# No programs (PostScript), no containers of other things (HDF5, films).
_READ = {"AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"}
_FORMATS = sorted(_READ & set(Image.registered_extensions().values()))
_RAW = {".3fr", ".arw", ".cr2", ".dng", ".iiq", ".nef", ".nrw", ".pef", ".sr2", ".srw"}  # TIFFs, too


def _expanded(path: str | Path) -> Path:
    """A path with the home folder in place of a ~ that stands for one; a file's name may begin so, too."""
    return Path(os.path.expanduser(path))


def find_images(folder: str | Path) -> list[Path]:
    """Lists the pictures in a folder by name, without hidden ones; FileNotFoundError without the folder."""
    folder = _expanded(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r} (looked for from {str(Path.cwd())!r}).")
    endings = [ending for ending, name in Image.registered_extensions().items() if name in _FORMATS]
    return sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in endings and path.is_file())


def load_image(path: str | Path, max_size: int = 512, kind: str = "", enlarge: bool = False) -> np.ndarray:
    """Reads a picture as float32 RGB in [0, 1], `(1, height, width, 3)`: upright, in sRGB, laid over white.

    A bare name is looked for here, then in `images/`, first in its folder `kind`. The longest side becomes
    `max_size` pixels, if it is longer or with `enlarge`. Raises FileNotFoundError; ValueError if no picture.
    """
    path = _located(path, kind)
    check_above_0(max_size, "max_size, in pixels,", whole=True)
    _expect(isinstance(enlarge, bool), "enlarge to be True or False", repr(enlarge))
    picture = _read(path, "white")
    if enlarge or max(picture.size) > max_size:
        size = [max(1, round(side * max_size / max(picture.size))) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32)[np.newaxis] / 255


def _located(path: str | Path, kind: str) -> Path:
    """Returns a picture's path; for a bare name that is not here, that of one in a folder of `IMAGES`."""
    wanted = "the path or the name of a picture's file"
    _expect(isinstance(path, (str, os.PathLike)), wanted, type(path).__name__, "stylize takes arrays.")
    address = str(path).startswith(("http:/", "https:/"))
    _expect(not address, wanted, f"the address {str(path)!r}", "Download it first, and name the file.")
    path = _expanded(path)
    folders = [path.parent]
    if path == Path(path.name):
        below = [folder for folder in IMAGES.glob("*") if folder.is_dir()]
        folders += sorted(below, key=lambda folder: (folder.name != kind, folder.name))
    for folder in folders:
        if os.path.isfile(folder / path.name):
            return folder / path.name
    _expect(not os.path.isdir(path), wanted, f"the folder {str(path)!r}", "Name a file in it.")
    searched = folders[1:] or folders  # those of images/, for a bare name
    names = [found.name for folder in searched for found in find_images(folder)]
    choices = ", ".join(names) or "none"
    raise FileNotFoundError(f"There is no picture {str(path.absolute())!r}. Choose from: {choices}.")


def _read(path: Path, background: str) -> Image.Image:
    """Reads a picture, upright, as 8-bit RGB in sRGB over a colour; ValueError if it cannot be read."""
    try:
        with Image.open(path, formats=_FORMATS) as file:
            tags = getattr(file, "tag_v2", {})  # of a TIFF
            preview = tags.get(Tag.NewSubfileType, 0) & 1 or Tag.DNGVersion in tags
            if tags and (path.suffix.lower() in _RAW or preview):
                raise ValueError("a camera's raw file; only its preview could be read; develop it first")
            odd = tags.get(Tag.PhotometricInterpretation) == 0 or tags.get(Tag.PlanarConfiguration) == 2
            if odd and tags.get(Tag.BitsPerSample, (8,))[0] == 16:
                raise ValueError("a TIFF of 16 bits whose white is 0, or whose colours are apart")
            file.load()  # which already turns a TIFF upright, and forgets that it was not
            with suppress(Exception):  # whatever a damaged block of EXIF raises
                file.getexif()  # which is kept
            file.info.pop("exif", None)  # Pillow would write all tags anew, and fail at a bad one
            picture = ImageOps.exif_transpose(file)
            if picture.mode in ("F", "I"):
                raise ValueError("its pixels are numbers of 32 bits, or signed")
            profile = picture.info.get("icc_profile")
            alpha = None
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray(np.uint8(np.rint(np.asarray(picture, np.float32) / 257)))
            elif picture.has_transparency_data:
                alpha = picture.convert("RGBA").getchannel("A")
            if picture.mode not in ("L", "RGB", "CMYK"):
                picture = picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")
            if profile:
                srgb = ImageCms.createProfile("sRGB")
                with suppress(ImageCms.PyCMSError):  # damaged, or for other channels: the numbers are taken as sRGB
                    picture = ImageCms.profileToProfile(picture, io.BytesIO(profile), srgb, outputMode="RGB")
            over = Image.new("RGB", picture.size, background)
            over.paste(picture.convert("RGB"), mask=alpha)
            return over
    except Exception as error:  # what Pillow raises on damaged files depends on the format
        wanted = f"Expected a picture ({', '.join(_FORMATS)}), got {str(path)!r} ({error}). "
        todo = "Save it from another program as PNG; for HEIC, `pip install pillow-heif` and restart."
        raise ValueError(wanted + todo) from error


def load_mask(path: str | Path, content_image: Any) -> np.ndarray:
    """Reads a mask, white where it counts, in a picture's size; raises as `load_image`, or if it is no mask."""
    height, width = check_image(content_image, "content_image").shape[1:3]
    mask = _read(_located(path, "masks"), "black")
    name = repr(Path(path).name)
    chroma = np.ptp(mask, axis=2).max()  # of which JPEG makes a little
    _expect(chroma <= 64, "a mask in white, grey and black", f"colours in {name}")
    mask = mask.convert("L")
    _check_proportions(mask.height, mask.width, height, width, f"the mask {name}")
    lightest = mask.getextrema()[1]
    got = f"nothing above {lightest} in {name}"
    todo = "If it holds class numbers, save a mask for each class, white where it is."
    _expect(lightest >= 64, "a mask in which white (255) counts and black (0) does not", got, todo)
    mask = mask.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(mask, np.float32)[np.newaxis, :, :, np.newaxis] / 255


def resized(image: Any, size: float | Sequence[int]) -> tf.Tensor:
    """A copy of an image, by a factor or to a (height, width), in [0, 1]; by Lanczos, which averages."""
    if np.ndim(size) == 0:
        size = [max(1, round(size * side)) for side in image.shape[1:3]]
    if tuple(size) == tuple(image.shape[1:3]):
        return tf.convert_to_tensor(image, tf.float32)
    return tf.clip_by_value(tf.image.resize(image, size, "lanczos3", antialias=True), 0, 1)


def save_image(image: Any, path: str | Path, recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes an image to a file, a PNG with a recipe; ValueError for another ending, OSError if it fails."""
    picture = _as_picture(image)
    ending = Path(path).suffix.lower()
    endings = [".png"] if recipe else [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"]
    _expect(ending in endings, f"a file name ending in {', '.join(endings)}", repr(Path(path).name))
    text = PngImagePlugin.PngInfo()
    if recipe:
        text.add_itxt("nst-recipe", json.dumps(recipe, indent=1))
    kind = Image.registered_extensions()[ending]
    return _write(path, lambda file: picture.save(file, kind, quality=95, pnginfo=text))  # each takes its own


def save_result(image: Any, recipe: Mapping[str, Any], folder: str | Path = "outputs") -> Path:
    """Saves a picture with its recipe as `castle-church.png`, or `castle-church-2.png` if that is another."""
    names = [recipe["call"]["content"]]
    names += [style["image"] if isinstance(style, Mapping) else style for style in recipe["call"]["style"]]
    stem = "-".join(Path(name).stem for name in names)[:50]  # which in any script are less than 255 bytes
    for number in itertools.count(1):
        name = f"{stem}-{number}.png" if number > 1 else f"{stem}.png"
        path = _expanded(folder) / name
        if not path.exists():
            break
        with suppress(Exception), Image.open(path) as earlier:  # which may be anything
            if read_recipe(path) == recipe and np.array_equal(earlier, _as_picture(image)):
                break
    return save_image(image, path, recipe)


def _write(path: str | Path, write: Callable[[Any], Any]) -> Path:
    """Writes a file aside and renames it, so that it is whole or not there; OSError in one sentence."""
    path = _expanded(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = io.BytesIO()  # Pillow would not notice where a disk is full
        write(whole)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            aside = Path(folder) / path.name
            aside.write_bytes(whole.getbuffer())
            return aside.replace(path)
    except OSError as error:
        todo = "Free some space, close the program that shows it, or choose another folder or a shorter name."
        raise OSError(f"{str(path)!r} could not be written ({error.strerror or error}). {todo}") from error


def _as_picture(image: Any) -> Image.Image:
    """An image as Pillow's, checked; it may lack the batch axis."""
    image = np.asarray(image)
    image = check_image(image[np.newaxis] if image.ndim == 3 else image)
    return Image.fromarray(np.uint8(np.rint(image[0] * 255)))


def _encoded(image: Any) -> bytes:
    """A picture as JPEG, 512 pixels wide; narrower, if it would be more than four times as high."""
    picture = _as_picture(image)
    times = min(512 / picture.width, 2048 / picture.height)
    size = [max(1, round(times * side)) for side in picture.size]
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


# --- Figures ---------------------------------------------------------------------------------
_LOSSES = ("content", "style", "tv", "total")


def show_images(pictures: Mapping | Sequence, caption: str, columns: int = 0, height: float = 3.2) -> None:
    """Shows pictures in a row, or in so many `columns`, each row of a `height` in inches, as one JPEG.

    RGB, or `(height, width)` in shades; a dict's keys are titles, the caption the alternative text, too.
    """
    _expect(len(pictures) > 0, "one picture or more to show", "none")
    titled = pictures.items() if isinstance(pictures, Mapping) else [("", each) for each in pictures]
    titles, pictures = zip(*titled)
    arrays = [np.asarray(each if np.ndim(each) == 2 else _as_picture(each)) for each in pictures]
    columns = min(columns or len(arrays), len(arrays))
    rows = math.ceil(len(arrays) / columns)
    aspects = [array.shape[1] / array.shape[0] for array in arrays]
    widest = [max(aspects[column::columns]) for column in range(columns)]
    widths = np.clip(widest, 0.75, 6)  # room for a title over a narrow picture
    height = min(height, 14 / sum(widths))
    figure = Figure(figsize=(height * sum(widths), (height + 0.3) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=widths)
    font = {"fontsize": 11, "parse_math": False}
    for axis in axes.flat:
        axis.axis("off")
    for axis, width, title, array in zip(axes.flat, itertools.cycle(widths), titles, arrays):
        axis.imshow(array, cmap="magma")
        lines = [textwrap.fill(line, max(8, int(11 * height * width))) for line in title.splitlines()]
        axis.set_title("\n".join(lines), **font)
    figure.supxlabel(caption, wrap=True, style="italic", **font)
    display(_drawn(figure, "jpeg", caption, pil_kwargs={"quality": 76}))


def plot_history(history: Mapping, show: Callable | None = None) -> None:
    """Plots the losses of a history, the three without their weights, by `show` if given; ValueError if empty."""
    plot_curves({name: history[name] for name in _LOSSES}, "The losses", history["size"], show)


def plot_curves(curves: Mapping, title: str, sizes: Sequence = (), show: Callable | None = None) -> None:
    """Plots losses by their labels, and where the size changes; ValueError if there are none."""
    steps = {label: len(values) for label, values in curves.items()}
    _expect(min(steps.values(), default=0) > 0, "curves of one step or more", steps)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # for the colour-blind, too (Okabe and Ito)
    axis.set_prop_cycle(color=colours, linestyle=("--", "-.", ":", "-"))
    for label, values in curves.items():
        axis.plot(values, linewidth=2, label=label)
    axis.set(xlabel="step", ylabel="loss", yscale="log", title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)  # where it hides no curve
    if len(sizes):  # a history, in which a loss may begin or end at 0
        lowest = min(values[-1] for values in curves.values())
        axis.set_ylim(bottom=max(lowest / 3, 1e-9))
    across = axis.get_xaxis_transform()
    for step, size in enumerate(sizes):
        if step == 0 or size != sizes[step - 1]:
            axis.axvline(step, color="grey", linewidth=0.8)
            axis.text(step + 0.3, 0.03, f"{size:g} pixels", transform=across, rotation=90, clip_on=True)
    (show or display)(_drawn(figure, "png", f"{title}, against the steps: {', '.join(curves)}"))


def _drawn(figure: Figure, kind: str, alt: str, **options: Any) -> DisplayedImage:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=100, **options)
    return DisplayedImage(buffer.getvalue(), format=kind, alt=alt)


# --- Networks --------------------------------------------------------------------------------
VGG16_WEIGHTS = HERE / "weights" / "vgg16_imagenet_fp16.weights.h5"
MODELS = {name.lower(): getattr(keras.applications, name) for name in ("VGG16", "VGG19", "ResNet50")}


def describe_device() -> str:
    """Names the device that TensorFlow computes on: the first GPU, or the CPU with its cores."""
    if _GPUS:
        return tf.config.experimental.get_device_details(_GPUS[0]).get("device_name", "a GPU")
    return f"CPU, {os.cpu_count()} cores (no GPU found)"


def choose_precision(wanted: str = "auto") -> str:
    """Returns the number format wanted; for "auto" bfloat16, if convolutions are faster in it, or float32."""
    check_name(wanted, ("auto", "float32", "bfloat16"), "precision")
    if wanted != "auto":
        return wanted
    faster = _convolution_seconds("bfloat16") < 0.9 * _convolution_seconds("float32")
    return "bfloat16" if faster else "float32"


@functools.cache  # so that running a cell again gives the same answer
def _convolution_seconds(precision: str) -> float:
    """Times a convolution of the middle of VGG; infinity where that fails."""
    try:
        x = tf.ones((1, 64, 64, 128), precision)
        w = tf.ones((3, 3, 128, 128), precision)
        return min(timeit.repeat(lambda: float(tf.nn.conv2d(x, w, 1, "SAME")[0, 0, 0, 0]), number=1, repeat=8))
    except tf.errors.OpError as error:  # a device without this operation, or a broken one
        print(f"A convolution in {precision} failed on {describe_device()}: {error.message[:200]}")
        print("To compute on the CPU, restart with the environment variable CUDA_VISIBLE_DEVICES=-1.")
        return math.inf


class FeatureExtractor:
    """A trained network, frozen, that turns an image into feature maps, with average in place of max pooling.

    `style_layers` are layers with their weights; None: what suits the network. `weights` is "imagenet"
    (if they cannot be loaded, VGG16 stands in, and says so), a path, or None: random, always the same.
    """

    def __init__(
        self, model: str = "vgg19", *, content_layer: str | None = None, style_layers: Any = None,
        weights: str | Path | None = "imagenet", precision: str = "float32",
    ):  # fmt: skip
        check_name(model, MODELS, "model")
        self.asked = (model, precision)
        self.weights = weights
        self.precision = choose_precision(precision)
        backbone, self.model = _load_backbone(model, weights)  # what is really used, if VGG16 stands in
        self.smooth = self.model == "resnet50"  # a map F becomes asinh F: if large, its logarithm
        content, styles = ("conv3_block4_out", _RESNET) if self.smooth else ("block4_conv2", _VGG)
        self.content_layer = content_layer or content
        self.style_layers = styles.copy() if style_layers is None else style_layers
        check_weights(self.style_layers, "style_layers")
        self.layers = list(dict.fromkeys([*self.style_layers, self.content_layer]))  # those that are returned
        self.compiled: dict[str, Any] = {}  # the notebook's compiled functions, which go with the network

        def copied(layer):
            """The same layer in the precision asked for; of a max pooling an average pooling."""
            pooling = isinstance(layer, keras.layers.MaxPooling2D)
            kind = keras.layers.AveragePooling2D if pooling else type(layer)
            return kind.from_config({**layer.get_config(), "dtype": self.precision})

        whole = keras.models.clone_model(backbone, clone_function=copied)
        whole.set_weights(backbone.get_weights())
        outputs = {name: whole.get_layer(name).output for name in self.layers}  # Keras refuses unknown names
        self.network = keras.Model(whole.input, outputs)
        self.network.trainable = False
        layers = self.network.layers
        everything = keras.Model(self.network.input, [layer.output for layer in layers])
        shapes = everything.compute_output_shape((1, 512, 512, 3))
        self.bytes_per_pixel = tf.as_dtype(self.precision).size * sum(map(math.prod, shapes)) / 512**2
        self.strides = {layer.name: round(512 / shape[1]) for layer, shape in zip(layers, shapes)}  # in pixels
        self.stride = max(4, *self.strides.values())  # 4 is that of hypercolumns
        beyond = 0  # how many pixels around a position the deepest map looks at; VGG16: 34 (section 18)
        for layer in layers:
            side = getattr(layer, "kernel_size", getattr(layer, "pool_size", (1,)))[0]
            if side > 1:
                stride_before = self.strides[layer.name] // layer.strides[0]
                beyond += (side - 1) // 2 * stride_before
        self.halo = math.ceil(beyond / self.stride) * self.stride  # in pixels; VGG16: 40

    def __call__(self, image: Any) -> dict[str, tf.Tensor]:
        """Returns an image's feature maps by layer, `(1, height, width, channels)`, or raises ValueError."""
        image = tf.cast(tf.convert_to_tensor(image), tf.float32)  # cast alone returns a tf.Variable as it is
        if not tf.is_symbolic_tensor(image):  # a compiled function does not know the pixels yet
            check_image(image)
            _expect(min(image.shape[1:3]) >= self.stride, f"sides of at least {self.stride}", image.shape)
        features = self.network(keras.applications.vgg16.preprocess_input(image * 255.0))  # all three's
        if self.smooth:
            features = {layer: tf.asinh(tf.cast(F, tf.float32)) for layer, F in features.items()}
        return features

    def __repr__(self) -> str:
        weights = "random" if self.weights is None else Path(self.weights).name
        kind = f"{self.precision}, smoothed activations" if self.smooth else self.precision
        last = self.network.layers[-1].name
        return f"{self.model.upper()}, {weights} weights, {kind}, cut off after {last}"


def _load_backbone(model: str, weights: str | Path | None) -> tuple[keras.Model, str]:
    """Returns the network without its dense layers, and the name of what it really is."""
    if weights is None:
        keras.utils.set_random_seed(0)
        return MODELS[model](include_top=False, weights=None), model
    if weights == "imagenet" and model != "vgg16":
        limit = socket.getdefaulttimeout()
        socket.setdefaulttimeout(20)  # seconds; Keras sets none, and a dead line would hang
        try:
            return MODELS[model](include_top=False, weights="imagenet"), model
        except Exception as error:  # Keras raises a bare Exception where a download fails, with the address
            folder = f"{os.environ.get('KERAS_HOME', '~/.keras')}/models"
            print(f"{model.upper()}'s ImageNet weights could not be loaded, so VGG16 stands in. {error!r}.")
            print(f"Go online and run this again, or put the file into {folder}.")
        finally:
            socket.setdefaulttimeout(limit)
        model = "vgg16"
    path = VGG16_WEIGHTS if weights == "imagenet" else _expanded(weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # all that Keras does on a partial match
            return MODELS[model](include_top=False, weights=str(path)), model
    except Exception as error:
        wanted = f"a weights file of {model} without its dense layers (include_top=False), as Keras saves it"
        todo = "Correct the path; if the file is damaged, git checkout weights restores VGG16's."
        raise ValueError(f"Expected {wanted}; {str(path)!r} is missing or does not fit. {todo}") from error


# --- Styles, regions, colours ----------------------------------------------------------------
class Style(NamedTuple):
    """A style: an image, how strongly it counts, where, and how large its strokes are."""

    image: Any  # RGB in [0, 1], shape `(1, height, width, 3)`; or the path or name of a picture's file
    weight: float = 1.0  # how much it counts beside the other styles; only the proportions matter
    mask: Any = None  # where it counts: in [0, 1], of the picture's size; or a mask's file. None: everywhere
    scale: float = 1.0  # what its height and width are multiplied by: 2 makes the strokes larger, 0.5 smaller
    image_mask: Any = None  # which part of the painting counts: as `mask`, of the image's size. None: all


def as_styles(style: Any, content_image: Any, from_files: bool = False) -> list[Style]:
    """Makes styles of an image, a name (`from_files`: only names), a `Style`, a dict like it, or a list; ValueError."""
    given = style if type(style) in (list, tuple) else [style]  # a Style is a tuple, too
    _expect(len(given) > 0, "one style or more", "an empty list")
    size = max(content_image.shape[1:3])
    found = []
    for number, each in enumerate(given, 1):
        name = f"style {number}"
        if not isinstance(each, Style):
            each = each if isinstance(each, Mapping) else {"image": each}
            valid = {"image"} <= set(each) <= set(Style._fields)
            _expect(valid, f"{name} as a file's name, or a dict of {', '.join(Style._fields)}", each)
            each = Style(**each)
        image, weight, mask, scale, image_mask = each
        check_above_0(scale, f"the scale of {name}")
        if from_files or isinstance(image, (str, os.PathLike)):
            image = load_image(image, round(size * min(8, max(1, scale))), "style")
            scale *= size / max(image.shape[1:3])  # what reading the file has not done yet
        image = check_image(image, name)
        times = scale * max(image.shape[1:3]) / size
        _expect(times < 8.001, f"the scale of {name} to make it 8 times the picture at most", f"{times:.3g}")
        mask = _checked_mask(mask, content_image, f"the mask of {name}")
        image_mask = _checked_mask(image_mask, image, f"the image_mask of {name}")
        found.append(Style(image, weight, mask, scale, image_mask))
    check_weights({f"style {n}": each.weight for n, each in enumerate(found, 1)}, "the styles' weights")
    return [each for each in found if each.weight > 0]


def _checked_mask(mask: Any, image: Any, name: str) -> np.ndarray | None:
    """Returns the mask of an image, from a file or an array, as `load_mask` does; of None, None."""
    if mask is None:
        return None
    mask = load_mask(mask, image) if isinstance(mask, (str, os.PathLike)) else np.asarray(mask)
    size = tuple(image.shape[1:3])
    valid = mask.shape in (size, (1, *size, 1)) and mask.dtype.kind in "biuf"
    wanted = f"{name} as numbers of shape (height, width) or (1, height, width, 1), here {size}"
    _expect(valid, wanted, f"{mask.dtype} of shape {mask.shape}", "load_mask(path, image) returns that.")
    valid = mask.min() >= 0 and 0 < mask.max() <= 1
    wanted = f"{name} in the range 0 (does not count) to 1 (counts), and not only 0 (black)"
    _expect(valid, wanted, f"{mask.min():g} to {mask.max():g}", "Divide a mask of 0 to 255 by 255.")
    return mask.astype(np.float32).reshape(1, *size, 1)


class Region(NamedTuple):
    """A part of the picture, and the styles that it is painted in."""

    share: float  # of the style loss: its area times its styles' weights, over their mean
    mask: np.ndarray | None  # where it is, `(1, height, width, 1)`; None: everywhere
    styles: list[Style]  # those that are blended in it, their weights adding up to 1


def regions(styles: Sequence[Style]) -> list[Region]:
    """Groups styles into regions, those of the same mask into one (Gatys and others, arXiv 1611.07865)."""
    groups: dict[Any, list[Style]] = {}
    for style in styles:
        groups.setdefault(None if style.mask is None else style.mask.tobytes(), []).append(style)
    areas = [1.0 if group[0].mask is None else float(group[0].mask.mean()) for group in groups.values()]
    weights = [sum(style.weight for style in group) for group in groups.values()]
    mean = float(np.average(weights, weights=areas))
    found = []
    for area, weight, group in zip(areas, weights, groups.values()):
        blended = [style._replace(weight=style.weight / weight) for style in group]
        found.append(Region(area * weight / mean, group[0].mask, blended))
    return found


def match_colours(image: Any, target: Any, mask: Any = None, image_mask: Any = None) -> np.ndarray:
    """Gives an image the mean and covariance of another's colours, where the masks count (arXiv 1606.05897)."""

    def statistics(pixels, weights=None):
        pixels = np.reshape(pixels, (-1, 3)).astype(np.float64)  # float32 cannot add up a million pixels
        weights = None if weights is None else np.ravel(weights)
        covariance = np.cov(pixels.T, aweights=weights, ddof=0) + 1e-6 * np.eye(3)  # one colour: invertible
        values, vectors = np.linalg.eigh(covariance)
        return np.average(pixels, axis=0, weights=weights), vectors * np.sqrt(values) @ vectors.T

    mean, root = statistics(image, image_mask)
    wanted_mean, wanted_root = statistics(target, mask)
    left, spread, right = np.linalg.svd(wanted_root @ np.linalg.inv(root))
    spread = np.minimum(spread, 4)  # more would be for the noise in an image that is nearly grey
    matched = (image - mean) @ (left * spread @ right).T + wanted_mean
    return np.float32(np.clip(matched, 0, 1))


def grey(image: Any) -> np.ndarray:
    """The luminance of an image (0.299 red + 0.587 green + 0.114 blue), in all three channels."""
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image)).numpy()


class Palette(NamedTuple):
    """What is painted, so that the colours come out as wanted."""

    content: np.ndarray
    start: np.ndarray
    styles: list[Style]
    finish: Callable[[Any], np.ndarray]  # what to do with what was painted


def prepared(content_image: Any, start: Any, style: Any, settings: Settings, quiet: bool = False) -> Palette:
    """Checks what is to be painted (ValueError), and prepares its colours; grey paintings paint in grey."""
    photograph = check_image(content_image, "content_image")
    content = grey(photograph) if settings.colours == "luminance" else photograph
    start = photograph if start is None else check_image(start, "start")
    _check_proportions(*start.shape[1:3], *content.shape[1:3], "start")
    styles = as_styles(style, photograph)
    covered = sum(1 if region.mask is None else region.mask for region in regions(styles))
    where = None
    if np.min(covered) < 0.99:
        where = tf.nn.avg_pool2d(np.minimum(covered, 1), 9, 1, "SAME").numpy()  # with edges softened by 4 pixels
        if not quiet:
            print(f"{np.mean(where < 0.005):.0%} of the picture is in no style's mask and stays as it is.")
    if settings.colours == "luminance":
        start = grey(start)
        styles = [s._replace(image=grey(s.image)) for s in styles]
    if settings.colours != "painting":
        styles = [s._replace(image=match_colours(s.image, content, s.mask, s.image_mask)) for s in styles]
    all_grey = all(np.ptp(s.image, axis=3).mean() < 1 / 255 for s in styles)

    def finish(image):
        plain = resized(photograph, image.shape[1:3])
        if settings.colours == "luminance":  # that of the image, with the photograph's chroma
            image = tf.clip_by_value(plain + grey(image) - grey(plain), 0, 1)
        elif all_grey:
            image = grey(image)
        if where is not None:
            share = tf.image.resize(where, image.shape[1:3], "area")
            image = tf.clip_by_value(plain + share * (image - plain), 0, 1)
        return np.asarray(image)

    return Palette(content, resized(start, content.shape[1:3]).numpy(), styles, finish)


# --- Frames and tiles ------------------------------------------------------------------------
def memory_of(extractor: FeatureExtractor, palette: Palette, tile: int | None = None) -> float:
    """Estimates a run's bytes, from some measured: a step at full size, or a look at the largest painting."""
    paintings = [style.scale**2 * math.prod(style.image.shape[1:3]) for style in palette.styles]
    pixels = max(math.prod(palette.content.shape[1:3]), *paintings)
    seen = min(pixels, (tile + 2 * extractor.halo) ** 2) if tile else pixels
    maps = 1.5 * extractor.bytes_per_pixel  # forward and back
    columns = 1400  # hypercolumns and their gradient
    pictures = 500 if tile else 300  # the optimiser's; in tiles also the search's hypercolumns
    return (maps + columns) * seen + pictures * pixels


def tile_for(tile_size: int | str | None, extractor: FeatureExtractor, palette: Palette) -> int | None:
    """Returns the size of the tiles to paint in (None: no tiles); "auto" is 768 where memory is short."""
    if tile_size != "auto":
        return tile_size
    free = 6e9 if _GPUS else psutil.virtual_memory().available  # TensorFlow does not tell how much a GPU has
    return 768 if memory_of(extractor, palette) > 0.7 * free else None


def framed(image: Any, stride: int) -> tf.Tensor:
    """A picture or mask with mirrored margins of at least 8 pixels, each side a multiple of `stride`."""
    pads = [(0, 0)]
    for side in image.shape[1:3]:
        more = math.ceil((side + 16) / stride) * stride - side
        pads.append((more // 2, more - more // 2))
    return tf.constant(np.pad(image, [*pads, (0, 0)], "symmetric"))


def unframed(image: Any, plain: Any) -> tf.Tensor:
    """A framed picture without its margins, of the height and width of the plain one."""
    return tf.image.resize_with_crop_or_pad(image, *plain.shape[1:3])


class Tile(NamedTuple):
    """A part of a framed picture, as slices of rows and columns: what it sees, and what is its own."""

    seen: Sequence[slice]
    kept: Sequence[slice]

    def of(self, whole: Any, stride: int = 1) -> Any:
        """What the tile sees of a picture, or of a map with a position for each `stride` pixels."""
        rows, columns = (slice(part.start // stride, part.stop // stride) for part in self.seen)
        return whole[:, rows, columns]

    def own(self, stride: int) -> np.ndarray:
        """1 at each position that is the tile's own, 0 where another tile counts; `(1, height, width, 1)`."""
        inside = []
        for seen, kept in zip(self.seen, self.kept):
            starts = np.arange(seen.start, seen.stop, stride)
            inside.append((starts >= kept.start) & (starts < kept.stop))
        return np.outer(*inside)[np.newaxis, :, :, np.newaxis].astype(np.float32)


class Views:
    """A picture, framed, in tiles of some `tile_size` pixels with a halo around; yields each with its maps."""

    def __init__(self, image: Any, extractor: FeatureExtractor, tile_size: int | None = None):
        self.size = image.shape[1:3]
        self.image = framed(image, extractor.stride)
        self.extractor = extractor
        self._kept: dict[str, tf.Tensor] = {}
        lengths = self.image.shape[1:3]
        size = math.ceil((tile_size or max(lengths)) / extractor.stride) * extractor.stride
        sides = []
        for side in lengths:
            kept = [slice(start, min(start + size, side)) for start in range(0, side, size)]
            seen = [slice(max(0, k.start - extractor.halo), min(k.stop + extractor.halo, side)) for k in kept]
            sides.append(zip(seen, kept))
        self.tiles = [Tile(*zip(rows, columns)) for rows, columns in itertools.product(*sides)]

    def __iter__(self) -> Iterator[tuple[Tile, dict[str, tf.Tensor]]]:
        for tile in self.tiles:
            features = self._kept or self.extractor(tile.of(self.image))
            if len(self.tiles) == 1:  # those of several would fill the memory
                self._kept = features
            yield tile, features

    def covered(self, mask: np.ndarray | None, stride: int) -> np.ndarray:
        """A mask's mean at each position of a map, `(1, height, width, 1)`; None stands for one all white."""
        shape = [side // stride for side in self.image.shape[1:3]]
        if mask is None:
            return np.ones((1, *shape, 1), np.float32)
        mask = tf.image.resize(mask, self.size, "area")  # that of the picture, whose margins are to fit it
        return tf.image.resize(framed(mask, self.extractor.stride), shape, "area").numpy()

    def whole(self, function: Callable, stride: int) -> np.ndarray:
        """A map of the whole picture, a position every `stride` pixels, from a function of feature maps."""
        height, width = (side // stride for side in self.image.shape[1:3])
        found = None
        for tile, features in self:
            seen = function(features).numpy()
            if found is None:
                found = np.empty((1, height, width, seen.shape[-1]), seen.dtype)  # parts of it are no copies
            own = tile.own(stride)[..., 0] > 0
            tile.of(found, stride)[own] = seen[own]
        return found

    def guide(self, tile: Tile, mask: np.ndarray | None, stride: int) -> tf.Tensor:
        """How much each position of a map counts in a tile, 1 in sum over all tiles."""
        means = self.covered(mask, stride)
        number = float(means.sum())
        got = f"{number:.2g} of {means.shape[1]} x {means.shape[2]} positions of {stride} pixels"
        todo = "Enlarge the white region, begin larger (coarsest), or leave out the deepest of style_layers."
        _expect(number >= 1, "a mask to cover a position of each layer", got, todo)
        return tf.constant(tile.own(stride) * tile.of(means, stride) / number)


def evaluate_in_tiles(measure: Any, losses_of: Any, goal: Any, tiles: Sequence[Tile], parts: Any) -> Callable:
    """Returns the function from an image to its losses and their gradient, which sees a tile at a time."""

    def gradient_of_tile(image, goal, part, slopes):
        with tf.GradientTape() as tape:
            tape.watch(image)
            measures = measure(image, goal, part)
        return tape.gradient(measures, image, output_gradients=slopes)

    def call(function, *arguments):
        return compiled(function, goal.extractor, *arguments, names=measure.__globals__)(*arguments)

    def evaluate(image):
        added = [call(measure, tile.of(image), goal, part) for tile, part in zip(tiles, parts)]
        measures = tf.nest.map_structure(lambda *each: tf.add_n(each), *added)
        with tf.GradientTape() as tape:
            tape.watch([image, measures])
            losses = losses_of(image, measures, goal)
        gradient, slopes = tape.gradient(losses["total"], [image, measures], unconnected_gradients="zero")
        gradient = gradient.numpy()  # so far that of the total variation; each tile adds its own
        for tile, part in zip(tiles, parts):
            seen = tile.of(gradient)  # a view: what is added to it is added to the whole
            seen += call(gradient_of_tile, tile.of(image), goal, part, slopes).numpy()
        return losses, tf.constant(gradient)

    return evaluate


def compiled(function: Callable, extractor: FeatureExtractor, *arguments: Any, names: Any = None) -> Callable:
    """Returns a function compiled for such arguments, anew if a function beside it or in `names` changed."""

    def spec(value):
        """A tensor's shape, of any height, width or number of rows: for one size roundings would differ."""
        if not tf.is_tensor(value):
            return value
        any_length = {4: (1, 2), 3: (1, 2), 2: (0,)}  # by rank: height and width, or rows
        free = any_length.get(value.shape.rank, ())
        return tf.TensorSpec([None if n in free else side for n, side in enumerate(value.shape)], value.dtype)

    names = names or function.__globals__
    beside = [each for each in names.values() if callable(each) and not isinstance(each, FeatureExtractor)]
    before, found = extractor.compiled.get(function.__name__, (None, None))
    if before != beside:
        found = tf.function(function, autograph=False)
        extractor.compiled[function.__name__] = beside, found
    found.get_concrete_function(*tf.nest.map_structure(spec, arguments))
    return found


# --- A run, while it goes on -----------------------------------------------------------------
def is_live() -> bool:
    """Says whether somebody watches a notebook (JupyterLab, VS Code, Colab): not in scripts or nbconvert."""
    shell = get_ipython()
    if not hasattr(shell, "kernel"):
        return False
    sent = shell.get_parent().get("metadata", {})  # JupyterLab sends a cellId, papermill does not
    return "cellId" in sent or "__vsc_ipynb_file__" in shell.user_ns or "google.colab" in sys.modules


def duration(seconds: float) -> str:
    """Writes a time as people do: 4.2 s, or 0:03:10."""
    return f"{seconds:.1f} s" if seconds < 59.5 else str(datetime.timedelta(seconds=round(seconds)))


class Checkpoint:
    """A file (npz) with a run's picture and history, to go on from; ValueError if not `made_of` these; OSError."""

    def __init__(self, path: str | Path | None, made_of: Any):
        self.path = None
        self.picture = None
        self.history: dict[str, Any] = {name: [] for name in ("seconds", "size", *_LOSSES)}
        if path is None:
            return
        valid = isinstance(path, (str, os.PathLike)) and not _expanded(path).is_dir()
        _expect(valid, "a checkpoint to be a file's name, such as 'outputs/run.npz'", repr(path))
        self.path = _expanded(path).absolute()
        probe = _write(self.path.with_name(".nst-empty"), lambda file: None)  # OSError now, not after the work
        probe.unlink(missing_ok=True)  # another run may have been quicker
        digest = hashlib.sha256()
        for value in tf.nest.flatten(made_of):
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        self._key = digest.hexdigest()
        if not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                self.picture = file["picture"]
            self.history = about["history"]
            if about["key"] != self._key:
                raise ValueError("that is of other pictures, settings or network")
        except Exception as error:  # what is raised depends on where it is damaged
            todo = "Name another file; or, if you do not need it any more, delete it to begin anew."
            raise ValueError(f"Expected this run's checkpoint, got {self.path} ({error}). {todo}") from error

    def write(self, picture: Any, history: Mapping[str, Any]) -> None:
        """Keeps a run as it stands; says so if that fails."""
        about = json.dumps({"key": self._key, "history": history})
        try:
            _write(self.path, lambda file: np.savez(file, picture=np.asarray(picture), about=np.str_(about)))
        except OSError as error:
            print(f"As it stands the run could not be kept: {error}")


class Step(NamedTuple):
    """What those who watch a run are told of a step."""

    step: int  # its number, over all sizes; each begins with the picture that it starts from
    size: tuple[int, int]  # width and height of the picture, in pixels
    history: Mapping[str, Any]  # the losses, as `stylize` returns them; it grows on
    done: float  # the share of the work that is done, 0 to 1, each step counted by its pixels
    image: np.ndarray  # the picture: RGB in [0, 1], shape `(1, height, width, 3)`

    def __str__(self) -> str:
        left = duration(self.history["seconds"][self.step - 1] * (1 - self.done) / self.done)
        losses = ", ".join(f"{name} {self.history[name][self.step - 1]:.4g}" for name in _LOSSES)
        return f"{self.size[0]} x {self.size[1]}, step {self.step}, about {left} left; {losses}"


class Run:
    """A run's book: its history, its clock, those who watch it, and whether it goes on.

    In its context an interrupt is only noted: raised at once, it might damage TensorFlow's own book-keeping.
    `plan` has each size's scale and steps; `callback` is told of each `Step`, and stops the run with False.
    """

    def __init__(
        self, plan: Sequence[tuple[float, int]], palette: Palette, settings: Settings,
        extractor: FeatureExtractor, callback: Callable | None, quiet: bool, checkpoint: str | Path | None,
    ):  # fmt: skip
        _expect(callback is None or callable(callback), "callback to be a function of a step", repr(callback))
        self._plan = plan
        self._palette = palette
        self._extractor = extractor
        self._tile = settings.tile_size
        self._quiet = quiet
        self._say = (lambda text: None) if quiet else print
        self._noted: list[bool] = []  # interrupts
        self._observers = [] if callback is None else [callback]
        if is_live() and not quiet:
            self._observers.append(LiveView())
        self.stopped = False
        # Not tiles and precision, which "auto" may choose otherwise next time.
        made_of = [palette[:3], settings.replace(tile_size=None), extractor.model, str(extractor.weights)]
        self._checkpoint = Checkpoint(checkpoint, made_of)
        before = self._checkpoint.history
        done = len(before["total"])
        self._ends = list(itertools.accumulate(steps + 1 for _, steps in plan))  # the last step of each size
        work = list(itertools.accumulate((scale**2 for scale, steps in plan for _ in range(steps + 1)), initial=0))
        self._done = [pixels / work[-1] for pixels in work]  # the share of the work, after so many steps
        finished = [end for end in self._ends if end <= done]  # the size that it broke off in begins anew
        self._finished = len(finished)
        self.history = {name: values[: max(finished, default=0)] for name, values in before.items()}
        self._best = None  # of the current size: its total, and the picture
        self._written = time.perf_counter()  # to the checkpoint
        self._began = self._written - max(before["seconds"], default=0.0)
        if done:
            self._say(f"Resumed from {self._checkpoint.path.name!r}, after {done} of {self._ends[-1]} steps.")

    def __enter__(self) -> "Run":
        main = threading.current_thread() is threading.main_thread()  # which gets the interrupts
        self._before = signal.signal(signal.SIGINT, lambda *_: self._noted.append(True)) if main else None
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind is not None:
            return
        if self._noted and self._quiet and not self._observers:
            raise KeyboardInterrupt  # it is meant for the loop around the run
        took = f"{duration(time.perf_counter() - self._began)} and {len(self.history['total'])} steps"
        stopped = f"Stopped after {took}: here is the best picture so far."
        self._say(stopped if self.stopped else f"Took {took}.")
        if self._checkpoint.path and not self.stopped:
            with suppress(OSError):  # a file that is left does no harm
                self._checkpoint.path.unlink()

    def expect(self, trial: Callable[[float], Callable]) -> None:
        """Says what time and memory the run will take; `trial(scale)` returns the function to minimise."""
        if self._quiet:
            return
        longest = max(self._palette.content.shape)
        tried = max((scale for scale, _ in self._plan if scale * longest < 400), default=self._plan[0][0])
        image = framed(resized(self._palette.content, tried), self._extractor.stride)
        evaluate = trial(tried)
        evaluate(image)  # compiles, which is no part of the estimate
        built = timeit.timeit(lambda: trial(tried), number=1)
        each = timeit.timeit(lambda: evaluate(image)[1].numpy(), number=1)
        seconds = 0.0
        for scale, steps in self._plan:
            times = (scale / tried) ** 2
            if self._tile and scale * longest > self._tile:
                times *= 4 / 3 * (1 + 2 * self._extractor.halo / self._tile) ** 2  # forward twice; the halo
            seconds += times * ((steps + 1) * each + built)
        took = duration(seconds * (1 - self._done[len(self.history["total"])]))
        memory = psutil.Process().memory_info().rss + memory_of(self._extractor, self._palette, self._tile)
        print(f"Expected: {took} and {memory / 1e9:.1f} GB of memory on {describe_device()}.")
        self._began += time.perf_counter() - self._written  # the trial does not count

    def resume(self, image: Any, number: int) -> tuple[Any, int]:
        """Returns what the n-th size starts from, and its steps: 0 if a checkpoint is beyond it."""
        kept = self._checkpoint.picture
        if kept is not None and kept.shape == tuple(image.shape):
            image = tf.constant(kept)  # all steps from here: L-BFGS needs some to find its way again
        return image, 0 if self.stopped or number < self._finished else self._plan[number][1]

    def record(self, losses: Mapping[str, Any], image: Any) -> bool:
        """Writes a picture's losses into the history, shows it, and returns whether the run goes on."""
        values = {name: float(losses[name]) for name in _LOSSES}
        total = values["total"]
        step = len(self.history["total"]) + 1
        if not math.isfinite(total):
            todo = "Lower the weights, or set PRECISION to float32; or has your own loss an infinite slope?"
            _expect(step > 1, "a finite total loss", f"{total:g} at step 1", todo)
            print(f"Total loss {total:g} at step {step}: the run stops with the best picture before. {todo}")
            self.stopped = True
            return False
        height, width = image.shape[1:3]
        values |= {"size": max(width, height), "seconds": time.perf_counter() - self._began}
        for name, value in values.items():
            self.history[name].append(value)
        if self._observers:
            now = Step(step, (width, height), self.history, self._done[step], self._palette.finish(image))
            answers = [observer(now) for observer in self._observers]
            # False of Python, NumPy or TensorFlow stops the run; None lets it go on.
            self.stopped = any(np.array_equal(answer, False) for answer in answers)
        self.stopped |= bool(self._noted)
        if step - 1 in [0, *self._ends] or not self._best or total < self._best[0]:  # a size's first, or better
            self._best = (total, image)
        due = time.perf_counter() > self._written + CHECKPOINT_SECONDS
        if self._checkpoint.path and (self.stopped or due):
            self._checkpoint.write(self._best[1], self.history)
            self._written = time.perf_counter()
        if step in self._ends:
            self._say(f"{width} x {height}: " + ", ".join(f"{name} {values[name]:.4g}" for name in _LOSSES))
        return not self.stopped


class LiveView:
    """An observer that shows bar, picture and curves, refreshed in place; the last step of all in any case."""

    def __init__(self):
        self._next = 0.0
        self._handles = [display(HTML(""), display_id=True) for _ in range(3)]

    def __call__(self, now: Step) -> None:
        start = time.perf_counter()
        if now.done < 1 and (now.step == 1 or start < self._next):
            return
        bar, picture, curves = self._handles
        bar.update(HTML(f"<progress value='{now.done}'></progress> {now}"))
        picture.update(DisplayedImage(_encoded(now.image), alt=str(now)))
        plot_history(now.history, curves.update)
        end = time.perf_counter()
        self._next = end + max(0.5, 30 * (end - start))  # so that it takes a thirtieth of the time


# --- Recipes: how a picture was made; and animations -----------------------------------------
def make_recipe(files: Mapping, settings: Settings, extractor: FeatureExtractor, history: Mapping) -> dict:
    """Says in plain values how a picture was made: `paint(**recipe["call"])`, with its network, redoes it."""
    network = ("model", "content_layer", "style_layers", "weights", "precision")
    styles = files["style"] if type(files["style"]) in (list, tuple) else [files["style"]]
    styles = [each._asdict() if isinstance(each, Style) else each for each in styles]
    recipe = {
        "call": {**files, "style": styles, **dataclasses.asdict(settings)},
        "network": {name: getattr(extractor, name) for name in network},
        "steps": len(history["total"]),
        "software": {"python": sys.version.split()[0]} | {m.__name__: m.__version__ for m in (tf, keras, np)},
    }
    return json.loads(json.dumps(recipe, default=lambda x: x.item() if isinstance(x, np.generic) else str(x)))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Reads how a picture was made from a PNG; FileNotFoundError without it, ValueError without a recipe."""
    path = _located(path, "")
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return json.loads(file.text["nst-recipe"])
    except Exception as error:  # of a stranger's file: too many pixels, too deep a nesting, ...
        todo = "Take the file as it was saved: programs that edit or send pictures often drop the recipe."
        raise ValueError(f"Expected a PNG with a recipe, got {str(path)!r}. {todo}") from error


def show_animation(frames: Sequence[Any], path: str | Path, caption: str) -> None:
    """Writes frames as a .webp of six seconds, two of them the last, and shows it; ValueError, OSError."""
    valid = len(frames) > 0 and Path(path).suffix.lower() == ".webp"
    _expect(valid, "frames and a file name ending in .webp", f"{len(frames)} frames and {str(path)!r}")
    pictures = [_as_picture(frame) for frame in frames]
    pictures[-1].thumbnail((288, 288))
    first, *others = [picture.resize(pictures[-1].size, Image.Resampling.BICUBIC) for picture in pictures]
    each = max(20, 4000 // max(1, len(others)))  # milliseconds; browsers slow down shorter ones
    options = {"append_images": others, "duration": [each] * len(others) + [2000], "loop": 0, "quality": 60}
    path = _write(path, lambda file: first.save(file, "WEBP", save_all=True, **options))
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption)
    picture = f'<img src="data:image/webp;base64,{data}" alt="{text}">'
    display(HTML(f'<figure style="margin: 0">{picture}<figcaption><i>{text}</i></figcaption></figure>'))


# --- The panel -------------------------------------------------------------------------------
_panel = threading.Event()  # halts the run of the one that was shown last


def show_panel(paint: Callable, settings: Settings, extractor: FeatureExtractor) -> None:
    """Shows a panel that calls `paint`, with these settings at first; where nobody watches, prints a call."""
    global _panel
    if not is_live():
        panel = "In JupyterLab, Notebook 7 and VS Code, this cell shows a panel to paint with. Without it:"
        print(panel, 'image, history, recipe = paint("mont_saint_michel.jpg", "great_wave.jpg", size=256)')
        return
    import ipywidgets as widgets  # takes a while, and is needed here only

    _panel.set()  # no run goes on behind a panel that is no longer there
    _panel = halt = threading.Event()
    knobs = {}
    for kind in ("content", "style"):
        knobs[kind] = widgets.Dropdown(options=[path.name for path in find_images(IMAGES / kind)])
    knobs["size"] = widgets.Dropdown(options=[96, 128, 256, 384, 512, 768, 1024, 2048], value=256)
    for name, weight in settings.weights.items():
        knobs[f"{name}_weight"] = widgets.BoundedFloatText(weight, min=0, max=1e6, step=0.1)
    for name, knob in knobs.items():
        knob.description = name.replace("_", " ")
        knob.style.description_width = "110px"
        knob.layout.width = "420px"
    run = widgets.Button(description="Run", icon="play")
    stop = widgets.Button(description="Stop", icon="stop")
    save = widgets.Button(description="Save", icon="save", disabled=True)
    picture = widgets.Image(format="jpeg", width=512, value=_encoded(np.ones((1, 2, 3, 3))))  # white at first
    says = widgets.HTML("Choose, and press Run.", layout={"width": "512px"})
    made = ()

    def work():  # in a thread, so that the buttons answer meanwhile
        nonlocal made
        how = dataclasses.asdict(settings) | {name: knob.value for name, knob in knobs.items()}
        try:
            image, history, recipe = paint(**how, extractor=extractor, callback=watch, quiet=True)
            made = (image, recipe)
            picture.value = _encoded(image)
            steps = f"{len(history['total'])} steps and {duration(history['seconds'][-1])}"
            says.value = f"Stopped after {steps}." if halt.is_set() else f"Done after {steps}."
            save.disabled = False
        except Exception as error:  # would be lost in a thread
            says.value = html.escape(f"{type(error).__name__}: {error}")
        run.disabled = False

    def watch(now):
        picture.value = _encoded(now.image)
        says.value = str(now)
        return not halt.is_set()

    def on_run(_):
        if run.disabled:  # the second click of two
            return
        run.disabled = True
        halt.clear()
        says.value = "Preparing ..."
        threading.Thread(target=work, daemon=True).start()

    def on_save(_):
        try:
            says.value = f"Saved: {html.escape(save_result(*made).as_posix())}"
        except Exception as error:
            says.value = html.escape(f"Not saved: {error}")

    run.on_click(on_run)
    stop.on_click(lambda _: halt.set())
    save.on_click(on_save)
    left = widgets.VBox([*knobs.values(), widgets.HBox([run, stop, save])])
    right = widgets.VBox([picture, says], layout={"min_width": "540px"})
    display(widgets.HBox([left, right]).add_class("nst-panel"))

"""Small helpers for `neural_style_transfer.ipynb`.

The method itself (the losses and the descent) is in the notebook. This module holds what a
reader would skim: importing TensorFlow quietly, reading and writing pictures, masks and recipes,
checking what was passed in, cutting a network down to a feature extractor, choosing its precision
and the sizes to paint at, multiplying a matrix by itself with a lean gradient, showing a run while
it goes on, drawing figures, and a panel of widgets.

Everywhere, an image is float32 RGB in [0, 1], of shape `(1, height, width, 3)`, and a mask float32
in [0, 1], of shape `(1, height, width, 1)`. Only the feature extractor knows what its network wants
instead (VGG: BGR, 0 to 255, ImageNet's mean subtracted).
"""

import base64
import functools
import html
import inspect
import io
import itertools
import json
import math
import os
import platform
import signal
import socket
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import psutil
from IPython import get_ipython
from IPython.display import HTML, display
from IPython.display import Image as DisplayedImage
from matplotlib.figure import Figure
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from tqdm import tqdm


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
IMAGES = HERE / "images"  # its folders are searched for pictures given by name only
VGG16_WEIGHTS = HERE / "weights" / "vgg16_imagenet_fp16.weights.h5"


class Network(NamedTuple):
    """What has to be known of a network of `keras.applications`.

    Attributes:
        build: Its builder in Keras.
        preprocess: Its own preprocessing, of RGB from 0 to 255.
        content_layer: The layer whose feature map stands for content.
        style_layers: The layers whose Gram matrices stand for style, each with its weight.
        smooth: Whether its feature maps need smoothing (`smooth_activations`).
    """

    build: Callable[..., keras.Model]
    preprocess: Callable[[Any], Any]
    content_layer: str
    style_layers: Mapping[str, float]
    smooth: bool = False


_VGG_LAYERS = (
    "block4_conv2",
    {
        "block1_conv1": 256.0,
        "block2_conv1": 64.0,
        "block3_conv1": 16.0,
        "block4_conv1": 4.0,
        "block5_conv1": 1.0,
    },
)
# Each network by the name that `MODEL` takes. VGG: the first convolution of each block. Residual
# networks: the last activation at each resolution, which has seen all of the blocks there; weights
# fall as with VGG. Content: the resolution of VGG's content layer, an eighth of the picture's.
MODELS = {
    "vgg16": Network(keras.applications.VGG16, keras.applications.vgg16.preprocess_input, *_VGG_LAYERS),
    "vgg19": Network(keras.applications.VGG19, keras.applications.vgg19.preprocess_input, *_VGG_LAYERS),
    "resnet50": Network(
        keras.applications.ResNet50,
        keras.applications.resnet50.preprocess_input,
        "conv3_block4_out",
        {
            "conv1_relu": 256.0,
            "conv2_block3_out": 64.0,
            "conv3_block4_out": 16.0,
            "conv4_block6_out": 4.0,
            "conv5_block3_out": 1.0,
        },
        smooth=True,
    ),
    "mobilenetv2": Network(
        keras.applications.MobileNetV2,
        keras.applications.mobilenet_v2.preprocess_input,
        "block_6_expand_relu",
        {
            "block_1_expand_relu": 256.0,
            "block_3_expand_relu": 64.0,
            "block_6_expand_relu": 16.0,
            "block_13_expand_relu": 4.0,
            "out_relu": 1.0,
        },
        smooth=True,
    ),
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
_RECIPE = "nst-recipe"  # the name of the text in a PNG
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


def load_image(path: str | Path, max_size: int = 512, kind: str | None = None) -> np.ndarray:
    """Reads a picture in any format and colour mode that Pillow reads.

    The camera's orientation (EXIF) is applied, an embedded colour profile converted to sRGB, and
    transparency laid over white. Of an animation the first frame is taken. Whole and floating-point
    numbers of more than 8 bits are taken as 0 to 1, 0 to 255 or 0 to 65535, whichever holds them.

    Args:
        path: The file. One that is not there under a bare name, such as `"great_wave.jpg"`, is
            looked for in the folders in `images/`.
        max_size: Longest side of the result at most, in pixels. The aspect ratio is kept; a
            smaller picture is not enlarged.
        kind: The folder in `images/` in which a bare name is looked for first: `"content"`,
            `"style"` or `"masks"`.

    Returns:
        float32 RGB in [0, 1], shape `(1, height, width, 3)`.

    Raises:
        FileNotFoundError: If there is no such file; the message lists the pictures there are.
        PermissionError: If the file may not be read.
        ValueError: If the file is no picture, is damaged or has too many pixels for Pillow, if `path`
            is no name, or if `max_size` is not a positive integer.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            f"Expected the path or the name of a picture's file, got {type(path).__name__}. "
            "Pictures that are arrays already go to stylize as they are."
        )
    path = _located(path, kind)
    if isinstance(max_size, bool) or not isinstance(max_size, (int, np.integer)) or max_size < 1:
        raise ValueError(f"max_size must be a positive whole number of pixels, got {max_size!r}.")
    if path.is_dir():
        raise ValueError(f"Expected a picture, got the folder {str(path)!r}. Name a file in it.")
    if not path.exists():
        bare = path.parent == Path() and IMAGES.is_dir()
        folders = [each for each in sorted(IMAGES.iterdir()) if each.is_dir()] if bare else [path.parent]
        there = "; ".join(_contents(folder) for folder in folders)
        raise FileNotFoundError(
            f"There is no picture {str(path)!r}. {there}. Put yours there, or correct the name. "
            f"(Paths count from {str(Path.cwd())!r}.)"
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


def _located(path: str | Path, kind: str | None) -> Path:
    """Returns a picture's path; for a bare name that is not here, that of one in a folder of `IMAGES`."""
    path = Path(path).expanduser()
    if path != Path(path.name) or not path.name or path.exists() or not IMAGES.is_dir():
        return path
    folders = sorted(IMAGES.iterdir(), key=lambda folder: (folder.name != kind, folder.name))
    found = (folder / path.name for folder in folders if (folder / path.name).is_file())
    return next(found, path)


def _contents(folder: Path) -> str:
    """Says which pictures a folder holds."""
    if not folder.is_dir():
        return f"The folder {str(folder)!r} does not exist"
    names = ", ".join(each.name for each in find_images(folder))
    return f"The folder {str(folder)!r} holds: {names or 'none'}"


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


def save_image(image: Any, path: str | Path, recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes an image to a file; the ending of its name chooses the format.

    Args:
        image: RGB in [0, 1], shape `(1, height, width, 3)` or `(height, width, 3)`.
        path: The file, its name ending in .png (exact), .jpg, .webp, .tif or .bmp. Its folder is
            made if need be; a file of that name is replaced.
        recipe: How the picture was made, as `make_recipe` returns it; kept as text in the file.
            Only for PNG.

    Returns:
        The path.

    Raises:
        ValueError: If the image has another shape or range, the ending is another, or there is a
            recipe and the ending is not .png.
    """
    path = Path(path).expanduser()
    image = np.asarray(image)
    pixels = check_image(image[np.newaxis] if image.ndim == 3 else image, "the image to save")
    if path.suffix.lower() not in _SAVED_AS:
        raise ValueError(f"Expected a file name ending in one of {', '.join(_SAVED_AS)}, got {path.name!r}.")
    options: dict[str, Any] = {} if path.suffix.lower() in (".png", ".bmp") else {"quality": 95}
    if recipe is not None:
        if path.suffix.lower() != ".png":
            raise ValueError(
                f"Expected a file name ending in .png, to keep the recipe in, got {path.name!r}."
            )
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt(_RECIPE, json.dumps(recipe, indent=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(np.rint(pixels[0] * 255))).save(path, **options)
    return path


def load_mask(path: str | Path, content_image: Any) -> np.ndarray:
    """Reads a mask for a picture from a file: white counts, black does not, grey counts in part.

    Args:
        path: The file, in any format that Pillow reads; colours are turned into grey.
        content_image: The picture that it is for, shape `(1, height, width, 3)`. The mask may be of
            another size, but must have the same proportions.

    Returns:
        float32 in [0, 1], shape `(1, height, width, 1)`, with the picture's height and width.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no picture, or its proportions differ from the picture's.
    """
    height, width = content_image.shape[1:3]
    mask = load_image(path, max(height, width), "masks")
    rows, columns = mask.shape[1:3]
    if abs(rows * width - columns * height) > rows + columns + height + width:  # beyond rounding
        raise ValueError(
            f"Expected a mask in the proportions of the picture, {width} x {height} pixels (width x "
            f"height), got {Path(path).name!r} with {columns} x {rows}. Save it at the photograph's own size."
        )
    grey = tf.image.resize(mask, (height, width), antialias=True).numpy().mean(axis=3, keepdims=True)
    return np.clip(grey, 0, 1)


class Style(NamedTuple):
    """A style: an image, how strongly it counts, where, and how large its strokes are.

    Attributes:
        image: RGB in [0, 1], shape `(1, height, width, 3)`.
        weight: What its part of the style loss is multiplied by. Those of styles that are blended
            should add up to 1.
        mask: In [0, 1], shape `(1, height, width, 1)` or `(height, width)`, of the content's height
            and width: where in the picture it counts. None: everywhere.
        scale: What the image's height and width are multiplied by before it is looked at: 2 makes
            the strokes larger, 0.5 smaller.
    """

    image: Any
    weight: float = 1.0
    mask: Any = None
    scale: float = 1.0


def as_styles(style: Any) -> list[Style]:
    """Turns what may be passed as a style into a list of styles, and checks it.

    Args:
        style: An image; a `Style`; or a list of either. Images in a list without a weight are
            blended in equal parts.

    Returns:
        The styles with a weight above 0, their images and masks as float32 arrays.

    Raises:
        ValueError: If there is none, an image or a mask is of the wrong shape or range, a mask is
            all black, the weights are negative, not finite or all 0, or a scale is not above 0, or above 8.
    """
    many = isinstance(style, (list, tuple)) and not isinstance(style, Style)
    given = list(style) if many else [style]
    bare = sum(not isinstance(each, Style) for each in given)
    styles = [each if isinstance(each, Style) else Style(each, 1 / bare) for each in given]
    names = [f"style {n}" if many else "style_image" for n in range(1, len(styles) + 1)]
    check_weights({name: each.weight for name, each in zip(names, styles)}, "the styles' weights")
    for name, each in zip(names, styles):
        _check_scale(each.scale, f"the scale of {name}")
    return [
        each._replace(image=check_image(each.image, name), mask=_as_mask(each.mask, f"the mask of {name}"))
        for name, each in zip(names, styles)
        if each.weight > 0
    ]


def load_styles(style: Any, content_image: Any, size: int) -> list[Style]:
    """Reads styles from files.

    Args:
        style: The path or the name of an image; or a dict with that as `image` and, if need be,
            `weight`, `mask` (the path or name of a mask's file) and `scale`, see `Style`; or a list
            of either. Those without weight and mask are blended in equal parts; a mask without a
            weight counts fully.
        content_image: The picture that masks are for, shape `(1, height, width, 3)`.
        size: Longest side of an image at most, in pixels, before its scale is applied. (For a scale
            above 1, more pixels of the file are read, if it has them.)

    Returns:
        The styles.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is no picture, a mask's proportions are not the picture's, or a dict
            has no `image` or another key than these.
    """
    many = isinstance(style, (list, tuple)) and not isinstance(style, Style)
    given = list(style) if many else [style]
    given = [dict(each) if isinstance(each, Mapping) else {"image": each} for each in given]
    bare = sum(not {"weight", "mask"} & set(each) for each in given)
    styles = []
    for each in given:
        if "image" not in each or not set(each) <= set(Style._fields):
            raise ValueError(
                f"Expected a style as a file's name, or as a dict with 'image' and any of "
                f"{', '.join(Style._fields[1:])}, got {each}."
            )
        mask, scale = each.get("mask"), each.get("scale", 1.0)
        _check_scale(scale, "the scale of a style")
        image = load_image(each["image"], round(size * max(1, scale)), "style")
        longest = max(image.shape[1:3])
        styles.append(
            Style(
                image,
                each.get("weight", 1.0 if mask is not None else 1 / max(bare, 1)),
                None if mask is None else load_mask(mask, content_image),
                scale * min(size, longest) / longest,  # of the size that it would have had at scale 1
            )
        )
    return styles


def _as_mask(mask: Any, name: str) -> np.ndarray | None:
    """Returns a mask as float32 in the shape (1, height, width, 1); raises ValueError if it is none."""
    if mask is None:
        return None
    array = np.asarray(mask)
    if array.ndim == 2:
        array = array[np.newaxis, :, :, np.newaxis]
    if array.ndim != 4 or array.shape[0] != 1 or array.shape[3] != 1 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected {name} as numbers of shape (height, width) or (1, height, width, 1), got "
            f"{array.dtype} of shape {np.shape(mask)}. load_mask(path, content_image) returns that."
        )
    array = array.astype(np.float32)
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"Expected {name} in the range 0 (does not count) to 1 (counts), got {array.min():g} to "
            f"{array.max():g}. Divide a mask of 0 to 255 by 255."
        )
    if array.max() == 0:
        raise ValueError(
            f"Expected {name} to count somewhere, got only 0 (black). Is it the wrong way round?"
        )
    return array


# ---------------------------------------------------------------------------------------------
# Recipes: how a picture was made


def make_recipe(
    files: Mapping[str, Any],
    stylize: Callable[..., Any],
    settings: Mapping[str, Any],
    extractor: "FeatureExtractor",
    history: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Writes down how a picture was made.

    Args:
        files: What was read from files: `content`, `style`, `size` and, if need be, `start`.
        stylize: The notebook's function; its defaults are those settings that were not given.
        settings: The settings that it was given by name.
        extractor: The network that was used.
        history: The losses, as the function returned them.

    Returns:
        A dict of plain values, which `save_image` keeps in a PNG: `call`, the files and settings;
        `network`, what to build the extractor from again; `losses`, the last ones; `steps`, as many
        as were done; `seconds`; and `software`, the versions. Painting it again gives the same
        picture, unless the run was interrupted or the network's weights were random.
    """
    defaults = {name: each.default for name, each in inspect.signature(stylize).parameters.items()}
    kept = {**{name: v for name, v in defaults.items() if isinstance(v, (str, int, float))}, **settings}
    for name in ("start", "extractor", "callback", "quiet"):  # files, the network, and what is only shown
        kept.pop(name, None)
    recipe = {
        "call": {**kept, **files},
        "network": {
            "model": extractor.model,
            "content_layer": extractor.content_layer,
            "style_layers": extractor.style_layers,
            "pooling": extractor.pooling,
            "weights": None if extractor.weights is None else str(extractor.weights),
            "precision": extractor.precision,
            "smooth": extractor.smooth,
        },
        "losses": {name: history[name][-1] for name in ("total", "content", "style", "tv")},
        "steps": len(history["total"]),
        "seconds": round(history["seconds"][-1], 1),
        "software": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }
    return json.loads(json.dumps(recipe, default=_plain))  # a copy, as it will be read again


def _plain(value: Any) -> Any:
    """What JSON does not know, as what it does: numbers and arrays of NumPy and TensorFlow; else as text."""
    return np.asarray(value).tolist() if hasattr(value, "dtype") else str(value)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Reads how a picture was made from the picture itself.

    Args:
        path: A PNG that `save_image` wrote with a recipe.

    Returns:
        The recipe, as `make_recipe` returned it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no PNG or carries no recipe.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} (looked for from {str(Path.cwd())!r}).")
    try:
        with Image.open(path) as file:
            file.load()  # texts may follow the pixels
            return json.loads(file.text[_RECIPE])
    except (OSError, AttributeError, KeyError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"Expected a PNG with a recipe in it, as save_image(image, path, recipe) writes it, got "
            f"{str(path)!r}, which has none. Programs that edit or send pictures often drop it."
        ) from error


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
    _check_above_0(learning_rate, "learning_rate", "0.01 to 0.1 are usual.")


def _check_scale(scale: Any, name: str) -> None:
    """Raises ValueError unless a style's scale is above 0 and no more than 8."""
    _check_above_0(scale, name, "0.5 to 2 are usual.")
    if scale > 8:
        raise ValueError(f"Expected {name} to be 8 at most, got {scale!r}: memory grows with its square.")


def _check_above_0(number: Any, name: str, usual: str) -> None:
    """Raises ValueError unless a number is finite and above 0."""
    try:
        good = math.isfinite(number) and number > 0
    except (TypeError, OverflowError):
        good = False
    if not good:
        raise ValueError(f"Expected {name} to be a finite number above 0, got {number!r}. {usual}")


def check_finite(loss: float, step: int) -> None:
    """Checks that a descent has not gone astray.

    Args:
        loss: The total loss, or the sum of the picture's values.
        step: The step that it was computed at.

    Raises:
        ValueError: If the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise ValueError(
            f"The total loss is {loss} at step {step} (or the picture after it): expected a finite number. A loss weight may be "
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
        content_layer: Name of the layer that stands for content.
        style_layers: From the name of each layer that stands for style to its weight.
        layers: Names of all of these layers: those whose feature maps are returned.
        smooth: Whether the feature maps are smoothed, see `smooth_activations`.
        network: The Keras model.
        smallest_side: The least height and width of an image, in pixels: as many as go into one
            position of the deepest feature map.
    """

    def __init__(
        self,
        network: keras.Model,
        content_layer: str,
        style_layers: Mapping[str, float],
        model: str,
        pooling: str,
        weights: str | Path | None,
        precision: str,
        smooth: bool,
    ):
        self.network = network
        self.content_layer = content_layer
        self.style_layers = dict(style_layers)
        self.layers = list(dict.fromkeys([*style_layers, content_layer]))
        self.smooth = smooth
        self.model = model
        self.pooling = pooling
        self.weights = weights
        self.precision = precision
        shapes = network.compute_output_shape((1, 512, 512, 3))
        self.smallest_side = 512 // min(shape[1] for shape in shapes.values())

    def __call__(self, image: Any) -> dict[str, tf.Tensor]:
        """Computes feature maps.

        Args:
            image: RGB in [0, 1], shape `(1, height, width, 3)`.

        Returns:
            From layer name to feature map (after ReLU), shape `(1, height, width, channels)`, of the
            type `precision`; smoothed ones in float32.

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
        features = self.network(MODELS[self.model].preprocess(image * 255.0))
        return {name: smooth_activations(F) if self.smooth else F for name, F in features.items()}

    def __repr__(self) -> str:
        weights = {"imagenet": "ImageNet weights", None: "random weights"}.get(
            self.weights, f"weights from {Path(str(self.weights)).name}"
        )
        return (
            f"{self.model.upper()}, {weights}, {self.pooling} pooling, {self.precision}, "
            f"{'smoothed activations, ' if self.smooth else ''}cut off after {self.network.layers[-1].name}"
        )


def smooth_activations(features: tf.Tensor) -> tf.Tensor:
    """Smooths a feature map with a softmax over all of its positions and channels.

    Wang, Li & Vasconcelos, "Rethinking and Improving the Robustness of Image Style Transfer", CVPR
    2021, arXiv 2104.05623: in residual networks a few large values outweigh all others, and the
    Gram matrix knows little else. A softmax keeps the order of the values and evens them out.

    A softmax does so only while the values are of the order of 1; beyond that it does the opposite,
    for exp(20) is 500 million. So larger values are divided first by a temperature T that brings
    the largest down to 3. (The paper has T = 1 throughout. With a larger T, all values come so near
    to 1 that losses relative to the target hardly feel the differences.)

    Args:
        features: The feature map F, shape `(1, height, width, channels)`.

    Returns:
        `exp(F / T) / mean(exp(F / T))` with `T = max(1, max(F) / 3)`, float32, of the same shape.
        (The paper has the sum for the mean; with the mean, the values do not depend on the size of
        the picture.)
    """
    features = tf.cast(features, tf.float32)
    temperature = tf.maximum(1.0, tf.reduce_max(features) / 3)
    weights = tf.exp(features / temperature)
    return weights / tf.reduce_mean(weights)


def build_feature_extractor(
    model: str = "vgg19",
    *,
    content_layer: str | None = None,
    style_layers: Mapping[str, float] | None = None,
    pooling: str = "avg",
    weights: str | Path | None = "imagenet",
    precision: str = "float32",
    smooth: bool | None = None,
) -> FeatureExtractor:
    """Builds the function that turns an image into feature maps.

    VGG16 and VGG19: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", arXiv 1409.1556. Average in place of max pooling: Gatys, Ecker & Bethge, "A
    Neural Algorithm of Artistic Style", arXiv 1508.06576, section Methods. ResNet50: He and others,
    arXiv 1512.03385. MobileNetV2: Sandler and others, arXiv 1801.04381.

    Args:
        model: A key of `MODELS`.
        content_layer: Name of the layer that stands for content; by default the one in `MODELS`.
        style_layers: From the names of the layers that stand for style to their weights; by default
            those in `MODELS`.
        pooling: `"avg"` replaces each max pooling by an average pooling; `"max"` keeps it.
        weights: `"imagenet"`; or the path of a weights file for the network without its dense
            layers (`include_top=False`); or None for random weights. VGG16's ImageNet weights
            are in this repository; the others' are downloaded by Keras, once, or found in its
            cache. Where they cannot be had, one sentence says so and VGG16 takes their place.
        precision: One of `PRECISIONS`, such as `choose_precision()` returns.
        smooth: Whether to smooth the feature maps, see `smooth_activations`; by default, where
            `MODELS` says that the network needs it.

    Returns:
        The extractor. It is called with an image (RGB in [0, 1], shape `(1, height, width, 3)`;
        the network's own preprocessing is inside) and returns a dict from layer name to feature
        map. Its `model` says which network it is.

    Raises:
        FileNotFoundError: If the weights file is missing.
        ValueError: If a name is unknown, a layer's weight is no finite number of at least 0 or all
            are 0, or the file does not fit the network.
    """
    check_name(model, MODELS, "model")
    check_name(pooling, POOLINGS, "pooling")
    check_name(precision, PRECISIONS, "precision")
    if style_layers is not None:
        check_weights(style_layers, "style_layers")
    asked = [*(style_layers or ()), *([] if content_layer is None else [content_layer])]
    _check_layers(asked, model)  # before a download of many megabytes
    backbone, used = _load_backbone(model, weights)
    _check_layers(asked, used)
    content_layer = MODELS[used].content_layer if content_layer is None else content_layer
    style_layers = style_layers or MODELS[used].style_layers
    pooled = keras.models.clone_model(
        backbone, clone_function=lambda layer: _copied(layer, pooling, precision)
    )
    pooled.set_weights(backbone.get_weights())
    outputs = {name: pooled.get_layer(name).output for name in (*style_layers, content_layer)}
    network = keras.Model(pooled.input, outputs)
    network.trainable = False
    smooth = MODELS[used].smooth if smooth is None else smooth
    return FeatureExtractor(network, content_layer, style_layers, used, pooling, weights, precision, smooth)


@functools.cache
def _layer_names(model: str) -> list[str]:
    """Returns the names of a model's layers, without the input and the dense ones."""
    return [layer.name for layer in MODELS[model].build(include_top=False, weights=None).layers[1:]]


def _check_layers(layers: list[str], model: str) -> None:
    """Raises ValueError unless the model has all of the layers."""
    unknown = [name for name in layers if name not in _layer_names(model)]
    if unknown:
        valid = ", ".join(_layer_names(model))
        raise ValueError(f"Unknown layer {unknown[0]!r}. Valid layers of {model}: {valid}.")


def _load_backbone(model: str, weights: str | Path | None) -> tuple[keras.Model, str]:
    """Returns the network without its dense layers, and the name of what it really is."""
    build = MODELS[model].build
    if weights is None:
        return build(include_top=False, weights=None), model
    if weights == "imagenet" and model != "vgg16":
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # Keras sets none: a dead line would hang
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # MobileNetV2's of the size it was trained at
                return build(include_top=False, weights="imagenet"), model
        except Exception as error:  # Keras raises a bare Exception where a download fails
            folder = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "models"
            print(
                f"{model.upper()}'s ImageNet weights could not be loaded ({error}), so VGG16 from "
                f"weights/ stands in; to get {model.upper()}, connect to the internet and run this "
                f"again, or put the file that this address names into {folder}."
            )
            model, build = "vgg16", MODELS["vgg16"].build
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
        kept = ("name", "pool_size", "strides", "padding")
        kind, config = POOLINGS[pooling], {key: config[key] for key in kept}
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


def check_masks(styles: Sequence[Style], content_image: Any) -> None:
    """Checks that masks belong to a picture, and says how much of it no style reaches.

    Args:
        styles: The styles, as `as_styles` returns them.
        content_image: The picture, shape `(1, height, width, 3)`.

    Raises:
        ValueError: If a mask's height and width are not the picture's.
    """
    size = tuple(content_image.shape[1:3])
    for number, mask in enumerate((style.mask for style in styles), 1):
        if mask is not None and mask.shape[1:3] != size:
            raise ValueError(
                f"Expected the mask of style {number} in the picture's size, {size} (height, width), got "
                f"{mask.shape[1:3]}. load_mask(path, content_image) brings a file's mask to that size."
            )
    reach = np.max([np.ones((1, *size, 1)) if s.mask is None else s.mask for s in styles], axis=0)
    if (bare := np.mean(reach < 0.05)) > 0.005:
        print(
            f"{bare:.0%} of the picture is in no style's mask: it stays near the photograph. If that is "
            "not meant, add a style there (such as one with the mask 1 - mask)."
        )


def check_covered(mask: Any, layer: str) -> None:
    """Checks that a mask leaves something of a feature map.

    Args:
        mask: The mask at the feature map's size, in [0, 1], shape `(1, height, width, 1)`.
        layer: The layer's name.

    Raises:
        ValueError: If it covers less than one of the map's positions in all.
    """
    covered, (height, width) = float(tf.reduce_sum(mask)), mask.shape[1:3]
    if covered < 1:
        raise ValueError(
            f"A mask is empty at the layer {layer}: of its {height} x {width} positions it covers "
            f"{covered:.2g}, and at least 1 is needed. Make the white region larger, begin at a larger "
            "size (coarsest), or leave that layer out of style_layers."
        )


def scales(content_image: Any, styles: Sequence[Style], coarsest: int, smallest_side: int) -> list[float]:
    """Lists the sizes to paint at, from coarse to fine, as fractions of the full size.

    Each is twice the one before, and the last is 1. The first is the one whose longest side comes
    nearest to `coarsest` pixels, in powers of two; or a larger one, where in that the shortest side
    of any image would be less than twice what the network needs.

    Args:
        content_image: The content at full size, shape `(1, height, width, 3)`.
        styles: The styles, their images at full size.
        coarsest: Longest side in pixels of the content at the first size. From the longest side of
            the content on, there is only the full size.
        smallest_side: The least side that the network takes, as `FeatureExtractor.smallest_side`.

    Returns:
        Rising powers of two, such as `[0.25, 0.5, 1.0]`.
    """
    longest = max(content_image.shape[1:3])
    shortest = min(
        *content_image.shape[1:3], *(style.scale * min(style.image.shape[1:3]) for style in styles)
    )
    halvings = min(math.log2(longest / coarsest), math.floor(math.log2(shortest / (2 * smallest_side))))
    return [2.0**-k for k in range(max(0, round(halvings)), -1, -1)]


# ---------------------------------------------------------------------------------------------
# A run, while it goes on


def is_live() -> bool:
    """Says whether somebody is watching.

    Returns:
        True in a notebook that is open in JupyterLab, Notebook, VS Code or Colab. False in a script,
        and where a tool executes the notebook (nbconvert, papermill, nbval): there, pictures that
        change in place and widgets would make a mess of the output.
    """
    shell = get_ipython()
    return hasattr(shell, "kernel") and (
        "JPY_SESSION_NAME" in os.environ  # which a Jupyter server gives to the kernels of its notebooks
        or "__vsc_ipynb_file__" in shell.user_ns
        or "google.colab" in sys.modules
    )


def each(items: Iterable[Any], label: str = "") -> Iterator[Any]:
    """Passes on items one by one, with a progress bar while somebody is watching.

    Args:
        items: What to go through.
        label: What stands before the bar.

    Yields:
        The items.
    """
    yield from tqdm(list(items), label, file=sys.stdout, disable=not is_live())


@contextmanager
def _peak_memory():
    """Watches the memory while the block runs; yields a function that returns the most, in bytes."""
    process, over = psutil.Process(), threading.Event()
    most = [process.memory_info().rss]

    def watch():
        while not over.wait(0.005):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    if _GPUS:
        tf.config.experimental.reset_memory_stats("GPU:0")
    try:
        yield lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"] if _GPUS else most[0]
    finally:
        over.set()
        watcher.join()


@contextmanager
def _interrupts_held():
    """Only takes note of an interrupt while the block runs; yields a function that says if one came.

    Raised at once, it could hit TensorFlow in the middle of its own book-keeping, which then stays
    wrong. Whoever insists, with a third one, gets it at once.
    """
    came: list[int] = []

    def note(number, _):
        came.append(number)
        if len(came) > 2:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # interrupts go to the main thread
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


def _pixels(image: Any) -> int:
    return image.shape[1] * image.shape[2]


class Progress:
    """What there is to see of a run: what to expect, a bar, the picture and the curves.

    Somebody who is watching (`is_live`) sees a progress bar, the picture and the losses, refreshed
    in place; refreshing takes less than a twentieth of the time. Else there is one line for each size.

    A callback is called with this object after each step.

    Attributes:
        step: How many steps have been done, over all sizes.
        image: The picture now: RGB in [0, 1], shape `(1, height, width, 3)`.
        history: The losses so far, as `stylize` returns them.
        done: The share of the work that is done, 0 to 1, each step counted by its pixels.
        stopped: Whether the run was interrupted.
        expected: What `expect` measured: `seconds` and `gigabytes`; empty for a quiet run.
    """

    def __init__(
        self,
        callback: Callable[["Progress"], None] | None = None,
        quiet: bool = False,
        weights: Mapping[str, float] = {"content": 1.0, "style": 1.0, "tv": 1.0},
        finish: Callable[[Any], Any] = lambda image: image,
    ):
        """Prepares to show a run.

        Args:
            callback: Called with this object after each step. If it raises `KeyboardInterrupt`, the
                run stops as if the kernel had been interrupted.
            quiet: Shows nothing.
            weights: From `content`, `style` and `tv` to the loss weights, for the curves.
            finish: What to do with a picture before it is shown.
        """
        self.callback, self.quiet, self.weights, self._finish = callback, quiet, weights, finish
        self.step, self.history, self.done, self.stopped = 0, {}, 0.0, False
        self._live = is_live() and not quiet
        self._image = self._bar = self._picture = self._curves = None
        self.expected: dict[str, float] = {}
        self._work, self._began = 0, None
        self._next = {"picture": 0.0, "curves": 0.0}

    @property
    def image(self) -> Any:
        return self._finish(self._image)

    def expect(
        self,
        levels: Sequence[tuple[Any, Callable[..., Any]]],
        optimizer: Callable[..., Iterator[Any]],
        steps: int,
        learning_rate: float,
    ) -> None:
        """Says how long a run will take and how much memory it needs, from two timed steps at each size.

        Args:
            levels: For each size, the image to start from and the function to its losses and gradient.
            optimizer: The optimiser, as a generator of steps.
            steps: How many steps each size gets.
            learning_rate: What the optimiser is called with.
        """
        self._work = steps * sum(_pixels(image) for image, _ in levels)
        if self.quiet:
            return
        seconds = 0.0
        with _peak_memory() as peak:
            for image, evaluate in levels:
                trial = optimizer(evaluate, tf.convert_to_tensor(image), 3, learning_rate)
                next(trial)[0].numpy()  # compiles
                start = time.perf_counter()
                for moved, _ in trial:
                    moved.numpy()  # waits for it
                seconds += steps * (time.perf_counter() - start) / 2
            self.expected = {"seconds": seconds, "gigabytes": peak() / 1e9}
        sizes = " and ".join(f"{image.shape[2]} x {image.shape[1]}" for image, _ in levels)
        print(
            f"Expected: {_duration(seconds)} and {self.expected['gigabytes']:.1f} GB of memory "
            f"({steps} steps at {sizes}, on {describe_device()})."
        )

    def steps(self, descent: Iterable[Any], image: Any, steps: int) -> Iterator[Any]:
        """Passes on the steps of a descent at one size, and shows how far it is.

        Args:
            descent: What yields the steps.
            image: The picture that it starts from.
            steps: How many there are.

        Yields:
            The steps.

        Raises:
            KeyboardInterrupt: After a step during which the kernel was interrupted.
        """
        start = time.perf_counter()
        self._work = self._work or steps * _pixels(image)
        if self._began is None:
            self._began, self._image = start, image
            if self._live:
                self._picture, self._curves = (display(HTML(""), display_id=True) for _ in range(2))
                bar = "{desc}{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}"
                self._bar = tqdm(total=self._work, file=sys.stdout, bar_format=bar)
        if self._bar is not None:
            self._bar.set_description(f"{image.shape[2]} x {image.shape[1]}", refresh=False)
        with _interrupts_held() as interrupted:
            for step in descent:
                yield step
                if interrupted():
                    raise KeyboardInterrupt
        if not (self.quiet or self._live):
            losses = ", ".join(f"{name} {self.history[name][-1]:.4g}" for name in _LOSSES)
            print(
                f"{image.shape[2]} x {image.shape[1]}: {steps} steps in "
                f"{_duration(time.perf_counter() - start)}; {losses}"
            )
        if self.done > 1 - 1e-9:
            self._end("Took")

    def update(self, image: Any, history: Mapping[str, Sequence[float]]) -> None:
        """Shows a step.

        Args:
            image: The picture after it.
            history: The losses up to it.
        """
        self._image, self.history, self.step = image, history, len(history["total"])
        self.done += _pixels(image) / self._work
        if self._bar is not None:
            losses = {name: f"{history[name][-1]:.4g}" for name in _LOSSES}
            self._bar.set_postfix(losses, refresh=False)
            self._bar.update(_pixels(image))
            self._refresh()
        if self.callback:
            self.callback(self)

    def stop(self, history: Mapping[str, list[float]]) -> None:
        """Says that the run was interrupted.

        Args:
            history: The losses so far. If the interrupt came while a step was being written into it,
                that step is taken out again.

        Raises:
            KeyboardInterrupt: If there was no step yet, and so nothing to go on with; or if nothing is
                shown and no callback called, so that an interrupt ends the loop that the run is in.
        """
        self.step = min(len(history.get(name, ())) for name in ("seconds", "size", *_LOSSES))
        if self.step == 0 or (self.quiet and self.callback is None):
            raise KeyboardInterrupt
        for values in history.values():
            del values[self.step :]
        self.history, self.stopped = history, True
        with _interrupts_held():  # from those who press twice
            self._end("Stopped after")

    def _end(self, words: str) -> None:
        if self._bar is not None:
            self._refresh(last=True)
            self._bar.close()
        if self.quiet:
            return
        took = f"{words} {_duration(time.perf_counter() - self._began)}"
        expected = f" (expected: {_duration(self.expected['seconds'])})" if self.expected else ""
        if self.stopped:
            print(
                f"{took} and {self.step} steps: here is the picture of the least loss so far, with its "
                "history. The cells below can go on with it."
            )
        else:
            print(f"{took}{expected}.")

    def _refresh(self, last: bool = False) -> None:
        """Refreshes the picture and the curves, each when 60 times what that costs has gone by."""
        for name, handle, draw in (
            ("picture", self._picture, lambda: _encoded(self.image, 512)),
            ("curves", self._curves, lambda: _as_png(_curves(self.history, self.weights), 72)),
        ):
            start = time.perf_counter()
            if (last or start > self._next[name]) and (name == "picture" or self.step > 1):
                handle.update(DisplayedImage(draw()))
                end = time.perf_counter()
                cost = end - start if self._next[name] else 0.05  # the first time is no measure
                self._next[name] = end + max(0.5, 60 * cost)


_LOSSES = ("content", "style", "tv", "total")


def _duration(seconds: float) -> str:
    """Writes a time as people do: 4.2 s, 42 s, 3 min 10 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _encoded(image: Any, width: int | None = None) -> bytes:
    """A picture as JPEG, as wide as asked for."""
    picture = Image.fromarray(np.uint8(np.rint(np.asarray(image)[0] * 255)))
    if width:
        picture = picture.resize((width, max(1, round(width * picture.height / picture.width))))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def save_animation(frames: Sequence[Any], path: str | Path, seconds: float = 4.0) -> Path:
    """Writes pictures to an animated file, which holds the last one for two seconds and starts again.

    Args:
        frames: Each RGB in [0, 1], shape `(1, height, width, 3)`; those of other sizes are brought to
            that of the last.
        path: The file, its name ending in .webp (smaller, 16 million colours) or .gif (256 colours,
            shown everywhere). Its folder is made if need be; a file of that name is replaced.
        seconds: How long the frames before the last one take in all.

    Returns:
        The path.

    Raises:
        ValueError: If there is no frame, the ending is another, or `seconds` is not above 0.
    """
    path = Path(path).expanduser()
    frames = list(frames)
    _check_above_0(seconds, "seconds", "2 to 10 are usual.")
    if len(frames) == 0 or path.suffix.lower() not in (".webp", ".gif"):
        raise ValueError(
            f"Expected one or more frames and a file name ending in .webp or .gif, got {len(frames)} "
            f"frames and {path.name!r}."
        )
    arrays = [check_image(frame, "a frame")[0] for frame in frames]
    pictures = [Image.fromarray(np.uint8(np.rint(array * 255))) for array in arrays]
    pictures = [picture.resize(pictures[-1].size, Image.Resampling.BICUBIC) for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [round(1000 * seconds / len(pictures))] * (len(pictures) - 1) + [2000]
    options = {"quality": 60} if path.suffix.lower() == ".webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=times, loop=0, **options)
    return path


def show_animation(path: str | Path, caption: str) -> None:
    """Shows an animated file in the notebook, and keeps a copy of it there.

    Args:
        path: The file, animated WebP or GIF.
        caption: One sentence on what to see, drawn below and kept as the alternative text.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption)
    display(
        HTML(
            f'<figure style="margin: 0"><img src="data:image/{path.suffix[1:].lower()};base64,{data}" '
            f'alt="{text}"><figcaption><i>{text}</i></figcaption></figure>'
        )
    )


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
    rows: Sequence[str] = (),
    height: float = 3.2,
    path: str | Path | None = None,
) -> None:
    """Shows images side by side as one figure, stored as JPEG to keep the notebook small.

    Args:
        images: Each RGB in [0, 1], shape `(1, height, width, 3)` or `(height, width, 3)`; or of
            shape `(height, width)`, which is drawn in shades from its least to its largest value.
        titles: One for each image, drawn above it.
        caption: One sentence on what to see, drawn below and kept as the figure's alternative text.
        columns: How many stand in a row; all of them by default.
        rows: A label for each row, drawn at its left; the titles are then those of the columns.
        height: The height of a row in inches.
        path: Where to keep the figure as a JPEG as well. Its folder is made if need be.

    Raises:
        ValueError: If there is no image, the titles are not as many as the images, or the labels do
            not make a grid of them.
    """
    if len(images) and len(rows) and len(rows) * len(titles) == len(images):
        columns, titles = len(titles), [*titles, *[""] * (len(images) - len(titles))]
    elif len(images) == 0 or len(rows) or (len(titles) and len(titles) != len(images)):
        raise ValueError(
            f"Expected one or more images and as many titles (or none), or rows times titles, got "
            f"{len(images)} images, {len(titles)} titles and {len(rows)} rows."
        )
    arrays = [np.asarray(image, np.float32) for image in images]
    arrays = [array[0] if array.ndim == 4 else array for array in arrays]
    columns = columns or len(arrays)
    aspects = [
        max(a.shape[1] / a.shape[0] for a in arrays[c::columns]) for c in range(min(columns, len(arrays)))
    ]
    widths = np.clip(aspects, 0.75, 6.0)  # of a row's height; room for a title over a narrow picture
    height = min(height, 14 / sum(widths))
    below = math.ceil(len(arrays) / columns)
    inches = height * sum(widths), (height + (0 if rows else 0.3)) * below + (0.6 if rows else 0)
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(below, len(widths), squeeze=False, width_ratios=widths)
    for label, axis in zip(rows, axes[:, 0]):
        axis.set_ylabel(textwrap.fill(label, max(8, int(10 * height))), fontsize=11, parse_math=False)
    for index, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if index < len(arrays):
            axis.imshow(arrays[index], cmap="magma")
            title = str(titles[index]) if len(titles) else ""
            letters = max(8, int(11 * height * widths[index % columns]))  # that fit on a line
            lines = [textwrap.fill(line, letters) for line in title.splitlines()]
            axis.set_title("\n".join(lines), fontsize=11, parse_math=False)
    if caption:
        lines = textwrap.fill(caption, int(11 * figure.get_figwidth()))
        figure.supxlabel(lines, fontsize=11, style="italic", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=100, pil_kwargs={"quality": 80})
    if path is not None:
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    display(DisplayedImage(buffer.getvalue(), format="jpeg", alt=caption or ", ".join(map(str, titles))))


# Colours that colour-blind readers can tell apart (Okabe & Ito, https://jfly.uni-koeln.de/color/),
# and a line style and a hatching for those who see none.
_PARTS = {"content": ("#0072B2", "--", ""), "style": ("#D55E00", "-.", "//"), "tv": ("#009E73", ":", "..")}


def plot_history(history: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> None:
    """Plots the losses against the steps, on logarithmic axes: the total and its parts, and the layers.

    Args:
        history: Equally long lists: `size` (the picture's longest side in pixels), `total`,
            `content`, `style` and `tv`, the last three unweighted, and `style <layer>`, what each
            layer adds to the style loss.
        weights: From `content`, `style` and `tv` to what each was multiplied by.

    Raises:
        ValueError: If a list is missing or empty.
    """
    _check_history(history, ("size", "total", *weights))
    _show(
        _curves(history, weights),
        "Two plots of losses against steps: the total and its three parts; what each layer adds to style",
    )


def _curves(history: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> Figure:
    """Draws the losses: at the left the total and its parts, at the right the layers' parts."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    left.plot(history["total"], color="black", linewidth=2, label="total")
    lowest = history["total"][-1]
    for name, weight in weights.items():
        color, line, _ = _PARTS[name]
        values = np.multiply(history[name], weight)
        left.plot(values, color=color, linestyle=line, label=f"{weight:g} × {name}")
        later = values[len(values) // 2 :]  # the content loss begins at 0
        lowest = min([lowest, *later[later > 0]])
    if lowest > 0:
        left.set_ylim(bottom=lowest / 2)
    layers = [name for name in history if name.startswith("style ")]
    for index, name in enumerate(layers):
        color = matplotlib.colormaps["cividis"](index / max(len(layers), 2))
        line = ("-", "--", "-.", ":")[index % 4]
        right.plot(history[name], color=color, linestyle=line, label=name.removeprefix("style "))
    left.set(ylabel="loss", title="The total loss, and what each part adds to it")
    right.set(title="The style loss, and what each layer adds to it")
    sizes = np.asarray(history["size"])
    firsts = [0, *np.flatnonzero(np.diff(sizes)) + 1]
    for axis in (left, right):
        axis.set(xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
        for first in firsts if len(firsts) > 1 else ():
            axis.axvline(first, color="grey", linewidth=0.8)
            axis.annotate(
                f" {sizes[first]:g} pixels",
                (first, 0.02),
                xycoords=("data", "axes fraction"),
                color="dimgrey",
            )
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


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
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    lines = zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7"), ("-", "--", "-.", ":"))
    for (label, history), (color, line) in zip(histories.items(), itertools.cycle(lines)):
        _check_history(history, ("total", "seconds"))
        steps = range(len(history["total"]))
        along = history["seconds"] if against == "seconds" else steps
        axis.plot(along, history["total"], color=color, linestyle=line, linewidth=2, label=label)
    axis.set(xlabel=against, ylabel="total loss", yscale="log", title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3, which="both")
    _show(figure, f"Curves of {' and '.join(histories)}. {title}")


def _check_history(history: Mapping[str, Sequence[float]], names: Iterable[str]) -> None:
    """Raises ValueError unless the history has entries of all these names."""
    missing = [name for name in names if not len(history.get(name, ()))]
    if missing:
        raise ValueError(f"The history has no entries for: {', '.join(missing)}.")


def plot_bars(
    groups: Mapping[str, Mapping[str, float]], title: str, label: str = "weighted loss", log: bool = True
) -> None:
    """Draws groups of bars.

    Args:
        groups: From what stands below a group to its bars, each with its name: the same in all groups,
            three at most.
        title: The figure's title.
        label: What the bars measure.
        log: Whether the axis is logarithmic.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    names = list(next(iter(groups.values())))
    for index, (name, (color, _, hatch)) in enumerate(zip(names, _PARTS.values())):
        positions = np.arange(len(groups)) + 0.27 * (index - (len(names) - 1) / 2)
        heights = [group[name] for group in groups.values()]
        bars = axis.bar(positions, heights, 0.25, color=color, hatch=hatch, edgecolor="white", label=name)
        axis.bar_label(bars, fmt="%.2g", fontsize=8)
    if log:
        axis.set_yscale("log")
    axis.set_ylim(top=axis.get_ylim()[1] * (2 if log else 1.1))
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set(ylabel=label, title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    _show(figure, f"Bars of the {label}: {', '.join(groups)}. {title}")


def _as_png(figure: Figure, dpi: int = 100) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _show(figure: Figure, alt: str) -> None:
    """Shows a plot, stored as PNG with an alternative text."""
    display(DisplayedImage(_as_png(figure), format="png", alt=" ".join(alt.split())))


# ---------------------------------------------------------------------------------------------
# The panel


_panel = None  # the one that was shown last


def show_panel(paint: Callable[..., Any], stylize: Callable[..., Any], extractor: FeatureExtractor) -> None:
    """Shows a panel of widgets that paints pictures; where nobody watches, a sentence on it instead.

    Args:
        paint: The notebook's function from names of files to a picture, its history and its recipe.
        stylize: The function that it calls; the sliders start at its defaults.
        extractor: The network to begin with.
    """
    global _panel
    if not is_live():
        print(
            "Here is a panel in a notebook that is open in JupyterLab, Notebook 7 or VS Code and in which "
            "this cell is run: sliders, a live picture, and the buttons Run, Stop and Save. Without it: "
            'image, history, recipe = paint("mont_saint_michel.jpg", "great_wave.jpg", size=256)'
        )
        return
    if _panel is not None:
        _panel.halt.set()  # no run goes on behind a panel that is no longer there
    _panel = _Panel(paint, stylize, extractor)
    display(_panel.box)


class _Panel:
    """The panel: what is chosen, the run in the background, and its picture."""

    def __init__(self, paint: Callable[..., Any], stylize: Callable[..., Any], extractor: FeatureExtractor):
        import ipywidgets as widgets  # takes a while, and is needed here only

        self._paint, self._networks = paint, {extractor.model: extractor}
        self._first, self.halt, self._made = extractor, threading.Event(), None
        wide = {"style": {"description_width": "110px"}, "layout": {"width": "420px"}}
        parameters = {**inspect.signature(paint).parameters, **inspect.signature(stylize).parameters}
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        self.files, uploads = {}, []
        for kind, words in (("content", "Upload a photograph"), ("style", "Upload a painting")):
            self.files[kind] = widgets.Dropdown(description=kind, options=self._names(kind), **wide)
            upload = widgets.FileUpload(accept="image/*", description=words, layout={"width": "420px"})
            upload.observe(functools.partial(self._upload, kind), "value")
            uploads.append(upload)
        sizes = sorted({96, 128, 256, 384, 512, 768, 1024, defaults["size"]})
        self.size = widgets.Dropdown(
            description="size", options=sizes, value=min(256, defaults["size"]), **wide
        )
        self.network = widgets.Dropdown(
            description="network", options=list(MODELS), value=extractor.model, **wide
        )
        self.colours = widgets.Dropdown(
            description="keep colours",
            options={"no: the painting's": "painting", "matched": "matched", "luminance only": "luminance"},
            value=defaults["colours"],
            **wide,
        )
        self.weights = {
            name: widgets.FloatLogSlider(
                description=f"{name} weight",
                value=min(max(defaults[f"{name}_weight"], 10**low), 10**high),
                min=low,
                max=high,
                step=0.1,
                readout_format=".3g",
                **wide,
            )
            for name, low, high in (("content", -2, 2), ("style", 0, 4), ("tv", -2, 2))
        }
        self.run, self.stop, self.save = (
            widgets.Button(description=name, icon=icon, disabled=name != "Run", button_style=look)
            for name, icon, look in (("Run", "play", "primary"), ("Stop", "stop", ""), ("Save", "save", ""))
        )
        for button, action in (
            (self.run, self._on_run),
            (self.stop, self._on_stop),
            (self.save, self._on_save),
        ):
            button.on_click(action)
        self.bar = widgets.FloatProgress(min=0, max=1, layout={"width": "512px"})
        self.says = widgets.HTML("Choose, and press Run.", layout={"width": "512px"})
        self.call = widgets.HTML()
        self.picture = widgets.Image(format="jpeg", layout={"width": "512px"})
        content, style = self.files.values()
        chosen = [content, uploads[0], style, uploads[1], self.size, self.network, self.colours]
        left = widgets.VBox([*chosen, *self.weights.values(), widgets.HBox([self.run, self.stop, self.save])])
        right = widgets.VBox([self.picture, self.bar, self.says], layout={"min_width": "540px"})
        self.box = widgets.VBox([widgets.HBox([left, right]), self.call])
        self.box.add_class("nst-panel")
        content.observe(lambda _: self._preview(), "value")
        self._preview()

    def _names(self, kind: str) -> list[str]:
        return [path.name for path in find_images(IMAGES / kind)]

    def _preview(self) -> None:
        name = self.files["content"].value
        if name and not self.run.disabled:
            self.picture.value = _encoded(load_image(IMAGES / "content" / name), 512)

    def _say(self, text: str) -> None:
        self.says.value = html.escape(text)

    def _upload(self, kind: str, change: Mapping[str, Any]) -> None:
        for file in change["new"]:
            try:
                name = self._kept(IMAGES / kind, file["name"], bytes(file["content"]))
                self.files[kind].options = self._names(kind)
                self.files[kind].value = name
                self._say(f"{name} is in images/{kind}/ now.")
            except Exception as error:  # in a callback it would be lost
                self._say(f"{file['name']} was not taken: {error}")

    @staticmethod
    def _kept(folder: Path, name: str, content: bytes) -> str:
        """Writes an uploaded picture under its name, or one that is still free; returns that."""
        with Image.open(io.BytesIO(content)) as picture:
            endings = Image.registered_extensions()
            known = Path(name).suffix.lower() in endings
            ending = Path(name).suffix if known else f".{picture.format.lower()}"
        stem = Path(name).stem[:100].strip(".") or "upload"
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        path = next(path for path in (folder / f"{each}{ending}" for each in names) if not path.exists())
        path.write_bytes(content)
        try:
            load_image(path)
        except ValueError:
            path.unlink()
            raise
        return path.name

    def _on_run(self, _: Any) -> None:
        if self.run.disabled:  # the second click of two
            return
        self.run.disabled, self.stop.disabled, self.save.disabled = True, False, True
        self.halt.clear()
        self.bar.value = 0.0
        settings = {f"{name}_weight": float(f"{slider.value:.3g}") for name, slider in self.weights.items()}
        settings |= {"size": self.size.value, "colours": self.colours.value}
        names = [self.files[kind].value for kind in ("content", "style")]
        words = [*map(repr, names), *(f"{name}={value!r}" for name, value in settings.items())]
        if self.network.value != self._first.model:
            words.append(
                f"extractor=nst.build_feature_extractor({self.network.value!r}, precision=precision)"
            )
        self.call.value = f"<code>image, history, recipe = paint({html.escape(', '.join(words))})</code>"
        threading.Thread(target=self._work, args=(names, settings), daemon=True).start()

    def _work(self, names: Sequence[str], settings: Mapping[str, Any]) -> None:
        """Paints; runs in a thread, so that the buttons answer meanwhile."""
        try:
            self._say("Preparing the network ...")
            model = self.network.value
            if model not in self._networks:
                first = self._first
                self._networks[model] = build_feature_extractor(
                    model, pooling=first.pooling, precision=first.precision
                )
            network, self._began, self._shown = self._networks[model], None, 0.0
            self._made = self._paint(*names, **settings, extractor=network, callback=self._watch, quiet=True)
            image, history, _ = self._made
            self.picture.value = _encoded(image, 512)
            self.bar.value = 1.0
            stands_in = f" {model.upper()}'s weights could not be had: {network.model.upper()} stood in."
            self._say(
                f"{'Stopped' if self.halt.is_set() else 'Done'} after {len(history['total'])} steps and "
                f"{_duration(history['seconds'][-1])}; total loss {history['total'][-1]:.4g}."
                + (stands_in if network.model != model else "")
            )
        except Exception as error:  # in a thread it would be lost: whatever it is, it is said here
            self._say(f"{type(error).__name__}: {error}")
        finally:
            self.run.disabled, self.stop.disabled, self.save.disabled = False, True, self._made is None

    def _watch(self, now: Progress) -> None:
        """The callback of a run: refreshes the picture, and stops if the button was pressed."""
        if self.halt.is_set():
            raise KeyboardInterrupt
        start = time.perf_counter()
        if self._began is None:  # the first step compiles: the clock starts after it
            self._began = start, now.done
        elif start > self._shown:
            self.bar.value = now.done
            left = (start - self._began[0]) * (1 - now.done) / (now.done - self._began[1])
            losses = ", ".join(f"{name} {now.history[name][-1]:.4g}" for name in _LOSSES)
            self._say(f"Step {now.step}, about {_duration(left)} left; {losses}")
            self.picture.value = _encoded(now.image, 512)
            end = time.perf_counter()
            self._shown = end + max(0.3, 50 * (end - start))

    def _on_stop(self, _: Any) -> None:
        self.halt.set()
        self._say("Stopping ...")

    def _on_save(self, _: Any) -> None:
        image, _, recipe = self._made
        stem = "-".join(Path(recipe["call"][kind]).stem for kind in ("content", "style"))
        names = (Path(f"outputs/{stem}-panel-{number}.png") for number in itertools.count(1))
        try:
            path = save_image(image, next(path for path in names if not path.exists()), recipe)
            self._say(f"Saved: {path.as_posix()}")
        except OSError as error:  # in a callback it would be lost
            self._say(f"Not saved: {error}")

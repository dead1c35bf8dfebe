"""Files from strangers: random bytes, damaged pictures, and files that promise more than they hold."""

import functools
import html
import io
import json
import re
import shutil
import struct
import tempfile
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image, ImageCms

import nst_helpers as nst

_home = tempfile.TemporaryDirectory()  # for what Hypothesis keeps; gone at the end
set_hypothesis_home_dir(_home.name)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RECIPE = {"call": {"content": "a.jpg", "style": "b.jpg"}, "network": {"model": "vgg16"}, "steps": 3}
ENDINGS = [".png", ".jpg", ".gif", ".webp", ".tif", ".bmp", ".heic", ".txt", ""]
# What files begin with, so that more than the first look at one is tried.
BEGINNINGS = [
    b"", SIGNATURE, b"GIF89a", b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\xff\xd8\xff\xe1\0\x40Exif\0\0II*\0\x08\0\0\0",
    b"RIFF\xff\0\0\0WEBPVP8 ", b"RIFF\xff\0\0\0WEBPVP8L", b"RIFF\xff\0\0\0WEBPVP8X", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08",
    b"BM", b"P6\n4 4\n255\n", b"P3 4 4 9 ", b"Pf\n4 4\n-1\n", b"8BPS\0\1\0\0\0\0\0\0", b"\0\0\1\0\1\0", b"icns", b"qoif",
    b"DDS |\0\0\0", b"\x0a\x05\x01\x08", b"FORM\0\0\0\x40ILBM", b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x18ftypheic",
    b"\0\0\0\x18ftypavif", b"\x01\xda\0\1\0\3", b"/* XPM */", b"#define a_width 4\n", b"SIMPLE  =", b"BLP2",
]  # fmt: skip


def chunk(kind, data):
    """A part of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks, size=(4, 3), pixels=None):
    """A grey PNG with further chunks before its pixels."""
    pixels = bytes(size[1] * (size[0] + 1)) if pixels is None else pixels
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    return SIGNATURE + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def text(words, compressed=False):
    """A chunk of a PNG with a recipe as text."""
    name, words = nst._RECIPE.encode(), words.encode()
    return chunk(b"iTXt", name + bytes([0, compressed, 0, 0, 0]) + (zlib.compress(words) if compressed else words))


@functools.cache
def whole():
    """Small files that are in order, by their kinds."""
    random, exif, files = np.random.default_rng(0), Image.Exif(), {}
    colour = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    exif[0x0112], exif[0x010F] = 6, "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    def add(name, picture, kind, **options):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files[name] = buffer.getvalue()

    add("png", colour, "PNG")
    add("png with transparency", colour.convert("RGBA"), "PNG")
    add("png with a palette", colour.quantize(8), "PNG", transparency=1)
    add("png with a profile", colour, "PNG", icc_profile=profile)
    add("png of 16 bits", Image.fromarray(random.integers(0, 65536, (12, 16), dtype=np.uint16)), "PNG")
    files["png with a recipe"] = png(text(json.dumps(RECIPE)))
    add("jpeg", colour, "JPEG", exif=exif, icc_profile=profile)
    add("jpeg in cmyk", colour.convert("CMYK"), "JPEG", progressive=True)
    add("gif", colour, "GIF", save_all=True, append_images=[colour.rotate(180)], transparency=3)
    add("webp", colour, "WEBP", exif=exif)
    add("webp without loss", colour, "WEBP", lossless=True)
    add("tiff", colour, "TIFF", exif=exif)
    add("tiff, packed", colour, "TIFF", compression="tiff_lzw")
    add("tiff of numbers", Image.fromarray(random.uniform(size=(12, 16)).astype(np.float32)), "TIFF")
    add("bmp", colour, "BMP")
    return files


def with_checksums(data):
    """A PNG whose checksums are set right, so that damage is not found by them."""
    if not data.startswith(SIGNATURE):
        return data
    data, place = bytearray(data), len(SIGNATURE)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


HUGE = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xea\x60", b"\x60\xea\0\0", b"\x60\xea"]


@functools.cache
def checkpoint():
    """A checkpoint that is in order, of two steps."""
    history = {name: [2.0, 1.0] for name in ("total", "content", "style", "tv", "seconds", "size")} | {"layers": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        nst.Checkpoint(path, *TASK).write(history, [np.zeros((1, 3, 4, 3)), np.ones(2, np.float32), 3], now=True)
        return path.read_bytes()


NETWORK = dict.fromkeys(("model", "content_layer", "style_layers", "pooling", "precision", "smooth"), "none")
NETWORK |= {"network": SimpleNamespace(get_weights=list), "memory": lambda image: 0}
TASK = nst.Settings(), np.zeros((1, 3, 4, 3)), np.zeros((1, 3, 4, 3)), [], SimpleNamespace(**NETWORK)


@st.composite
def damaged(draw, originals=lambda: sorted(whole().values())):
    """A real file, one to three times changed, cut off, shortened, lengthened, repeated in part, or with huge numbers."""
    data = draw(st.sampled_from(originals()))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(8, 60) | st.integers(0, len(data)))
        before, part, after = data[:place], data[place : place + 20], data[place + 20 :]
        kind = draw(st.integers(0, 5))
        if kind == 0:
            data = before + draw(st.binary(min_size=1, max_size=8)) + data[place + 8 :]
        elif kind == 1:
            data = before
        elif kind == 2:
            data = before + after
        elif kind == 3:
            data = before + draw(st.binary(min_size=1, max_size=20)) + part + after
        elif kind == 4:
            data = before + part * draw(st.integers(2, 50)) + after
        else:
            number = draw(st.sampled_from(HUGE))
            data = before + number + data[place + len(number) :]
    return with_checksums(data) if draw(st.booleans()) else data


begun = st.builds(lambda beginning, rest: beginning + rest, st.sampled_from(BEGINNINGS), st.binary(max_size=200))
in_order = st.deferred(lambda: st.sampled_from(sorted(whole().values())))
files = st.one_of(damaged(), damaged(), damaged(), begun, in_order)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
recipes = st.one_of(
    st.fixed_dictionaries({}, optional={part: st.just(RECIPE[part]) | values for part in RECIPE}),
    st.just(RECIPE).flatmap(lambda recipe: values.map(lambda value: recipe | {"losses": value})),
    values,
).map(json.dumps)
odd = [
    "[" * 100_000,
    '{"call":' * 100_000,
    "9" * 5000,
    "1e999",
    "NaN",
    '{"steps": 1, "steps": 2}',
    "\0",
    "{}" + " " * 10**6,
]
with_recipes = st.builds(lambda words, packed: png(text(words, packed)), recipes | st.sampled_from(odd), st.booleans())

NAMES = [
    "../x.png",
    "a/b.png",
    "C:\\x.png",
    "CON.png",
    "lpt1.tar.gif",
    ".png",
    "..",
    "",
    "x" * 300 + ".png",
    "~nobody.png",
]
NAMES += [
    "\U0001f3f0" * 80 + ".jpg",
    "a\nb.png",
    "a\0b.png",
    "<b>.png",
    "\ud800.png",
    "a. .png",
    "a.png",
    "a.jpeg_large",
]
names = (
    st.sampled_from(NAMES)
    | st.text(max_size=40)
    | st.builds(str.__add__, st.text(max_size=9), st.sampled_from(ENDINGS))
)


# --- What is called, and what must hold -------------------------------------------------------


def check_sentences(error):
    """What a reader gets: whole sentences, without the names of objects in memory."""
    assert re.fullmatch(r"(?s)['\"A-Z].*\.", str(error)) and " object at 0x" not in str(error), str(error)
    assert "_io." not in str(error) and "[Errno" not in str(error), str(error)


def check_image(image):
    assert isinstance(image, np.ndarray) and image.dtype == np.float32
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3 and 0 < image.size
    assert 0 <= image.min() and image.max() <= 1


@contextmanager
def in_a_file(folder, data, ending):
    """A file with these bytes; what refuses it says so in sentences, and leaves it as it was."""
    path = folder / f"a{ending}"
    path.write_bytes(data)
    try:
        yield path
    except ValueError as error:
        check_sentences(error)
    assert path.read_bytes() == data
    path.unlink()


def read_image(folder, data, ending, name):
    with in_a_file(folder, data, ending) as path:
        check_image(nst.load_image(path))


def read_mask(folder, data, ending, name):
    with in_a_file(folder, data, ending) as path:
        mask = nst.load_mask(path, np.zeros((1, 24, 32, 3), np.float32))
        assert mask.dtype == np.float32 and mask.shape == (1, 24, 32, 1) and 0 <= mask.min() and mask.max() <= 1


def read_recipe(folder, data, ending, name):
    with in_a_file(folder, data, ending) as path:
        recipe = nst.read_recipe(path)
        assert [type(recipe[part]) for part in RECIPE] == [dict, dict, int] and recipe["steps"] > 0


def read_checkpoint(folder, data, ending, name):
    with in_a_file(folder, data, ending) as path:
        found = nst.Checkpoint(path, *TASK)
        assert len(found.history["total"]) >= 1 and len(found.arrays) >= 3


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_upload(folder, before, name, data):
    """That a file was added, in the folder itself, under a name that any system takes."""
    after = contents(folder.parent)
    assert after == before | {folder / name: data} and len(after) == len(before) + 1
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f]', name) and len(name.encode()) <= 255
    assert (
        not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", name)
        and name[0] not in ". "
        and name[-1] not in ". "
    )
    assert folder / name in nst.find_images(folder)


def keep(folder, data, ending, name):
    for _ in range(2):  # the second under another name
        before = contents(folder.parent)
        try:
            kept = nst.keep_upload(folder, name, data)
        except (ValueError, OSError) as error:
            check_sentences(error)
            assert contents(folder.parent) == before
        else:
            check_upload(folder, before, kept, data)
            check_image(nst.load_image(folder / kept))


def upload(panel, folder, data, name):
    """An upload by the panel's button; what goes wrong is said there."""
    before, panel.says.value = contents(folder.parent), ""
    panel._on_upload("content", {"new": [{"name": name, "content": memoryview(data)}]})
    said = html.unescape(panel.says.value)
    if "was not taken: " in said:
        error = said.partition("was not taken: ValueError: ")[2]
        check_sentences(error)
        assert contents(folder.parent) == before
    else:
        kept = panel.choices["content"].value
        assert said == f"{kept} is in images/content/ now."
        check_upload(folder, before, kept, data)


CALLS = {  # what is called, with what, and how many examples the slow form has
    "load_image": (read_image, files, 1000),
    "load_mask": (read_mask, files, 500),
    "read_recipe": (read_recipe, with_recipes | files, 500),
    "keep_upload": (keep, files | in_order, 500),
    "the panel": (None, files | in_order, 300),
    "checkpoint": (read_checkpoint, damaged(lambda: [checkpoint()]) | files, 500),
}


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["fast", "slow"])
@pytest.mark.parametrize("what", CALLS)
def test_whatever_comes_in_a_file_is_read_or_refused_in_a_sentence(what, slow, tmp_path, monkeypatch):
    call, data, examples = CALLS[what]
    folder = tmp_path / "content"
    (tmp_path / "style").mkdir()
    if what == "the panel":
        monkeypatch.setattr(nst, "IMAGES", tmp_path)
        folder.mkdir()
        panel = nst._Panel(None, nst.Settings(), SimpleNamespace(model="vgg16"), 256)
        call = lambda folder, data, ending, name: upload(panel, folder, data, name)

    # The same examples each time, and none of them kept. A call takes some milliseconds; a second is ample.
    @settings(
        max_examples=examples if slow else 100,
        deadline=1000,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data, st.sampled_from(ENDINGS), names)
    def check(data, ending, name):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        call(folder, data, ending, name)

    folder.mkdir(exist_ok=True)
    call(folder, whole()["png"], ".png", "a.png")  # the first call loads Pillow's plugins
    check()


# --- Files that promise more than they hold ---------------------------------------------------


def gif(side):
    """A GIF of one pixel on a field of another size."""
    header = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return header + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0;"


def bmp(side):
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 1, 1, 0, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + header + bytes(50)


def tiff(side, compression):
    """A TIFF of 4 x 3 pixels that says it has others."""
    buffer = io.BytesIO()
    Image.new("L", (4, 3)).save(buffer, "TIFF", compression=compression)
    data = bytearray(buffer.getvalue())
    first = int.from_bytes(data[4:8], "little")
    for place in range(first + 2, first + 2 + 12 * int.from_bytes(data[first : first + 2], "little"), 12):
        if int.from_bytes(data[place : place + 2], "little") in (256, 257, 278):  # width, height, rows in a strip
            data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


def packed(kind, name, length=10**8):
    return chunk(kind, name + zlib.compress(bytes(length)))


BOMBS = {
    "png": lambda: png(size=(60000, 60000), pixels=bytes(100)),
    "png within the limit": lambda: png(size=(13000, 13000), pixels=bytes(100)),
    "gif": lambda: gif(60000),
    "bmp": lambda: bmp(60000),
    "bmp within the limit": lambda: bmp(13000),
    "tiff": lambda: tiff(60000, None),
    "tiff within the limit": lambda: tiff(13000, None),
    "tiff, packed": lambda: tiff(60000, "tiff_lzw"),
    "text": lambda: png(packed(b"zTXt", b"a\0\0")),
    "text in unicode": lambda: png(packed(b"iTXt", nst._RECIPE.encode() + b"\0\1\0\0\0")),
    "texts": lambda: png(*(packed(b"zTXt", b"%d\0\0" % number, 10**6) for number in range(100))),
    "profile": lambda: png(packed(b"iCCP", b"a\0\0")),
}


@contextmanager
def memory_within(limit):
    """Fails if the process takes so many bytes more meanwhile, looked at each millisecond."""
    process, ended, seen = psutil.Process(), threading.Event(), []

    def look():
        while not ended.wait(0.001):
            seen.append(process.memory_info().rss)

    before, thread = process.memory_info().rss, threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert max([before, *seen]) - before < limit


def test_memory_is_measured():
    with pytest.raises(AssertionError), memory_within(100e6):
        np.ones(25_000_000).sum()


@pytest.mark.parametrize("what", ["load_image", "read_recipe", "keep_upload"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_promises_more_than_it_holds_is_refused_at_once(bomb, what, tmp_path):
    path, data = tmp_path / "a.png", BOMBS[bomb]()
    path.write_bytes(data)
    (tmp_path / "kept").mkdir()
    calls = {"load_image": lambda: nst.load_image(path), "read_recipe": lambda: nst.read_recipe(path)}
    calls["keep_upload"] = lambda: nst.keep_upload(tmp_path / "kept", "a.png", data)
    start = time.thread_time()  # of the processor, so that a busy machine makes no difference
    with memory_within(200e6), pytest.raises(ValueError) as caught:  # 13000 x 13000 grey pixels are 169 MB
        calls[what]()
    assert time.thread_time() - start < 1
    check_sentences(caught.value)
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
def test_a_picture_takes_no_more_memory_than_its_pixels_need(mode, tmp_path):
    Image.new(mode, (3000, 3000)).save(tmp_path / "a.png")
    with memory_within(20 * 3000**2):
        nst.load_image(tmp_path / "a.png")

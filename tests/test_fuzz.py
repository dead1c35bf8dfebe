"""Files from strangers: random bytes, damaged pictures, and files that promise more than they hold."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

import nst_helpers as nst

RECIPE = {"call": {"content": "a.jpg", "style": "b.jpg"}, "network": {"model": "vgg16"}, "steps": 3}
MODES = {"PNG": "RGB RGBA P I;16 LA 1", "JPEG": "RGB CMYK L", "TIFF": "RGB F LAB", "GIF": "P", "WEBP": "RGB"}
MODES |= {"BMP": "RGB", "AVIF": "RGB", "JPEG2000": "L"}


def whole_files():
    """Small files that are in order."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    text = PngImagePlugin.PngInfo()
    text.add_itxt("nst-recipe", json.dumps(RECIPE))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind, modes in MODES.items():
        for mode in modes.split() if kind in Image.SAVE else []:  # an older Pillow writes no AVIF
            picture = noise.convert("L").convert(mode) if mode[0] in "IF" else noise.convert(mode, palette=1)
            buffer = io.BytesIO()
            picture.save(buffer, kind, exif=exif, icc_profile=profile, pnginfo=text, lossless=True)
            yield buffer.getvalue()


FILES = list(whole_files())


@st.composite
def damaged(draw):
    """A file in order, of which a few bytes are changed, left out or repeated, or its end is missing."""
    data = draw(st.sampled_from(FILES))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, 60) | st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 4, 20, len(data)]))
        new = draw(st.binary(max_size=8) | st.sampled_from([b"\xff\xff\xff\xff", data[place : place + 20] * 50]))
        data = data[:place] + new + data[place + length :]
    return data


# The same examples each time, and none of them kept.
@settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=damaged() | st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_a_sentence(data, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for read in (nst.load_image, lambda path: nst.load_mask(path, np.zeros((1, 24, 32, 3))), nst.read_recipe):
        try:
            found = read(path)
        except ValueError as error:
            assert re.fullmatch(r"(?s)Expected .*\.", str(error)) and " object at 0x" not in str(error)
            continue
        if read is not nst.read_recipe:
            assert found.dtype == np.float32 and found.ndim == 4 and 0 <= found.min() and found.max() <= 1


@pytest.mark.parametrize("read", [nst.load_image, nst.read_recipe])
def test_a_text_that_unpacks_to_much_more_is_refused(tmp_path, read):
    text = PngImagePlugin.PngInfo()
    text.add_itxt("nst-recipe", "0" * 10**8, zip=True)
    Image.new("L", (4, 3)).save(tmp_path / "a.png", pnginfo=text)
    with pytest.raises(ValueError, match="Expected a "):
        read(tmp_path / "a.png")

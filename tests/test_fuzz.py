"""Files from strangers: random bytes, damaged pictures, and files that promise more than they hold."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from test_pictures import png

import nst_helpers as nst

RECIPE = {"call": {"content": "a.jpg", "style": "b.jpg"}, "network": {"model": "vgg16"}, "steps": 3}


def whole_files():
    """Small files that are in order."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    text = PngImagePlugin.PngInfo()
    text.add_itxt("nst-recipe", json.dumps(RECIPE))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"exif": exif, "icc_profile": profile, "pnginfo": text, "lossless": True}
    modes = {"PNG": "RGB RGBA P I;16 LA 1", "JPEG": "RGB CMYK L", "TIFF": "RGB F LAB", "GIF": "P", "WEBP": "RGB"}
    for kind, names in (modes | {"BMP": "RGB", "AVIF": "RGB", "TGA": "RGB", "PPM": "RGB", "JPEG2000": "L"}).items():
        for mode in names.split() if kind in Image.SAVE else []:  # an older Pillow writes no AVIF
            picture = noise.convert("L").convert(mode) if mode[0] in "IF" else noise.convert(mode, palette=1)
            buffer = io.BytesIO()
            picture.save(buffer, kind, **options)
            yield buffer.getvalue()


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


FILES = list(whole_files())


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
        if read is nst.read_recipe:
            assert [type(found[part]) for part in RECIPE] == [dict, dict, int] and found["steps"] > 0
        else:
            assert found.dtype == np.float32 and found.ndim == 4 and 0 <= found.min() and found.max() <= 1


@pytest.mark.parametrize("read", [nst.load_image, nst.read_recipe])
@pytest.mark.parametrize("bomb", ["pixels", "text"])
def test_what_promises_more_than_it_holds_is_refused(tmp_path, bomb, read):
    data = png(bytes(100), size=(60000, 60000)) if bomb == "pixels" else png(bytes(15), text=bytes(10**8))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match="Expected a "):
        read(tmp_path / "a.png")

"""Pictures in files and figures: read, written, shown, uploaded, animated."""

import base64
import hashlib
import io
import os
import re
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageCms, PngImagePlugin

import nst_helpers as nst


def colours(path, **options):
    """The image's pixels as rows of three numbers of 0 to 255."""
    return np.rint(nst.load_image(path, **options)[0] * 255).astype(int)


@pytest.fixture
def save(tmp_path):
    """Saves a Pillow image and returns its path."""

    def save(picture, name, **options):
        path = tmp_path / name
        picture.save(path, **options)
        return path

    return save


def test_type_shape_and_range(save, random):
    pixels = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = nst.load_image(save(Image.fromarray(pixels), "a.png"))
    assert image.dtype == np.float32 and image.shape == (1, 5, 7, 3)
    np.testing.assert_allclose(image[0], pixels / 255, atol=1e-7)


@pytest.mark.parametrize(
    "size, expected", [((1000, 600), (300, 500)), ((600, 1000), (500, 300)), ((400, 100), (100, 400))]
)
def test_longest_side_and_aspect_ratio(save, size, expected):
    path = save(Image.new("RGB", size), "a.png")
    assert nst.load_image(path, 500).shape == (1, *expected, 3)


def test_a_thin_picture_keeps_a_pixel(save):
    assert nst.load_image(save(Image.new("RGB", (2000, 1)), "a.png"), 100).shape == (1, 1, 100, 3)


def test_the_filter_averages(save):
    # Fine black and white stripes are grey from afar; a filter that picks pixels would give stripes.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = colours(save(Image.fromarray(stripes), "a.png"), max_size=8)
    assert small.min() > 110 and small.max() < 145


# What the camera's orientation asks for, from the stored pixels to those seen (EXIF 2.3, tag 274).
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


def squares(random):
    """4 x 6 squares of random colours, each of 16 x 16 pixels, which JPEG keeps well."""
    return np.kron(random.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    "ending, options, tolerance",
    [
        ("tif", {}, 0),
        ("tif", {"compression": "tiff_lzw"}, 0),
        ("jpg", {"quality": 95, "subsampling": 0}, 12),
        ("png", {}, 0),
        ("webp", {"lossless": True}, 0),
    ],
    ids=["tiff", "compressed tiff", "jpeg", "png", "webp"],
)
def test_the_camera_s_orientation_is_applied(save, random, ending, options, tolerance, orientation):
    pixels, exif = squares(random), Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(pixels), f"a.{ending}", exif=exif, **options)
    np.testing.assert_allclose(colours(path), UPRIGHT[orientation](pixels), atol=tolerance)


def exif_with_a_broken_tag(orientation):
    """The orientation, and the resolution as text: Pillow reads it, and fails to write it again."""
    return (
        b"II*\0\x08\0\0\0\x02\0"
        + b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0\0\0"
        + b"\x1a\x01\x02\0\x03\0\0\x0072\0\0"
        + bytes(4)
    )  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_the_orientation_is_applied_beside_a_broken_tag(save, random, ending, orientation):
    pixels = squares(random)
    options = {"quality": 95} if ending == "jpg" else {"lossless": True}
    exif = b"Exif\0\0" + exif_with_a_broken_tag(orientation)
    path = save(Image.fromarray(pixels), f"a.{ending}", exif=exif, **options)
    assert Image.open(path).getexif()[0x011A] == "72"
    found, expected = colours(path), UPRIGHT[orientation](pixels)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < (10 if ending == "jpg" else 1e-9)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_of_a_tiff_is_applied_beside_a_broken_tag(save, random, orientation):
    pixels, exif = squares(random), Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(pixels), "a.tif", exif=exif, resolution=72)
    data = path.read_bytes()
    place = data.index(b"\x1a\x01\x05\0\x01\0\0\0")  # the resolution: the tag, a fraction, one of them
    path.write_bytes(data[:place] + b"\x1a\x01\x02\0\x03\0\0\x0072\0\0" + data[place + 12 :])
    np.testing.assert_array_equal(colours(path), UPRIGHT[orientation](pixels))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_in_imagemagick_s_block_of_a_png_is_applied(save, random, orientation):
    pixels, text = squares(random), PngImagePlugin.PngInfo()
    exif = exif_with_a_broken_tag(orientation)
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n")
    path = save(Image.fromarray(pixels), "a.png", pnginfo=text)
    np.testing.assert_array_equal(colours(path), UPRIGHT[orientation](pixels))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0"], ids=["garbage", "cut short"])
def test_a_damaged_exif_block_does_not_keep_a_picture_from_being_read(save, ending, block):
    path = save(Image.new("RGB", (4, 2), (255, 0, 0)), f"a.{ending}", exif=block)
    assert np.abs(colours(path) - [255, 0, 0]).max() <= 2 and colours(path).shape == (2, 4, 3)


def test_transparency_lies_over_white(save):
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)])
    half = round(255 * (1 - 128 / 255))
    assert colours(save(picture, "a.png"))[0].tolist() == [[255, 0, 0], [255, 255, 255], [half] * 3]


def test_grey_with_transparency(save):
    picture = Image.new("LA", (2, 1))
    picture.putdata([(100, 255), (100, 0)])
    assert colours(save(picture, "a.png"))[0].tolist() == [[100] * 3, [255] * 3]


def test_palette_with_and_without_transparency(save):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    assert colours(save(picture, "a.png"))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert colours(save(picture, "b.png", transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_a_transparent_colour_in_rgb(save):
    picture = Image.new("RGB", (2, 1), (1, 2, 3))
    picture.putpixel((1, 0), (4, 5, 6))
    assert colours(save(picture, "a.png", transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [4, 5, 6]]


@pytest.mark.parametrize("mode, values, expected", [("L", [0, 99], [0, 99]), ("1", [0, 1], [0, 255])])
def test_greyscale(save, mode, values, expected):
    picture = Image.new(mode, (2, 1))
    picture.putdata(values)
    assert colours(save(picture, "a.png"))[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits(save, name):
    picture = Image.fromarray(np.uint16([[0, 257 * 100, 65535, 255]]))
    assert colours(save(picture, name))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3, [1] * 3]


@pytest.mark.parametrize("scale", [1, 255, 65535])
def test_floating_point(save, scale):
    picture = Image.fromarray(np.float32([[0, 0.2, 1]]) * scale)
    assert colours(save(picture, "a.tif"))[0].tolist() == [[0] * 3, [51] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGBA"])
def test_reading_takes_little_memory(save, mode):
    path = save(Image.new(mode, (2000, 1000)), "a.tif")
    tracemalloc.start()
    try:
        nst.load_image(path, 8)
        peak = tracemalloc.get_traced_memory()[1]  # of NumPy's arrays, not of Pillow's pictures
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2000 * 1000


def test_floating_point_that_overshoots(save):
    picture = Image.fromarray(np.float32([[0, 0.2, 1.02, np.nan, np.inf]]))
    assert colours(save(picture, "a.tif"))[0, :, 0].tolist() == [0, 51, 255, 0, 0]


def test_cmyk(save):
    picture = Image.new("CMYK", (2, 1))
    picture.putdata([(0, 0, 0, 0), (0, 255, 255, 0)])
    assert colours(save(picture, "a.tif"))[0].tolist() == [[255, 255, 255], [255, 0, 0]]


def swapped_profile():
    """A colour profile like sRGB, but with the red and green primaries in each other's place."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.find(b"rXYZ"), data.find(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_an_embedded_profile_is_converted(save, mode):
    picture = Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)
    red, green, blue = colours(save(picture, "a.png", icc_profile=swapped_profile()))[4, 4]
    assert red < 3 and green > 252 and blue < 3


def test_a_profile_of_srgb_changes_nothing(save, random):
    pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = colours(save(Image.fromarray(pixels), "a.png", icc_profile=profile))
    assert np.abs(loaded - pixels).max() <= 1


@pytest.mark.parametrize("profile", [b"damaged", swapped_profile()])
def test_a_profile_that_does_not_fit_is_passed_over(save, profile):
    picture = Image.new("L", (4, 4), 77)  # grey cannot have a profile for three colours
    assert (colours(save(picture, "a.png", icc_profile=profile)) == 77).all()


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_the_first_frame(save, name):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert (colours(path) == [255, 0, 0]).all()


def test_missing_file_names_those_there_are(save, tmp_path):
    save(Image.new("RGB", (2, 2)), "castle.png")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match=r"castel\.png.*holds: castle\.png\."):
        nst.load_image(tmp_path / "castel.png")
    with pytest.raises(FileNotFoundError, match="There is no folder.*nowhere"):
        nst.load_image(tmp_path / "nowhere" / "castle.png")


def test_a_file_that_is_no_picture(tmp_path):
    text = tmp_path / "a.jpg"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"(?s)picture that Pillow can read.*a\.jpg"):
        nst.load_image(text)
    with pytest.raises(ValueError, match="got the folder"):
        nst.load_image(tmp_path)


def test_a_picture_with_too_many_pixels(save, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="got .*a.png.*exceeds limit.*512 pixels on the longest side are enough"):
        nst.load_image(save(Image.new("RGB", (50, 50)), "a.png"))
    assert nst.load_image(save(Image.new("RGB", (4, 4)), "b.png")).shape == (1, 4, 4, 3)  # no warning


def test_the_home_folder(save, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = nst.save_image(np.zeros((1, 2, 2, 3)), "~/a.png")
    assert path == tmp_path / "a.png" and nst.find_images("~") == [path]
    assert nst.load_image("~/a.png").shape == (1, 2, 2, 3)


def test_a_name_that_begins_like_a_home_folder(picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = nst.save_image(picture, "~nobody.png", result_of())
    assert path.name == "~nobody.png" and nst.load_image("~nobody.png").shape == picture.shape
    assert nst.read_recipe("~nobody.png") == result_of()
    with pytest.raises(FileNotFoundError, match="no picture '~nowhere.png'"):
        nst.load_image("~nowhere.png")


def test_a_damaged_picture(save, random):
    path = save(Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "a.jpg")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="Pillow can read"):
        nst.load_image(path)


@pytest.mark.parametrize("size", [0, -5, 1.5, "512", True, None])
def test_refuses_a_bad_size(save, size):
    path = save(Image.new("RGB", (2, 2)), "a.png")
    with pytest.raises(ValueError, match=f"max_size.*{re.escape(repr(size))}"):
        nst.load_image(path, size)


def test_find_images(save, tmp_path):
    for name in ("b.png", "A.JPG", "c.webp"):
        save(Image.new("RGB", (2, 2)), name)
    (tmp_path / "CREDITS.md").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in nst.find_images(tmp_path)] == ["A.JPG", "b.png", "c.webp"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        nst.find_images(tmp_path / "nowhere")


def test_the_repository_s_pictures_can_be_read_and_are_credited():
    credits = (nst.HERE / "images" / "CREDITS.md").read_text(encoding="utf-8")
    for kind in ("content", "style"):
        paths = nst.find_images(nst.HERE / "images" / kind)
        assert paths
        for path in paths:
            assert max(nst.load_image(path).shape) in range(400, 513)
            assert f"{kind}/{path.name}" in credits


def test_save_and_load_again(tmp_path, random):
    image = random.uniform(size=(1, 6, 9, 3)).astype(np.float32)
    copy = image.copy()
    path = nst.save_image(image, tmp_path / "new" / "a.png")
    np.testing.assert_allclose(nst.load_image(path), image, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(image, copy)
    nst.save_image(image[0], path)  # without the batch axis, over the file there is
    np.testing.assert_allclose(nst.load_image(path), image, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    "image, name, message",
    [
        (np.full((1, 4, 4, 3), 2.0), "a.png", "range 0 to 1, got 2 to 2"),
        (np.full((1, 4, 4, 3), -1.0), "a.png", "range 0 to 1, got -1"),
        (np.full((1, 4, 4, 3), np.nan), "a.png", "got nan to nan.*division by 0"),
        (np.zeros((4, 4)), "a.png", r"shape \(1, height, width, 3\), got \(4, 4\)"),
        (np.zeros((2, 4, 4, 3)), "a.png", r"got \(2, 4, 4, 3\)"),
        (np.zeros((1, 0, 4, 3)), "a.png", r"got \(1, 0, 4, 3\)"),
        (np.full((1, 4, 4, 3), "x"), "a.png", "numbers"),
        (np.zeros((1, 4, 4, 3)), "a", r"ending in one of \.png, .*got 'a'"),
        (np.zeros((1, 4, 4, 3)), "a.xbm", r"\.jpg.*got 'a\.xbm'"),
    ],
)
def test_save_refuses(tmp_path, image, name, message):
    with pytest.raises(ValueError, match=message):
        nst.save_image(image, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def shown(monkeypatch):
    """What was displayed."""
    shown = []
    monkeypatch.setattr(nst, "display", shown.append)
    return shown


def test_show_images_makes_one_jpeg_with_alternative_text(shown, random):
    wide = random.uniform(size=(1, 20, 40, 3))
    nst.show_images([wide, wide[0], wide[0, :, :, 0]], ["a", "b", "c"], caption="What to see", columns=2)
    (figure,) = shown
    picture = Image.open(io.BytesIO(figure.data))
    assert picture.format == "JPEG"
    assert figure.alt == "What to see"
    assert picture.width > 1.5 * picture.height  # two rows of two pictures twice as wide as high


def test_show_images_keeps_narrow_and_wide_pictures_in_bounds(shown):
    nst.show_images([np.zeros((64, 2, 3))] * 3, ["a_long_name_without_a_blank $x $"] * 3)
    nst.show_images([np.zeros((2, 640, 3))] * 3, ["wide"] * 3)
    for figure in shown:
        width, height = Image.open(io.BytesIO(figure.data)).size
        assert 400 < width <= 1400 and 50 < height < 600


@pytest.mark.parametrize("images, titles", [([], []), ([np.zeros((2, 2, 3))], ["a", "b"])])
def test_show_images_refuses(images, titles):
    with pytest.raises(ValueError, match=f"got {len(images)} images, {len(titles)} titles"):
        nst.show_images(images, titles)


def test_plot_history_refuses_an_empty_history():
    with pytest.raises(ValueError, match="no entries for: style"):
        nst.plot_history({"size": [9], "total": [1.0], "style": []}, {"style": 1.0})


def history_of(steps, **changes):
    """A history of as many steps, as `stylize` returns it."""
    names = ("seconds", "size", "total", "content", "style", "tv")
    return {name: [1.0 + step for step in range(steps)] for name in names} | {"layers": {"a": [1.0] * steps}} | changes


def test_plots_of_losses_are_pngs_with_alternative_text(shown):
    weights = {"content": 1.0, "style": 100.0, "tv": 1.0}
    nst.plot_history(history_of(6, size=[32] * 3 + [64] * 3), weights)
    nst.plot_history(history_of(1, content=[0.0]), weights | {"content": 0.0})  # nothing above 0 to draw
    nst.plot_totals({"Adam": history_of(4), "L-BFGS": history_of(3)})
    for figure in shown:
        assert Image.open(io.BytesIO(figure.data)).format == "PNG"
    assert "losses against steps" in shown[0].alt and "Adam, L-BFGS" in shown[2].alt


# --- Names, masks, uploads -------------------------------------------------------------------


def test_a_bare_name_is_looked_for_in_the_folders(monkeypatch, tmp_path):
    by_path = nst.load_image(ROOT / "images" / "style" / "great_wave.jpg", 32)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(nst.load_image("great_wave.jpg", 32), by_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "great_wave.jpg")  # one that is here comes first
    assert nst.load_image("great_wave.jpg", 32).shape == (1, 8, 8, 3)
    with pytest.raises(FileNotFoundError, match="(?s)'nothing.jpg'.*brandenburg_gate.jpg.*great_wave.jpg"):
        nst.load_image("nothing.jpg")


def test_one_name_in_several_folders(monkeypatch, tmp_path):
    for number, kind in enumerate(("content", "masks", "style")):
        (tmp_path / "images" / kind).mkdir(parents=True)
        Image.new("RGB", (4, 4), (number * 100,) * 3).save(tmp_path / "images" / kind / "a [1].png")
    monkeypatch.setattr(nst, "IMAGES", tmp_path / "images")
    found = {kind: float(nst.load_image("a [1].png", 8, kind).max()) for kind in ("content", "masks", "style")}
    assert found == pytest.approx({"content": 0, "masks": 100 / 255, "style": 200 / 255})
    photograph = np.zeros((1, 4, 4, 3), np.float32)
    assert nst.load_mask("a [1].png", photograph).max() == pytest.approx(100 / 255)
    (style,) = nst.as_styles("a [1].png", photograph)
    assert style.image.max() == pytest.approx(200 / 255)


def test_masks_from_files(tmp_path):
    castle = nst.load_image("neuschwanstein_castle.jpg", 64)
    height, width = castle.shape[1:3]
    pixels = np.zeros((height * 4, width * 4), np.uint8)
    pixels[:, : width * 2], pixels[: height * 2] = 255, 128
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask = nst.load_mask(tmp_path / "mask.png", castle)
    assert mask.shape == (1, height, width, 1) and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() == 1
    assert mask[0, 5, 5, 0] == pytest.approx(128 / 255, abs=0.01)
    assert mask[0, -5, 5, 0] == 1 and mask[0, -5, -5, 0] == 0
    Image.fromarray(pixels[:, : width * 3]).save(tmp_path / "narrow.png")
    with pytest.raises(ValueError, match="proportions.*narrow.png"):
        nst.load_mask(tmp_path / "narrow.png", castle)
    with pytest.raises(FileNotFoundError, match="no picture 'none.png'.*masks.*neuschwanstein_castle_sky"):
        nst.load_mask("none.png", castle)


def test_the_mask_of_the_default_photograph():
    content = nst.load_image("neuschwanstein_castle.jpg", 128)
    sky = nst.load_mask("neuschwanstein_castle_sky.png", content)
    blue = content[0, :, :, 2] - content[0, :, :, 0]
    assert 0.3 < sky.mean() < 0.5
    assert blue[sky[0, :, :, 0] > 0.9].mean() > 0.15 > blue[sky[0, :, :, 0] < 0.1].mean()


def result_of(content="a/IMG_1.jpg", style="b/wave.png", steps=4, **changes):
    return {"call": {"content": content, "style": style, **changes}, "network": {"model": "vgg16"}, "steps": steps}


def test_a_result_never_replaces_one_that_was_made_otherwise(tmp_path, picture):
    save = lambda *what, **how: nst.save_result(picture, result_of(*what, **how), tmp_path).name
    assert save() == "IMG_1-wave.png"
    assert save("a/IMG_1.png") == "IMG_1-wave-2.png"  # another file of the same name
    assert save(tv_weight=2.0) == "IMG_1-wave-3.png"
    assert save(steps=2) == "IMG_1-wave-4.png"  # one that was interrupted
    assert save() == "IMG_1-wave.png" and save(tv_weight=2.0) == "IMG_1-wave-3.png"  # made again
    (tmp_path / "IMG_1-wave-5.png").write_bytes(b"no picture of ours")
    assert save(seed=1) == "IMG_1-wave-6.png"
    assert save(style={"image": "c/night.jpg", "scale": 2}) == "IMG_1-night.png"
    assert save(style=["a.png", {"image": "b.png"}]) == "IMG_1-a-b.png"
    assert save("c" * 300 + ".png").startswith("ccc")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("links", [True, False])  # a memory stick has none
def test_a_name_is_taken_when_all_is_written(tmp_path, picture, monkeypatch, links):
    """Killed before that, nothing is left but the file aside; two at once take two names."""
    there = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: there.append(sorted(tmp_path.glob("[!.]*"))) or sync(file))
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: exec('raise OSError(95, "Operation not supported")'))
    first = nst.save_result(picture, result_of(), tmp_path)
    content = first.read_bytes()
    assert nst.keep_upload(tmp_path, "sky.png", content) == "sky.png"
    assert nst.keep_upload(tmp_path, "sky.png", content) == "sky-2.png"
    assert there == [[], [], [first], [first, tmp_path / "sky.png"]]  # the first: a test of the folder
    assert len(list(tmp_path.iterdir())) == 3 and all(path.read_bytes() == content for path in tmp_path.iterdir())


def test_a_result_of_a_file_that_has_changed_gets_another_name(tmp_path, picture):
    settings, history = nst.Settings(), {name: [1.0] for name in ("total", "content", "style", "tv", "seconds")}
    extractor = nst.build_feature_extractor("vgg16", weights=None)
    content = nst.save_image(picture, tmp_path / "mine.png")
    files = {"content": str(content), "style": nst.Style("great_wave.jpg", mask=np.ones((4, 4))), "size": 32}

    def save():
        recipe = nst.make_recipe(files, settings, extractor, history)
        return recipe, nst.save_result(picture, recipe, tmp_path / "made").name

    recipe, name = save()
    assert recipe["files"] == {
        str(content): hashlib.sha256(content.read_bytes()).hexdigest(),
        "great_wave.jpg": hashlib.sha256((nst.IMAGES / "style" / "great_wave.jpg").read_bytes()).hexdigest(),
    }
    assert save()[1] == name == "mine-great_wave.png"
    nst.save_image(1 - picture, content)
    assert save()[1] == "mine-great_wave-2.png"


def test_a_large_mask_does_not_fill_the_recipe(tmp_path, picture, random):
    history = {name: [1.0] for name in ("total", "content", "style", "tv", "seconds")}
    files = {"content": "a.jpg", "size": 2048}
    found = []
    for _ in range(2):
        files["style"] = nst.Style("b.jpg", np.float32(0.5), mask=random.random((1536, 1024)))
        extractor = nst.build_feature_extractor("vgg16", weights=None)
        recipe = nst.make_recipe(files, nst.Settings(), extractor, history)
        path = nst.save_result(picture, recipe, tmp_path)
        assert path.stat().st_size < 20_000
        assert nst.read_recipe(path) == recipe and nst.load_image(path).shape == picture.shape
        assert recipe["call"]["style"]["weight"] == 0.5
        found.append(recipe["call"]["style"]["mask"])
    assert found[0].startswith("array (1536, 1024), SHA-256 ") and found[0] != found[1]


def test_where_nothing_can_be_written_a_sentence_says_so(tmp_path, picture):
    (tmp_path / "outputs").write_text("a file")
    for call in (
        lambda: nst.check_folder(tmp_path / "outputs"),
        lambda: nst.save_result(picture, result_of(), tmp_path / "outputs"),
        lambda: nst.save_image(picture, tmp_path / "outputs" / "a.png"),
        lambda: nst.save_image(picture, tmp_path / ("x" * 300 + ".png")),
        lambda: nst.save_animation([picture], tmp_path / "outputs" / "a.webp"),
        lambda: nst.show_images([picture], path=tmp_path / "outputs" / "a.jpg"),
    ):
        with pytest.raises(OSError, match="could not be written .*Free some space,.* or choose another folder"):
            call()
    assert (tmp_path / "outputs").read_text() == "a file" and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, picture, monkeypatch):
    path = nst.save_image(picture, tmp_path / "Bild \u00fc \U0001f5bc.png")
    before = path.read_bytes()

    def full(self, file, *_, **__):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        nst.save_image(picture, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_uploads_are_kept_under_free_names(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    uploads = ["a.png", "a.png", "b.jpg_large", "", "..", "c.pdf", "d.JPG", "x" * 300 + ".png"]
    names = [nst.keep_upload(tmp_path, name, buffer.getvalue()) for name in uploads]
    kept = ["a.png", "a-2.png", "b.png", "upload.png", "upload-2.png", "c.png", "d.JPG", "x" * 100 + ".png"]
    assert names == kept
    assert [path.name for path in nst.find_images(tmp_path)] == sorted(kept)
    assert (tmp_path / "a-2.png").read_bytes() == buffer.getvalue()


@pytest.mark.parametrize(
    "name, kept",
    [
        ("../x.png", "x.png"),
        ("C:\\pictures\\x.png", "x.png"),
        ("CON.png", "_CON.png"),
        ("nul.tar.PNG", "_nul.tar.PNG"),
        ("com1 .png", "_com1.png"),
        ("console.png", "console.png"),
        ('<b>:"|?*.png', "_b______.png"),
        ("a\nb\0.png", "a_b_.png"),
        (" . .png", "upload.png"),
        ("\ud800.png", "upload.png"),
        ("\U0001f3f0" * 90 + ".png", "\U0001f3f0" * 25 + ".png"),  # four bytes each
    ],
)
def test_an_upload_s_name_is_one_that_any_system_takes(tmp_path, picture, name, kept):
    content = nst.save_image(picture, tmp_path / "a.png").read_bytes()
    (tmp_path / "images").mkdir()
    assert nst.keep_upload(tmp_path / "images", name, content) == kept
    assert (tmp_path / "images" / kept).read_bytes() == content
    assert len(list(tmp_path.rglob("*.*"))) == 2


def test_a_result_of_long_names_in_any_script_is_saved(tmp_path, picture):
    path = nst.save_result(picture, result_of("\u57ce" * 80 + ".jpg", "con.png"), tmp_path)
    assert path.name == "\u57ce" * 40 + ".png"


def test_an_upload_that_is_no_picture_or_a_damaged_one_is_not_kept(tmp_path, random):
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    too_large = io.BytesIO()
    Image.new("1", (20000, 10000)).save(too_large, "PNG")
    reasons = {
        b"no picture": "no format that it knows",
        b"\0\0\0\x18ftypheic" + bytes(200): "no format that it knows.*HEIC photograph is read after",
        buffer.getvalue()[:1000]: "truncated",
        too_large.getvalue(): "exceeds limit",
    }
    for content, reason in reasons.items():
        with pytest.raises(ValueError, match=rf"a picture that Pillow can read, got 'a\.jpg' \(.*{reason}.*Save it"):
            nst.keep_upload(tmp_path, "a.jpg", content)
    assert not list(tmp_path.iterdir())


def test_every_upload_that_is_kept_is_listed(tmp_path):
    for kind in ("JPEG2000", "PCX", "SPIDER"):  # one whose ending is not its name, and one that has none
        buffer = io.BytesIO()
        Image.new("F" if kind == "SPIDER" else "L", (4, 4)).save(buffer, kind)
        nst.keep_upload(tmp_path, "a.ending", buffer.getvalue())
    assert [path.name for path in nst.find_images(tmp_path)] == ["a.jp2", "a.pcx", "a.png"]


def test_an_upload_that_cannot_be_written_is_told_in_a_sentence(tmp_path, picture):
    path = nst.save_image(picture, tmp_path / "a.png")
    with pytest.raises(OSError, match="could not be written .*Free some space,.* or choose another folder"):
        nst.keep_upload(path, "a.png", path.read_bytes())


def test_a_large_upload_is_taken_without_a_warning(tmp_path, monkeypatch, recwarn):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert nst.keep_upload(tmp_path, "a.png", buffer.getvalue()) == "a.png" and not recwarn


# --- Animations and grids --------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_an_animation_lasts_as_long_as_asked_and_holds_its_end(tmp_path, ending):
    sizes, greys = ((8, 12), (16, 24), (16, 24)), (0.1, 0.5, 0.9)
    frames = [np.full((1, *size, 3), grey, np.float32) for size, grey in zip(sizes, greys)]
    path = nst.save_animation(frames, tmp_path / "new" / f"a.{ending}", seconds=3)
    with Image.open(path) as file:
        assert (file.n_frames, file.size, file.info["loop"]) == (3, (24, 16), 0)
        for number, grey in enumerate(greys):
            file.seek(number)
            file.load()
            assert file.info["duration"] == (1500 if number < 2 else 2000)
            np.testing.assert_allclose(np.asarray(file.convert("RGB")), 255 * grey, atol=4)


def test_refuses_animations(tmp_path):
    frame = np.zeros((1, 8, 8, 3))
    for frames, name in (([], "a.gif"), ([frame], "a.png")):
        with pytest.raises(ValueError, match=r"ending in \.webp or \.gif"):
            nst.save_animation(frames, tmp_path / name)
    with pytest.raises(ValueError, match="seconds.*above 0, got -1"):
        nst.save_animation([frame], tmp_path / "a.gif", seconds=-1)


def test_a_grid_with_labels_is_kept_in_a_file(tmp_path, shown):
    images = [np.full((1, 20, 30, 3), value) for value in (0.1, 0.3, 0.5, 0.7, 0.9, 0.2)]
    path = tmp_path / "new" / "grid.jpg"
    nst.show_images(images, ["a", "b", "c"], rows=["one", "two"], path=path)
    assert path.read_bytes() == shown[0].data and shown[0].alt.startswith("a, b, c")
    pixels = np.asarray(Image.open(path).convert("L")) / 255
    for column, value in enumerate((0.1, 0.3, 0.5)):  # the upper row
        assert np.any(np.abs(pixels[: len(pixels) // 2] - value) < 0.03, axis=0).mean() > 0.15, column
    with pytest.raises(ValueError, match="rows times titles, got 6 images, 3 titles and 3 rows"):
        nst.show_images(images, ["a", "b", "c"], rows=["one", "two", "three"])


def test_an_animation_is_shown_with_its_data_and_its_caption_escaped(tmp_path, shown):
    path = nst.save_animation([np.zeros((1, 8, 8, 3))] * 2, tmp_path / "a.gif")
    nst.show_animation(path, 'From "a" to <b>')
    text = shown[0].data
    assert text.count("From &quot;a&quot; to &lt;b&gt;") == 2 and "<b>" not in text
    assert base64.b64decode(text.split("base64,")[1].split('"')[0]) == path.read_bytes()
    assert "data:image/gif;" in text


# --- What a phone or a camera writes ----------------------------------------------------------


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_a_heic_photograph_is_named_with_its_remedy(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(200))
    with pytest.raises(ValueError, match="HEIC photograph is read after `pip install pillow-heif`"):
        nst.load_image(path)


def test_a_heic_photograph_is_read_where_the_package_is_installed(tmp_path):
    pillow_heif, picture = pytest.importorskip("pillow_heif"), nst.load_image("chelsea_the_cat.jpg", 128)
    path, pixels = tmp_path / "a.jpg", np.uint8(np.rint(picture[0] * 255))
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=-1)
    (tmp_path / "a.heic").rename(path)
    assert np.abs(nst.load_image(path)[0] - picture[0]).mean() < 0.05


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\x01\x04\x00\x00"}])
def test_a_raw_file_is_refused(tmp_path, picture, tags):
    path = tmp_path / "a.tif"
    Image.fromarray(np.uint8(picture[0] * 255)).save(path, tiffinfo=tags)
    with pytest.raises(ValueError, match="a camera's raw file.*Save it from another program"):
        nst.load_image(path)
    Image.fromarray(np.uint8(picture[0] * 255)).save(path)
    assert nst.load_image(path).shape == picture.shape
    path.rename(tmp_path / "a.NEF")
    with pytest.raises(ValueError, match="a camera's raw file"):
        nst.load_image(tmp_path / "a.NEF")


def test_a_picture_is_enlarged_only_when_asked_for(tmp_path, picture):
    path = nst.save_image(picture, tmp_path / "a.png")
    assert nst.load_image(path, 80).shape == picture.shape
    large = nst.load_image(path, 80, enlarge=True)
    assert large.shape == (1, 64, 80, 3) and np.abs(large - nst.resized(picture, 2)).mean() < 0.02


def test_a_name_that_is_too_long_for_the_disk_is_refused():
    with pytest.raises(
        ValueError, match="Expected the path or the name of a picture's file, got 'xxx.*Correct the name"
    ):
        nst.load_image("x" * 300 + ".jpg")


def test_a_picture_that_is_a_program_is_not_run(tmp_path, picture):
    path = tmp_path / "a.eps"
    Image.fromarray(np.uint8(picture[0] * 255)).save(path)
    with pytest.raises(ValueError, match="PostScript.*is not run"):
        nst.load_image(path)


def test_a_file_that_another_program_holds_is_replaced_when_it_lets_go(tmp_path, picture, monkeypatch):
    """As on Windows, where a file that is read cannot be replaced."""
    replace, refusals = nst.os.replace, []

    def held(source, target):
        if len(refusals) < 2:
            refusals.append(target)
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(nst.os, "replace", held)
    path = nst.save_image(picture, tmp_path / "a.png")
    assert len(refusals) == 2 and np.abs(nst.load_image(path) - picture).max() < 0.005
    refusals.clear()
    monkeypatch.setattr(nst.time, "sleep", lambda _: refusals.clear())
    before = path.read_bytes()
    with pytest.raises(OSError, match="a.png' could not be written .Access is denied.*close the program that shows it"):
        nst.save_image(picture * 0.5, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_where_the_disk_is_full_no_name_is_left_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    recipe = {"call": {"content": "a.jpg", "style": "b.jpg"}, "network": {}, "steps": 1}
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        nst.save_result(np.zeros((1, 4, 4, 3)), recipe, tmp_path)
    assert list(tmp_path.iterdir()) == []

"""Reading, writing and showing pictures."""

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(save, random, orientation):
    picture = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(Image.open(save(picture, "a.png", exif=exif))))
    np.testing.assert_array_equal(colours(save(picture, "b.png", exif=exif)), expected)
    assert expected.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))


def test_orientation_beside_tags_that_break_the_rules(save):
    path = save(Image.new("RGB", (4, 2)), "a.png")
    tags = (
        b"II*\0\x08\0\0\0\x02\0"
        + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
        + b"\x1a\x01\x02\0\x03\0\0\x0072\0\0"
        + bytes(4)
    )
    # Orientation 6, and the resolution as text: Pillow reads it, and fails to write it again.
    Image.open(path).save(path, exif=b"Exif\0\0" + tags)
    assert Image.open(path).getexif()[0x011A] == "72"
    assert colours(path).shape == (4, 2, 3)


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
    with pytest.raises(FileNotFoundError, match="does not exist"):
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
    with pytest.raises(ValueError, match="more pixels than Pillow opens.*smaller in an image editor"):
        nst.load_image(save(Image.new("RGB", (50, 50)), "a.png"))
    assert nst.load_image(save(Image.new("RGB", (4, 4)), "b.png")).shape == (1, 4, 4, 3)  # no warning


def test_the_home_folder(save, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = nst.save_image(np.zeros((1, 2, 2, 3)), "~/a.png")
    assert path == tmp_path / "a.png" and nst.find_images("~") == [path]
    assert nst.load_image("~/a.png").shape == (1, 2, 2, 3)


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
        (np.full((1, 4, 4, 3), np.nan), "a.png", "got NaN"),
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

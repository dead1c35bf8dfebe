"""Pictures in files, masks, figures and animations: read, written and shown."""

import base64
import io
import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageCms, ImageSequence

import nst_helpers as nst


def colours(path, **options):
    """The image's pixels as rows of three numbers of 0 to 255."""
    return np.rint(nst.load_image(path, **options)[0] * 255).astype(int)


@pytest.fixture
def save(tmp_path):
    """A function that saves a Pillow image, or an array, and returns its path."""

    def save(picture, name, **options):
        picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("size, expected", [((1000, 600), (300, 500)), ((6, 10), (10, 6)), ((2000, 1), (1, 500))])
def test_longest_side_and_aspect_ratio(save, size, expected):
    assert nst.load_image(save(Image.new("RGB", size), "a.png"), 500).shape == (1, *expected, 3)


def test_the_filter_averages(save):
    # Fine black and white stripes are grey from afar; a filter that picks pixels would give stripes.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = colours(save(stripes, "a.png"), max_size=8)
    assert small.min() > 110 and small.max() < 145


def test_a_smaller_copy_is_averaged():
    dots = np.zeros((1, 64, 64, 3), np.float32)
    dots[:, ::4, ::4] = 1  # one of sixteen
    np.testing.assert_allclose(nst.resized(dots, 0.25)[:, 3:-3, 3:-3], 1 / 16, atol=0.01)


@pytest.mark.parametrize("enlarge, size", [(False, 40), (True, 80)])
def test_a_picture_is_enlarged_only_when_asked_for(picture, tmp_path, enlarge, size):
    large = nst.load_image(nst.save_image(picture, tmp_path / "a.png"), 80, enlarge=enlarge)
    assert large.shape[2] == size and np.abs(large - nst.resized(picture, size / 40)).mean() < 0.02


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_the_camera_s_orientation_is_applied(save, random, name, orientation):
    pixels = np.kron(random.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    found = colours(save(pixels, name, exif=exif, quality=95, subsampling=0))
    upright = pixels.transpose(1, 0, 2) if orientation > 4 else pixels
    down, across = [(1, 1), (1, -1), (-1, -1), (-1, 1)][(orientation - 1) % 4]  # as EXIF 2.3 has it, tag 274
    np.testing.assert_allclose(found, upright[::down, ::across], atol=12 if name == "a.jpg" else 0)


PALETTE = Image.fromarray(np.uint8([[0, 1]]), "P")
PALETTE.putpalette([10, 20, 30, 200, 100, 50])
CMYK = Image.merge("CMYK", [Image.fromarray(np.uint8([row])) for row in ([0, 0], [0, 255], [0, 255], [0, 0])])
WHITE = [255, 255, 255]


@pytest.mark.parametrize(
    "picture, name, options, expected",
    [
        (np.uint8([[[255, 0, 0, 255], [0, 0, 0, 128]]]), "a.png", {}, [[255, 0, 0], [127] * 3]),
        (np.uint8([[[100, 255], [100, 0]]]), "a.png", {}, [[100] * 3, WHITE]),
        (np.uint8([[[1, 2, 3], [4, 5, 6]]]), "a.png", {"transparency": (1, 2, 3)}, [WHITE, [4, 5, 6]]),
        (PALETTE, "a.png", {}, [[10, 20, 30], [200, 100, 50]]),
        (PALETTE, "a.png", {"transparency": 1}, [[10, 20, 30], WHITE]),
        (CMYK, "a.tif", {}, [WHITE, [255, 0, 0]]),
        (Image.new("RGB", (1, 1), "red"), "a.png", {"exif": b"Exif\0\0II*\0"}, [[255, 0, 0]]),  # damaged
        (np.uint8([[0, 99]]), "a.png", {}, [0, 99]),
        (np.array([[False, True]]), "a.png", {}, [0, 255]),
        (np.uint16([[0, 257 * 100, 65535, 255]]), "a.png", {}, [0, 100, 255, 1]),
        (np.uint16([[0, 257 * 100, 65535, 255]]), "a.tif", {}, [0, 100, 255, 1]),
    ],
)
def test_modes_and_numbers_of_bits(save, picture, name, options, expected):
    (found,) = colours(save(picture, name, **options))
    assert len(found) == len(expected)
    assert (found == np.reshape(expected, (len(expected), -1))).all()  # one number stands for grey


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED, GREEN = SRGB.index(b"rXYZ"), SRGB.index(b"gXYZ")  # where their places in the file are named
SWAPPED = SRGB[:RED] + b"gXYZ" + SRGB[RED + 4 : GREEN] + b"rXYZ" + SRGB[GREEN + 4 :]


@pytest.mark.parametrize(
    "mode, profile, expected",
    [("RGB", SRGB, [255, 0, 0]), ("RGB", b"damaged", [255, 0, 0]), ("L", SWAPPED, [76] * 3)]  # for other channels
    + [(mode, SWAPPED, [0, 255, 0]) for mode in ("RGB", "RGBA", "P")],
)
def test_an_embedded_profile_is_converted(save, mode, profile, expected):
    picture = Image.new("RGB", (8, 8), "red").convert(mode)
    assert np.abs(colours(save(picture, "a.png", icc_profile=profile))[4, 4] - expected).max() < 4


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_the_first_frame(save, name):
    blue = Image.new("RGB", (4, 4), "blue")
    path = save(Image.new("RGB", (4, 4), "red"), name, save_all=True, append_images=[blue], lossless=True)
    assert (colours(path) == [255, 0, 0]).all()


def test_a_cut_out_photograph_is_no_mask(save, random):
    cut = Image.fromarray(random.integers(0, 256, (40, 60, 4), dtype=np.uint8), "RGBA")
    with pytest.raises(ValueError, match="a mask in white, grey and black, got colours in 'cut.png'"):
        nst.load_mask(save(cut, "cut.png"), PHOTOGRAPH)
    with pytest.raises(ValueError, match="content_image in the shape"):
        nst.load_mask(save(cut, "cut.png"), "castle.jpg")


@pytest.mark.parametrize("name, tags", [("a.tif", {254: 1}), ("a.tif", {50706: b"\x01\x04\x00\x00"}), ("a.NEF", {})])
def test_a_camera_s_raw_file_is_refused(save, picture, name, tags):
    path = save(np.uint8(picture[0] * 255), "a.tif", tiffinfo=tags)
    with pytest.raises(ValueError, match="a camera's raw file.*Save it from another program"):
        nst.load_image(path.rename(path.with_name(name)))


def test_what_is_no_picture_is_refused(save, tmp_path, random, monkeypatch):
    noise = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cut = save(noise, "cut.jpg")
    cut.write_bytes(cut.read_bytes()[:1000])
    program = save(noise, "program.eps")
    (tmp_path / "text.jpg").write_text("no picture")
    decimal = save(np.float32([[0, 1]]), "decimal.tif")
    for path in (cut, program, tmp_path / "text.jpg", decimal):
        with pytest.raises(ValueError, match=rf"Expected a picture .*{path.name}.*HEIC, `pip install pillow-heif`"):
            nst.load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="exceeds limit"):
        nst.load_image(save(noise, "large.png"))


IMAGE = np.zeros((1, 4, 4, 3))
HISTORY = {name: [1.0] for name in ("size", "total", "content", "tv")} | {"style": []}


@pytest.mark.parametrize(
    "call, arguments, message",
    [
        (nst.load_image, ["great_wave.jpg", 1.5], "max_size.* 1.5"),
        (nst.load_image, ["great_wave.jpg", 64, None, "false"], "enlarge.*'false'"),
        (nst.load_image, ["https://example.com/a.jpg"], "Download it first"),
        (nst.load_image, [ROOT], "the folder"),
        (nst.load_image, [IMAGE], "got ndarray"),
        (nst.save_image, [IMAGE + 2, "a.png"], "range 0 to 1, got 2 to 2"),
        (nst.save_image, [IMAGE + np.nan, "a.png"], "got nan to nan.*division by 0"),
        (nst.save_image, [np.zeros((4, 4)), "a.png"], r"shape \(1, height, width, 3\), got \(4, 4\)"),
        (nst.save_image, [IMAGE[:, :0], "a.png"], r"got \(1, 0, 4, 3\)"),
        (nst.save_image, [IMAGE, "a.xbm"], r"ending in \.png, .*got 'a\.xbm'"),
        (nst.show_animation, [[], "a.webp", ""], r"ending in \.webp, got 0 frames"),
        (nst.show_animation, [[IMAGE], "a.gif", ""], r"ending in \.webp, got 1 frames and 'a.gif'"),
        (nst.show_images, [[], ""], "one picture or more to show, got none"),
        (nst.show_images, [[np.uint8(IMAGE + 255)], ""], "range 0 to 1, got 255"),
        (nst.plot_history, [HISTORY], "Expected curves of one step or more"),
        (nst.plot_curves, [{"a": []}, ""], "Expected curves of one step or more"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, monkeypatch, call, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_names_those_there_are(save, tmp_path):
    save(Image.new("RGB", (2, 2)), "castle.png")
    with pytest.raises(FileNotFoundError, match=r"castel\.png.*Choose from: castle\.png\."):
        nst.load_image(tmp_path / "castel.png")
    with pytest.raises(FileNotFoundError, match="There is no folder.*nowhere"):
        nst.load_image(tmp_path / "nowhere" / "castle.png")
    with pytest.raises(FileNotFoundError, match="nothing.jpg'. Choose from: .*brandenburg_gate.jpg.*great_wave.jpg"):
        nst.load_image("nothing.jpg")


def test_find_images_lists_what_is_read(tmp_path):
    hidden = ["._castle.jpg", ".a.png"]
    for name in ["b.png", "A.JPG", "c.webp", *hidden, "a.md", "a.eps", "a.mpg", "a.h5", "a.fits", "a.nef"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in nst.find_images(tmp_path)] == ["A.JPG", "b.png", "c.webp"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        nst.find_images(tmp_path / "nowhere")


def test_the_home_folder(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert nst.save_image(picture, "~/a.png") == tmp_path / "a.png" and nst.find_images("~") == [tmp_path / "a.png"]
    assert nst.load_image("~/a.png").shape == picture.shape


def test_a_bare_name_is_looked_for_here_and_then_in_the_folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nst, "IMAGES", tmp_path / "images")
    for number, kind in enumerate(("content", "masks", "style")):
        (tmp_path / "images" / kind).mkdir(parents=True)
        Image.new("RGB", (4, 4), (100 + number,) * 3).save(tmp_path / "images" / kind / "a [1].png")
    found = [colours("a [1].png", kind=kind)[0, 0, 0] for kind in ("", "content", "masks", "style")]
    assert found == [100, 100, 101, 102]
    photograph = np.zeros((1, 4, 4, 3), np.float32)
    assert nst.load_mask("a [1].png", photograph).max() == pytest.approx(101 / 255)
    assert nst.as_styles("a [1].png", photograph)[0].image.max() == pytest.approx(102 / 255)
    Image.new("RGB", (4, 4), "white").save("a [1].png")
    assert colours("a [1].png", kind="style").min() == 255


def test_the_repository_s_pictures_can_be_read_and_are_credited():
    credits = (nst.HERE / "images" / "CREDITS.md").read_text(encoding="utf-8")
    paths = [path for kind in ("content", "style") for path in nst.find_images(nst.HERE / "images" / kind)]
    assert len(paths) > 8
    for path in paths:
        assert max(nst.load_image(path).shape) in range(400, 513)
        assert f"{path.parent.name}/{path.name}" in credits


PHOTOGRAPH = np.zeros((1, 40, 60, 3), np.float32)


def test_masks_from_files(save):
    pixels = np.zeros((80, 120), np.uint8)
    pixels[:, :60] = 255
    pixels[:40] = 128
    mask = nst.load_mask(save(pixels, "mask.png"), PHOTOGRAPH)
    assert mask.shape == (1, 40, 60, 1) and mask.dtype == np.float32
    np.testing.assert_allclose(mask[0, [0, -1, -1], [0, 0, -1], 0], [128 / 255, 1, 0], atol=1e-6)
    with pytest.raises(ValueError, match="narrow.png.*proportions"):
        nst.load_mask(save(pixels[:, :100], "narrow.png"), PHOTOGRAPH)


HALVES = np.repeat([[0, 1]], 30, axis=1).repeat(40, axis=0)
LAYER = Image.fromarray(np.uint8(255 * np.stack([np.ones_like(HALVES), HALVES], axis=2)))  # white, half transparent


@pytest.mark.parametrize("mask", [LAYER, LAYER.convert("RGBA"), HALVES.astype(bool)])
def test_a_mask_of_one_bit_and_one_on_a_transparent_layer(save, mask):
    np.testing.assert_array_equal(nst.load_mask(save(mask, "mask.png"), PHOTOGRAPH)[0, :, :, 0], HALVES)


@pytest.mark.parametrize("kind, values", [(np.uint8, [0, 1]), (np.uint8, [0, 1, 2, 5]), (np.uint16, [0, 5])])
def test_class_numbers_are_no_mask(save, values, kind):
    with pytest.raises(ValueError, match=r"white \(255\) counts .*, got nothing above \d in 'mask.png'"):
        nst.load_mask(save(np.resize(np.array(values, kind), (40, 60)), "mask.png"), PHOTOGRAPH)


def test_save_and_load_again(tmp_path, picture):
    copy = picture.copy()
    path = nst.save_image(picture, tmp_path / "new" / "a.png")
    found = nst.load_image(path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, picture, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(picture, copy)
    nst.save_image(1 - picture[0], path)  # without the batch axis, over the file there is
    np.testing.assert_allclose(nst.load_image(path), 1 - picture, atol=0.5 / 255 + 1e-6)


def test_where_nothing_can_be_written_a_sentence_says_so(tmp_path, picture):
    (tmp_path / "outputs").write_text("a file")
    for call, *arguments in (
        (nst.save_result, picture, result_of(), tmp_path / "outputs"),
        (nst.save_image, picture, tmp_path / ("x" * 300 + ".png")),
        (nst.show_animation, [picture], tmp_path / "outputs" / "a.webp", "a caption"),
    ):
        with pytest.raises(OSError, match="could not be written .*Free some space,.* or choose another folder"):
            call(*arguments)
    assert (tmp_path / "outputs").read_text() == "a file" and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, picture, monkeypatch):
    path = nst.save_image(picture, tmp_path / "a.png")
    before = path.read_bytes()

    def full(self, file, *_, **__):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        nst.save_image(picture, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def result_of(content="a/IMG_1.jpg", style="b/wave.png", steps=4, **changes):
    call = {"content": content, "style": style if isinstance(style, list) else [style], **changes}
    return {"call": call, "network": {"model": "vgg16"}, "steps": steps, "software": {}}


def test_a_result_never_replaces_one_that_was_made_otherwise(tmp_path, picture):
    save = lambda *what, **how: nst.save_result(picture, result_of(*what, **how), tmp_path).name
    assert save() == "IMG_1-wave.png"
    assert save("a/IMG_1.png") == "IMG_1-wave-2.png"  # another file of the same name
    assert save(tv_weight=2.0) == "IMG_1-wave-3.png"
    assert save(steps=2) == "IMG_1-wave-4.png"  # one that was interrupted
    assert save() == "IMG_1-wave.png" and save(tv_weight=2.0) == "IMG_1-wave-3.png"  # made again
    (tmp_path / "IMG_1-wave-5.png").write_bytes(b"no picture of ours")
    assert save(seed=1) == "IMG_1-wave-6.png"
    assert save(style=["a.png", {"image": "b.png"}]) == "IMG_1-a-b.png"
    again = nst.save_result(1 - picture, result_of(), tmp_path).name  # from a photograph replaced under its name
    assert again == "IMG_1-wave-7.png"
    assert save("\u57ce" * 85 + ".png") == "\u57ce" * 50 + ".png"  # all of it would be too long for a disk
    assert len(list(tmp_path.iterdir())) == 9


@pytest.fixture
def shown(monkeypatch):
    shown = []
    monkeypatch.setattr(nst, "display", shown.append)
    return shown


def grey(figure):
    """A displayed figure's shades, 0 to 1."""
    return np.asarray(Image.open(io.BytesIO(figure.data)).convert("L")) / 255


def test_the_caption_is_drawn_and_each_title_at_its_picture(shown):
    white = np.ones((20, 30, 3))
    nst.show_images([white], "a")
    nst.show_images({"": white, "b": white}, "")
    left, right = np.array_split(grey(shown[1]), 2, axis=1)
    assert left.min() > 0.9 and right.min() < 0.5 and grey(shown[0]).min() < 0.5


def test_a_title_that_has_room_is_on_one_line(shown):
    for title in ("a", "a title of five words"):
        nst.show_images({title: np.ones((20, 60, 3))}, "")
    short, long = (np.mean(grey(figure).min(axis=1) < 0.5) for figure in shown)  # rows with something dark
    assert long < 2 * short


def test_show_images_keeps_narrow_and_wide_pictures_in_bounds(shown, random):
    names = [f"{number} long_name_without_a_blank $x $" for number in range(3)]
    nst.show_images(dict.fromkeys(names, np.zeros((64, 2, 3))), "narrow")
    nst.show_images(dict.fromkeys(names, np.zeros((2, 640, 3))), "wide")
    wide = random.uniform(size=(1, 20, 40, 3))
    nst.show_images([wide, wide[0], wide[0, :, :, 0]], "two rows of two pictures", columns=2)
    sizes = [Image.open(io.BytesIO(figure.data)).size for figure in shown]
    assert all(400 < width <= 1400 and 50 < height < 800 for width, height in sizes)
    assert 1.5 < sizes[2][0] / sizes[2][1] < 2.1 and shown[2].alt == "two rows of two pictures"


def test_a_grid_has_each_picture_in_its_place(shown):
    images = [np.full((1, 20, 30, 3), value) for value in (0.1, 0.3, 0.5, 0.7, 0.9, 0.2)]
    nst.show_images(images, "a grid", columns=3)
    assert shown[0].alt == "a grid"
    for half, values in zip(np.array_split(grey(shown[0]), 2), ([0.1, 0.3, 0.5], [0.7, 0.9, 0.2])):
        for part, value in zip(np.array_split(half, 3, axis=1), values):
            assert np.mean(np.abs(part - value) < 0.03) > 0.4, value


def test_plots_of_losses_are_pngs_with_alternative_text(shown):
    history = {name: [3.0, 2.0, 1.0] for name in ("total", "content", "style", "tv")} | {"size": [32, 32, 64]}
    nst.plot_history(history)
    nst.plot_history(HISTORY | {"style": [1.0], "content": [0.0]})  # one step, and nothing above 0 to draw
    nst.plot_curves({"Adam": [3.0, 2.0], "a": [4.0]}, "The total loss")
    first = np.asarray(Image.open(io.BytesIO(shown[0].data)).convert("RGB")).astype(int)
    pink = np.abs(first - [204, 121, 167]).max(axis=2) < 20  # the total, from 3 to 1
    assert np.ptp(np.nonzero(pink[:, :500])[0]) > 0.2 * len(pink)  # fills the plot, whatever its values
    assert [Image.open(io.BytesIO(figure.data)).format for figure in shown] == ["PNG"] * 3
    assert "against the steps" in shown[0].alt and "Adam, a" in shown[2].alt


def durations(path):
    """How long each frame of an animation is shown, in milliseconds."""
    with Image.open(path) as file:
        frames = [frame.copy() for frame in ImageSequence.Iterator(file)]
    return [frame.info["duration"] for frame in frames]


def test_an_animation_takes_four_seconds_and_holds_its_end(tmp_path, shown):
    sizes, greys = ((8, 12), (16, 24), (16, 24)), (0.1, 0.5, 0.9)
    frames = [np.full((1, *size, 3), grey, np.float32) for size, grey in zip(sizes, greys)]
    path = tmp_path / "new" / "a.webp"
    nst.show_animation(frames, path, "a caption")
    assert durations(path) == [2000, 2000, 2000]
    with Image.open(path) as file:
        assert (file.size, file.info["loop"]) == ((24, 16), 0)
        for number, grey in enumerate(greys):
            file.seek(number)
            np.testing.assert_allclose(np.asarray(file.convert("RGB")), 255 * grey, atol=4)


def test_no_frame_is_too_short_and_one_is_enough(tmp_path, random, shown):
    frames = list(random.uniform(size=(302, 8, 8, 3)))
    path = tmp_path / "a.webp"
    nst.show_animation(frames, path, "")
    assert durations(path) == [20] * 301 + [2000]
    nst.show_animation(frames[:1], path, "")
    assert nst.load_image(path).shape == (1, 8, 8, 3)


def test_an_animation_is_shown_with_its_data_and_its_caption_escaped(tmp_path, shown):
    path = tmp_path / "a.webp"
    nst.show_animation([np.zeros((1, 8, 8, 3))] * 2, path, 'From "a" to <b>')
    text = shown[0].data
    assert text.count("From &quot;a&quot; to &lt;b&gt;") == 2 and "<b>" not in text
    assert base64.b64decode(re.search('data:image/webp;base64,([^"]*)"', text)[1]) == path.read_bytes()

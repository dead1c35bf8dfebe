"""Runs that are kept in a file: they end as if they had never stopped, and no other file is taken for theirs."""

import json

import numpy as np
import pytest

import nst_helpers as nst

HOW = {"steps": 3, "coarsest": 24, "quiet": True}  # 6 steps at 48 pixels, 3 at 96


class Killed(BaseException):
    pass


@pytest.fixture
def pair():
    return nst.load_image("neuschwanstein_castle.jpg", 96), nst.load_image("church_at_auvers.jpg", 96)


@pytest.fixture(autouse=True)
def written_after_each_step(monkeypatch):
    write = nst.Checkpoint.write
    monkeypatch.setattr(nst.Checkpoint, "write", lambda self, *what, now=False: write(self, *what, now=True))


def killed_after(defined, pair, path, step, **how):
    """Runs until a step is done and kept, and not a line further."""

    def kill(now):
        if now.step > step:
            raise Killed

    with pytest.raises(Killed):
        defined.stylize(*pair, callback=kill, checkpoint=path, **HOW | how)
    assert path.is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer, kind, tile_size", [("lbfgs", "wasserstein", None), ("lbfgs", "gram", 64), ("adam", "gram", None)]
)
def test_goes_on_to_the_very_same_picture(defined, pair, tmp_path, optimizer, kind, tile_size):
    pair = [nst.resized(image, 2).numpy() for image in pair]  # larger than a tile and its halo
    how = {"optimizer": optimizer, "style_loss": kind, "tile_size": tile_size, "coarsest": 48}
    path = tmp_path / "run.npz"
    expected, history = defined.stylize(*pair, **HOW | how)
    for step in (2, 12, 13, 19):  # in the first size, at its end, in the next one, in the last one
        killed_after(defined, pair, path, step, **how)
    image, resumed = defined.stylize(*pair, checkpoint=path, **HOW | how)
    np.testing.assert_array_equal(image, expected)
    assert resumed["total"] == history["total"] and resumed["size"] == history["size"]
    assert resumed["layers"] == history["layers"]
    assert np.all(np.diff(resumed["seconds"]) > 0)
    assert not path.exists()  # the run is finished


def test_a_stopped_run_says_how_to_go_on_and_goes_on(defined, pair, tmp_path, capsys):
    path, how = tmp_path / "run.npz", HOW | {"quiet": False}
    expected, _ = defined.stylize(*pair, **HOW)
    _, history = defined.stylize(*pair, checkpoint=path, callback=lambda now: now.step < 7, **how)
    assert len(history["total"]) == 7
    assert "the same call goes on with the run, from 'run.npz'" in capsys.readouterr().out
    image, history = defined.stylize(*pair, checkpoint=path, **how)
    assert len(history["total"]) == 9
    assert "Going on from 'run.npz', after 7 of 9 steps." in capsys.readouterr().out
    np.testing.assert_array_equal(image, expected)


def other(what):
    """A change to what is painted, with what the message says of it."""
    grey = np.full((1, 64, 96, 3), 0.5, np.float32)
    mask = np.zeros((64, 96))
    mask[:40] = 1
    return {
        "weight": (lambda pair: pair, {"style_weight": 30.0}, "style_weight"),
        "steps": (lambda pair: pair, {"steps": 4}, "steps"),
        "optimizer": (lambda pair: pair, {"optimizer": "adam"}, "optimizer"),
        "photograph": (lambda pair: (grey, pair[1]), {}, "image of photograph, image of start"),
        "start": (lambda pair: pair, {"start": grey}, "image of start"),
        "painting": (lambda pair: (pair[0], grey), {}, "image of style 1"),
        "scale": (lambda pair: (pair[0], nst.Style(pair[1], scale=2)), {}, "scale of style 1"),
        "mask": (lambda pair: (pair[0], nst.Style(pair[1], mask=mask)), {}, "mask of style 1"),
        "a second": (lambda pair: (pair[0], [pair[1], grey]), {}, "image of style 2"),
    }[what]


@pytest.mark.parametrize(
    "what", ["weight", "steps", "optimizer", "photograph", "start", "painting", "scale", "mask", "a second"]
)
def test_a_run_of_another_kind_is_refused_with_the_reason_and_kept(defined, pair, tmp_path, what):
    path, (change, settings, reason) = tmp_path / "run.npz", other(what)
    killed_after(defined, pair, path, 2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"is of a run with another {reason}.*Delete it to begin anew"):
        defined.stylize(*change(pair), checkpoint=path, **HOW | settings)
    assert path.read_bytes() == before


def test_other_weights_of_the_network_and_other_versions_are_refused(defined, vgg16, pair, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    killed_after(defined, pair, path, 2)
    other = nst.build_feature_extractor("vgg16", weights=None)
    with pytest.raises(ValueError, match="another weights of the network"):
        defined.stylize(*pair, checkpoint=path, extractor=other, **HOW)
    monkeypatch.setattr(nst.tf, "__version__", "1.0")
    with pytest.raises(ValueError, match="another tensorflow"):
        defined.stylize(*pair, checkpoint=path, **HOW)


def test_a_damaged_file_is_refused_and_kept(pair, tmp_path):
    """Cut, or with one byte changed: refused, or (where the byte says nothing) read as it was."""
    path, how = tmp_path / "run.npz", nst.Settings(**{name: HOW[name] for name in ("steps", "coarsest")})
    small = nst.build_feature_extractor("vgg16", content_layer="block1_conv1", style_layers={"block1_conv1": 1})
    task = how, pair[0], pair[0], nst.as_styles(pair[1], pair[0]), small
    kept, arrays = nst.Checkpoint(path, *task), [np.arange(50, dtype=np.float32), np.ones(3, np.float64), np.float32(1)]
    history = {name: [1.0, 2.0] for name in ("total", "content", "style", "tv", "seconds", "size")} | {"layers": {}}
    kept.write(history, arrays)
    whole, refused = path.read_bytes(), 0
    random = np.random.default_rng(0)
    for place in random.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        for content in (bytes(damaged), whole[:place]):
            path.write_bytes(content)
            try:
                found = nst.Checkpoint(path, *task)
            except ValueError as error:
                refused += 1
                assert "is no checkpoint, or damaged" in str(error) or "of a run with another" in str(error)
            else:
                assert found.history == history and all(map(np.array_equal, found.arrays, arrays))
            assert path.read_bytes() == content
    assert refused > 200


@pytest.mark.parametrize("kind", ["a picture", "empty", "objects", "compressed", "no arrays", "a list"])
def test_what_is_no_checkpoint_is_refused(defined, pair, tmp_path, kind):
    path = tmp_path / "run.npz"
    about = {"made_of": {}, "tile_size": None, "history": {"total": []}, "kinds": []}
    if kind == "a picture":
        nst.save_image(pair[0], tmp_path / "a.png").rename(path)
    elif kind == "empty":
        path.touch()
    elif kind == "objects":  # which only pickle can read
        np.savez(path, about=np.array([json.dumps(about)], object))
    elif kind == "compressed":
        np.savez_compressed(path, about=np.bytes_(json.dumps(about)))
    else:
        np.savez(path, about=np.bytes_(json.dumps(about if kind == "no arrays" else [about])))
    with pytest.raises(ValueError, match="run.npz' is no checkpoint, or damaged .*Name another file; or, if"):
        defined.stylize(*pair, checkpoint=path, **HOW)
    assert path.exists()


def test_a_full_disk_does_not_end_the_run(defined, pair, tmp_path, monkeypatch, capsys):
    write = nst._write

    def full(path, how):
        if path.name == "run.npz":
            raise OSError("No space left on device")
        return write(path, how)

    monkeypatch.setattr(nst, "_write", full)
    image, history = defined.stylize(*pair, checkpoint=tmp_path / "run.npz", **HOW)
    assert len(history["total"]) == 9
    assert "As it stands the run could not be kept: No space left" in capsys.readouterr().out


def test_where_nothing_can_be_written_it_says_so_before_it_paints(defined, pair, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="could not be written"):
        defined.stylize(*pair, checkpoint=tmp_path / "file" / "run.npz", callback=pytest.fail, **HOW)


def test_goes_on_in_the_same_tiles_whatever_memory_is_free(vgg16, pair, tmp_path, monkeypatch):
    path, task = tmp_path / "run.npz", (pair[0], pair[0], nst.as_styles(pair[1], pair[0]), vgg16)
    monkeypatch.setattr(nst, "tile_for", lambda size, *_: 512 if size == "auto" else size)
    history = {name: [1.0] for name in ("total", "content", "style", "tv", "seconds", "size")}
    kept = nst.Checkpoint(path, nst.Settings(), *task)
    assert kept.settings.tile_size == 512
    kept.write(history, [np.zeros(3)] * 3)
    monkeypatch.setattr(nst, "tile_for", lambda size, *_: None if size == "auto" else size)
    assert nst.Checkpoint(path, nst.Settings(), *task).settings.tile_size == 512


def test_is_written_once_a_minute_and_for_a_hundredth_of_the_time(vgg16, pair, tmp_path, monkeypatch):
    monkeypatch.undo()
    clock, writes = [0.0], []
    monkeypatch.setattr(nst.time, "perf_counter", lambda: clock[0])

    def write(path, how):
        writes.append(clock[0])
        clock[0] += 2  # seconds

    kept = nst.Checkpoint(
        tmp_path / "run.npz", nst.Settings(), pair[0], pair[0], nst.as_styles(pair[1], pair[0]), vgg16
    )
    monkeypatch.setattr(nst, "_write", write)
    for _ in range(400):
        clock[0] += 1
        kept.write({}, [])
    assert writes == [60, 262]


@pytest.mark.parametrize("path", [5, ["run.npz"], "x" * 300, "a\0b.npz", "", "."])
def test_what_is_no_name_is_refused(vgg16, pair, path):
    with pytest.raises(ValueError, match="Expected a checkpoint to be a file's name, such as 'outputs/run.npz', got"):
        nst.Checkpoint(path, nst.Settings(), pair[0], pair[0], nst.as_styles(pair[1], pair[0]), vgg16)


def test_another_run_s_file_is_neither_replaced_nor_removed(defined, pair, tmp_path, capsys):
    """Two notebooks, one path: the second was begun before the first had kept anything."""
    path = tmp_path / "run.npz"
    how = HOW | {"style_weight": 30.0, "callback": lambda now: now.step < 4}

    def second(now):
        if now.step == 1:
            defined.stylize(*pair, checkpoint=path, **how)

    defined.stylize(*pair, checkpoint=path, callback=second, **HOW)
    assert "could not be kept: Another run has put a file at" in capsys.readouterr().out
    _, history = defined.stylize(*pair, checkpoint=path, **HOW | {"style_weight": 30.0})  # goes on with the second
    assert len(history["total"]) == 9 and not path.exists()


def test_a_file_that_cannot_be_removed_takes_no_picture_with_it(defined, pair, tmp_path, monkeypatch, capsys):
    path, unlink = tmp_path / "run.npz", nst.Path.unlink

    def refused(self, missing_ok=False):
        if self == path:
            raise PermissionError(13, "The file is in use", str(self))
        unlink(self, missing_ok)

    monkeypatch.setattr(nst.Path, "unlink", refused)
    image, history = defined.stylize(*pair, checkpoint=path, **HOW)
    assert image.shape == pair[0].shape and len(history["total"]) == 9
    assert "could not be removed (The file is in use). Delete it." in capsys.readouterr().out
    again, _ = defined.stylize(*pair, checkpoint=path, **HOW)
    np.testing.assert_array_equal(again, image)


def test_removes_what_it_left_and_nothing_else(defined, pair, tmp_path):
    left, others = tmp_path / f".run.npz.{'0a' * 16}", [tmp_path / ".run.npz.notes", tmp_path / ".run.npzabc"]
    for path in (left, *others):
        path.touch()
    defined.stylize(*pair, checkpoint=tmp_path / "run.npz", **HOW)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_stop_that_could_not_be_kept_promises_nothing(defined, pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nst.np, "savez", lambda *_, **__: exec('raise OSError(28, "No space left")'))
    how = HOW | {"quiet": False, "callback": lambda now: now.step < 3}
    defined.stylize(*pair, checkpoint=tmp_path / "run.npz", **how)
    printed = capsys.readouterr().out
    assert "Stopped after" in printed and "goes on with the run" not in printed


def test_a_resumed_run_says_what_it_took_itself(tmp_path, capsys):
    losses = dict.fromkeys(("content", "style", "tv", "total"), 1.0)
    history = {name: [1.0] for name in (*losses, "size")} | {"seconds": [1000.0], "layers": {}}
    kept = nst.Checkpoint(None, nst.Settings(tile_size=None), None, None, [], None)
    kept.path, kept.history, kept._made_of = tmp_path / "run.npz", history, {}
    with nst.Run([(4, 4, 2)], checkpoint=kept) as run:
        run.record(losses | {"layers": {}}, np.zeros((1, 4, 4, 3)), [np.zeros(3)])
    printed = capsys.readouterr().out
    assert "after 1 of 2 steps" in printed and "Took 0." in printed
    assert run.history["seconds"][1] > 1000 and not any(tmp_path.iterdir())


def test_numbers_of_numpy_and_another_folder_meanwhile(defined, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    how = HOW | {"steps": np.int64(3), "style_weight": np.float32(30), "checkpoint": "run.npz"}
    move = lambda now: monkeypatch.chdir(tmp_path / "elsewhere") if now.step == 2 else now.step < 5
    defined.stylize(*pair, callback=move, **how)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["run.npz"]
    monkeypatch.chdir(tmp_path)
    _, history = defined.stylize(*pair, **how)
    assert len(history["total"]) == 9 and [path.name for path in tmp_path.rglob("*")] == ["elsewhere"]

"""Runs that are kept in a file: they end as well as if they had never stopped, and no other file is taken for theirs."""

import json

import numpy as np
import pytest

import nst_helpers as nst

HOW = {"steps": 4, "coarsest": 32, "quiet": True}  # 9 pictures at 32 pixels, 5 at 64
GREY = np.full((1, 64, 64, 3), 0.5, np.float32)
HISTORY = {name: [2.0, 1.0] for name in ("seconds", "size", "content", "style", "tv", "total")}


@pytest.mark.parametrize("step", [4, 9, 12, 14])  # in the first size, at its end, in the last one, at its end
def test_a_stopped_run_goes_on_and_ends_as_well(defined, castle, church, tmp_path, capsys, step):
    path = tmp_path / "run.npz"
    _, expected = defined.stylize(castle, church, **HOW)
    how = HOW | {"checkpoint": path, "quiet": False}
    _, stopped = defined.stylize(castle, church, callback=lambda now: now.step < step, **how)
    assert "The same call goes on with the run, from 'run.npz'." in capsys.readouterr().out
    with np.load(path, allow_pickle=False) as file:
        assert file["picture"].shape[2] == stopped["size"][-1]
        assert json.loads(str(file["about"]))["history"] == stopped
    image, history = defined.stylize(castle, church, **how)
    assert f"Going on from 'run.npz', after {step} of 14 steps." in capsys.readouterr().out
    assert image.shape == castle.shape and history["size"] == expected["size"]
    assert min(history["total"][9:]) < 1.01 * min(expected["total"][9:])
    assert np.all(np.diff(history["seconds"]) > 0)
    assert not any(tmp_path.iterdir())  # the run is finished


def test_a_killed_run_has_kept_what_it_did(defined, castle, church, tmp_path, monkeypatch):
    def kill(now):
        if now.step > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(nst, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        defined.stylize(castle, church, callback=kill, checkpoint=tmp_path / "run.npz", **HOW)
    with np.load(tmp_path / "run.npz", allow_pickle=False) as file:
        assert len(json.loads(str(file["about"]))["history"]["total"]) == 3


@pytest.fixture
def kept(castle, church, vgg16, tmp_path):
    """Returns a function that opens a file, of a run with some changes; that of one without them is there."""

    def checkpoint(path=tmp_path / "run.npz", network=vgg16, content=castle, start=None, style=church, **settings):
        settings = nst.Settings(**settings)
        return nst.Checkpoint(path, nst.prepared(content, start, style, settings, quiet=True), settings, network)

    checkpoint().write(castle, HISTORY)
    return checkpoint


def test_what_was_written_is_read_again_in_tiles_as_well(kept, castle):
    found = kept(tile_size=768)  # "auto" chooses by the memory that is free, and now may be less
    np.testing.assert_array_equal(found.picture, castle)
    assert found.history == HISTORY


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"style_weight": 30.0}, "style_weight"),
        ({"network": "VGG19"}, "network"),
        ({"content": GREY}, "photograph, start"),
        ({"start": GREY}, "start"),
        ({"style": {"image": GREY, "scale": 2.0}}, "image of style 1, scale of style 1"),
        ({"style": [GREY, GREY]}, "image of style 1, image of style 2"),
    ],
)
def test_the_file_of_another_run_is_refused_with_the_reason_and_left(kept, tmp_path, change, reason):
    before = (tmp_path / "run.npz").read_bytes()
    with pytest.raises(ValueError, match=f"is of a run with another {reason}.*Delete it to begin anew"):
        kept(**change)
    assert (tmp_path / "run.npz").read_bytes() == before


@pytest.mark.parametrize("kind", ["cut", "one bit", "a picture", "objects", "a list", "of no run"])
def test_what_is_no_checkpoint_is_refused_and_left(kept, castle, tmp_path, kind):
    path = tmp_path / "run.npz"
    content = bytearray(path.read_bytes())
    if kind == "one bit":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[:5000] if kind == "cut" else content)
    if kind == "a picture":
        nst.save_image(castle, tmp_path / "a.png").rename(path)
    elif kind == "objects":  # which only pickle can read
        np.savez(path, picture=castle, about=np.array([{}], object))
    elif kind in ("a list", "of no run"):
        about = [] if kind == "a list" else {"history": {}, "made_of": 5}
        np.savez(path, picture=castle, about=np.str_(json.dumps(about)))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Expected a checkpoint, got .*run.npz', which is none, or damaged.*delete it"):
        kept()
    assert path.read_bytes() == before


def test_what_is_no_name_is_refused(kept):
    with pytest.raises(ValueError, match="Expected a checkpoint to be a file's name.*got 5"):
        kept(5)


def test_a_full_disk_does_not_end_the_run(kept, castle, tmp_path, capsys):
    checkpoint = kept()
    (tmp_path / "run.npz").unlink()
    (tmp_path / "run.npz").mkdir()  # nothing can be written over it
    checkpoint.write(castle, HISTORY)
    assert "As it stands the run could not be kept: " in capsys.readouterr().out

"""Runs that are kept in a file: they end as well as if they had never stopped, and no other file is taken for theirs."""

import json

import numpy as np
import pytest

import nst_helpers as nst

HOW = {"steps": 4, "coarsest": 32, "quiet": True}  # 7 pictures at 32 pixels, 5 at 64
GREY = np.full((1, 64, 64, 3), 0.5, np.float32)
HISTORY = {name: [2.0, 1.0] for name in ("seconds", "size", "content", "style", "tv", "total")}


@pytest.mark.parametrize("step", [4, 7, 9, 12])  # in the first size, at its end, in the last one, at its end
def test_a_stopped_run_goes_on_and_ends_as_well(defined, castle, church, tmp_path, capsys, step):
    path = tmp_path / "run.npz"
    _, expected = defined.stylize(castle, church, **HOW)
    how = HOW | {"checkpoint": path, "quiet": False}
    _, stopped = defined.stylize(castle, church, callback=lambda now: now.step < step, **how)
    with np.load(path, allow_pickle=False) as file:
        assert file["picture"].shape[2] == stopped["size"][-1]
        assert json.loads(str(file["about"]))["history"] == stopped
    image, history = defined.stylize(castle, church, **how)
    assert f"Resumed from 'run.npz', after {step} of 12 steps." in capsys.readouterr().out
    assert image.shape == castle.shape and history["size"] == expected["size"]
    assert min(history["total"][7:]) < 1.01 * min(expected["total"][7:])
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
def kept(castle, church, tmp_path):
    """Returns a function that opens the file of a run made of some things; that of `castle` and `church` is there."""

    def checkpoint(*made_of, path=tmp_path / "run.npz"):
        return nst.Checkpoint(path, made_of or [castle, {"style": nst.Style(church)}, nst.Settings()])

    checkpoint().write(castle, HISTORY)
    return checkpoint


def test_what_was_written_is_read_again(kept, castle):
    np.testing.assert_array_equal(kept().picture, castle)
    assert kept().history == HISTORY


def test_the_file_of_another_run_is_refused_and_left(kept, castle, church, tmp_path):
    before = (tmp_path / "run.npz").read_bytes()
    same = {"style": nst.Style(church)}
    for made_of in (
        (GREY, same, nst.Settings()),
        (castle, {"style": nst.Style(church, scale=2.0)}, nst.Settings()),
        (castle, same, nst.Settings(style_weight=7.0)),
        (castle, same, nst.Settings(), "VGG19"),
    ):
        with pytest.raises(ValueError, match="that is of other pictures, settings or network.*delete it"):
            kept(*made_of)
    assert (tmp_path / "run.npz").read_bytes() == before


@pytest.mark.parametrize("kind", ["cut", "one bit", "a picture", "objects", "a list"])
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
    elif kind == "a list":
        np.savez(path, picture=castle, about=np.str_("[]"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Expected this run's checkpoint, got .*run.npz .*delete it"):
        kept()
    assert path.read_bytes() == before


def test_what_is_no_name_is_refused(kept, tmp_path):
    with pytest.raises(ValueError, match="Expected a checkpoint to be a file's name.*got 5"):
        kept(path=5)
    with pytest.raises(ValueError, match="a file's name.*got .*Path"):
        kept(path=tmp_path)


def test_a_full_disk_does_not_end_the_run(kept, castle, tmp_path, capsys):
    checkpoint = kept()
    (tmp_path / "run.npz").unlink()
    (tmp_path / "run.npz").mkdir()  # nothing can be written over it
    checkpoint.write(castle, HISTORY)
    assert "As it stands the run could not be kept: " in capsys.readouterr().out

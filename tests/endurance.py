"""Kills a run at random moments until it has ended, and compares its picture with that of a run left alone.

    .venv/bin/python tests/endurance.py          # 100 runs, some forty minutes on two cores
    .venv/bin/python tests/endurance.py 12       # fewer
    .venv/bin/python tests/endurance.py memory   # instead: fifty runs in one process, and its memory

Each run is a process of its own, at one size or from coarse to fine, with either optimiser, whole or in
tiles; SIGKILL comes at a random moment, and the same command goes on with the run.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
KINDS = list(itertools.product(("lbfgs", "adam"), ("gram", "wasserstein"), (None, 64), (48, 192)))


def load(**layers):
    """The notebook's functions, with VGG16."""
    import nbformat
    from conftest import defined_in, nst

    nb = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    return defined_in(nb, nst.build_feature_extractor("vgg16", **layers)), nst


def paint(path, optimizer, kind, tile_size, coarsest):
    """One run of 192 pixels, kept after each step; prints the picture's hash and the number of steps."""
    shallow = {"block1_conv1": 4.0, "block3_conv1": 1.0}  # which compile quickly
    defined, nst = load(style_layers=shallow, content_layer="block3_conv1")
    write = nst.Checkpoint.write
    nst.Checkpoint.write = lambda self, *what, now=False: write(self, *what, now=True)
    how = {"optimizer": optimizer, "style_loss": kind, "tile_size": tile_size, "coarsest": coarsest, "steps": 6}
    content = nst.load_image("neuschwanstein_castle.jpg", 192)
    print("begun", flush=True)
    image, history = defined.stylize(content, "church_at_auvers.jpg", checkpoint=path, quiet=True, **how)
    print(json.dumps([nst._sha256([image]), len(history["total"])]), flush=True)


def run(path, kind, alive=None):
    """Starts a run and lets it live so many seconds after its imports; returns what it prints and its time, or None."""
    command = [sys.executable, __file__, "paint", json.dumps([path and str(path), *kind])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first, start = process.stdout.readline(), time.perf_counter()
        if alive is not None:
            try:
                process.wait(alive)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
        printed, errors = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return None
    assert first == "begun\n" and process.returncode == 0, errors
    return json.loads(printed), time.perf_counter() - start


def survive(kind, alone):
    """One run, killed until it ends; returns how often it was killed."""
    expected, seconds = alone
    with tempfile.TemporaryDirectory() as folder:
        path, kills = Path(folder) / "run.npz", 0
        while (found := run(path, kind, random.uniform(0.3, 1.5) * seconds)) is None:
            kills += 1
        assert found[0] == expected, f"{kind}: expected {expected}, got {found[0]}"
        assert not list(Path(folder).iterdir()), "something was left behind"
    print(f"{kind}: killed {kills} times, the same picture after {expected[1]} steps", flush=True)
    return kills


def kill_at_random(number):
    kinds = [kind for kind, _ in zip(itertools.cycle(KINDS), range(number))]
    with ThreadPoolExecutor(2) as pool:  # of processes that mostly wait for themselves
        some = kinds[: len(KINDS)]
        alone = dict(zip(some, pool.map(lambda kind: run(None, kind), some)))
        kills = list(pool.map(lambda kind: survive(kind, alone[kind]), kinds))
    print(f"{number} runs, {sum(kills)} kills: all ended at the very same picture.")


def fifty_runs():
    """Sizes, networks, masks and weights change; the first picture is made again at the end.

    After thirty runs each size was seen with each network, with and without masks: from there on, nothing is new.
    """
    import numpy as np
    import psutil

    defined, nst = load()
    networks = [defined.extractor, *(nst.build_feature_extractor(name, weights=None) for name in ("vgg19", "resnet50"))]
    compiled = defined.losses_and_gradient, defined.lbfgs_step
    first, seen, memory = None, set(), []
    for n in range(51):
        size, network, masked = (96, 128, 160, 200, 232)[n % 5], networks[n % 3], n % 2 == 1
        size, network, masked = (96, networks[0], False) if n == 50 else (size, network, masked)
        content = nst.load_image(("neuschwanstein_castle.jpg", "mont_saint_michel.jpg")[n % 2], size)
        style = nst.load_image("church_at_auvers.jpg", size)
        mask = np.zeros(content.shape[1:3])
        mask[: round(0.7 * len(mask))] = 1
        weights = (
            {"content_weight": 1 + n % 3, "style_weight": 100.0 / (1 + n % 2)} if n < 50 else {"content_weight": 1}
        )
        before = [function.experimental_get_tracing_count() for function in compiled]
        styles = [nst.Style(style, mask=mask), nst.Style(style[:, ::-1], mask=1 - mask)] if masked else style
        how = {"extractor": network, "steps": 3, "coarsest": 96, "style_loss": "gram", "quiet": True}
        image, _ = defined.stylize(content, styles, **how, **weights)
        traced = [function.experimental_get_tracing_count() for function in compiled] != before
        kind = network.model, masked
        assert not (traced and kind in seen), f"{kind} was compiled again"
        seen.add(kind)
        first = image if first is None else first
        memory.append(psutil.Process().memory_info().rss / 1e6)
        if (n + 1) % 10 == 0:
            print(f"after {n + 1} runs {memory[-1]:.0f} MB", flush=True)
    assert np.array_equal(image, first), "the first picture, made again, is another"
    shares = f"{memory[49] / memory[9]:.3f}, over that after 30: {memory[49] / memory[29]:.3f}"
    print(f"Memory after 50 runs over that after 10: {shares}. The first picture came out the same.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["paint"]:
        paint(*json.loads(sys.argv[2]))
    elif sys.argv[1:] == ["memory"]:
        fifty_runs()
    else:
        kill_at_random(int(sys.argv[1]) if sys.argv[1:] else 100)

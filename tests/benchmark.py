"""Measures the notebook's own code on the default pair of pictures, and writes tests/benchmark.md.

    .venv/bin/python tests/benchmark.py                 # everything, some 20 minutes on two cores
    .venv/bin/python tests/benchmark.py steps start     # only these tables; prints them and writes nothing

Each figure comes from a process of its own; times are medians of three of them, where the table does
not say otherwise. Close other programs first. Needs Linux or macOS (for the peak memory).

The reference is the recipe of TensorFlow's own tutorial on neural style transfer: one size,
float32, Adam (learning rate 0.02, beta_1 0.99, epsilon 0.1) from the photograph, the loss times a
million. It descends on the notebook's losses and weights. Its time leaves out what it takes to
start; ours includes computing the targets and compiling, at each size.
"""

import argparse
import base64
import contextlib
import datetime
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 3
MODEL = "vgg16"  # its weights are in the repository, so that everyone measures the same
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


# ---------------------------------------------------------------------------------------------
# What runs in a process of its own: each returns numbers by name


def load(precision="auto", size=512):
    """The notebook's functions with an extractor, and the two pictures, enlarged if need be."""
    import nbformat
    from conftest import defined_in, nst

    nb = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    defined = defined_in(nb, nst.build_feature_extractor(MODEL, precision=precision))
    pictures = [nst.load_image(defined.CONTENT_IMAGE, size, "content")]
    pictures.append(nst.load_image(defined.STYLE_IMAGE, size, "style"))
    pictures = [nst.resized(picture, size / max(picture.shape)).numpy() for picture in pictures]
    return defined, *pictures


def objective(defined, content, style, **changes):
    settings = defined.settings_now(**changes)
    return defined.objective(content, [defined.nst.Style(style)], settings, defined.extractor)


def ours(precision, kind):
    """The default recipe's seconds."""
    defined, content, style = load(precision)
    start = time.perf_counter()
    defined.stylize(content, style, quiet=True, style_loss=kind)
    seconds = time.perf_counter() - start
    return {"seconds": seconds}


def reference():
    """The median seconds of a step of the reference recipe."""
    defined, content, style = load("float32")
    tf, seconds = defined.tf, []
    evaluate, image = objective(defined, content, style, style_loss="gram"), defined.tf.Variable(content)
    optimizer = defined.keras.optimizers.Adam(0.02, beta_1=0.99, epsilon=0.1)
    for _ in range(30):
        start = time.perf_counter()
        _, gradient = evaluate(tf.convert_to_tensor(image))
        optimizer.apply([1e6 * gradient], [image])
        image.assign(tf.clip_by_value(image, 0, 1))
        image.numpy()
        seconds.append(time.perf_counter() - start)
    return {"step": statistics.median(seconds[5:])}


def optimiser(kind):
    """The loss after 60 steps at 256 pixels, at that size only."""
    defined, content, style = load(size=256)
    tf, even_out = defined.tf, defined.even_out
    preconditioners = {
        "the identity": lambda q, v: q,
        "frequencies only": lambda q, v: even_out(q, tf.ones_like(v)),
        "frequencies and gradients": even_out,
    }
    run = defined.adam
    if kind in preconditioners:
        run = defined.functools.partial(defined.lbfgs, preconditioner=preconditioners[kind])
    for _, losses, _ in run(
        objective(defined, content, style, style_loss="gram"), defined.tf.constant(content), 61, 0.05
    ):
        pass
    return {"loss": float(losses["total"])}


def step(precision, size):
    """Milliseconds of the losses and gradient alone, and of a whole step of L-BFGS, which has them in it.

    They take turns, so that a busy machine slows both.
    """
    defined, content, style = load(precision, size)
    evaluate, image = objective(defined, content, style, style_loss="gram"), defined.tf.constant(content)
    descent = defined.OPTIMIZERS["lbfgs"](evaluate, image, 10_000, 0.05)
    height, width = content.shape[1:3]
    run = defined.nst.Run([(width, height, 10_000)], quiet=True)
    alone, whole = [], []
    for _ in range(60 if size < 500 else 25):
        start = time.perf_counter()
        evaluate(image)[1].numpy()
        middle = time.perf_counter()
        image, losses, _ = next(descent)
        run.record(losses, image)
        alone.append(middle - start)
        whole.append(time.perf_counter() - middle)
    return {
        "evaluation": 1000 * statistics.median(alone[8:]),
        "step": 1000 * statistics.median(whole[8:]),
        "ratio": statistics.median(whole[8:]) / statistics.median(alone[8:]),
    }


def style_loss(size):
    """Milliseconds of the losses and gradient with either style loss, taking turns."""
    defined, content, style = load(size=size)
    image, seconds = defined.tf.constant(content), {kind: [] for kind in defined.nst.STYLE_LOSSES}
    evaluate = {kind: objective(defined, content, style, style_loss=kind) for kind in seconds}
    for _ in range(40 if size < 500 else 20):
        for kind, function in evaluate.items():
            start = time.perf_counter()
            image = image - 1e-6 * function(image)[1]
            image.numpy()
            seconds[kind].append(time.perf_counter() - start)
    return {kind: 1000 * statistics.median(values[5:]) for kind, values in seconds.items()}


def first_step():
    """Seconds from the start of Python to the end of the first step at full size, by stages."""
    began, marks = float(os.environ["BENCHMARK_STARTED"]), {}
    import nst_helpers as nst

    marks["importing"] = time.time() - began
    nst.choose_precision()
    marks["choosing the precision"] = time.time() - began
    defined, content, style = load()
    marks["network and pictures"] = time.time() - began
    defined.stylize(content, style, steps=1, coarsest=512, quiet=True)
    marks["targets, compiling, first step"] = time.time() - began
    return marks


def peak():
    """The process's peak memory in gigabytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def size(pixels):
    """Seconds and peak memory of the default recipe at a size: as expected, and as they were."""
    defined, content, style = load(size=pixels)
    said, start = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(said):
        _, history = defined.stylize(content, style)
    first = said.getvalue().splitlines()[0].split()
    clock = [float(part) for part in first[1].split(":")]
    return {
        "expected seconds": sum(part * 60**n for n, part in enumerate(reversed(clock))),
        "seconds": history["seconds"][-1],
        "whole": time.perf_counter() - start,
        "expected gigabytes": float(first[first.index("GB") - 1]),
        "gigabytes": peak(),
        "height": content.shape[1],
    }


def watched(pixels):
    """The seconds of a run with everything drawn that somebody would see, over those of a quiet one.

    What it leaves out is the time of the browser.
    """
    defined, content, style = load(size=pixels)
    drawn = []

    class Handle:
        def update(self, picture):
            drawn.append(len(base64.b64encode(picture.data if isinstance(picture.data, bytes) else b"")))

    defined.nst.is_live, defined.nst.display = lambda: True, lambda *_, **__: Handle()
    seconds = {True: [], False: []}
    for quiet in (True, True, False, False, True, False, True):
        _, history = defined.stylize(content, style, quiet=quiet)
        seconds[quiet].append(history["seconds"][-1])
    ratio = statistics.median(seconds[False]) / statistics.median(seconds[True][1:])
    return {"ratio": ratio, "pictures": len(drawn) / 3}


# ---------------------------------------------------------------------------------------------
# The tables


def tiled(pixels, tile, precision, steps):
    """Seconds of a step of L-BFGS at one size, and the whole process's peak memory."""
    defined, *_ = load(precision)
    changes = {"steps": steps, "coarsest": pixels, "tile_size": tile, "enlarge": True, "quiet": True}
    image, history, _ = defined.paint(defined.CONTENT_IMAGE, defined.STYLE_IMAGE, pixels, **changes)
    seconds = history["seconds"]
    times = [later - earlier for earlier, later in zip(seconds, seconds[1:])]  # the first one compiles
    return {"height": image.shape[1], "seconds": statistics.median(times), "gigabytes": peak()}


def measured(function, *arguments, runs=RUNS):
    """Medians over several processes of what a function returns."""
    results = []
    for _ in range(runs):
        command = [sys.executable, __file__, "--worker", function.__name__, json.dumps(arguments)]
        environment = {**os.environ, "BENCHMARK_STARTED": str(time.time())}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{function.__name__}{arguments}: {results[-1]}", file=sys.stderr, flush=True)
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def table(title, *rows, note=""):
    """A Markdown table with its title."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return f"## {title}\n\n" + "".join(f"| {line} |\n" for line in lines) + (f"\n{note}\n" if note else "")


def picture():
    step = measured(reference, runs=1)["step"]
    rows = [("recipe", "seconds", "in steps of the reference")]
    for precision, kind in (("float32", "gram"), ("bfloat16", "gram"), ("bfloat16", "wasserstein")):
        seconds = measured(ours, precision, kind, runs=1)["seconds"]
        rows.append((f"{precision}, {kind}", f"{seconds:.1f}", f"{seconds / step:.0f}"))
    rows.append(("reference, 1000 steps", f"{1000 * step:.0f}", "1000"))
    note = "One run each; the reference from the median of its first steps."
    return table("The default picture, 512 x 342 pixels", *rows, note=note)


def optimisers():
    kinds = ("Adam", "the identity", "frequencies only", "frequencies and gradients")
    names = ("Adam", *(f"L-BFGS, B_0 from {kind}" for kind in kinds[1:]))
    rows = [(name, f"{measured(optimiser, kind, runs=1)['loss']:.3f}") for name, kind in zip(names, kinds)]
    return table("Total loss after 60 steps at 256 pixels, from the photograph", ("optimiser", "loss"), *rows)


def steps():
    rows = [("precision", "longest side", "losses and gradient, ms", "whole step, ms", "ratio")]
    for precision in ("float32", "bfloat16"):
        for pixels in (128, 256, 512):
            one = measured(step, precision, pixels, runs=1)
            cells = f"{one['evaluation']:.1f}", f"{one['step']:.1f}", f"{one['ratio']:.2f}"
            rows.append((precision, pixels, *cells))
    return table("A step of L-BFGS", *rows, note="Medians of the steps of one process.")


def style_losses():
    rows, sums = [("longest side", "gram, ms", "wasserstein, ms", "ratio")], [0.0, 0.0]
    for pixels, number in ((128, 120), (256, 60), (512, 30)):
        one = measured(style_loss, pixels, runs=1)
        rows.append(
            (pixels, f"{one['gram']:.1f}", f"{one['wasserstein']:.1f}", _ratio(one["gram"], one["wasserstein"]))
        )
        sums = [total + number * ms / 1000 for total, ms in zip(sums, one.values())]
    rows.append(("120, 60 and 30 steps", *(f"{total:.1f} s" for total in sums), _ratio(*sums)))
    note = "Medians of the evaluations of one process, in the precision that is chosen."
    return table("Losses and gradient with either style loss", *rows, note=note)


def _ratio(first, second):
    return f"{second / first:.2f}"


def start():
    rows = [(name, f"{mark:.1f}") for name, mark in measured(first_step).items()]
    title = "Seconds from starting Python to the end of the first step at full size"
    return table(title, ("after", "seconds"), *rows)


def sizes():
    rows = [("pixels", "expected", "seconds", "off by", "expected", "peak memory", "off by")]
    for pixels in (256, 512, 1024):
        one = measured(size, pixels, runs=1)
        cells = [f"{pixels} x {one['height']:.0f}"]
        for what, form in (("seconds", "{:.0f} s"), ("gigabytes", "{:.1f} GB")):
            expected, real = one[f"expected {what}"], one[what]
            cells += [form.format(expected), form.format(real), f"{expected / real - 1:+.0%}"]
        rows.append(cells)
    note = (
        "What the notebook says before a run, beside what it took (one run each); memory is that of the whole process."
    )
    return table("The default recipe at three sizes", *rows, note=note)


def tiles():
    rows, whole = [("pixels", "precision", "tiles", "seconds a step", "peak memory", "time per pixel, over whole")], {}
    cases = [(pixels, tile, "auto") for pixels in (512, 1024, 2048) for tile in (None, 768)]
    for pixels, tile, precision in [*cases, (4096, 768, "auto"), (2048, None, "float32")]:
        one = measured(tiled, pixels, tile, precision, 8, runs=1)
        rate = one["seconds"] / (pixels * one["height"])
        whole[precision] = rate if tile is None else whole[precision]
        cells = f"{one['seconds']:.2f}", f"{one['gigabytes']:.1f} GB", f"{rate / whole[precision]:.2f}"
        rows.append((f"{pixels} x {one['height']:.0f}", precision, tile or "none", *cells))
    return table("A step at four sizes, whole and in tiles", *rows, note="Medians of the steps of one process.")


def watching():
    one = measured(watched, 256, runs=1)
    rows = [("pixels", "pictures and curves drawn", "time, over a quiet run")]
    rows.append((256, f"{one['pictures']:.0f}", f"{one['ratio']:.3f}"))
    return table("What the live picture and the curves cost", *rows, note="Medians of three runs in one process.")


TABLES = {table.__name__: table for table in (style_losses, picture, sizes, steps, start, optimisers, watching, tiles)}


def processor():
    """The CPU's name, with what matters of its features."""
    name, flags = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        entries = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        name, flags = entries.get("model name", name), entries.get("flags", "")
    has = ", ".join(each for each in ("avx512f", "avx512_bf16", "amx_bf16") if each in flags.split())
    return f"{name}, {os.cpu_count()} cores ({has or 'no AVX512, no AMX'})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="which tables; all by default")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        name, arguments = chosen.worker
        print("\n" + json.dumps(globals()[name](*json.loads(arguments))))
        return
    head = (
        "# Benchmark\n\nWritten by `tests/benchmark.py`, which says at its top how it measures.\n\n"
        f"CPU: {processor()}; Python {platform.python_version()}; network: {MODEL.upper()}; "
        f"{datetime.date.today()}.\n"
    )
    for name in chosen.tables or TABLES:
        head += "\n" + TABLES[name]()
        if not chosen.tables:  # after each table, in case that it is stopped
            (ROOT / "tests" / "benchmark.md").write_text(head, encoding="utf-8")
    print(head)


if __name__ == "__main__":
    main()

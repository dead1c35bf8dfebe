"""Measures the notebook's own code on the default pair of pictures, and prints Markdown tables.

    .venv/bin/python tests/benchmark.py            # everything, some 40 minutes on two cores
    .venv/bin/python tests/benchmark.py steps      # one table: reach, precondition, steps, start, sizes or watching

Each figure comes from a process of its own; times are medians of three of them, but for the
reference (the median of its 1000 steps, times 1000), for 1024 pixels (one run) and for the cost of
watching (medians of three runs in one process). Close other
programs first. Needs Linux or macOS (for the peak memory).

The reference is the recipe of TensorFlow's own tutorial on neural style transfer: one size,
float32, Adam (learning rate 0.02, beta_1 0.99, epsilon 0.1) from the photograph, the loss times a
million, plain automatic differentiation. Both descend on the notebook's losses and weights, so
that one number compares them: the total loss of the picture, evaluated in float32 (but for the
table of preconditioners, whose rows are all of the precision that is chosen). The reference's time
leaves out what it takes to start; ours includes computing the targets and compiling, at each size.
"""

import argparse
import base64
import contextlib
import itertools
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


# ---------------------------------------------------------------------------------------------
# What runs in a process of its own: each returns a number, or several by name


def load(precision="float32", size=512):
    """The notebook's functions with an extractor, and the two pictures."""
    sys.path.insert(0, str(ROOT / "tests"))
    import nbformat
    from conftest import defined_in, nst

    nb = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    defined = defined_in(nb, nst.build_feature_extractor(MODEL, precision=precision))
    pictures = [nst.load_image(ROOT / path, size) for path in (defined.CONTENT_IMAGE, defined.STYLE_IMAGE)]
    # The size is exact: a picture with too few pixels is enlarged.
    pictures = [defined.resized(picture, size / max(picture.shape)) for picture in pictures]
    weights = {"content": defined.CONTENT_WEIGHT, "style": defined.STYLE_WEIGHT, "tv": defined.TV_WEIGHT}
    return defined, *pictures, weights


def reference(steps=1000):
    """The reference's loss after its steps, and the median of the seconds that each took."""
    defined, content, style, weights = load()
    tf, keras = defined.tf, defined.keras
    defined.nst.inner_products = lambda F: tf.matmul(F, F, transpose_a=True)
    evaluate = defined.objective(content, style, weights)
    image, seconds = tf.Variable(content), []
    optimizer = keras.optimizers.Adam(0.02, beta_1=0.99, epsilon=0.1)
    for _ in range(steps):
        start = time.perf_counter()
        _, gradient = evaluate(tf.convert_to_tensor(image))
        optimizer.apply([1e6 * gradient], [image])
        image.assign(tf.clip_by_value(image, 0, 1))
        image.numpy()
        seconds.append(time.perf_counter() - start)
    defined.nst.save_image(image.numpy(), ROOT / "outputs" / "benchmark-reference.png")
    loss = float(evaluate(tf.convert_to_tensor(image))[0]["total"])
    return {"loss": loss, "step": statistics.median(seconds)}


def reach(precision, target):
    """Our seconds until a picture's loss, in float32, is down to the target.

    The default recipe, which goes on at full size until it is there. Losses are looked at while
    it runs in the run's own precision; the pictures from then on are evaluated in float32 after it.
    """
    defined, content, style, weights = load(precision)
    began, kept = time.perf_counter(), []

    class Enough(Exception):
        pass

    def keep(now):
        kept.append((time.perf_counter() - began, now.image))
        if history["total"][-1] < 0.99 * target:
            raise Enough

    half = [defined.resized(picture, 0.5) for picture in (content, style)]
    smaller, _ = defined.stylize(*half, quiet=True)
    start = defined.start_of_next(content, defined.tf.constant(smaller), half[0])
    evaluate = defined.objective(content, style, weights)
    history = defined.defaultdict(list)
    progress = defined.nst.Progress(keep, quiet=True)
    with contextlib.suppress(Enough):
        defined.descend(defined.lbfgs, evaluate, start, 400, history, progress)
    exact = defined.nst.build_feature_extractor(MODEL)
    judge = defined.objective(content, style, weights, extractor=exact)
    for steps, ((seconds, image), total) in enumerate(zip(kept, history["total"][1:]), start=1):
        if total < 1.01 * target and float(judge(image)[0]["total"]) <= target:
            return {"seconds": seconds, "steps": steps}
    return {"seconds": float("nan"), "steps": float("nan")}


def end(precision):
    """The default recipe's seconds, and the float32 loss of its picture."""
    defined, content, style, weights = load(precision)
    start = time.perf_counter()
    image, _ = defined.stylize(content, style, quiet=True)
    seconds = time.perf_counter() - start
    defined.nst.save_image(image, ROOT / "outputs" / f"benchmark-{precision}.png")
    exact = defined.nst.build_feature_extractor(MODEL)
    judge = defined.objective(content, style, weights, extractor=exact)
    return {"seconds": seconds, "loss": float(judge(defined.tf.constant(image))[0]["total"])}


def precondition(kind):
    """The loss after 100 steps at 256 pixels, at that size only, with one or another B_0."""
    defined, content, style, weights = load(best_precision(), 256)
    tf, names = defined.tf, defined.lbfgs.__globals__
    full = defined.preconditioner
    optimizer = defined.lbfgs
    if kind == "Adam":
        optimizer = defined.adam
    elif kind == "the identity":
        names["preconditioner"] = lambda v, gain: lambda q: q
    elif kind == "frequencies only":
        names["preconditioner"] = lambda v, gain: full(tf.ones_like(v), gain)
    history = defined.defaultdict(list)
    quiet = defined.nst.Progress(quiet=True)
    defined.descend(optimizer, defined.objective(content, style, weights), content, 101, history, quiet)
    return {"loss": history["total"][100]}


def step(precision):
    """Milliseconds of a step of L-BFGS, of its losses and gradient, and of the bare convolutions."""
    defined, content, style, weights = load(precision)
    tf = defined.tf
    evaluate = defined.objective(content, style, weights)
    evaluate(content)
    losses_and_gradient = milliseconds(lambda: evaluate(content)[1])
    history = defined.defaultdict(list)
    defined.descend(defined.lbfgs, evaluate, content, 40, history, defined.nst.Progress(quiet=True))
    seconds = history["seconds"][15:]  # from here on with all ten pairs
    whole = 1000 * statistics.median(b - a for a, b in itertools.pairwise(seconds))

    @tf.function
    def forward(x, kernel):
        return tf.nn.conv2d(x, kernel, 1, "SAME")

    @tf.function
    def backward(x, kernel, upstream):
        return tf.nn.conv2d_transpose(upstream, kernel, tf.shape(x), 1, "SAME")

    bare, (height, width) = 0, content.shape[1:3]
    for layer in defined.extractor.network.layers:
        if "pool" in layer.name:
            height, width = height // 2, width // 2
        if "conv" in layer.name:
            kernel = tf.cast(layer.kernel, precision)
            x = tf.cast(tf.random.normal((1, height, width, kernel.shape[2])), precision)
            y = forward(x, kernel)
            bare += milliseconds(lambda: forward(x, kernel)) + milliseconds(lambda: backward(x, kernel, y))
    return {"step": whole, "losses and gradient": losses_and_gradient, "convolutions": bare}


def milliseconds(compute, times=15):
    """The median time of a computation, waited for."""
    seconds = []
    for _ in range(times + 2):
        start = time.perf_counter()
        compute()[0, 0, 0, 0].numpy()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[2:])


def first_step():
    """Seconds from the start of Python to the end of the first step at full size, by stages."""
    began = float(os.environ["BENCHMARK_STARTED"])
    marks = {}
    sys.path.insert(0, str(ROOT))
    import nst_helpers as nst

    marks["importing"] = time.time() - began
    precision = nst.choose_precision()
    marks["choosing the precision"] = time.time() - began
    defined, content, style, _ = load(precision)
    marks["network and pictures"] = time.time() - began
    defined.stylize(content, style, steps=1, coarsest=512, quiet=True)
    marks["targets, compiling, first step"] = time.time() - began
    return marks


def size(pixels):
    """Seconds and peak memory of the default recipe at a size: as expected, and as they were."""
    defined, content, style, _ = load(best_precision(), pixels)
    expected = {}
    _, history = defined.stylize(content, style, callback=lambda now: expected.update(now.expected))
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return {
        "expected seconds": expected["seconds"],
        "seconds": history["seconds"][-1],
        "expected gigabytes": expected["gigabytes"],
        "gigabytes": peak,
        "height": content.shape[1],
    }


def watched(pixels):
    """The seconds of a run with everything drawn that somebody would see, over those of a quiet one.

    What it leaves out is the time of the browser.
    """
    defined, content, style, _ = load(best_precision(), pixels)
    drawn = []

    class Handle:
        def update(self, picture):
            drawn.append(len(base64.b64encode(picture.data)))

    defined.nst.is_live, defined.nst.display = lambda: True, lambda *_, **__: Handle()
    seconds = {True: [], False: []}
    for quiet in (True, True, False, False, True, False, True):
        _, history = defined.stylize(content, style, quiet=quiet)
        seconds[quiet].append(history["seconds"][-1])
    ratio = statistics.median(seconds[False]) / statistics.median(seconds[True][1:])
    return {"ratio": ratio, "pictures": len(drawn) / 3}


def best_precision():
    sys.path.insert(0, str(ROOT))
    import nst_helpers as nst

    return nst.choose_precision()


# ---------------------------------------------------------------------------------------------
# The tables


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


def table(*rows):
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) + " |")
        if number == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
    print(flush=True)


def tables(wanted):
    if "reach" in wanted:
        print("### Seconds to the loss that the reference has after 1000 steps\n")
        theirs = measured(reference, runs=1)  # one run: its step time is a median of 1000
        total = 1000 * theirs["step"]
        rows = [("recipe", "steps at full size", "seconds", "times sooner")]
        rows.append(("reference, float32", 1000, f"{total:.0f}", "1"))
        for precision in ("float32", "bfloat16"):
            ours = measured(reach, precision, theirs["loss"])
            ratio = f"{total / ours['seconds']:.1f}"
            rows.append((f"ours, {precision}", f"{ours['steps']:.0f}", f"{ours['seconds']:.0f}", ratio))
        table(*rows)
        print("### The default recipe\n")
        rows = [("recipe", "seconds", "total loss, in float32")]
        rows.append(("reference, float32", f"{total:.0f}", f"{theirs['loss']:.3f}"))
        for precision in ("float32", "bfloat16"):
            ours = measured(end, precision)
            rows.append((f"ours, {precision}", f"{ours['seconds']:.0f}", f"{ours['loss']:.3f}"))
        table(*rows)
    if "precondition" in wanted:
        print("### Total loss after 100 steps at 256 pixels, from the photograph\n")
        kinds = ("Adam", "the identity", "frequencies only", "frequencies and gradients")
        found = [measured(precondition, kind, runs=1)["loss"] for kind in kinds]
        names = ("Adam", *(f"L-BFGS, B_0 from {kind}" for kind in kinds[1:]))
        table(("optimiser", "total loss"), *((name, f"{loss:.3f}") for name, loss in zip(names, found)))
    if "steps" in wanted:
        print("### Milliseconds of a step, 512 x 342 pixels\n")
        rows = [("precision", "bare convolutions", "losses and gradient", "whole step", "ratio")]
        for precision in ("float32", "bfloat16"):
            took = measured(step, precision)
            cells = [took[name] for name in ("convolutions", "losses and gradient", "step")]
            rows.append((precision, *(f"{cell:.0f}" for cell in cells), f"{cells[2] / cells[0]:.2f}"))
        table(*rows)
    if "start" in wanted:
        print("### Seconds from starting Python to the end of the first step at full size\n")
        marks = measured(first_step)
        table(("after", "seconds"), *((name, f"{mark:.1f}") for name, mark in marks.items()))
    if "sizes" in wanted:
        print("### The default recipe at three sizes, in the precision that is chosen\n")
        off = "off by"
        rows = [("pixels", "expected", "seconds", off, "expected", "peak memory", off)]
        for pixels in (256, 512, 1024):
            took = measured(size, pixels, runs=RUNS if pixels < 1000 else 1)
            cells = [f"{pixels} x {took['height']:.0f}"]
            for what, form in (("seconds", "{:.0f}"), ("gigabytes", "{:.1f} GB")):
                expected, real = took[f"expected {what}"], took[what]
                cells += [form.format(expected), form.format(real), f"{expected / real - 1:+.0%}"]
            rows.append(cells)
        table(*rows)
    if "watching" in wanted:
        print("### What the bar, the picture and the curves cost\n")
        took = measured(watched, 256, runs=1)
        rows = [("pixels", "pictures and curves drawn", "time, over a quiet run")]
        table(*rows, (256, f"{took['pictures']:.0f}", f"{took['ratio']:.3f}"))


def processor():
    """The CPU's name, with what matters of its features."""
    name, flags = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        entries = dict(line.split(":", 1) for line in lines if ":" in line)
        entries = {name.strip(): value.strip() for name, value in entries.items()}
        name, flags = entries.get("model name", name), entries.get("flags", "")
    has = ", ".join(each for each in ("avx512f", "avx512_bf16", "amx_bf16") if each in flags.split())
    return f"{name}, {os.cpu_count()} cores ({has or 'no AVX512, no AMX'})"


def main():
    names = ("reach", "precondition", "steps", "start", "sizes", "watching")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*names, []], help="which tables; all by default")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        name, arguments = chosen.worker
        print("\n" + json.dumps(globals()[name](*json.loads(arguments))))
        return
    print(f"CPU: {processor()}; Python {platform.python_version()}; network: {MODEL.upper()}\n", flush=True)
    tables(chosen.tables or names)


if __name__ == "__main__":
    main()

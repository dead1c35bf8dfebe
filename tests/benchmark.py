"""Measures the notebook's own code on the default pair of pictures, and writes tests/benchmark.md.

    .venv/bin/python tests/benchmark.py                # everything, some ten minutes on two cores
    .venv/bin/python tests/benchmark.py picture tiles  # only these tables; prints them and writes nothing

Each figure comes from a process of its own. Close other programs first. Needs Linux or macOS (for the peak memory).

The reference is a step of the recipe of TensorFlow's own tutorial on neural style transfer: one size, float32, Adam,
the Gram matrices of the first convolution of all five blocks. It counts what a processor can do, so that figures of
different machines can be compared.
"""

import argparse
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

MODEL = "vgg16"  # its weights are in the repository, so that everyone measures the same
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


# ---------------------------------------------------------------------------------------------
# What runs in a process of its own: each returns numbers by name


def load(precision="auto", size=512, **network):
    """The notebook's functions with an extractor, and the two pictures, enlarged if need be."""
    import nbformat
    from conftest import defined_in, nst

    nb = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    defined = defined_in(nb, nst.build_feature_extractor(MODEL, precision=precision, **network))
    content = nst.load_image(defined.CONTENT_IMAGE, size, "content", enlarge=True)
    style = nst.load_image(defined.STYLE_IMAGE, size, "style", enlarge=True)
    return defined, content, style


def peak():
    """The process's peak memory in gigabytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def reference():
    """The median seconds of a step of the reference recipe."""
    layers = {f"block{block}_conv1": 1.0 for block in range(1, 6)}
    defined, content, style = load("float32", style_layers=layers)
    tf, extractor = defined.tf, defined.extractor
    photograph = extractor(content)[extractor.content_layer]
    wanted = [defined.gram_matrix(extractor(style)[layer]) for layer in layers]

    def losses_of(image):
        features = extractor(image)
        content_loss = defined.content_loss(features[extractor.content_layer], photograph)
        style_loss = defined.style_loss([defined.gram_matrix(features[layer]) for layer in layers], wanted, [0.2] * 5)
        return {"total": content_loss + 100 * style_loss + defined.total_variation_loss(image)}

    evaluate = tf.function(lambda image: defined.losses_and_gradient(image, losses_of), autograph=False)
    marks = [time.perf_counter()]
    for image, _ in defined.adam(evaluate, content, 20, 0.02):
        image.numpy()
        marks.append(time.perf_counter())
    seconds = [after - before for before, after in zip(marks, marks[1:])]
    return {"step": statistics.median(seconds[5:])}


def picture_in(precision):
    """Seconds of the default picture, the second of a process, and of the search for neighbours in it."""
    defined, content, style = load(precision)
    search = defined.look_up
    found = []

    def timed(*arguments):
        start = time.perf_counter()
        neighbours = search(*arguments)
        found.append(time.perf_counter() - start)
        return neighbours

    defined.look_up = timed
    for _ in range(2):
        found.clear()
        start = time.perf_counter()
        defined.stylize(content, style, quiet=True)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "search": sum(found)}


def first_picture():
    """Seconds from the start of Python to the default picture, with everything that is compiled."""
    began = time.time()
    defined, content, style = load()
    defined.stylize(content, style, quiet=True)
    return {"seconds": time.time() - began}


def size(pixels):
    """Seconds and peak memory of the default recipe at a size: as expected, and as they were."""
    defined, content, style = load(size=pixels)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        _, history = defined.stylize(content, style)
    first = said.getvalue().splitlines()[0].split()
    clock = [float(part) for part in first[1].split(":")]
    return {
        "expected seconds": sum(part * 60**n for n, part in enumerate(reversed(clock))),
        "seconds": history["seconds"][-1],
        "expected gigabytes": float(first[first.index("GB") - 1]),
        "gigabytes": peak(),
        "height": content.shape[1],
    }


def tiled(pixels, tile, steps):
    """Seconds of a step at one size, and the whole process's peak memory."""
    defined, content, style = load(size=pixels)
    _, history = defined.stylize(content, style, steps=steps, coarsest=pixels, tile_size=tile, quiet=True)
    seconds = history["seconds"]
    times = [later - earlier for earlier, later in zip(seconds[1:], seconds[2:])]  # the first one compiles
    return {"height": content.shape[1], "seconds": statistics.median(times), "gigabytes": peak()}


# ---------------------------------------------------------------------------------------------
# The tables


def measured(function, *arguments):
    """What a function returns, run in a process of its own."""
    command = [sys.executable, __file__, "--worker", function.__name__, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{function.__name__}{arguments}: {result}", file=sys.stderr, flush=True)
    return result


def table(title, *rows, note=""):
    """A Markdown table with its title."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return f"## {title}\n\n" + "".join(f"| {line} |\n" for line in lines) + (f"\n{note}\n" if note else "")


def picture():
    step = statistics.median(measured(reference)["step"] for _ in range(3))
    rows = [("recipe", "seconds", "in steps of the reference", "of it the search")]
    for precision in ("float32", "bfloat16"):
        runs = [measured(picture_in, precision) for _ in range(3)]
        seconds = statistics.median(run["seconds"] for run in runs)
        search = statistics.median(run["search"] / run["seconds"] for run in runs)
        rows.append((precision, f"{seconds:.1f}", f"{seconds / step:.1f}", f"{search:.0%}"))
    rows.append(("a step of the reference", f"{step:.2f}", "1", ""))
    rows.append(("import, compiling and all", f"{measured(first_picture)['seconds']:.1f}", "", ""))
    return table("The default picture, 512 x 342 pixels", *rows, note="Medians of three processes.")


def sizes():
    rows = [("pixels", "expected", "seconds", "off by", "expected", "peak memory", "off by")]
    for pixels in (256, 512, 1024):
        one = measured(size, pixels)
        cells = [f"{pixels} x {one['height']:.0f}"]
        for what, form in (("seconds", "{:.0f} s"), ("gigabytes", "{:.1f} GB")):
            expected, real = one[f"expected {what}"], one[what]
            cells += [form.format(expected), form.format(real), f"{expected / real - 1:+.0%}"]
        rows.append(cells)
    note = "What the notebook says before a run, beside what it took; memory is that of the whole process."
    return table("The default recipe at three sizes", *rows, note=note)


def tiles():
    whole = 0.0  # seconds for a pixel
    rows = [("pixels", "tiles", "seconds a step", "peak memory", "time per pixel, over whole")]
    for pixels, tile in ((512, None), (1024, None), (1024, 384), (2048, None), (2048, 768), (4096, 768)):
        one = measured(tiled, pixels, tile, 3)
        rate = one["seconds"] / (pixels * one["height"])
        whole = rate if tile is None else whole
        cells = f"{one['seconds']:.2f}", f"{one['gigabytes']:.1f} GB", f"{rate / whole:.2f}"
        rows.append((f"{pixels} x {one['height']:.0f}", tile or "none", *cells))
    return table("A step at four sizes, whole and in tiles", *rows, note="In the precision that is chosen.")


TABLES = {table.__name__: table for table in (picture, sizes, tiles)}


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

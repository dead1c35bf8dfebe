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
import multiprocessing
import os
import platform
import re
import resource
import statistics
import sys
import time
from pathlib import Path

MODEL = "vgg16"  # its weights are in the repository, so that everyone measures the same
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


# --- What runs in a process of its own -------------------------------------------------------
def load(precision="auto", size=512, **network):
    """The notebook's functions with an extractor, and the two pictures, enlarged if need be."""
    import nbformat  # here, so that each process begins with nothing loaded
    from conftest import defined_in, nst

    notebook = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    defined = defined_in(notebook, nst.FeatureExtractor(MODEL, precision=precision, **network))
    content = nst.load_image(defined.CONTENT_IMAGE, size, "content", enlarge=True)
    style = nst.load_image(defined.STYLE_IMAGE, size, "style", enlarge=True)
    return defined, content, style


def reference():
    """The median seconds of a step of the reference recipe."""
    layers = {f"block{block}_conv1": 1.0 for block in range(1, 6)}
    defined, content, style = load("float32", style_layers=layers)
    extractor = defined.extractor
    photograph = extractor(content)[extractor.content_layer]
    wanted = [defined.gram_matrix(extractor(style)[layer]) for layer in layers]

    def losses_of(image):
        features = extractor(image)
        content_loss = defined.content_loss(features[extractor.content_layer], photograph)
        style_loss = defined.style_loss([defined.gram_matrix(features[layer]) for layer in layers], wanted, [0.2] * 5)
        return {"total": content_loss + 100 * style_loss + defined.total_variation_loss(image)}

    evaluate = defined.tf.function(lambda image: defined.losses_and_gradient(image, losses_of), autograph=False)
    marks = []
    for image, _ in defined.adam(evaluate, content, 20, 0.02):
        image.numpy()
        marks.append(time.perf_counter())
    return statistics.median(after - before for before, after in zip(marks[5:], marks[6:]))


def second_picture(precision):
    """Seconds of the default picture, where all is compiled."""
    defined, content, style = load(precision)
    for _ in range(2):
        _, history = defined.stylize(content, style, quiet=True)
    return history["seconds"][-1]


def run(size, **settings):
    """The picture's height, what is said of a run, its seconds so far at each step, and peak memory in gigabytes."""
    defined, content, style = load(size=size)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        _, history = defined.stylize(content, style, **settings)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return content.shape[1], said.getvalue(), history["seconds"], peak


def measured(function, *arguments, **options):
    """What a function returns, run in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments, options)


# --- The tables ------------------------------------------------------------------------------
def table(title, note, *rows):
    """A Markdown table with its title, and a note below it."""
    lines = [" | ".join(map(str, row)) for row in rows]
    lines.insert(1, " | ".join("-" * len(cell) for cell in rows[0]))
    return f"## {title}\n\n" + "".join(f"| {line} |\n" for line in lines) + f"\n{note}\n"


def picture():
    step = statistics.median(measured(reference) for _ in range(3))
    rows = [("recipe", "seconds", "in steps of the reference")]
    for precision in ("float32", "bfloat16"):
        seconds = statistics.median(measured(second_picture, precision) for _ in range(3))
        rows.append((precision, f"{seconds:.1f}", f"{seconds / step:.1f}"))
    rows.append(("a step of the reference", f"{step:.2f}", "1"))
    return table("The default picture, 512 x 342 pixels", "Medians of three processes.", *rows)


def sizes():
    rows = [("pixels", "expected", "seconds", "off by", "expected", "peak memory", "off by")]
    for size in (256, 512, 1024):
        height, said, times, peak = measured(run, size)
        clock, memory = re.match(r"Expected: (\S+).* and (\S+) GB", said).groups()
        expected = sum(float(part) * 60**n for n, part in enumerate(reversed(clock.split(":"))))
        cells = [f"{size} x {height}"]
        for guess, real, unit in ((expected, times[-1], "s"), (float(memory), peak, "GB")):
            cells += [f"{guess:.1f} {unit}", f"{real:.1f} {unit}", f"{guess / real - 1:+.0%}"]
        rows.append(cells)
    note = "What the notebook says before a run, beside what it took; memory is that of the whole process."
    return table("The default recipe at three sizes", note, *rows)


def tiles():
    rows = [("pixels", "tiles", "seconds a step", "peak memory")]
    for size, tile in ((512, None), (1024, None), (1024, 384), (2048, None), (2048, 768), (4096, 768)):
        height, _, times, peak = measured(run, size, steps=3, coarsest=size, tile_size=tile, quiet=True)
        step = statistics.median(later - earlier for earlier, later in zip(times[1:], times[2:]))  # the first compiles
        rows.append((f"{size} x {height}", tile or "none", f"{step:.2f}", f"{peak:.1f} GB"))
    return table("A step at four sizes, whole and in tiles", "In the precision that is chosen.", *rows)


TABLES = {table.__name__: table for table in (picture, sizes, tiles)}


def processor():
    """The CPU's name, and how many cores there are."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        name = re.search(r"model name\s*: (.*)|$", Path("/proc/cpuinfo").read_text())[1] or name
    return f"{name}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="which tables; all by default")
    chosen = parser.parse_args().tables
    text = "# Benchmark\n\nWritten by `tests/benchmark.py`, which says at its top how it measures.\n\n"
    text += f"CPU: {processor()}; Python {platform.python_version()}; network: {MODEL.upper()}; "
    text += f"{datetime.date.today()}.\n"
    for name in chosen or TABLES:
        text += "\n" + TABLES[name]()
        if not chosen:  # after each table, in case that it is stopped
            (ROOT / "tests" / "benchmark.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

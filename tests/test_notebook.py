"""The notebook as a whole: what is stored in it, and what it does in a live kernel."""

import ast
import base64
import functools
import io
import os
import re
import signal
import subprocess
import sys
import threading

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import nst_helpers as nst
from conftest import ROOT

PATH = ROOT / "neural_style_transfer.ipynb"
PARAMETERS = {
    "CONTENT_IMAGE": str,
    "STYLE_IMAGE": str,
    "STYLE_SCALE": float,
    "COLOURS": str,
    "MODEL": str,
    "IMAGE_SIZE": int,
    "COARSEST": int,
    "CONTENT_WEIGHT": float,
    "STYLE_WEIGHT": float,
    "TV_WEIGHT": float,
    "STEPS": int,
    "OPTIMIZER": str,
    "LEARNING_RATE": float,
    "PRECISION": str,
    "SEED": int,
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [index for index, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


# ---------------------------------------------------------------------------------------------
# As it is stored


def test_stored_from_one_run_of_a_fresh_kernel(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert "execution" not in cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"


def test_stores_no_path_of_a_machine(notebook):
    outputs = [str(output) for cell in code_cells(notebook) for output in cell.outputs]
    assert outputs
    text = re.sub(r"https?://\S+", "", "\n".join(outputs))
    assert not re.findall(r"(?:/(?:root|home|Users|tmp|opt|usr|var|work)/[\w.-]+|[A-Z]:\\\\\w+)", text)


def test_is_small_enough_for_the_web():
    assert PATH.stat().st_size < 4e6


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 25, cell.source


def test_one_cell_of_parameters_plain_literals_with_a_comment(notebook):
    (index,) = tagged(notebook, "parameters")
    source = notebook.cells[index].source
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}
    assert {name: type(value) for name, value in values.items()} == PARAMETERS
    assert all("  # " in line for line in source.splitlines())


def test_what_cannot_be_compared_is_followed_by_what_can(notebook):
    cells = code_cells(notebook)
    ignored = ["nbval-ignore-output" in cell.metadata.get("tags", []) for cell in cells]
    assert not ignored[-1]
    for cell, ignore in zip(cells, ignored):
        text = "".join(output.get("text", "") for output in cell.outputs)
        assert ignore or not re.search(r"\d+%\||\d s\b|it/s|Took|Expected", text), cell.source


def figures(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for kind in ("image/jpeg", "image/png"):
                if kind in output.get("data", {}):
                    yield cell, kind, output, Image.open(io.BytesIO(base64.b64decode(output.data[kind])))


def test_figures_show_something(notebook):
    """nbval compares no images, so this looks at them: format, size, and that none is blank."""
    found = list(figures(notebook))
    assert len(found) >= 12
    for cell, kind, output, picture in found:
        expected = "image/jpeg" if "show_images" in cell.source else "image/png"
        assert kind == expected, cell.source
        pixels = np.asarray(picture.convert("RGB"), np.float32)
        assert 300 < picture.width < 1400 and picture.height > 200
        assert pixels.std() > 20
        assert output.metadata[kind]["alt"], cell.source


def test_the_stored_animation_moves(notebook):
    (source,) = [
        found
        for cell in code_cells(notebook)
        for output in cell.outputs
        for found in re.findall(
            r'<img src="data:image/webp;base64,([^"]+)" alt="[^"]+">',
            str(output.get("data", {}).get("text/html")),
        )
    ]
    with Image.open(io.BytesIO(base64.b64decode(source))) as file:
        assert file.n_frames > 20
        first = np.asarray(file.convert("RGB"), np.float32)
        file.seek(file.n_frames - 1)
        assert np.abs(np.asarray(file.convert("RGB")) - first).mean() > 10


def test_the_stored_result_is_no_photograph(notebook):
    """The figure of parents and result: three pictures, and the third is not the first."""
    (wide,) = [
        picture
        for cell, _, _, picture in figures(notebook)
        if '["content", "style", "result"]' in cell.source
    ]
    pixels = np.asarray(wide.convert("RGB"), np.float32) / 255
    third = pixels.shape[1] // 3
    left, right = (part.mean(axis=(0, 1)) for part in (pixels[:, :third], pixels[:, -third:]))
    assert np.abs(left - right).max() > 0.03


# ---------------------------------------------------------------------------------------------
# In a live kernel

SMALL = {"IMAGE_SIZE": 96, "COARSEST": 48, "STEPS": 25}


def with_parameters(source, values):
    for name, value in values.items():
        source, count = re.subn(rf"(?m)^{name} = [^#]*", f"{name} = {value!r}  ", source)
        assert count == 1, name
    return source


class Kernel:
    """The notebook in a kernel of its own, offline, with an empty Keras cache."""

    def __init__(self, client):
        self.client = client
        self.cells = client.nb.cells
        (self.parameters,) = tagged(client.nb, "parameters")

    def run(self, first=0, last=None, **values):
        """Runs cells, with the parameters replaced that are given; returns what they printed."""
        cell = self.cells[self.parameters]
        cell.source = with_parameters(cell.source, values)
        printed = []
        for index in range(first, len(self.cells) if last is None else last + 1):
            if self.cells[index].cell_type == "code":
                self.client.execute_cell(self.cells[index], index)
                printed += [output.get("text", "") for output in self.cells[index].outputs]
        return "".join(printed)

    def evaluate(self, expression):
        cell = nbformat.v4.new_code_cell(f"print(repr({expression}))")
        self.cells.append(cell)
        self.client.execute_cell(cell, len(self.cells) - 1)
        self.cells.pop()
        return ast.literal_eval("".join(output.text for output in cell.outputs))

    def cell_with(self, text):
        (index,) = [i for i, c in enumerate(self.cells) if c.cell_type == "code" and text in c.source]
        return index


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    cache = tmp_path_factory.mktemp("keras")
    closed = "http://127.0.0.1:9"  # a proxy that refuses: no download succeeds
    env = {
        **os.environ,
        "KERAS_HOME": str(cache),
        "http_proxy": closed,
        "https_proxy": closed,
        "no_proxy": "",
    }
    client = NotebookClient(
        nbformat.read(PATH, as_version=4), timeout=600, resources={"metadata": {"path": str(ROOT)}}
    )
    with client.setup_kernel(env=env):
        kernel = Kernel(client)
        for cell in kernel.cells:  # not over the reader's own pictures
            if cell.cell_type == "code":
                cell.source = cell.source.replace('"outputs/', f'"{cache.as_posix()}/outputs/')
        kernel.printed = kernel.run(**SMALL)
        kernel.outputs = cache / "outputs"
        yield kernel


def test_runs_offline_with_an_empty_cache(kernel):
    assert "VGG16 from weights/ stands in" in kernel.printed
    assert kernel.evaluate("extractor.model") == "vgg16"


def test_leaves_what_a_reader_goes_on_with(kernel):
    for name in ("content_image", "style_image", "stylized_image"):
        kind, shape, low, high = kernel.evaluate(
            f"(str({name}.dtype), tuple({name}.shape), float({name}.min()), float({name}.max()))"
        )
        assert kind == "float32" and shape[0] == 1 and shape[3] == 3 and max(shape) == 96
        assert 0 <= low < high <= 1
    lengths = kernel.evaluate("{name: len(values) for name, values in history.items()}")
    assert {"seconds", "size", "total", "content", "style", "tv", "style block1_conv1"} <= set(lengths)
    assert set(lengths.values()) == {2 * SMALL["STEPS"]}
    names = ("gram_matrix", "content_loss", "style_loss", "total_variation_loss", "stylize")
    assert kernel.evaluate(f"[callable(globals()[name]) for name in {names}]") == [True] * 5


def test_saves_the_picture(kernel):
    path = kernel.outputs / "neuschwanstein_castle-church_at_auvers.png"
    assert max(Image.open(path).size) == 96
    recipe = nst.read_recipe(path)
    assert recipe["call"]["content"] == "images/content/neuschwanstein_castle.jpg"
    assert recipe["call"]["size"] == 96 and recipe["steps"] == 2 * SMALL["STEPS"]
    assert {each.name for each in kernel.outputs.iterdir()} == {
        path.name, path.with_suffix(".webp").name, "from-recipe.png", "contact-sheet.jpg"
    }  # fmt: skip


def test_painting_lowers_the_losses(kernel):
    first, last = kernel.evaluate("(history['total'][0], history['total'][-1])")
    assert last < 0.5 * first
    first, last = kernel.evaluate("(history['style'][0], history['style'][-1])")
    assert last < 0.5 * first


def test_any_cell_runs_again(kernel):
    """Every code cell once more on its own, in the kernel that has run them all."""
    for index in range(len(kernel.cells)):
        kernel.run(index, index)


def test_editing_the_style_weight_and_running_from_there(kernel):
    last = kernel.cell_with("stylized_image, history = stylize(")
    ends = {}
    for weight in (1.0, 100.0):
        kernel.run(kernel.parameters, last, STYLE_WEIGHT=weight)
        ends[weight] = kernel.evaluate("(history['style'][-1], history['content'][-1])")
    assert ends[1.0][0] > 1.5 * ends[100.0][0]  # less weight, more style loss is left
    assert ends[1.0][1] < ends[100.0][1]


def test_an_interrupt_of_the_kernel_keeps_the_best_picture(kernel):
    """A real SIGINT, while the cell that paints the picture runs; the cells below it go on."""
    cell = kernel.cell_with("stylized_image, history = stylize(")
    number, source = kernel.evaluate("nst.os.getpid()"), kernel.cells[cell].source
    kernel.cells[cell].source = source.replace("callback=", "steps=100_000, callback=")
    threading.Timer(8, os.kill, (number, signal.SIGINT)).start()
    printed = kernel.run(cell, cell)
    kernel.cells[cell].source = source
    assert "Stopped after" in printed and "the picture of the least loss so far" in printed
    shape, steps, first, last = kernel.evaluate(
        "(stylized_image.shape, len(history['total']), history['total'][0], min(history['total']))"
    )
    assert shape == (1, 64, 96, 3) and 1 < steps < 200_000 and last < 0.5 * first
    kernel.run(cell + 1, kernel.cell_with("result_path ="))
    assert nst.read_recipe(kernel.outputs / "neuschwanstein_castle-church_at_auvers.png")["steps"] == steps


def test_another_pair_and_size_from_the_parameters(kernel):
    last = kernel.cell_with("stylized_image, history = stylize(")
    kernel.run(
        kernel.parameters,
        last,
        CONTENT_IMAGE="images/content/mont_saint_michel.jpg",
        STYLE_IMAGE="great_wave.jpg",
        STYLE_SCALE=2.0,
        COLOURS="luminance",
        MODEL="vgg16",
        IMAGE_SIZE=80,
        STEPS=3,
    )
    assert kernel.evaluate("stylized_image.shape") == (1, 45, 80, 3)


# ---------------------------------------------------------------------------------------------
# From the command line


def test_without_the_cells_that_only_teach_it_makes_the_picture(tmp_path):
    """The README's two commands: nbconvert leaves cells out, papermill runs the rest."""
    run = functools.partial(subprocess.run, cwd=ROOT, check=True, capture_output=True, text=True)
    short, done = tmp_path / "picture.ipynb", tmp_path / "out.ipynb"
    run(
        [
            sys.executable, "-m", "nbconvert", "--to", "notebook", f"--output={short}", str(PATH),
            "--TagRemovePreprocessor.enabled=True", "--TagRemovePreprocessor.remove_cell_tags=teaching",
        ]
    )  # fmt: skip
    full, kept = (code_cells(nbformat.read(path, as_version=4)) for path in (PATH, short))
    assert 15 < len(kept) < 0.4 * len(full)
    assert not any("teaching" in cell.metadata.get("tags", []) for cell in kept)
    values = {**SMALL, "STYLE_IMAGE": "great_wave.jpg", "CONTENT_IMAGE": "mont_saint_michel.jpg"}
    values["MODEL"] = "vgg16"
    options = [word for name, value in values.items() for word in ("-p", name, str(value))]
    (tmp_path / "images").symlink_to(ROOT / "images")
    run([sys.executable, "-m", "papermill", str(short), str(done), "--cwd", str(tmp_path), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert max(Image.open(tmp_path / "outputs" / "mont_saint_michel-great_wave.png").size) == 96
    for cell in code_cells(nbformat.read(done, as_version=4)):
        assert not [output for output in cell.outputs if output.output_type == "error"]

"""The notebook as a whole: what is stored in it, and what it does in a live kernel."""

import ast
import base64
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from PIL import Image

import nst_helpers as nst

PATH = ROOT / "neural_style_transfer.ipynb"
PARAMETERS = {
    "CONTENT_IMAGE": str,
    "STYLE_IMAGE": str,
    "STYLE_SCALE": float,
    "COLOURS": str,
    "MODEL": str,
    "IMAGE_SIZE": int,
    "ENLARGE": bool,
    "TILE_SIZE": str,
    "CHECKPOINT": type(None),
    "COARSEST": int,
    "CONTENT_WEIGHT": float,
    "STYLE_WEIGHT": float,
    "TV_WEIGHT": float,
    "PHOTOGRAPH_SHARE": float,
    "STYLE_LOSS": str,
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


def words(cells):
    """How many words of prose there are: without code, formulas in lines of their own, and the bars of tables."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"(?s)```.*?```|\$\$.*?\$\$", "", text)
    return sum(any(map(str.isalnum, word)) for word in text.split())


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


def test_is_readable_in_one_sitting(notebook):
    """A picture within seven cells and 700 words; short cells; not too much in all."""
    (first,) = tagged(notebook, "first-picture")
    before = notebook.cells[: first + 1]
    assert len([cell for cell in before if cell.cell_type == "code"]) <= 7 and words(before) <= 700
    assert len(code_cells(notebook)) <= 62 and words(notebook.cells) <= 5600
    for cell in code_cells(notebook):
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 20, cell.source


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
    assert len(found) >= 20
    for cell, kind, output, picture in found:
        assert kind == "image/jpeg" or "plot_" in cell.source, cell.source
        pixels = np.asarray(picture.convert("RGB"), np.float32)
        assert 300 < picture.width < 1450 and picture.height > 200
        assert pixels.std() > 20
        assert output.metadata[kind]["alt"], cell.source


def test_every_section_ends_in_a_picture_or_plot(notebook):
    """But for the panel, which is a picture only where somebody watches, and the last part."""
    text = json.dumps([cell.source for cell in notebook.cells if cell.cell_type == "markdown"])
    sections = {int(number) for number in re.findall(r"## (\d+)\. ", text)}
    shown, section = set(), 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = max([section, *map(int, re.findall(r"(?m)^## (\d+)\. ", cell.source))])
        elif any({"image/jpeg", "image/png", "text/html"} & set(o.get("data", {})) for o in cell.outputs):
            shown.add(section)
    assert sections == set(range(1, 25))
    assert sections - shown == {21, 22, 23, 24}


def test_the_stored_animation_moves(notebook):
    (source,) = [
        found
        for cell in code_cells(notebook)
        for output in cell.outputs
        for found in re.findall(
            r'<img src="data:image/webp;base64,([^"]+)" alt="[^"]+">', str(output.get("data", {}).get("text/html"))
        )
    ]
    with Image.open(io.BytesIO(base64.b64decode(source))) as file:
        assert file.n_frames > 20
        first = np.asarray(file.convert("RGB"), np.float32)
        file.seek(file.n_frames - 1)
        assert np.abs(np.asarray(file.convert("RGB")) - first).mean() > 10


def test_the_answers_to_the_exercises_run(notebook, defined, capsys, monkeypatch):
    """As they are written, on small pictures."""
    (source,) = [cell.source for cell in notebook.cells if "<summary>Answers</summary>" in cell.source]
    answers = [textwrap.dedent(answer) for answer in re.findall(r"(?s)```python\n(.*?)```", source)]
    assert len(answers) == 4
    names = {"castle": "neuschwanstein_castle.jpg", "church": "church_at_auvers.jpg", "wave": "great_wave.jpg"}
    monkeypatch.setattr(nst, "display", lambda figure: None)
    space = vars(defined) | {name: nst.load_image(file, 64) for name, file in names.items()}
    for answer in answers:
        space.pop("image", None)
        exec(answer.replace("quiet=True", "quiet=True, steps=1"), space)
        assert "image" not in answer or space["image"].shape == space["castle"].shape
    assert capsys.readouterr().out.strip() == "64.0"
    assert set(defined.STYLE_LOSSES) == {"gram", "wasserstein", "deviations"}
    del defined.STYLE_LOSSES["deviations"]


# ---------------------------------------------------------------------------------------------
# In a live kernel

SMALL = {"IMAGE_SIZE": 96, "COARSEST": 48, "STEPS": 6}


def with_parameters(source, values):
    for name, value in values.items():
        source, count = re.subn(rf"(?m)^{name} = [^#]*", f"{name} = {value!r}  ", source)
        assert count == 1, name
    return source


def shorten(cell):
    """Gives an experiment few steps and small pictures: for its results, nbval runs the notebook in full."""
    if "teaching" in cell.metadata.get("tags", []):
        cell.source = re.sub(r"(\bsteps\W{1,3})\d+", r"\g<1>1", cell.source)
        cell.source = re.sub(r"(load_image\(.*, )(256|512)", r"\g<1>96", cell.source)


class Kernel:
    """The notebook in a kernel of its own, offline, with an empty Keras cache."""

    def __init__(self, client):
        self.client = client
        self.cells = client.nb.cells
        for cell in self.cells:
            shorten(cell)
        (self.parameters,) = tagged(client.nb, "parameters")
        (self.first_picture,) = tagged(client.nb, "first-picture")
        self.painting = self.cell_with("stylized_image, history, recipe = paint(")

    def run(self, *indices, **values):
        """Runs cells, with the parameters replaced that are given; returns what they printed."""
        cell = self.cells[self.parameters]
        cell.source = with_parameters(cell.source, values)
        printed = []
        for index in indices or range(len(self.cells)):
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
    env = {**os.environ, "KERAS_HOME": str(cache), "no_proxy": ""}
    env |= {"http_proxy": closed, "https_proxy": closed, "PYTHONPATH": str(ROOT)}
    there = {"metadata": {"path": str(cache)}}  # not over the reader's own pictures
    client = NotebookClient(nbformat.read(PATH, as_version=4), timeout=600, resources=there)
    with client.setup_kernel(env=env):
        kernel = Kernel(client)
        kernel.printed = kernel.run(**SMALL)
        kernel.outputs = cache / "outputs"
        yield kernel


slow = pytest.mark.slow  # those that run cells in a kernel


@slow
def test_runs_offline_with_an_empty_cache(kernel):
    assert "VGG16 from weights/ stands in" in kernel.printed
    assert kernel.evaluate("extractor.model") == "vgg16"


@slow
def test_leaves_what_a_reader_goes_on_with(kernel):
    image = "stylized_image"
    kind, shape, low, high = kernel.evaluate(
        f"(str({image}.dtype), tuple({image}.shape), float({image}.min()), float({image}.max()))"
    )
    assert kind == "float32" and shape == (1, 64, 96, 3)
    assert 0 <= low < high <= 1
    lengths = kernel.evaluate("{name: len(values) for name, values in history.items()}")
    assert lengths == dict.fromkeys(("seconds", "size", "content", "style", "tv", "total"), 9 + 7)
    names = ("gram_matrix", "content_loss", "style_loss", "total_variation_loss", "stylize", "paint")
    assert kernel.evaluate(f"[callable(globals()[name]) for name in {names}]") == [True] * 6


@slow
def test_saves_the_pictures(kernel):
    path = kernel.outputs / "neuschwanstein_castle-church_at_auvers.png"
    assert max(Image.open(path).size) == 96
    recipe = nst.read_recipe(path)
    assert recipe["call"]["content"] == "neuschwanstein_castle.jpg"
    assert recipe["call"]["size"] == 96 and recipe["steps"] == 16
    names = {each.name for each in kernel.outputs.iterdir()}
    assert {path.name, path.with_suffix(".webp").name, "from-recipe.png"} <= names
    assert len([name for name in names if name.startswith("chelsea_the_cat-")]) == 4  # the cat in all paintings


@slow
def test_painting_lowers_the_losses(kernel):
    for loss in ("total", "style"):
        first, last = kernel.evaluate(f"(history['{loss}'][0], history['{loss}'][-1])")
        assert last < 0.7 * first


@slow
def test_after_an_edit_the_parameters_and_the_painting_cell_are_enough(kernel):
    """For the first picture and for the full one: weights, pictures, size, network."""
    ends, sketches = {}, {}
    for weight in (1.0, 100.0):
        kernel.run(kernel.parameters, kernel.first_picture, kernel.painting, STYLE_WEIGHT=weight)
        ends[weight] = kernel.evaluate("(history['style'][-1], history['content'][-1])")
        sketches[weight] = kernel.evaluate("float(np.abs(sketch - small_content).mean())")
    assert ends[1.0][0] > 1.5 * ends[100.0][0]  # less weight, more style loss is left
    assert ends[1.0][1] < ends[100.0][1]
    assert sketches[1.0] < 0.8 * sketches[100.0]
    pictures = {"CONTENT_IMAGE": "mont_saint_michel.jpg", "STYLE_IMAGE": "great_wave.jpg"}
    others = {"STYLE_SCALE": 2.0, "COLOURS": "luminance", "MODEL": "vgg16", "IMAGE_SIZE": 80, "STEPS": 3}
    loading = kernel.cell_with("small_content = nst.load_image")
    kernel.run(kernel.parameters, loading, kernel.first_picture, kernel.painting, **pictures, **others)
    assert kernel.evaluate("(tuple(sketch.shape), stylized_image.shape)") == ((1, 45, 80, 3),) * 2
    assert kernel.evaluate("(extractor.asked[0], recipe['call']['colours'])") == ("vgg16", "luminance")


@slow
def test_any_cell_of_the_first_three_parts_runs_again(kernel):
    end = next(i for i, cell in enumerate(kernel.cells) if cell.source.startswith("# Part 4"))
    for index, cell in enumerate(kernel.cells[:end]):
        experiment = any(call in cell.source for call in ("stylize(", "minimise(", "in optimizer"))
        if cell.cell_type == "code" and not (experiment and "teaching" in cell.metadata.get("tags", [])):
            kernel.run(index)


@slow
def test_an_interrupt_of_the_kernel_keeps_the_best_picture(kernel):
    """A real SIGINT, while the cell that paints the picture runs; the cells below it go on."""
    cell = kernel.painting
    number, source = kernel.evaluate("nst.os.getpid()"), kernel.cells[cell].source
    kernel.cells[cell].source = source.replace("callback=", "steps=100_000, callback=")
    threading.Timer(8, os.kill, (number, signal.SIGINT)).start()
    printed = kernel.run(cell)
    kernel.cells[cell].source = source
    assert "Stopped after" in printed and "the best picture so far" in printed
    steps, first, last = kernel.evaluate("(len(history['total']), history['total'][0], min(history['total']))")
    assert 1 < steps < 100_000 and last < 0.9 * first
    path = kernel.outputs / kernel.evaluate("result_path.name")
    assert path.name != "mont_saint_michel-great_wave.png"  # that one was finished, and is kept
    assert nst.read_recipe(path)["steps"] == steps


# ---------------------------------------------------------------------------------------------
# From the command line


@slow
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
    assert 15 < len(kept) < 0.7 * len(full)
    values = {**SMALL, "STEPS": 2, "CONTENT_IMAGE": "brandenburg_gate.jpg", "MODEL": "vgg16"}
    options = [word for name, value in values.items() for word in ("-p", name, str(value))]
    (tmp_path / "images").symlink_to(ROOT / "images")
    run([sys.executable, "-m", "papermill", str(short), str(done), "--cwd", str(tmp_path), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert max(Image.open(tmp_path / "outputs" / "brandenburg_gate-church_at_auvers.png").size) == 96
    for cell in code_cells(nbformat.read(done, as_version=4)):
        assert not [output for output in cell.outputs if output.output_type == "error"]

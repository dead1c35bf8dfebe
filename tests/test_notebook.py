"""The notebook as a whole: what is stored in it, and what it does in a live kernel."""

import ast
import base64
import io
import os
import re
import textwrap

import nbformat
import numpy as np
import papermill
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbconvert.preprocessors import TagRemovePreprocessor
from PIL import Image

import nst_helpers as nst

PATH = ROOT / "neural_style_transfer.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    """The index of the one cell with a tag."""
    (index,) = [index for index, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]
    return index


# --- As it is stored ---------------------------------------------------------------------------
def test_stored_from_one_run_of_a_fresh_kernel_and_small_enough_for_the_web(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert "execution" not in cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            text = re.sub(r"https?://\S+", "", str(output))  # no path of a machine in it
            assert not re.search(r"/(?:root|home|Users|tmp|opt|usr|var|work)/[\w.-]+|[A-Z]:\\\\\w+", text)
    assert PATH.stat().st_size < 4e6


def test_is_readable_in_one_sitting(notebook):
    """A picture within six cells and 750 words; short cells; not too much in all."""
    before = notebook.cells[: tagged(notebook, "first-picture") + 1]
    assert len([cell for cell in before if cell.cell_type == "code"]) <= 6
    for cells, most in ((before, 750), (notebook.cells, 6300)):
        assert sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown") <= most
    for cell in code_cells(notebook):
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 20, cell.source


def test_one_cell_of_parameters_literals_with_a_comment_that_the_readme_lists(notebook):
    source = notebook.cells[tagged(notebook, "parameters")].source
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}
    assert list(values) == re.findall(r"(?m)^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert all("  # " in line for line in source.splitlines())


def test_figures_show_something(notebook):
    """nbval compares no images, so this looks at them: format, size, and that none is blank."""
    found = 0
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for kind in {"image/jpeg", "image/png"} & set(output.get("data", {})):
                picture = Image.open(io.BytesIO(base64.b64decode(output.data[kind])))
                assert kind == "image/jpeg" or "plot_" in cell.source, cell.source
                assert 300 < picture.width < 1450 and picture.height > 200
                assert np.std(picture.convert("RGB")) > 20
                assert output.metadata[kind]["alt"], cell.source
                found += 1
    assert found >= 22


def test_the_stored_animation_moves():
    (data,) = re.findall(r"data:image/webp;base64,([\w+/=]+)", PATH.read_text(encoding="utf-8"))
    with Image.open(io.BytesIO(base64.b64decode(data))) as file:
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
    monkeypatch.setattr(defined, "STYLE_LOSSES", dict(defined.STYLE_LOSSES))
    space = vars(defined) | {name: nst.load_image(file, 64) for name, file in names.items()}
    for answer in answers:
        space.pop("image", None)
        exec(answer.replace("quiet=True", "quiet=True, steps=1"), space)
        assert "image" not in answer or space["image"].shape == space["castle"].shape
    assert capsys.readouterr().out.strip() == "64.0"
    assert "deviations" in defined.STYLE_LOSSES


# --- In a live kernel --------------------------------------------------------------------------
@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The folder of the results: not over the reader's own."""
    return tmp_path_factory.mktemp("kernel") / "outputs"


@pytest.fixture(scope="module")
def run(outputs):
    """A function that runs code in one kernel, offline and with an empty Keras cache; it returns what is printed.

    There the picture is painted already, as in the README: with parameters from papermill, and without the cells that
    only teach. What that printed is `run.first`.
    """
    given = {"IMAGE_SIZE": 64, "COARSEST": 32, "STEPS": 4}
    path = outputs.parent / "a.ipynb"
    papermill.execute_notebook(PATH, path, given, prepare_only=True, progress_bar=False)
    remove = TagRemovePreprocessor(enabled=True, remove_cell_tags={"teaching"})
    short, _ = remove.preprocess(nbformat.read(path, as_version=4), {})
    closed = "http://127.0.0.1:9"  # a proxy that refuses: no download succeeds
    env = {**os.environ, "KERAS_HOME": str(outputs.parent), "PYTHONPATH": str(ROOT)}
    env |= {"no_proxy": "", "http_proxy": closed, "https_proxy": closed}
    client = NotebookClient(short, timeout=600, resources={"metadata": {"path": str(outputs.parent)}})

    def run(*sources):
        printed = ""
        for source in sources:
            cell = nbformat.v4.new_code_cell(source)
            client.execute_cell(cell, 0)
            printed += "".join(output.get("text", "") for output in cell.outputs)
        return printed

    with client.setup_kernel(env=env):
        run.first = run(*[cell.source for cell in code_cells(short)])
        yield run


@pytest.fixture(scope="module")
def value_of(run):
    """A function from an expression to its value in the kernel."""
    return lambda expression: ast.literal_eval(run(f"print(repr({expression}))"))


@pytest.fixture(scope="module")
def full_picture(notebook):
    """The source of the cell that paints the full picture."""
    (source,) = [cell.source for cell in code_cells(notebook) if "stylized_image, history, recipe =" in cell.source]
    return source


@pytest.mark.slow
def test_offline_and_without_the_cells_that_teach_it_makes_the_picture(run, value_of, outputs):
    assert "VGG16 stands in" in run.first and value_of("extractor.model") == "vgg16"
    assert value_of("(str(stylized_image.dtype), tuple(stylized_image.shape))") == ("float32", (1, 43, 64, 3))
    history = value_of("history")
    assert {len(values) for values in history.values()} == {7 + 5}
    for loss in ("total", "style"):
        assert history[loss][-1] < 0.7 * history[loss][0]
    path = outputs / "neuschwanstein_castle-church_at_auvers.png"
    assert {each.name for each in outputs.iterdir()} == {path.name, path.with_suffix(".webp").name}
    assert Image.open(path).size == (64, 43)
    recipe = nst.read_recipe(path)
    assert (recipe["call"]["content"], recipe["call"]["size"]) == ("neuschwanstein_castle.jpg", 64)
    assert recipe["steps"] == 12


@pytest.mark.slow
def test_after_an_edit_the_parameters_and_the_painting_cell_are_enough(run, value_of, notebook, full_picture):
    """For the first picture and for the full one."""
    first_picture = notebook.cells[tagged(notebook, "first-picture")].source
    ends = {}
    sketches = {}
    for weight in (1.0, 100.0):
        run(f"STYLE_WEIGHT = {weight}", first_picture, full_picture)
        ends[weight] = value_of("(history['style'][-1], history['content'][-1])")
        sketches[weight] = value_of("float(np.abs(sketch - small_content).mean())")
    assert ends[1.0][0] > 1.5 * ends[100.0][0]  # less weight, more style loss is left
    assert ends[1.0][1] < ends[100.0][1]
    assert sketches[1.0] < 0.8 * sketches[100.0]


@pytest.mark.slow
def test_all_cells_run_again_with_other_parameters(run, value_of, notebook, outputs):
    """Experiments with few steps and small pictures: for their results, nbval runs the notebook in full."""
    others = {"CONTENT_IMAGE": "mont_saint_michel.jpg", "STYLE_IMAGE": "great_wave.jpg", "STYLE_SCALE": 2.0}
    others |= {"COLOURS": "luminance", "MODEL": "vgg16", "IMAGE_SIZE": 80, "COARSEST": 40, "STEPS": 3}
    for cell in code_cells(notebook):
        source = cell.source
        if "parameters" in cell.metadata.get("tags", []):
            source += "".join(f"\n{name} = {value!r}" for name, value in others.items())
        if "teaching" in cell.metadata.get("tags", []):
            source = re.sub(r"(\bsteps\W{1,3})\d+", r"\g<1>1", source)
            source = re.sub(r"\b(160|256|512)\b", "64", source)
        run(source)
    assert value_of("(tuple(sketch.shape), stylized_image.shape)") == ((1, 45, 80, 3),) * 2
    assert value_of("(extractor.asked[0], recipe['call']['colours'])") == ("vgg16", "luminance")
    names = {each.name for each in outputs.iterdir()}
    assert {"mont_saint_michel-great_wave.png", "mont_saint_michel-great_wave.webp", "from-recipe.png"} <= names
    assert len([name for name in names if name.startswith("chelsea_the_cat-")]) == 4  # the cat in all paintings


INTERRUPT = """
def interrupt(now):
    if now.step == 9:
        nst.os.kill(nst.os.getpid(), nst.signal.SIGINT)
"""


@pytest.mark.slow
def test_an_interrupt_of_the_kernel_keeps_the_best_picture(run, value_of, full_picture, outputs):
    """A real SIGINT, while the cell that paints the picture runs; that cell goes on to its end."""
    before = list(outputs.iterdir())
    printed = run(INTERRUPT, full_picture.replace("callback=keep_frame", "steps=100_000, callback=interrupt"))
    assert "Stopped after" in printed and "the best picture so far" in printed
    totals = value_of("history['total']")
    assert 9 <= len(totals) < 100 and min(totals) < 0.9 * totals[0]
    path = outputs / value_of("result_path.name")
    assert path not in before and nst.read_recipe(path)["steps"] == len(totals)

"""What several tests share: the notebook, read once, and the functions that it defines."""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nst_helpers as nst  # noqa: E402

STYLE_LAYERS = {f"block{block}_conv1": 4.0 ** (5 - block) for block in range(1, 6)}
CONTENT_LAYER = "block4_conv2"

needs_bfloat16 = pytest.mark.skipif(
    nst.choose_precision() != "bfloat16",
    reason="bfloat16 is slow or missing on this processor, so the notebook does not choose it",
)


@pytest.fixture(scope="session")
def notebook():
    """The notebook as it is committed."""
    return nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)


@pytest.fixture(scope="session")
def vgg16():
    """VGG16 with its ImageNet weights, with all layers that the notebook uses."""
    return nst.build_feature_extractor("vgg16")


def defined_in(notebook, extractor):
    """What the notebook's cells import and define, with this extractor.

    Only imports and definitions are taken (`def`, and constants in capitals): no experiment is run.
    """
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    kept = [
        node
        for node in ast.parse(code).body
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))
        or (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id.isupper()
        )
    ]
    names = {"extractor": extractor}
    # tf.function reads the source of what it compiles, so the definitions go through a real file.
    source = "\n\n".join(ast.unparse(node) for node in kept)
    exec(compile_with_source(source), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="session")
def defined(notebook, vgg16):
    """What the notebook's cells define, with VGG16 in float32 as the extractor."""
    return defined_in(notebook, vgg16)


def compile_with_source(source):
    """Compiles code so that `inspect.getsource` finds it."""
    import linecache

    name = "<cells of the notebook>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return compile(source, name, "exec")


@pytest.fixture
def random():
    """A seeded generator of random numbers."""
    return np.random.default_rng(0)


@pytest.fixture
def picture(random):
    """A random image that no two pixels of are alike, away from the ends of [0, 1]."""
    return random.uniform(0.1, 0.9, (1, 32, 40, 3)).astype(np.float32)

"""What several tests share: the notebook, read once, and the functions that it defines."""

import ast
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nst_helpers as nst  # noqa: E402

needs_bfloat16 = pytest.mark.skipif(nst.choose_precision() != "bfloat16", reason="bfloat16 is slow or missing here")


@pytest.fixture(scope="session")
def notebook():
    return nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)


@pytest.fixture(scope="session")
def vgg16():
    return nst.FeatureExtractor("vgg16")


def defined_in(notebook, extractor):
    """What the notebook's cells define, with this extractor, but for those that only teach; no experiment is run.

    Taken are imports, definitions, and assignments to names in capitals and to entries of these.
    """
    kept = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and "teaching" not in cell.metadata.get("tags", []):
            kept += [node for node in ast.parse(cell.source).body if _defines(node)]
    source = "\n\n".join(ast.unparse(node) for node in kept)
    defined = ModuleType("cells")  # to change a name in it is to change it for the functions
    defined.source = source
    exec(source, vars(defined))
    defined.MODEL, defined.PRECISION = extractor.asked
    defined.extractor = extractor
    return defined


def _defines(node):
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        target = target.value if isinstance(target, ast.Subscript) else target
        return isinstance(target, ast.Name) and target.id.isupper() and target.id not in ("F", "STUDY")
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.Try, ast.FunctionDef, ast.ClassDef))


@pytest.fixture(scope="session")
def defined(notebook, vgg16):
    """What the notebook's cells define, with VGG16 in float32 as the extractor."""
    return defined_in(notebook, vgg16)


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def picture(random):
    """A random image that no two pixels of are alike, away from the ends of [0, 1]."""
    return random.uniform(0.1, 0.9, (1, 32, 40, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def castle():
    return nst.load_image("neuschwanstein_castle.jpg", 64)  # 64 x 43


@pytest.fixture(scope="module")
def church():
    return nst.load_image("church_at_auvers.jpg", 64)

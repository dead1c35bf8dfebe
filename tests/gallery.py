"""Paints the README's gallery, images/gallery.jpg, and the picture at its top, images/result.jpg.

    .venv/bin/python tests/gallery.py            # some two minutes

With VGG16, whose weights are in the repository, so that it comes out the same everywhere.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import nbformat  # noqa: E402
from conftest import defined_in, nst  # noqa: E402

RESULT = ("neuschwanstein_castle.jpg", "church_at_auvers.jpg")
REGIONS = [
    {"image": "great_wave.jpg", "mask": "neuschwanstein_castle_sky.png"},
    {"image": "night_cafe.jpg", "mask": "neuschwanstein_castle_ground.png"},
]
PICTURES = {  # what stands above it: the photograph, the painting, and whose colours
    "Café Terrace at Night": ("brandenburg_gate.jpg", "cafe_terrace_at_night.jpg", "painting"),
    "The Great Wave": ("chelsea_the_cat.jpg", "great_wave.jpg", "painting"),
    "The Night Café, large strokes": ("cup_of_coffee.jpg", {"image": "night_cafe.jpg", "scale": 1.5}, "painting"),
    "The Church at Auvers, matched colours": ("great_wall_of_china.jpg", "church_at_auvers.jpg", "matched"),
    "Night Café and Great Wave, blended": ("mont_saint_michel.jpg", ["night_cafe.jpg", "great_wave.jpg"], "painting"),
    "Great Wave above, Night Café below": ("neuschwanstein_castle.jpg", REGIONS, "painting"),
}

figures = []
nst.display = figures.append  # in place of showing them
notebook = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
defined = defined_in(notebook, nst.FeatureExtractor("vgg16", precision="auto"))
image, _, _ = defined.paint(*RESULT, 640)
photograph, painting = (nst.load_image(name, 640) for name in RESULT)
pictures = {"photograph": photograph, "painting": painting, "result": image}
nst.show_images(pictures, "", height=4)
pictures = {}
for title, (content, style, colours) in PICTURES.items():
    pictures[title], _, recipe = defined.paint(content, style, 512, colours=colours)
    print(json.dumps(recipe["call"]))
nst.show_images(pictures, "", columns=3)
for name, figure in zip(("result.jpg", "gallery.jpg"), figures):
    (ROOT / "images" / name).write_bytes(figure.data)

"""Paints the README's gallery: images/gallery.jpg, and prints how each picture was made.

    .venv/bin/python tests/gallery.py            # some minutes

With VGG16, whose weights are in the repository, so that it comes out the same everywhere.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import nbformat  # noqa: E402
from conftest import defined_in, nst  # noqa: E402

SIZE = 400
SKY, GROUND = (f"neuschwanstein_castle_{part}.png" for part in ("sky", "ground"))
PICTURES = {  # what stands above it, and the call of the notebook's `paint`
    "Café Terrace at Night": ("brandenburg_gate.jpg", "cafe_terrace_at_night.jpg", {}),
    "The Great Wave": ("mont_saint_michel.jpg", "great_wave.jpg", {"style_weight": 300.0}),
    "The Night Café, large strokes": (
        "neuschwanstein_castle.jpg", {"image": "night_cafe.jpg", "scale": 1.5}, {},
    ),
    "The Church at Auvers, matched colours": (
        "great_wall_of_china.jpg", "church_at_auvers.jpg", {"colours": "matched"},
    ),
    "Night Café and Great Wave, blended": (
        "brandenburg_gate.jpg", ["night_cafe.jpg", "great_wave.jpg"], {},
    ),
    "Café Terrace above, Great Wave below": (
        "neuschwanstein_castle.jpg",
        [{"image": "cafe_terrace_at_night.jpg", "mask": SKY}, {"image": "great_wave.jpg", "mask": GROUND}],
        {},
    ),
}  # fmt: skip


def main():
    notebook = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    defined = defined_in(notebook, nst.build_feature_extractor("vgg16", precision=nst.choose_precision()))
    images, titles = [], []
    for title, (content, style, settings) in PICTURES.items():
        image, history, recipe = defined.paint(content, style, SIZE, **settings)
        images.append(image)
        words = ", ".join(f"{name} {value}" for name, value in settings.items()) or "default weights"
        titles.append(f"{title}\n{words}; {history['seconds'][-1]:.0f} s")
        print(json.dumps(recipe["call"]))
    nst.show_images(images, titles, columns=3, height=3.2, path=ROOT / "images" / "gallery.jpg")


if __name__ == "__main__":
    main()

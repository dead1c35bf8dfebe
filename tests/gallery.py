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

SKY, GROUND = (f"neuschwanstein_castle_{part}.png" for part in ("sky", "ground"))
RESULT = "neuschwanstein_castle.jpg", "church_at_auvers.jpg"
PICTURES = {  # what stands above it, and the call of the notebook's `paint`
    "Café Terrace at Night": ("brandenburg_gate.jpg", "cafe_terrace_at_night.jpg", {}),
    "The Great Wave": ("chelsea_the_cat.jpg", "great_wave.jpg", {}),
    "The Night Café, large strokes": ("cup_of_coffee.jpg", {"image": "night_cafe.jpg", "scale": 1.5}, {}),
    "The Church at Auvers, matched colours": (
        "great_wall_of_china.jpg",
        "church_at_auvers.jpg",
        {"colours": "matched"},
    ),
    "Night Café and Great Wave, blended": ("mont_saint_michel.jpg", ["night_cafe.jpg", "great_wave.jpg"], {}),
    "Café Terrace above, Great Wave below": (
        "neuschwanstein_castle.jpg",
        [{"image": "cafe_terrace_at_night.jpg", "mask": SKY}, {"image": "great_wave.jpg", "mask": GROUND}],
        {},
    ),
}


def main():
    notebook = nbformat.read(ROOT / "neural_style_transfer.ipynb", as_version=4)
    defined = defined_in(notebook, nst.build_feature_extractor("vgg16", precision="auto"))
    image, _, _ = defined.paint(*RESULT, 640)
    photograph, painting = (nst.load_image(name, 640) for name in RESULT)
    pictures = {"photograph": photograph, "painting": painting, "result": image}
    nst.show_images(pictures, "", height=4, path=ROOT / "images" / "result.jpg")
    pictures = {}
    for title, (content, style, settings) in PICTURES.items():
        image, history, recipe = defined.paint(content, style, 512, **settings)
        pictures[title] = image
        print(f"{history['seconds'][-1]:.0f} s:", json.dumps(recipe["call"]))
    nst.show_images(pictures, "", columns=3, path=ROOT / "images" / "gallery.jpg")


if __name__ == "__main__":
    main()

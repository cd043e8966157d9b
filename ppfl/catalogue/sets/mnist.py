"""MNIST."""

from __future__ import annotations

from ppfl.catalogue.entry import Source
from ppfl.catalogue.mnist_like import mnist_like

_ADDRESS = Source(
    "tensorflow/datasets", "tensorflow_datasets/url_checksums/mnist.txt", "31f1255e57e519a6c004f0b097a2f5cfcf0dde7d"
)
_COUNTS = Source(
    "tensorflow/datasets",
    "tensorflow_datasets/image_classification/mnist.py",
    "ed88f7189115b6fe182c87c5eb5ffa61c7d4037c",
)
_FILES = {
    "train-images-idx3-ubyte.gz": (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte.gz": (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte.gz": (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte.gz": (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}

DATA_SET = mnist_like(
    "digits, 70,000 images, 10 classes", "https://storage.googleapis.com/cvdf-datasets/mnist", _FILES, _ADDRESS, _COUNTS
)

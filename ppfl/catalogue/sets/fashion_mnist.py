"""Fashion-MNIST."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import tiny_plain
from ppfl.catalogue.count_files import idx_images, idx_labels
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_ADDRESS = Source(
    "tensorflow/datasets",
    "tensorflow_datasets/url_checksums/fashion_mnist.txt",
    "90b66237ad09c9e5b9b1bc61b646db7b1fb0713c",
)
_COUNTS = Source("zalandoresearch/fashion-mnist", "README.md", "02cf0676df9403f820db28474248ba7d7d1060bb")
_PLACE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_FILES = {
    "train-images-idx3-ubyte.gz": (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    "train-labels-idx1-ubyte.gz": (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    "t10k-images-idx3-ubyte.gz": (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    "t10k-labels-idx1-ubyte.gz": (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}
_TINY = {
    "train-images-idx3-ubyte.gz": ("train-labels-idx1-ubyte.gz", 80),
    "t10k-images-idx3-ubyte.gz": ("t10k-labels-idx1-ubyte.gz", 20),
}

DATA_SET = DataSet(
    about="articles of clothing, 70,000 images, 10 classes",
    downloads=tuple(
        Download(f"{_PLACE}/{name}", _ADDRESS, f"sha256:{digits}", num_bytes)
        for name, (num_bytes, digits) in _FILES.items()
    ),
    published=(
        Published("train-images-idx3-ubyte.gz", idx_images, {"samples": 60_000, "images": "uint8 28 × 28"}, _COUNTS),
        Published("train-labels-idx1-ubyte.gz", idx_labels, {"samples": 60_000, "classes": 10}, _COUNTS),
        Published("t10k-images-idx3-ubyte.gz", idx_images, {"samples": 10_000, "images": "uint8 28 × 28"}, _COUNTS),
        Published("t10k-labels-idx1-ubyte.gz", idx_labels, {"samples": 10_000, "classes": 10}, _COUNTS),
    ),
    section="{name: idx, train: {images: train-images-idx3-ubyte.gz, labels: train-labels-idx1-ubyte.gz}, "
    "test: {images: t10k-images-idx3-ubyte.gz, labels: t10k-labels-idx1-ubyte.gz}, "
    "partition: {name: iid, clients: 10}}",
    write_tiny=partial(tiny_plain.write_idx, files=_TINY, num_classes=10),
)

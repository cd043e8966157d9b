"""Fashion-MNIST."""

from __future__ import annotations

from ppfl.catalogue.entry import Source
from ppfl.catalogue.mnist_like import mnist_like

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

DATA_SET = mnist_like("articles of clothing, 70,000 images, 10 classes", _PLACE, _FILES, _ADDRESS, _COUNTS)

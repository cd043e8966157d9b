"""CIFAR-100, split over clients."""

from __future__ import annotations

from ppfl.catalogue import tiny_hdf5
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_FILE = "tensorflow_federated/python/simulation/datasets/cifar100.py"
_ADDRESS = Source("google-parfait/tensorflow-federated", _FILE, "0106781fa7d63b31ac80ed0157a4e4330d61b93e")
# the commit above counts ten times as many as its own text, 500 clients with 100 samples each; later ones do not
_COUNTS = Source("google-parfait/tensorflow-federated", _FILE, "95bc1383b59323c2447c3c6ef2fe35269836560f")
_LOOK: dict[str, int | str] = {
    "classes": 100, "fields": "coarse_label, image, label", "image": "uint8 32 × 32 × 3", "label": "int64",
    "coarse_label": "int64",
}  # fmt: skip

DATA_SET = DataSet(
    about="photographs, 500 clients to train on and 100 others to test on, 100 classes in 20 coarse ones",
    downloads=(
        Download(
            "https://storage.googleapis.com/tff-datasets-public/fed_cifar100.tar.bz2",
            _ADDRESS,
            "sha256:e8575e22c038ecef1ce6c7d492d7abee7da13b1e1ba9b70a7fc18531ba7590de",
            members={
                "fed_cifar100_train.h5": "fed_cifar100_train.h5",
                "fed_cifar100_test.h5": "fed_cifar100_test.h5",
            },
        ),
    ),
    published=(
        Published("fed_cifar100_train.h5", samples, _LOOK | {"clients": 500, "samples": 50_000}, _COUNTS),
        Published("fed_cifar100_test.h5", samples, _LOOK | {"clients": 100, "samples": 10_000}, _COUNTS),
    ),
    section="{name: federated_hdf5, train: fed_cifar100_train.h5, test: 0.2}",
    write_tiny=tiny_hdf5.write_fed_cifar100,
)

"""CIFAR-10, the binary version."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import count_files, tiny_plain
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_ADDRESS = Source(
    "tensorflow/datasets", "tensorflow_datasets/url_checksums/cifar10.txt", "88be5be357fe91a102248a9c7f32ed37ea7c97cd"
)
_COUNTS = Source(
    "tensorflow/datasets",
    "tensorflow_datasets/image_classification/cifar.py",
    "6171ac43a492fc8843b430ecc27dbdfed7dfd526",
)
_FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]

DATA_SET = DataSet(
    about="photographs, 60,000 images of 32 × 32, 10 classes",
    downloads=(
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            _ADDRESS,
            "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            170_052_171,
            {f"cifar-10-batches-bin/{name}": name for name in _FILES},
        ),
    ),
    published=tuple(
        # 50,000 to train on in five files alike
        Published(name, count_files.cifar10, {"samples": 10_000, "classes": 10}, _COUNTS)
        for name in _FILES
    ),
    section="{name: cifar_binary, classes: 10, train: [data_batch_1.bin, data_batch_2.bin, data_batch_3.bin, "
    "data_batch_4.bin, data_batch_5.bin], test: test_batch.bin, partition: {name: iid, clients: 10}}",
    write_tiny=partial(tiny_plain.write_cifar, files=dict.fromkeys(_FILES, 20), num_classes=10),
)

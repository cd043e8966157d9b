"""CIFAR-100, the binary version."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import count_files, tiny_plain
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_ADDRESS = Source(
    "tensorflow/datasets", "tensorflow_datasets/url_checksums/cifar100.txt", "333639b37af6c6fedf3610a4a2d42f1c6ef6f7d5"
)
_COUNTS = Source(
    "tensorflow/datasets",
    "tensorflow_datasets/image_classification/cifar.py",
    "6171ac43a492fc8843b430ecc27dbdfed7dfd526",
)
_CLASSES = {"classes": 100, "coarse classes": 20}

DATA_SET = DataSet(
    about="photographs, 60,000 images of 32 × 32, 100 classes in 20 coarse ones",
    downloads=(
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            _ADDRESS,
            "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            168_513_733,
            {"cifar-100-binary/train.bin": "train.bin", "cifar-100-binary/test.bin": "test.bin"},
        ),
    ),
    published=(
        Published("train.bin", count_files.cifar100, _CLASSES | {"samples": 50_000}, _COUNTS),
        Published("test.bin", count_files.cifar100, _CLASSES | {"samples": 10_000}, _COUNTS),
    ),
    section="{name: cifar_binary, classes: 100, train: [train.bin], test: test.bin, "
    "partition: {name: iid, clients: 10}}",
    write_tiny=partial(
        tiny_plain.write_cifar, files={"train.bin": 200, "test.bin": 100}, num_classes=100, num_coarse=20
    ),
)

"""Federated EMNIST, digits alone."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import tiny_hdf5
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_TFF = Source(
    "google-parfait/tensorflow-federated",
    "tensorflow_federated/python/simulation/datasets/emnist/load_data.py",
    "cc2fb561d5d2eb98d228017971538a9e989ff9fd",
)
_LOOK: dict[str, int | str] = {
    "clients": 3383,
    "classes": 10,
    "fields": "label, pixels",
    "pixels": "float32 28 × 28",
    "label": "int32",
}

DATA_SET = DataSet(
    about="digits by 3,383 writers",
    downloads=(
        Download(
            "https://storage.googleapis.com/tff-datasets-public/fed_emnist_digitsonly.tar.bz2",
            _TFF,
            "sha256:55333deb8546765427c385710ca5e7301e16f4ed8b60c1dc5ae224b42bd5b14b",
            members={
                "fed_emnist_digitsonly_train.h5": "femnist_digits_train.h5",
                "fed_emnist_digitsonly_test.h5": "femnist_digits_test.h5",
            },
        ),
    ),
    published=(
        Published("femnist_digits_train.h5", samples, _LOOK | {"samples": 341_873}, _TFF),
        Published("femnist_digits_test.h5", samples, _LOOK | {"samples": 40_832}, _TFF),
    ),
    section="{name: federated_hdf5, train: femnist_digits_train.h5, test: femnist_digits_test.h5}",
    write_tiny=partial(tiny_hdf5.write_femnist, num_classes=10),
)

"""Federated EMNIST, letters and digits."""

from __future__ import annotations

from ppfl.catalogue import tiny_hdf5
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet, Download, Published, Rule, Source

_TFF = Source(
    "google-parfait/tensorflow-federated",
    "tensorflow_federated/python/simulation/datasets/emnist/load_data.py",
    "cc2fb561d5d2eb98d228017971538a9e989ff9fd",
)
_STUDY = Source(
    "facebookresearch/FL_partial_personalization",
    "dataset_statistics/README.md",
    "d47e118886c0d2a2a4fe3658f028339f7d50783f",
)
_LOOK: dict[str, int | str] = {
    "clients": 3400,
    "fields": "label, pixels",
    "pixels": "float32 28 × 28",
    "label": "int32",
}

DATA_SET = DataSet(
    about="characters by 3,400 writers, 62 classes",
    downloads=(
        Download(
            "https://storage.googleapis.com/tff-datasets-public/fed_emnist.tar.bz2",
            _TFF,
            "sha256:fe1ed5a502cea3a952eb105920bff8cffb32836b5173cb18a57a32c3606f3ea0",
            members={"fed_emnist_train.h5": "femnist_train.h5", "fed_emnist_test.h5": "femnist_test.h5"},
        ),
    ),
    published=(
        Published("femnist_train.h5", samples, _LOOK | {"samples": 671_585, "classes": 62}, _TFF),
        Published("femnist_test.h5", samples, _LOOK | {"samples": 77_483, "classes": 62}, _TFF),
    ),
    section="{name: federated_hdf5, train: femnist_train.h5, test: femnist_test.h5}",
    write_tiny=tiny_hdf5.write_femnist,
    rules=(Rule(1114, _STUDY, train=100, test=25, train_file="femnist_train.h5", test_file="femnist_test.h5"),),
)

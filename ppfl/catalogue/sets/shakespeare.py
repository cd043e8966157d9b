"""Lines of the characters of Shakespeare's plays."""

from __future__ import annotations

from ppfl.catalogue import tiny_hdf5
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_TFF = Source(
    "google-parfait/tensorflow-federated",
    "tensorflow_federated/python/simulation/datasets/shakespeare.py",
    "0106781fa7d63b31ac80ed0157a4e4330d61b93e",
)
_LOOK: dict[str, int | str] = {"clients": 715, "fields": "snippets", "snippets": "texts"}

DATA_SET = DataSet(
    about="lines of 715 characters of plays",
    downloads=(
        Download(
            "https://storage.googleapis.com/tff-datasets-public/shakespeare.tar.bz2",
            _TFF,
            "sha256:0285be9906cb5f268092eee4edeeacfc2af4574f2941f7cc2f08a321d7f5c707",
            members={"shakespeare_train.h5": "shakespeare_train.h5", "shakespeare_test.h5": "shakespeare_test.h5"},
        ),
    ),
    published=(
        Published("shakespeare_train.h5", samples, _LOOK | {"samples": 16_068}, _TFF),
        Published("shakespeare_test.h5", samples, _LOOK | {"samples": 2_356}, _TFF),
    ),
    section="{name: text_hdf5, unit: characters, train: shakespeare_train.h5, test: shakespeare_test.h5}",
    write_tiny=tiny_hdf5.write_shakespeare,
)

"""Sentences of questions and answers of the users of StackOverflow."""

from __future__ import annotations

from ppfl.catalogue import tiny_hdf5
from ppfl.catalogue.count_files import anything
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet, Download, Published, Rule, Source

_TFF = Source(
    "google-parfait/tensorflow-federated",
    "tensorflow_federated/python/simulation/datasets/stackoverflow.py",
    "0106781fa7d63b31ac80ed0157a4e4330d61b93e",
)
_STUDY = Source(
    "facebookresearch/FL_partial_personalization",
    "dataset_statistics/README.md",
    "d47e118886c0d2a2a4fe3658f028339f7d50783f",
)
_PARTS = {"train": (342_477, 135_818_730), "held_out": (38_758, 16_491_230), "test": (204_088, 16_586_035)}
_LOOK: dict[str, int | str] = {
    "fields": "creation_date, score, tags, title, tokens, type", "tokens": "texts", "title": "texts", "tags": "texts",
    "creation_date": "texts", "type": "texts", "score": "int64",
}  # fmt: skip

DATA_SET = DataSet(
    about="sentences of 342,477 users, next words",
    downloads=(
        Download(
            "https://storage.googleapis.com/tff-datasets-public/stackoverflow.tar.bz2",
            _TFF,
            "sha256:99eca2f8b8327a09e5fc123979df2d237acbc5e52322f6d86bf523ee47b961a2",
            members={f"stackoverflow_{part}.h5": f"stackoverflow_{part}.h5" for part in _PARTS},
        ),
        Download(
            "https://storage.googleapis.com/tff-datasets-public/stackoverflow.word_count.tar.bz2",
            _TFF,
            "sha256:1dc00256d6e527c54b9756d968118378ae14e6692c0b3b6cad470cdd3f0c519c",
            members={"stackoverflow.word_count": "stackoverflow.word_count"},
        ),
    ),
    published=(
        *(
            Published(f"stackoverflow_{part}.h5", samples, _LOOK | {"clients": clients, "samples": sentences}, _TFF)
            for part, (clients, sentences) in _PARTS.items()
        ),
        Published("stackoverflow.word_count", anything, {}, _TFF),
    ),
    section="{name: text_hdf5, unit: words, train: stackoverflow_train.h5, test: stackoverflow_test.h5, "
    "counts: stackoverflow.word_count}",
    write_tiny=tiny_hdf5.write_stackoverflow,
    # the study samples 1,000 of these
    rules=(
        Rule(
            116_857, _STUDY, train=100, test=10, train_file="stackoverflow_train.h5", test_file="stackoverflow_test.h5"
        ),
    ),
)

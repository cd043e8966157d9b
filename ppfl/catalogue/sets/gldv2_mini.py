"""Photographs of landmarks by their photographers: Google Landmarks v2, the split of 23,000."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import tiny_plain
from ppfl.catalogue.count_files import images_of_users
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_TFF = Source(
    "google-parfait/tensorflow-federated",
    "tensorflow_federated/python/simulation/datasets/gldv2.py",
    "2c531538fc25784cd8cd7abaa2fb66f970d021a4",
)
_COUNTS = {"clients": 233, "samples": 23_080, "classes": 203}

DATA_SET = DataSet(
    about="photographs of landmarks by 233 users, 203 classes; to be converted",
    downloads=(
        Download(
            "https://storage.googleapis.com/tff-datasets-public/mini_gld_train_split.csv",
            _TFF,
            "md5:9fd62cf79a67046fdd673d3a0ac52841",
        ),
    ),
    published=(
        Published("mini_gld_train_split.csv", images_of_users, _COUNTS, _TFF),
        Published("gldv2_mini.h5", samples, _COUNTS, _TFF, is_made=True),
    ),
    section="{name: federated_hdf5, train: gldv2_mini.h5, test: 0.5}",
    write_tiny=partial(
        tiny_plain.write_landmarks, mapping="mini_gld_train_split.csv", out="gldv2_mini.h5", num_classes=203
    ),
    # the address of the images: _filter_images in the file of _TFF, and how they lie in folders: README.md of
    # cvdfoundation/google-landmark, commit 00462838f7b4
    afterwards="images are yours to bring: https://s3.amazonaws.com/google-landmark/train/images_000.tar to "
    "images_499.tar, unpacked into one folder; then `ppfl data convert gldv2 mini_gld_train_split.csv IMAGES "
    "gldv2_mini.h5`",
)

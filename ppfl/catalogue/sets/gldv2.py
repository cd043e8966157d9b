"""Photographs of landmarks by their photographers: Google Landmarks v2, the split of 160,000."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import tiny_plain
from ppfl.catalogue.count_files import images_of_users
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet, Download, Published, Rule, Source

_TFF = Source(
    "google-parfait/tensorflow-federated",
    "tensorflow_federated/python/simulation/datasets/gldv2.py",
    "2c531538fc25784cd8cd7abaa2fb66f970d021a4",
)
_STUDY = Source(
    "facebookresearch/FL_partial_personalization",
    "dataset_statistics/README.md",
    "d47e118886c0d2a2a4fe3658f028339f7d50783f",
)
_COUNTS = {"clients": 1262, "samples": 164_172, "classes": 2028}

DATA_SET = DataSet(
    about="photographs of landmarks by 1,262 users, 2,028 classes; to be converted",
    downloads=(
        Download(
            "http://storage.googleapis.com/gresearch/federated-vision-datasets/landmarks-user-160k.zip",
            _TFF,
            "md5:53c36bd7d5fc12f927af2820b7e4a57c",
            members={
                "landmarks-user-160k/federated_train.csv": "federated_train.csv",
            },
        ),
    ),
    published=(
        Published("federated_train.csv", images_of_users, _COUNTS, _TFF),
        Published("gldv2.h5", samples, _COUNTS, _TFF, is_made=True),
    ),
    section="{name: federated_hdf5, train: gldv2.h5, test: 0.5}",
    write_tiny=partial(tiny_plain.write_landmarks, mapping="federated_train.csv", out="gldv2.h5"),
    rules=(Rule(823, _STUDY, total=50, train_file="federated_train.csv"),),
    # the address of the images: _filter_images in the file of _TFF, and how they lie in folders: README.md of
    # cvdfoundation/google-landmark, commit 00462838f7b4
    afterwards="images are yours to bring: https://s3.amazonaws.com/google-landmark/train/images_000.tar to "
    "images_499.tar, unpacked into one folder; then `ppfl data convert gldv2 federated_train.csv IMAGES gldv2.h5`",
)

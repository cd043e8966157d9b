"""LIBSVM's w8a: categories of web pages, in 300 binary features."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import tiny_plain
from ppfl.catalogue.count_files import libsvm
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_SOURCE = Source("TheoGuyard/LIBSVMdata.jl", "src/datasets.jl", "be3a624154f43cb91cefb4adc55d293949948266")
_PLACE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary"

DATA_SET = DataSet(
    about="LIBSVM text, 64,700 samples with 300 binary features, 2 classes",
    downloads=(Download(f"{_PLACE}/w8a", _SOURCE), Download(f"{_PLACE}/w8a.t", _SOURCE)),
    published=(
        Published("w8a", libsvm, {"samples": 49_749, "features": 300, "classes": 2}, _SOURCE),
        # features are counted by the largest index that occurs, and this file need not have it
        Published("w8a.t", libsvm, {"samples": 14_951, "classes": 2}, _SOURCE),
    ),
    section="{name: libsvm, train: w8a, test: w8a.t, features: 300, partition: {name: iid, clients: 10}}",
    write_tiny=partial(tiny_plain.write_libsvm, files={"w8a": 120, "w8a.t": 40}, num_features=300),
)

"""LIBSVM's a9a: who earns more than 50,000 a year, in 123 binary features."""

from __future__ import annotations

from functools import partial

from ppfl.catalogue import tiny_plain
from ppfl.catalogue.count_files import libsvm
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_ADDRESS = Source(
    "liboyue/Network-Distributed-Algorithm", "nda/datasets/libsvm.py", "0204b1c08e713f9db178bed3838a4e9935e48de5"
)
_COUNTS = Source("TheoGuyard/LIBSVMdata.jl", "src/datasets.jl", "be3a624154f43cb91cefb4adc55d293949948266")
_PLACE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary"

DATA_SET = DataSet(
    about="LIBSVM text, 48,842 samples with 123 binary features, 2 classes",
    downloads=(Download(f"{_PLACE}/a9a", _ADDRESS), Download(f"{_PLACE}/a9a.t", _ADDRESS)),
    published=(
        Published("a9a", libsvm, {"samples": 32_561, "features": 123, "classes": 2}, _COUNTS),
        # features are counted by the largest index that occurs, and this file need not have it
        Published("a9a.t", libsvm, {"samples": 16_281, "classes": 2}, _COUNTS),
    ),
    section="{name: libsvm, train: a9a, test: a9a.t, features: 123, partition: {name: iid, clients: 10}}",
    write_tiny=partial(tiny_plain.write_libsvm, files={"a9a": 120, "a9a.t": 40}, num_features=123),
)

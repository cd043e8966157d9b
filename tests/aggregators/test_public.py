"""`ppfl.aggregate`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ppfl
from ppfl.core.rng import generator
from tests.aggregators import dense_reference
from tests.aggregators.tables import RULES, settings_for, vectors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in RULES if hasattr(dense_reference, name)])
def test_arrays_and_tensors(name: str, dtype: type) -> None:
    x = vectors(10, 20, "generic").astype(dtype)
    before = x.copy()
    got = ppfl.aggregate(name, x, **settings_for(name, 10))
    want = getattr(dense_reference, name)(x.astype(np.float64), **settings_for(name, 10))
    assert isinstance(got, np.ndarray)
    assert got.dtype == dtype
    assert got.shape == (20,)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())
    of_tensor = ppfl.aggregate(name, torch.from_numpy(x), **settings_for(name, 10))
    assert isinstance(of_tensor, torch.Tensor)
    assert of_tensor.numpy().tobytes() == got.tobytes()
    assert (x == before).all()


def test_strides_and_gradients_do_not_matter() -> None:
    x = vectors(10, 20, "generic")
    want = ppfl.aggregate("median", x)
    assert (ppfl.aggregate("median", np.asfortranarray(x)) == want).all()
    assert (ppfl.aggregate("median", np.repeat(x, 2, axis=1)[:, ::2]) == want).all()
    got = ppfl.aggregate("median", torch.from_numpy(x).T.clone().T.requires_grad_())
    assert (got.numpy() == want).all()


def test_arrays_that_nobody_may_write_to() -> None:
    x = vectors(10, 20, "generic")
    want = ppfl.aggregate("krum", x, f=2)
    x.setflags(write=False)
    assert (ppfl.aggregate("krum", x, f=2) == want).all()
    assert (ppfl.aggregate("krum", x[:, ::-1], f=2) == want[::-1]).all()


@pytest.mark.parametrize("name", ["krum", "mean", "median"])
@pytest.mark.parametrize("kind", [torch.from_numpy, lambda x: x])
def test_the_result_is_no_view_of_the_vectors(name: str, kind: Any) -> None:
    x = vectors(3, 20, "generic")
    given = kind(x.copy())
    ppfl.aggregate(name, given, **settings_for(name, 3))[:] = 7.0
    assert (np.asarray(given) == x).all()


def test_before() -> None:
    x = vectors(10, 20, "generic").astype(np.float64)
    np.testing.assert_allclose(
        ppfl.aggregate("trimmed_mean", x, f=2, before=["nnm"]),
        dense_reference.trimmed_mean(dense_reference.nnm(x, 2), 2),
    )
    order = generator(7, "bucketing").permutation(10)
    np.testing.assert_allclose(
        ppfl.aggregate("median", x, before=[("bucketing", {"size": 2})], seed=7),
        dense_reference.median(dense_reference.bucketing(x, 2, order)),
    )
    np.testing.assert_allclose(
        ppfl.aggregate("median", x, before=[("nnm", {"f": 1}), ("clipping", {"threshold": 2.0})]),
        dense_reference.median(dense_reference.clipping(dense_reference.nnm(x, 1), 2.0)),
    )


@pytest.mark.parametrize(
    ("name", "x", "arguments", "message"),
    [
        ("medain", np.ones((3, 2)), {}, r"no aggregator is called 'medain'; there are caf, .*trimmed_mean"),
        ("trimmed_mean", np.ones((3, 2)), {}, r"trimmed_mean: f: missing key; allowed: a whole number of at least 0"),
        ("trimmed_mean", np.ones((3, 2)), {"f": -1}, r"trimmed_mean: f: wrong value \(given -1\)"),
        ("trimmed_mean", np.ones((3, 2)), {"f": 1.5}, r"trimmed_mean: f: wrong value \(given 1.5\)"),
        ("trimmed_mean", np.ones((3, 2)), {"f": 2}, r"trimmed_mean needs f < N/2 with f = 2, here at least 5 vectors"),
        ("median", np.ones((3, 2)), {"f": 1}, r"median: f: unknown key \(given 1\); allowed: before, name"),
        ("median", np.ones((3, 2)), {"before": ["nmn"]}, r"before\[0\].name: unknown name .*did you mean 'nnm'"),
        ("median", np.ones((3, 2)), {"before": ["nnm"]}, r"median: before\[0\].f: missing key"),
        ("median", np.ones((3, 2)), {"before": [("bucketing", {"size": 0})]}, r"before\[0\].size: wrong value"),
        ("median", np.ones(3), {}, r"vectors have the shape \(N, D\), .* not \(3,\)"),
        ("median", np.ones((0, 3)), {}, r"vectors have the shape .* not \(0, 3\)"),
        ("median", np.ones((2, 3), dtype=np.int64), {}, "vectors are float32 or float64, not int64"),
        ("median", torch.ones(2, 3, dtype=torch.float16), {}, "vectors are float32 or float64, not torch.float16"),
        ("median", [[1.0]], {}, r"vectors are a NumPy array or a torch tensor \(N, D\), not list"),
        ("mean", np.array([[1.0], [np.nan]]), {}, "vectors 1 have NaN or inf"),
        ("median", np.array([[np.inf], [np.nan]]), {}, "without vectors that have NaN or inf: median needs N >= 1"),
    ],
)
def test_mistakes_are_explained(name: str, x: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ppfl.aggregate(name, x, **arguments)


def test_importing_ppfl_does_not_load_torch(tmp_path: Path) -> None:
    script = "import sys, ppfl; print('torch' in sys.modules); ppfl.aggregate; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'agregate'"):
        ppfl.agregate  # noqa: B018

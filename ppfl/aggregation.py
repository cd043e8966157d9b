"""Robust aggregation for people who want only this: `ppfl.aggregate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.config_errors import error_of
from ppfl.config_schema import schema_of
from ppfl.core.aggregator import Aggregator
from ppfl.core.client_matrix import ClientMatrix
from ppfl.core.plugins import discover
from ppfl.core.pre_aggregator import Moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Vectors = TypeVar("Vectors", np.ndarray, torch.Tensor)


def aggregate(
    name: str,
    vectors: Vectors,
    *,
    before: Sequence[str | tuple[str, Mapping[str, Any]]] = (),
    seed: int = 0,
    **arguments: Any,
) -> Vectors:
    """Return one vector (D,) for N vectors (N, D) of float32 or float64, of the same kind.

    name and arguments: those of an aggregator in a configuration, e.g. `"trimmed_mean", f=2`; `before`: what is done to
    the vectors first, e.g. `["nnm"]` or `[("bucketing", {"size": 2})]`, where an f that is left out is the rule's own;
    `seed`: of the random order of bucketing. Vectors with NaN or inf count as Byzantine.

    Raises ValueError for unknown names, bad arguments, vectors of another shape or number type, too few vectors for the
    rule (with the inequality), and NaN or inf under the mean.
    """
    rule = _rule(name, before, arguments)
    rows = _rows(vectors)
    rule.check(len(rows))
    # the rows are all columns, too: no copy, rules change none
    result = rule(ClientMatrix(SoloCommunicator(), rows, rows.shape[1]), Moment(seed=seed))
    return result if isinstance(vectors, torch.Tensor) else result.numpy()


def _rule(name: str, before: Sequence[str | tuple[str, Mapping[str, Any]]], arguments: Mapping[str, Any]) -> Aggregator:
    rules = discover("ppfl.aggregators")
    if name not in rules:
        raise ValueError(f"no aggregator is called {name!r}; there are {', '.join(rules)}")
    steps = [{"name": step} if isinstance(step, str) else {"name": step[0], **step[1]} for step in before]
    document = {"name": name, **arguments, "before": steps}
    try:
        return rules[name].model_validate(document)  # type: ignore[return-value]
    except ValidationError as error:
        findings = error_of(name, error, document, schema_of(rules[name])).findings
        raise ValueError(f"{name}: {'; '.join(map(str, findings))}") from error


def _rows(vectors: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(vectors, np.ndarray):
        if vectors.dtype not in (np.float32, np.float64):
            raise ValueError(f"vectors are float32 or float64, not {vectors.dtype}")
        # torch warns of arrays that are not to be written to, and takes none with negative strides
        vectors = torch.from_numpy(np.require(vectors, requirements=["C", "W"]))
    if not isinstance(vectors, torch.Tensor):
        raise ValueError(f"vectors are a NumPy array or a torch tensor (N, D), not {type(vectors).__name__}")
    if vectors.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"vectors are float32 or float64, not {vectors.dtype}")
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(
            f"vectors have the shape (N, D), at least one of at least one coordinate, not {tuple(vectors.shape)}"
        )
    return vectors.detach().contiguous()

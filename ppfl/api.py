"""The face for Python: what `import ppfl` offers, loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError, Finding, error_of, show_value
from ppfl.config.run import Config, validate
from ppfl.config.schema import schema_of
from ppfl.config.scope import without_folders
from ppfl.config.yaml_file import NoSuchPathError, parse_yaml, read_yaml, set_path
from ppfl.core.plugins import PlugIn, discover, find, joined_by
from ppfl.engine.choose import open_engine
from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.jobs.launcher import open_communicator
from ppfl.outside.cells import register as register_class
from ppfl.results.hurt import Hurt
from ppfl.results.hurt import hurt as who_is_hurt
from ppfl.results.reader import open_result as read_result
from ppfl.rows.client_matrix import ClientMatrix
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run as run_experiment
from ppfl.runs.progress import Silent

if TYPE_CHECKING:
    import xarray as xr

    from ppfl.engine.ledger import Scored

Vectors = TypeVar("Vectors", np.ndarray, torch.Tensor)
Registered = TypeVar("Registered", bound=type[PlugIn])
_GROUPS = ("rounds", "clients", "summary", "stages", "arrivals", "losses", "newcomers")
Configuration = Config | Mapping[str, Any] | Path | str
"""A configuration, or what `load` makes one of."""


def load(config: Configuration, changes: Mapping[str, Any] | None = None) -> Config:
    """Return the checked configuration of one run.

    config: the path of a file, a mapping, or YAML itself, told by its line breaks or its `{`. Paths in a file are
    relative to it, others to the working directory. changes: values by dotted path, `{"algorithm.lr": 0.1}`.

    Raises ConfigError (a UserError) for whatever is wrong, and for a file with a grid.
    """
    if isinstance(config, Config):
        if changes:
            what = "a checked configuration stays as it is; allowed: changes of the file or mapping that it was made of"
            raise ConfigError("changes", Finding.text(what))
        return config
    document, folder, source = _document(config)
    for path, value in (changes or {}).items():
        try:
            document = set_path(document, path, value)
        except NoSuchPathError as error:
            raise ConfigError("changes", Finding.text(f"{path}: {error.args[0]} has no keys of its own")) from None
    if "grid" in document:
        raise ConfigError(source, Finding("grid", document["grid"], "no grid here: this is to be one run"))
    return validate(document, folder, source)


def _document(config: Mapping[str, Any] | Path | str) -> tuple[dict[str, Any], Path, str]:
    """Return the keys and values, what relative paths are relative to, and what to call it in an error."""
    if isinstance(config, Mapping):
        return dict(config), Path(), "the configuration"
    text = str(config)
    if isinstance(config, Path) or not ("\n" in text or text.lstrip().startswith("{")):
        return read_yaml(Path(config)), Path(config).parent, text
    value = parse_yaml(text, "the text")
    if not isinstance(value, dict):
        what = f"a mapping of keys to values is wanted, e.g. `rounds: 200` (given {show_value(value)})"
        raise ConfigError("the text", Finding.text(what))
    return value, Path(), "the text"


def run(config: Configuration, out: Path | str | None = None) -> xr.DataTree:
    """Run one experiment as `ppfl run` does, and return its result as `open_result` does. Collective.

    out: the result file; None: results/<name>/<digest>.h5. A complete result of the same run is not computed again, an
    unfinished one goes on from its checkpoint.

    Raises ConfigError for a wrong configuration, and UserError for what `ppfl.runs.experiment.run` does.
    """
    config = load(config)
    out = config.default_out() if out is None else Path(out)
    run_experiment(config, out, Silent())
    return open_result(out)


def rounds(config: Configuration) -> Iterator[Scored]:
    """Run one experiment and yield its scores as they come; nothing is written. Collective.

    Each has `round`, `metrics` and `costs`: those of the groups and series in a result (docs/results.md), a number or
    an array over clients by name. Raises what `run` does, those of a wrong configuration at once.
    """
    config = load(config)
    return iter(open_engine(build(config, open_communicator())))


def open_result(path: Path | str) -> xr.DataTree:
    """Return a result, also an unfinished one, as a tree: groups rounds, clients, summary, stages, arrivals,
    losses, newcomers.

    Its attributes are those of the file (digest, name, status, config as text, …); those of the groups `problem`,
    `seconds`, `best_round` and `provenance` are what the problem knew of itself, what time was spent on, which round
    was the best by validation, and where the result comes from.

    Raises UserError for a file that is no result, is not as it was written, or that a newer version has written.
    """
    import xarray as xr

    result = read_result(Path(path))
    groups = {name: getattr(result, name) for name in _GROUPS}
    return xr.DataTree.from_dict({
        "/": xr.Dataset(attrs=result.attrs),
        **groups,
        "problem": xr.Dataset(attrs=result.problem),
        "seconds": xr.Dataset(attrs=result.seconds),
        "best_round": xr.Dataset(attrs=result.best_round),
        "provenance": xr.Dataset(attrs=result.provenance),
    }, name=str(result.attrs["name"]))  # fmt: skip


def hurt(
    result: Path | str,
    than: Path | str | Sequence[Path | str],
    *,
    metric: str = "test_accuracy",
    stage: str = "personal",
    than_stage: str = "",
) -> Hurt:
    """Compare the clients of a finished result with the same clients in others, as `ppfl hurt` does.

    `others` of what is returned has `num_hurt`, `share_hurt`, `num_tied` and the `scores` of each, beside `scores` and
    the names `clients` of those that were compared. than_stage: that of the others, where it is another one.

    Raises UserError for what is no finished result, has no such score, or was scored on other samples.
    """
    others = [than] if isinstance(than, Path | str) else than
    return who_is_hurt(Path(result), [Path(other) for other in others], metric, stage, than_stage)


def register(kind: Registered) -> Registered:
    """Let configurations of this process name a class, e.g. one of a notebook's cell; returns it, so it may decorate.

    Defined again it replaces the one before. Its source is part of the digest of runs that use it. Other processes do
    not have it: runs on several ranks and packs are refused.

    Raises UserError for what is no plug-in, for a name that exists already, and for a class without source.
    """
    register_class(kind)
    return kind


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
    with joined_by(without_folders()):
        rule = _rule(name, before, arguments)
    rows = _rows(vectors)
    rule.check(len(rows))
    # the rows are all columns, too: no copy, rules change none
    result = rule(ClientMatrix(SoloCommunicator(), rows, rows.shape[1]), RandomKey(seed=seed))
    return result if isinstance(vectors, torch.Tensor) else result.numpy()


def _rule(name: str, before: Sequence[str | tuple[str, Mapping[str, Any]]], arguments: Mapping[str, Any]) -> Aggregator:
    kind = find("ppfl.aggregators", name)
    if kind is None:
        raise ValueError(f"no aggregator is called {name!r}; there are {', '.join(discover('ppfl.aggregators'))}")
    steps = [{"name": step} if isinstance(step, str) else {"name": step[0], **step[1]} for step in before]
    document = {"name": name, **arguments, "before": steps}
    try:
        return kind.model_validate(document)  # type: ignore[return-value]
    except ValidationError as error:
        findings = error_of(name, error, document, schema_of(kind)).findings
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

"""The section `start:`: where parameters begin in the place of the initial law.

A run that another one starts from is known by its digest before it has run: its configuration says it, or the result.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import Field, model_serializer, model_validator

from ppfl.config.errors import ConfigError, Finding, show_value
from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.parameter_file import digest_beside
from ppfl.core.plugins import Resolved, Settings, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from pydantic import SerializationInfo, ValidationInfo

    from ppfl.config.grid import Cell

_EVERYTHING = ("*",)
Made = TypeVar("Made")


@dataclass(frozen=True)
class StartedRun:
    """A run that another one starts from, finished or not."""

    digest: str
    result: Path
    """Where its result is, or will be."""
    arguments: tuple[str, ...] = ()
    """Of `ppfl run`, which makes it; none where a result was named."""
    source: Path | None = None
    """Its configuration."""
    overrides: tuple[str, ...] = ()
    """What is set there, as texts key.path=value."""


class Start(Settings):
    """Parameters of a finished run, or of a file, that a run begins with. Exactly one of config, result, safetensors.

    Two sections that mean the same run by its configuration and by its result are the same: its digest counts.
    """

    config: Annotated[str, Field(min_length=1)] | None = None
    """Configuration of the run to start from, relative to the file; of a grid `cell` or `set` choose one."""
    set: dict[str, Any] = Field(default={})
    """Dotted paths and what they are there: of keys that its grid sets, values that choose; others are replaced."""
    cell: str | None = None
    """Digest of a run of its grid, or a unique beginning of it."""
    results: Annotated[str, Field(min_length=1)] | None = None
    """Folder of its result, relative to the file; null: results/<name> in the working folder."""
    result: Annotated[str, Field(min_length=1)] | None = None
    """Result of the run to start from, relative to the file."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    """Of the run that `result` is of; with it the file need not be there yet."""
    safetensors: DataFile | None = None
    """File from outside, {parameter: tensor}; counts by its content."""
    only: tuple[str, ...] = Field(default=_EVERYTHING, strict=False)
    """Globs of parameters of this run that are taken; others begin at the initial law."""
    new: tuple[str, ...] = Field(default=(), strict=False)
    """Globs of parameters that begin at the initial law, such as adapters that the other run has not; go before
    `only`."""
    names: dict[str, str] = Field(default={})
    """What parameters of this run are called there, where that differs."""
    deployed: bool = False
    """Whether local parameters begin at what each client deployed, as of Ditto, pFedMe and APFL; else a local one
    begins at the client's own where it was local there, and at θ where it was shared."""
    run: Resolved[StartedRun | None] = None

    @model_validator(mode="after")
    def _resolve(self, info: ValidationInfo) -> Self:
        if self.run is not None:
            return self
        given = [key for key in ("config", "result", "safetensors") if getattr(self, key) is not None]
        if len(given) != 1:
            raise refusal("", f"exactly one of config, result, safetensors, not {' and '.join(given) or 'none'}")
        belongs = {"set": "config", "cell": "config", "results": "config", "digest": "result"}
        for key, owner in belongs.items():
            if getattr(self, key) not in (None, {}) and given != [owner]:
                raise refusal(key, f"nothing beside {given[0]}: it belongs to {owner}")
        if self.deployed and self.safetensors is not None:
            raise refusal("deployed", "false: a file has no clients")
        folder = Path((info.context or {}).get("folder", "."))
        if self.config is not None:
            return self.model_copy(update={"run": self._of_config(folder)})
        return self if self.result is None else self.model_copy(update={"run": self._of_result(folder, self.result)})

    def _of_result(self, folder: Path, given: str) -> StartedRun:
        path = _absolute(folder, given, "result")
        try:
            return StartedRun(self.digest or digest_beside(path), path)
        except UserError as error:
            raise refusal("result", f"a finished result with its parameters beside it ({error})") from error

    def _of_config(self, folder: Path) -> StartedRun:
        assert self.config is not None
        path = _absolute(folder, self.config, "config")
        try:
            cell, overrides, is_grid = _choose(path, self.set, self.cell)
        except ConfigError as error:
            raise refusal("config", f"a configuration of one run without mistakes ({error})") from error
        out = cell.config.default_out()
        if self.results is not None:
            out = _absolute(folder, self.results, "results") / out.name
        chosen = ("--cell", cell.digest) if is_grid else ()
        sets = tuple(part for override in overrides for part in ("--set", override))
        arguments = (str(path), *sets, *chosen, *(("--out", str(out)) if self.results is not None else ()))
        return StartedRun(cell.digest, out.absolute(), arguments, path, overrides)

    @property
    def digest_of_run(self) -> str | None:
        """Digest of the run that is started from; None for a file from outside."""
        return None if self.run is None else self.run.digest

    @model_serializer(mode="plain")
    def _written(self, info: SerializationInfo) -> dict[str, Any]:
        taken = {"only": list(self.only), "new": list(self.new), "names": self.names, "deployed": self.deployed}
        if info.mode == "json":
            # by the result: whoever reads it again needs neither the configuration nor that it is where it was
            if self.run is not None:
                return {"result": str(self.run.result), "digest": self.run.digest, **taken}
            return {"safetensors": str(self.safetensors.path) if self.safetensors else None, **taken}
        if self.run is not None:
            return {"run": self.run.digest, **taken}
        return {"sha256": self.safetensors.sha256 if self.safetensors else None, **taken}


_read: ContextVar[dict[Hashable, Any] | None] = ContextVar("configurations that runs start from", default=None)
_reading: ContextVar[tuple[Path, ...]] = ContextVar("configurations that are being read", default=())


@contextmanager
def starts_read_once() -> Iterator[None]:
    """Read each configuration that runs start from once for all runs of a grid."""
    token = _read.set(_read.get() or {})
    try:
        yield
    finally:
        _read.reset(token)


def _choose(path: Path, wanted: dict[str, Any], beginning: str | None) -> tuple[Cell, tuple[str, ...], bool]:
    """Return the one run of a file, what is set in it, and whether it is one of a grid."""
    from ppfl.config.grid import choose_among, varied_paths
    from ppfl.config.yaml_file import read_yaml

    varied = _once((path, "grid"), lambda: varied_paths(read_yaml(path)))
    fixed = {key: value for key, value in wanted.items() if any(_is_below(key, of_grid) for of_grid in varied)}
    overrides = tuple(f"{key}={json.dumps(value)}" for key, value in wanted.items() if key not in fixed)
    cells = {
        digest: cell
        for digest, cell in _cells_of(path, overrides).items()
        if all(_has(cell.varying, key, value) for key, value in fixed.items())
    }
    if not cells:
        shown = ", ".join(f"{key}: {show_value(value)}" for key, value in fixed.items())
        raise ConfigError(str(path), Finding.text(f"no run of its grid has {shown}"))
    if beginning is None and len(cells) == 1:
        return next(iter(cells.values())), overrides, bool(varied)
    return choose_among(cells, path, beginning, "start.cell"), overrides, bool(varied)


def _is_below(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}.")


def _has(varying: dict[str, Any], key: str, value: Any) -> bool:
    """Say whether a run of a grid has a value at a path that the grid sets, or that is inside of what it sets."""
    of_grid = max((path for path in varying if _is_below(key, path)), key=len, default=None)
    if of_grid is None:
        return False
    found = varying[of_grid]
    for part in filter(None, key[len(of_grid) :].split(".")):
        found = found.get(part) if isinstance(found, dict) else None
    return bool(found == value)


def _cells_of(path: Path, overrides: tuple[str, ...]) -> dict[str, Cell]:
    from ppfl.config.grid import load_cells

    def load() -> dict[str, Cell]:
        chain = _reading.get()
        if path in chain:
            raise ConfigError(str(path), Finding.text("starts from itself; allowed: a start that comes to an end"))
        token = _reading.set((*chain, path))
        try:
            return load_cells(path, overrides)
        finally:
            _reading.reset(token)

    return _once((path, overrides), load)


def _once(key: Hashable, make: Callable[[], Made]) -> Made:
    """Return what is made, or was made before in the block that reads once."""
    known = _read.get()
    if known is None:
        return make()
    if key not in known:
        known[key] = make()
    made: Made = known[key]
    return made


def _absolute(folder: Path, given: str, key: str) -> Path:
    try:
        return (folder / Path(given).expanduser()).absolute()
    except RuntimeError as error:
        raise refusal(key, f"a path; there is no home {given.split('/')[0]}") from error

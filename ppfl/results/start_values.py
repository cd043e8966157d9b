"""The parameters that a run begins with, out of files: θ once, w of a client when it is asked for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ppfl.config.start import Start
    from ppfl.core.types import Params
    from ppfl.interfaces.started import Beginning
    from ppfl.results.parameter_files import ParameterFiles
    from ppfl.results.tensor_file import TensorFile

_SHOWN = 20


class StartValues:
    """What a section `start` means for one problem (`ppfl.interfaces.started.Beginning`).

    A parameter is taken where a glob of `only` and none of `new` matches its name. A shared one is θ's; a local one is
    θ's where it is shared there, else each client's own, and with `deployed` always each client's own.
    """

    def __init__(self, start: Start, files: ParameterFiles, names: Sequence[str]) -> None:
        """Read headers. Raises UserError for globs and names that are of no parameter."""
        self.files = files
        self._where = f"start: {files.where}"
        self._deployed = start.deployed
        renamed = dict(start.names)
        for key, globs in (("only", start.only), ("new", start.new), ("names", tuple(renamed))):
            for glob in globs:
                if not _matches(names, [glob]):
                    raise UserError(f"start.{key}: {glob!r} matches no parameter; the parameters are {_listed(names)}")
        taken = [name for name in _matches(names, start.only) if name not in _matches(names, start.new)]
        self._sources = {name: renamed.get(name, name) for name in taken}
        self._shared: Params = {}

    def check(
        self, shared: Params, local_of: Callable[[int], Params], clients: Sequence[int], client_names: Sequence[str]
    ) -> None:
        """Read θ, and look at every w of these clients once. Raises UserError for what is missing, of another shape,
        no number or not finite.

        shared, local_of: drawn values, of a client. client_names: of all clients of the run.
        """
        local = local_of(clients[0])
        theta = self.files.shared
        own = [name for name in local if name in self._sources and self._is_own(name)]
        self._refuse_missing(shared, local)
        for name, like in {**shared, **{name: local[name] for name in local if name not in own}}.items():
            if name in self._sources:
                self._shared[name] = self._read(theta, self._sources[name], name, like)
        if own:
            self.files.follow(client_names)
            for client in clients:
                drawn = local_of(client)
                self.local(client, {name: drawn[name] for name in own})

    def shared(self, drawn: Params) -> Params:
        """Return what these parameters begin at."""
        return {name: self._of_theta(name, value) for name, value in drawn.items()}

    def local(self, client: int, drawn: Params) -> Params:
        """Return what w_m begins at, read from a file where it is the client's own."""
        found: Params = {}
        for name, value in drawn.items():
            if name in self._sources and self._is_own(name):
                file, number = self.files.of_client(client)
                found[name] = self._read(file, f"{number}/{self._sources[name]}", name, value)
            else:
                found[name] = self._of_theta(name, value)
        return found

    @property
    def of_newcomers(self) -> Beginning:
        """The same for clients that the other run did not train: they have no w of their own there."""
        return _OfNewcomers(self)

    def without_own(self, drawn: Params) -> Params:
        """Return what a local parameter begins at where it is θ's there, and `drawn` elsewhere."""
        theirs = self.files.shared.names
        return {
            name: self._of_theta(name, value) if self._sources.get(name, "") in theirs else value
            for name, value in drawn.items()
        }

    def _of_theta(self, name: str, drawn: torch.Tensor) -> torch.Tensor:
        if name not in self._sources:
            return drawn
        if name not in self._shared:
            self._shared[name] = self._read(self.files.shared, self._sources[name], name, drawn)
        if (found := self._shared[name].shape) != drawn.shape:
            raise UserError(
                f"{self._where}: {self._sources[name]} has the shape {tuple(found)}, and {name} of some clients of "
                f"this run {tuple(drawn.shape)}"
            )
        # the objective of another run may begin here, too, and states are changed in place
        return self._shared[name].clone()

    def own_names(self, local: Iterable[str]) -> list[str]:
        """Return which local parameters begin at each client's own values."""
        return [name for name in local if name in self._sources and self._is_own(name)]

    def _is_own(self, name: str) -> bool:
        return self._deployed or self._sources[name] not in self.files.shared.names

    def _refuse_missing(self, shared: Params, local: Params) -> None:
        theta, own = set(self.files.shared.names), self.files.own_names
        missing = [name for name in shared if name in self._sources and self._sources[name] not in theta]
        if turned := [name for name in missing if self._sources[name] in own]:
            raise UserError(
                f"{self._where}: {_listed(turned)} is local there, each client has its own, and shared here; "
                f"allowed: start.new: {turned}, which begins at the initial law"
            )
        wanted_own = self.own_names(local)
        missing += [name for name in wanted_own if self._sources[name] not in own]
        if not missing:
            return
        keeps_none = bool(wanted_own) and not own and self.files.has_clients
        if keeps_none and self._deployed:
            raise UserError(
                f"{self._where}: each client's own {_listed(wanted_own)} is not beside it; run that one with "
                f"save.local: true, by a method with a model for each client"
            )
        kept = ", or, where it is local there, that run with save.local: true" if keeps_none else ""
        raise UserError(
            f"{self._where}: has no {_listed(missing)}, it has {_listed(sorted(theta | own))}; allowed: start.new, "
            f"globs of what begins at the initial law, or start.names, what a parameter is called there{kept}"
        )

    def _read(self, file: TensorFile, source: str, name: str, like: torch.Tensor) -> torch.Tensor:
        place = file.like(source)
        if place.shape != like.shape:
            raise UserError(
                f"{self._where}: {source} has the shape {tuple(place.shape)}, and {name} of this run "
                f"{tuple(like.shape)}"
            )
        if not place.is_floating_point():
            raise UserError(f"{self._where}: {source} is {place.dtype}; allowed: floating point numbers")
        # in memory of its own: kernels round differently for other alignments
        value = file.read([source])[source].to(like.dtype).to(like.device)
        if not torch.isfinite(value).all():
            raise UserError(f"{self._where}: {source} has NaN or inf in {like.dtype}; allowed: finite numbers")
        return value


class _OfNewcomers:
    """θ as for all others (`ppfl.interfaces.started.Beginning`)."""

    def __init__(self, values: StartValues) -> None:
        self._values = values

    def shared(self, drawn: Params) -> Params:
        return self._values.shared(drawn)

    def local(self, client: int, drawn: Params) -> Params:
        return self._values.without_own(drawn)


def _matches(names: Sequence[str], globs: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

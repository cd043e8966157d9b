"""The parameters of a finished run, beside its result: safetensors, never pickle."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.results.layout import shared_path
from ppfl.results.tensor_file import client_by_client, load_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from ppfl.core.snapshot import ClientStates
    from ppfl.core.types import Params, State

KIND = "ppfl parameters"


def save_shared(result: Path, shared: Params, digest: str) -> None:
    """Save θ; called on rank 0."""
    _save(shared_path(result), shared, shared.__getitem__, digest)


def save_local(result: Path, states: ClientStates, rank: int, size: int, digest: str) -> None:
    """Save every w_m of this rank, named `<client number>/<parameter>`; each rank writes a file of its own.

    States are asked for one at a time.
    """

    def named(client: int, state: State) -> Params:
        return {f"{client}/{name}": x for name, x in state["local"].items()}

    like: Params = {}
    for client in states.clients:
        like |= named(client, states.like(client))
    read = client_by_client(lambda client: named(client, states.state(client)), lambda name: name.partition("/")[0])
    _save(result.with_name(f"{result.name}.local-{rank}-of-{size}.safetensors"), like, read, digest)


def load_shared(result: Path) -> Params:
    """Return θ of a result. Raises UserError when it is not there, or damaged."""
    path = shared_path(result)
    if not path.exists():
        raise UserError(f"{path}: not found; it is written beside {result.name} when a run ends")
    return _load(path)


def load_local(result: Path) -> dict[int, Params]:
    """Return {client number: w_m} of a result that was run with `save.local: true`.

    Raises UserError when the files of some rank are missing or damaged.
    """
    parts = local_parts(result)
    if not parts:
        raise UserError(f"{result}: has no local parameters beside it; run with save.local: true")
    wanted = int(parts[0].name.removesuffix(".safetensors").rsplit("-", 1)[1])
    if len(parts) != wanted:
        raise UserError(f"{result}: {len(parts)} of {wanted} files of local parameters are there")
    clients: dict[int, Params] = {}
    for part in parts:
        for key, value in _load(part).items():
            client, _, name = key.partition("/")
            if not client.isdecimal():
                raise UserError(f"{part}: names no client ({key!r}); run anew with save.local: true")
            clients.setdefault(int(client), {})[name] = value
    return clients


def has_local(result: Path) -> bool:
    """Say whether local parameters lie beside a result."""
    return bool(local_parts(result))


def parameters_of(result: Path) -> list[Path]:
    """Return the files of parameters that a result has."""
    return [*local_parts(result), *([shared_path(result)] if shared_path(result).exists() else [])]


def remove_parameters(result: Path, *, also_local: bool) -> None:
    """Remove what an earlier, unfinished run left beside a result that is about to be computed anew.

    Local parameters are looked for only when asked: that reads the whole folder, which may hold thousands of results.
    """
    for path in [shared_path(result), *(local_parts(result) if also_local else [])]:
        path.unlink(missing_ok=True)


def local_parts(result: Path) -> list[Path]:
    """Return the files of what clients have of their own, one a rank."""
    return sorted(result.parent.glob(f"{glob.escape(result.name)}.local-*-of-*.safetensors"))


def _save(path: Path, like: Params, read: Callable[[str], torch.Tensor], digest: str) -> None:
    try:
        write_tensors(path, like, read, {"digest": digest}, KIND)
    except OSError as error:
        raise UserError(f"{path}: cannot save the parameters: {error}") from error


def _load(path: Path) -> Params:
    try:
        return load_tensors(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error

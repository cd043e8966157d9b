"""The parameters of a finished run, beside its result: safetensors, never pickle."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ppfl.core.errors import UserError
from ppfl.results.layout import shared_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ppfl.core.types import Params


def save_shared(result: Path, shared: Params, digest: str) -> None:
    """Save θ; called on rank 0."""
    _save(shared_path(result), dict(shared), digest)


def save_local(result: Path, clients: Iterable[tuple[int, Params]], rank: int, size: int, digest: str) -> None:
    """Save every w_m of this rank, named `<client number>/<parameter>`; each rank writes a file of its own."""
    tensors = {f"{client}/{name}": value for client, params in clients for name, value in params.items()}
    _save(result.with_name(f"{result.name}.local-{rank}-of-{size}.safetensors"), tensors, digest)


def load_shared(result: Path) -> Params:
    """Return θ of a result. Raises UserError when it is not there."""
    path = shared_path(result)
    if not path.exists():
        raise UserError(f"{path}: not found; it is written beside {result.name} when a run ends")
    return load_file(path)


def load_local(result: Path) -> dict[int, Params]:
    """Return {client number: w_m} of a result that was run with `save.local: true`.

    Raises UserError when the files of some rank are missing.
    """
    parts = _local_parts(result)
    if not parts:
        raise UserError(f"{result}: has no local parameters beside it; run with save.local: true")
    wanted = int(parts[0].name.removesuffix(".safetensors").rsplit("-", 1)[1])
    if len(parts) != wanted:
        raise UserError(f"{result}: {len(parts)} of {wanted} files of local parameters are there")
    clients: dict[int, Params] = {}
    for part in parts:
        for key, value in load_file(part).items():
            client, name = key.split("/", 1)
            clients.setdefault(int(client), {})[name] = value
    return clients


def has_local(result: Path) -> bool:
    """Say whether local parameters lie beside a result."""
    return bool(_local_parts(result))


def parameters_of(result: Path) -> list[Path]:
    """Return the files of parameters that a result has."""
    return [*_local_parts(result), *([shared_path(result)] if shared_path(result).exists() else [])]


def remove_parameters(result: Path, *, also_local: bool) -> None:
    """Remove what an earlier, unfinished run left beside a result that is about to be computed anew.

    Local parameters are looked for only when asked: that reads the whole folder, which may hold thousands of results.
    """
    for path in [shared_path(result), *(_local_parts(result) if also_local else [])]:
        path.unlink(missing_ok=True)


def _local_parts(result: Path) -> list[Path]:
    return sorted(result.parent.glob(f"{glob.escape(result.name)}.local-*-of-*.safetensors"))


def _save(path: Path, tensors: Params, digest: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        save_file(contiguous, partial, metadata={"digest": digest})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot save the parameters: {error}") from error

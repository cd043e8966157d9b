"""Where a plug-in from outside comes from, and whether its class is one that ppfl can use."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.attack import Attack
from ppfl.interfaces.compressor import Compressor
from ppfl.interfaces.compute_times import ComputeTimes
from ppfl.interfaces.dataset import Dataset
from ppfl.interfaces.graph import Graph
from ppfl.interfaces.method import Algorithm, FineTuner, ServerOptimizer
from ppfl.interfaces.network import Network
from ppfl.interfaces.partition import Partition
from ppfl.interfaces.pre_aggregator import PreAggregator
from ppfl.interfaces.problem import ProblemSettings
from ppfl.interfaces.schedule import Schedule
from ppfl.interfaces.shift import Shift
from ppfl.interfaces.task import Task
from ppfl.networks.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.plugins import PlugIn
    from ppfl.outside.files import PlugInFiles

ROOMS: dict[str, type[PlugIn]] = {
    "aggregators": Aggregator,
    "algorithms": Algorithm,
    "attacks": Attack,
    "compressors": Compressor,
    "compute_times": ComputeTimes,
    "datasets": Dataset,
    "fine_tuners": FineTuner,
    "graphs": Graph,
    "links": Network,
    "models": Model,
    "partitions": Partition,
    "pre_aggregators": PreAggregator,
    "problems": ProblemSettings,
    "schedules": Schedule,
    "server_optimizers": ServerOptimizer,
    "shifts": Shift,
    "tasks": Task,
}
"""What the plug-ins of a folder are."""


@dataclass(frozen=True)
class Origin:
    """Where a plug-in comes from."""

    key: str
    """Room and name, "aggregators/mine"."""
    where: str
    """In words."""
    identity: dict[str, str]
    """What tells it apart from others of its name: part of the digest of runs that use it."""
    files: PlugInFiles | None = None
    """What another process needs to have it too; None where it can be imported, or where it cannot be had."""
    is_of_this_process: bool = False
    """True for what was registered, and no other process has."""
    loads_torch: bool = False
    """True when importing it loaded torch, which a process that only reads configurations does without."""


_origins: dict[type, Origin] = {}


def note_origin(kind: type[PlugIn], origin: Origin) -> None:
    """Remember where a class comes from."""
    _origins[kind] = origin


def origin_of(kind: type) -> Origin | None:
    """Return where a class comes from; None for the package's own."""
    return _origins.get(kind)


def is_anything_outside() -> bool:
    """Whether any class has come from outside yet: most processes never see one."""
    return bool(_origins)


def of_this_process(origins: Mapping[str, Origin]) -> str:
    """Return why no other process can do a run that uses these, and what to do; "" where one can."""
    found = [origin for origin in origins.values() if origin.is_of_this_process]
    if not found:
        return ""
    files = ", ".join(f"{origin.key}.py" for origin in found)
    return f"{found[0].where}, is not in others: put it into a file ({files} in a folder of `plugins:`)"


def room_of(kind: type[PlugIn]) -> str | None:
    """Return the folder that a class belongs in."""
    return next((room for room, base in ROOMS.items() if issubclass(kind, base)), None)


def check_fits(kind: type[PlugIn], room: str) -> None:
    """Raise TypeError for a class that is not what a room has, or that leaves out what all of these have to say."""
    if not issubclass(kind, ROOMS[room]):
        raise TypeError(f"{kind.__name__} is no {ROOMS[room].__name__}, which is what {room}/ has")
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise TypeError(
            f"{kind.__name__} has no {', '.join(missing)}, which every {ROOMS[room].__name__} has to define"
        )


def has_torch() -> bool:
    """Whether torch itself is loaded, and not a stand-in for it (`ppfl.config.deferred`)."""
    return "torch._C" in sys.modules

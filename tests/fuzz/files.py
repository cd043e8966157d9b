"""Files that ppfl writes, with one wrong byte: results, collections, checkpoints, parameters, claims and notes.

`python -m tests.fuzz.files --flips 20000` does it at length.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ppfl.core.errors import UserError
from ppfl.core.snapshot import Snapshot
from ppfl.jobs.failures import Failure, read_failure, write_failure
from ppfl.jobs.outcome import outline
from ppfl.jobs.states import state_of
from ppfl.results.checkpoint_parts import examine_part, read_entry, read_snapshot, write_entry, write_snapshot
from ppfl.results.collection_reader import open_collection
from ppfl.results.parameters import load_local, load_shared, save_local, save_shared
from ppfl.results.reader import open_result
from ppfl.results.recorder import Recorder, look
from tests.fuzz.harness import Kind, main

STATE = {"local": {"w": torch.arange(6.0)}}


class States:
    clients = range(3)

    def like(self, client: int) -> dict[str, dict[str, torch.Tensor]]:
        return STATE

    def state(self, client: int) -> dict[str, dict[str, torch.Tensor]]:
        return STATE


def make_result(folder: Path) -> Path:
    out = folder / "r.h5"
    config = "name: t\nproblem: {name: quadratic, generator: comparison}\n"
    recorder = Recorder(
        out, {"digest": "abc", "name": "t", "config": config, "results_version": 4}, {"commit": "0123", "host": "h"}
    )
    recorder.describe_problem({"L": 2.5}, {"client": np.array(["a", "ü"], dtype=object)})
    for number in (0, 10):
        recorder.append(number, {"loss": 1.0 / (number + 1), "norms": np.arange(2.0)})
    stages, statistics = ["global", "personal"], ["mean", "q10"]
    recorder.finish(
        "complete", {"loss": np.ones(2)}, {"loss": np.ones((2, 2))}, stages, statistics, {}, {"seconds": np.ones(2)}
    )
    return out


def make_collection(folder: Path) -> Path:
    from ppfl.analysis.collect import collect
    from ppfl.analysis.sources import open_source

    make_result(folder)
    collect(open_source(folder / "r.h5"), folder / "all.h5")
    return folder / "all.h5"


def make_part(folder: Path) -> Path:
    tensors = {"server/model/θ": torch.arange(9.0), "rows/round": torch.arange(2)}
    snapshot = Snapshot(7, range(3), {"limit": 1.5}, tensors, States())
    part = folder / "round-7" / "rank-0.safetensors"
    part.parent.mkdir()
    size, digits = write_snapshot(part, snapshot, with_numbers=True)
    described = {"name": part.name, "rank": 0, "clients": [0, 3], "size": size, "sha256": digits}
    facts = {"digest": "abc", "round": 7, "folder": "round-7", "num_ranks": 1, "parts": [described]}
    write_entry(folder / "current.json", facts)
    return part


def make_entry(folder: Path) -> Path:
    make_part(folder)
    return folder / "current.json"


def make_shared(folder: Path) -> Path:
    save_shared(folder / "r.h5", {"θ": torch.arange(30.0)}, "abc")
    return folder / "r.h5.shared.safetensors"


def make_local(folder: Path) -> Path:
    save_local(folder / "r.h5", States(), 0, 1, "abc")
    return folder / "r.h5.local-0-of-1.safetensors"


def make_claim(folder: Path) -> Path:
    facts = {"pid": 1, "host": "elsewhere", "job": "7", "restart": 0, "token": "0123456789abcdef", "num_ranks": 2,
             "started": "2026-01-01T00:00:00+00:00", "updated": 1.7e9, "round": 3, "rounds": 9,
             "rounds_per_second": 0.5, "seconds_left": 12.0}  # fmt: skip
    path = folder / "r.h5.running.json"
    path.write_text(json.dumps(facts) + "\n")
    return path


def make_note(folder: Path) -> Path:
    write_failure(folder / "r.h5", Failure(digest="abc", reason="ValueError: nö", round=3, log_tail=("a", "b")))
    return folder / "r.h5.failed.json"


def same_or_refused(read: Callable[[Path], str]) -> Callable[[Path], str]:
    """Return a check that a file is refused with a message for users, or is read as the first one, the good one."""
    good: list[str] = []

    def check(path: Path) -> str:
        try:
            found = read(path)
        except (UserError, OSError) as error:
            return f"refused: {error}"
        good.extend([found] if not good else [])
        return "equal" if found == good[0] else f"read as something else: {found}"

    return check


def all_of_result(path: Path) -> str:
    """Return what every reader finds; all of them refuse or none does."""
    quick, here = outline(path), look_at(path)
    refuses = [not quick.has_file, here == "damaged", state_of(path).kind != "done"]
    try:
        found = open_result(path)
    except UserError:
        assert all(refuses), (quick, here)
        raise
    assert not any(refuses), (quick, here)
    groups = {name: getattr(found, name).to_dict() for name in ("rounds", "clients", "summary")}
    return repr((found.attrs, found.config, found.provenance, found.problem, groups, quick, here))


def look_at(path: Path) -> str:
    try:
        return look(path, "abc")
    except UserError:
        return "damaged"


def all_of_collection(path: Path) -> str:
    found = open_collection(path)
    return repr((found.settings, found.digests, found.outlines, found.read(0, ["loss", "round"], ["loss"])))


def all_of_checkpoint(folder: Path) -> str:
    entry = read_entry(folder / "current.json")
    part = entry["parts"][0]
    examine_part(folder / entry["folder"], part)
    found = read_snapshot(entry["round"], range(3), [folder / entry["folder"] / part["name"]])
    states = [found.states.state(client) for client in found.states.clients]
    return repr((entry, found.numbers, found.tensors, states))


def any_claim(path: Path) -> str:
    """Return that a claim was read: whatever it says, the state of the run is one of those that there are."""
    result = path.with_name("r.h5")
    assert state_of(result).kind in ("running", "stale", "missing")
    assert outline(result).status in ("running", "missing")
    return "equal"


def any_note(path: Path) -> str:
    result = path.with_name("r.h5")
    assert state_of(result).kind in ("failed", "missing")
    assert outline(result).status in ("failed", "missing")
    return "equal" if read_failure(result) is not None else "refused"


KINDS = (
    Kind("result", make_result, same_or_refused(all_of_result)),
    Kind("collection", make_collection, same_or_refused(all_of_collection)),
    Kind("part", make_part, same_or_refused(lambda path: all_of_checkpoint(path.parent.parent))),
    Kind("entry", make_entry, same_or_refused(lambda path: all_of_checkpoint(path.parent))),
    Kind("shared", make_shared, same_or_refused(lambda path: repr(load_shared(path.with_name("r.h5"))))),
    Kind("local", make_local, same_or_refused(lambda path: repr(load_local(path.with_name("r.h5"))))),
    Kind("claim", make_claim, any_claim),
    Kind("note", make_note, any_note),
)

if __name__ == "__main__":
    main("tests.fuzz.files")

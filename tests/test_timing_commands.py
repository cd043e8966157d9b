"""`ppfl timing` and `ppfl timeline`: what they print, write and draw, of runs that are computed and of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from ppfl.analysis.timeline import draw_timeline, history_of
from ppfl.cli import main
from ppfl.interfaces.network import Fate
from ppfl.results.reader import open_result
from tests.engine.test_network import CLOCK, LINKS, LOSSY, SMALL, WARM, ffgg

MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
LATE: dict[str, Any] = {**LINKS, **LOSSY, "name": "log_normal", "jitter_seconds": 1.0}


def ppfl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False, prog_name="ppfl")


def written(folder: Path, **sections: Any) -> Path:
    document = {
        "name": "timed", "problem": SMALL, "algorithm": ffgg(WARM, 0.01), "network": LATE, "rounds": 8,
        "evaluate": {"every": 1}, **sections,
    }  # fmt: skip
    path = folder / "timed.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("sections", [{}, CLOCK], ids=["rounds", "asynchronous"])
def test_what_is_written_is_what_the_run_records(tmp_path: Path, sections: dict[str, Any]) -> None:
    config = written(tmp_path, **sections)
    assert ppfl("run", config, "--out", tmp_path / "run.h5").exit_code == 0
    result = open_result(tmp_path / "run.h5")
    said = ppfl("timing", config, "--out", tmp_path / "timed.h5")
    assert said.exit_code == 0, said.output
    assert f"{result.rounds.virtual_seconds.to_numpy()[-1]:,.6g}" in said.output
    with h5py.File(tmp_path / "timed.h5") as file:
        of_run = file[str(result.attrs["digest"])]
        for name in ("virtual_seconds", "uplink_bytes", "downlink_bytes", "lost_uplinks"):
            np.testing.assert_array_equal(of_run[name][:], result.rounds[name].to_numpy())
    assert (result.losses.sizes.get("loss", 0) > 0) == bool(sections)


def test_a_grid_is_a_row_a_run(tmp_path: Path) -> None:
    config = written(tmp_path, grid={"network.drop_out": [0.0, 0.5], "seed": [0, 1]})
    assert ppfl("timing", config, "--out", tmp_path / "timed.csv").exit_code == 0
    lines = (tmp_path / "timed.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "digest,round,virtual_seconds,uplink_bytes,downlink_bytes,lost_uplinks,silent_rounds"
    assert len(lines) == 1 + 4 * 9
    assert len({line.split(",")[0] for line in lines[1:]}) == 4


@pytest.mark.parametrize(
    "sections",
    [{}, {"algorithm": {"name": "dsgd", "lr": 0.01, "fine_tuner": WARM}, "gossip": {"graph": {"name": "ring"}}}],
    ids=["server", "gossip"],
)
def test_without_a_clock_bytes_are_told_and_nothing_is_lost(tmp_path: Path, sections: dict[str, Any]) -> None:
    config = written(tmp_path, network=None, **sections)
    assert ppfl("timing", config, "--out", tmp_path / "timed.csv").exit_code == 0
    last = dict(zip(*(line.split(",") for line in (tmp_path / "timed.csv").read_text().splitlines()[::9]), strict=True))
    assert (float(last["virtual_seconds"]), int(last["lost_uplinks"]), int(last["silent_rounds"])) == (0, 0, 0)
    assert int(last["uplink_bytes"]) > 0


@pytest.mark.mpi
def test_two_ranks_tell_once_what_one_knows(tmp_path: Path) -> None:
    config, told = written(tmp_path), []
    for ranks in (1, 2):
        command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "ppfl", "timing", str(config)]
        out = tmp_path / f"{ranks}.csv"
        done = subprocess.run(
            [*command, "--out", out.name], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
        )
        told.append((done.stdout.replace(out.name, ""), out.read_bytes()))
    assert told[0] == told[1]


def test_the_timeline_of_a_result_is_that_of_its_configuration(tmp_path: Path) -> None:
    config = written(tmp_path)
    assert ppfl("run", config, "--out", tmp_path / "run.h5").exit_code == 0
    before, after = (history_of(source, (), None, None) for source in (config, tmp_path / "run.h5"))
    assert before == after
    assert {work.trip.fate for work in before.work} == {Fate.ARRIVED, Fate.DROPPED, Fate.LATE}
    assert len(before.ends) == 6
    assert all(work.ended <= end for work, end in zip(before.work[-1:], before.ends[-1:], strict=True))
    assert ppfl("timeline", config, "--rounds", "3", "--out", tmp_path / "a.png").exit_code == 0
    assert (tmp_path / "a.png").stat().st_size > 0
    axes = draw_timeline(before).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(client) for client in range(8)]


def test_the_timeline_of_real_messages_is_their_log(tmp_path: Path) -> None:
    asynchronous = {"asynchronous": {"engine": "messages"}, "network": None, "rounds": 30}
    config = written(tmp_path, **asynchronous)
    assert ppfl("run", config, "--out", tmp_path / "run.h5").exit_code == 0
    history = history_of(tmp_path / "run.h5", (), None, 20)
    log = open_result(tmp_path / "run.h5").arrivals
    assert [work.ended for work in history.work] == log.seconds.to_numpy()[:20].tolist()
    refused = ppfl("timeline", config, "--out", tmp_path / "a.png")
    assert refused.exit_code == 2
    assert "compute_times" in refused.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("timing", "{config}", "--out", "timed.txt"), "--out timed.txt: allowed: a name that ends with .h5 or .csv"),
        (("timeline", "{config}", "--out", "a.txt"), "a.txt"),
        (("timeline", "{config}", "--out", "a.png", "--set", "network=null"), "compute_times: a section, or `network`"),
        (("timing", "{config}", "--set", "network.up_bits_per_second=0"), "network.up_bits_per_second: client 0 sends"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    config = written(tmp_path)
    refused = ppfl(*(argument.format(config=config) for argument in arguments))
    assert refused.exit_code == 2
    assert said in refused.output
    assert refused.output.count("\n") == 1

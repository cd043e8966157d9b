"""What parameters begin at where a run starts from another one, or from a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
import torch
import yaml
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.jobs.attempt import Caller
from ppfl.pack.run_queue import RunOfCell
from ppfl.pack.together import run_together
from ppfl.problems._supervised_objective import Supervised
from ppfl.results.parameters import load_local, load_shared
from ppfl.runs.assemble import build, build_problem
from tests.ranks import on_ranks
from tests.runs.started import (
    ALL_SHARED,
    DITTO,
    go,
    is_equal,
    personalized,
    problem,
    setup_of,
    write,
    write_file,
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_shared_parameters_become_everyones_local_ones(tmp_path: Path) -> None:
    """Pre-train everything shared, then personalize: every head begins at the one that was shared."""
    theta = load_shared(go(write(tmp_path, "pre")).default_out())
    objective = setup_of(personalized(tmp_path, start={"config": "pre.yaml"})).problem.objective
    head = {name: value for name, value in theta.items() if name.startswith("head")}
    assert is_equal(objective.init_shared(), {name: value for name, value in theta.items() if name not in head})
    for client in range(4):
        assert is_equal(objective.init_local(client), head)


def test_what_is_drawn_afresh_in_a_round_stays_random(tmp_path: Path) -> None:
    go(write(tmp_path, "pre"))
    path = personalized(tmp_path, start={"config": "pre.yaml"})
    begun, plain = setup_of(path).problem.objective, setup_of(path, "start=null").problem.objective
    assert is_equal(begun.redraw_local(1, 2), plain.redraw_local(1, 2))
    assert not is_equal(begun.redraw_local(1, 2), begun.init_local(1))


def test_each_client_goes_on_with_its_own_local_parameters(tmp_path: Path) -> None:
    go(write(tmp_path, "pre"))
    config = go(personalized(tmp_path, start={"config": "pre.yaml"}, save={"local": True}))
    own = load_local(config.default_out())
    assert not is_equal(own[0], own[1])
    fine = personalized(tmp_path, "fine", start={"config": "per.yaml"}, rounds=2)
    for how in ((), ("engine.client_state=file",), ("engine.clients_per_chunk=2",)):
        objective = setup_of(fine, *how).problem.objective
        assert all(is_equal(objective.init_local(client), own[client]) for client in range(4))
    in_memory, on_disk = go(fine), go(fine, "name=on_disk", "engine.client_state=file")
    assert is_equal(load_shared(in_memory.default_out()), load_shared(on_disk.default_out()))


def test_a_whole_model_that_is_personalized_at_the_end_begins_there_too(tmp_path: Path) -> None:
    """What nothing local is tuned from in the final stage."""
    theta = load_shared(go(write(tmp_path, "pre")).default_out())
    tuner = {"name": "sgd", "lr": 0.1, "batch_size": 32}
    path = write(tmp_path, "tuned", start={"config": "pre.yaml"}, evaluate={"tuned": {"fine_tuner": tuner}})
    setup = setup_of(path)
    assert is_equal(setup.tuned_problem.objective.init_local(2), theta)
    assert is_equal(setup.problem.all_local().objective.init_local(2), theta)


@pytest.mark.parametrize("deployed", [False, True])
def test_methods_with_a_model_for_each_client_have_it_as_theta_or_as_own(tmp_path: Path, deployed: bool) -> None:
    config = go(write(tmp_path, "pre", algorithm=DITTO, save={"local": True}))
    theta, own = load_shared(config.default_out()), load_local(config.default_out())
    assert own[1].keys() == theta.keys()
    assert not is_equal(own[0], own[1])
    path = personalized(tmp_path, start={"config": "pre.yaml", "deployed": deployed})
    objective = setup_of(path).problem.objective
    assert all(torch.equal(value, theta[name]) for name, value in objective.init_shared().items())
    for client in range(4):
        source = own[client] if deployed else theta
        assert all(torch.equal(value, source[name]) for name, value in objective.init_local(client).items())


def test_only_and_new_say_what_is_taken(tmp_path: Path) -> None:
    theta = load_shared(go(write(tmp_path, "pre", seed=7)).default_out())
    drawn = setup_of(write(tmp_path, "none")).problem.objective.init_shared()
    for start in (
        {"only": ["hidden1.*", "head.bias"]},
        {"new": ["head.weight"]},
        {"new": ["head.weight"], "only": ["*"]},
    ):
        path = write(tmp_path, "next", start={"config": "pre.yaml", **start})
        expected = {**theta, "head.weight": drawn["head.weight"]}
        assert is_equal(setup_of(path).problem.objective.init_shared(), {name: expected[name] for name in drawn})


def test_a_file_from_outside_may_have_other_names_and_number_types(tmp_path: Path) -> None:
    values = {"body.w": torch.randn(8, 64, dtype=torch.float64), "head.bias": torch.randn(10).half()}
    write_file(tmp_path / "given.safetensors", values)
    start = {
        "safetensors": "given.safetensors",
        "names": {"hidden1.weight": "body.w"},
        "only": ["*1.weight", "*d.bias"],
    }
    found = setup_of(write(tmp_path, "run", start=start)).problem.objective.init_shared()
    assert torch.equal(found["hidden1.weight"], values["body.w"].float())
    assert torch.equal(found["head.bias"], values["head.bias"].float())
    before = load("run.yaml").digest
    (tmp_path / "same.safetensors").write_bytes((tmp_path / "given.safetensors").read_bytes())
    assert load("run.yaml", ["start.safetensors=same.safetensors"]).digest == before
    write_file(tmp_path / "given.safetensors", {**values, "more": torch.zeros(1)})
    assert load("run.yaml").digest != before


def test_the_result_says_what_it_started_from(tmp_path: Path) -> None:
    pre = go(write(tmp_path, "pre"))
    config = go(write(tmp_path, "next", start={"config": "pre.yaml"}))
    with h5py.File(config.default_out()) as file:
        assert file["provenance"].attrs["start"] == f"{tmp_path / pre.default_out()} ({pre.digest})"
        (tmp_path / "again.yaml").write_text(file.attrs["config"])
    (tmp_path / "pre.yaml").unlink()
    assert load("again.yaml").digest == config.digest


def test_a_start_changes_the_run_and_a_constant_one_is_the_same(tmp_path: Path) -> None:
    """A run that starts at what it would have drawn anyway has the bits of one that starts nowhere."""
    plain = write(tmp_path, "plain")
    drawn = setup_of(plain).problem.objective.init_shared()
    write_file(tmp_path / "drawn.safetensors", drawn)
    started = go(write(tmp_path, "started", start={"safetensors": "drawn.safetensors"}))
    assert is_equal(load_shared(started.default_out()), load_shared(go(plain).default_out()))
    assert started.digest != load(plain).digest


def test_clients_are_the_same_by_name(tmp_path: Path) -> None:
    go(personalized(tmp_path, "per", save={"local": True}))
    more = personalized(tmp_path, "more", problem=problem("head.*", clients=5), start={"config": "per.yaml"})
    with pytest.raises(UserError, match="no parameters of client '4' of this run; allowed: the same clients, by name"):
        setup_of(more)


def test_clients_in_another_order_have_their_own(tmp_path: Path) -> None:
    config = go(personalized(tmp_path, "per", save={"local": True}))
    own = load_local(config.default_out())
    setup = setup_of(personalized(tmp_path, "fine", start={"config": "per.yaml"}))
    values = setup.problem.objective.beginning  # type: ignore[attr-defined]
    values.files.follow(["2", "0"])
    assert is_equal(setup.problem.objective.init_local(0), own[2])
    assert is_equal(setup.problem.objective.init_local(1), own[0])


def with_nan() -> torch.Tensor:
    return torch.full((8, 64), torch.nan)


REFUSED = {
    "another shape": (
        {"hidden1.weight": torch.zeros(9, 64)},
        r"hidden1.weight has the shape \(9, 64\), and hidden1.weight of this run \(8, 64\)",
    ),
    "no numbers": ({"hidden1.weight": with_nan()}, "hidden1.weight has NaN or inf in torch.float32"),
    "too large": ({"hidden1.weight": torch.full((8, 64), 1e300, dtype=torch.float64)}, "hidden1.weight has NaN or inf"),
    "integers": ({"hidden1.weight": torch.zeros(8, 64).long()}, "hidden1.weight is torch.int64; allowed: floating"),
    "not there": ({"hidden1.weigh": torch.zeros(8, 64)}, "has no hidden1.weight, it has hidden1.weigh; allowed: start"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_told_in_one_line(tmp_path: Path, what: str) -> None:
    params, message = REFUSED[what]
    write_file(tmp_path / "given.safetensors", params)
    path = write(tmp_path, "run", start={"safetensors": "given.safetensors", "only": ["hidden1.weight"]})
    with pytest.raises(UserError, match=message) as found:
        setup_of(path)
    assert "\n" not in str(found.value)


def test_missing_parameters_are_all_named(tmp_path: Path) -> None:
    go(write(tmp_path, "pre"))
    deeper = {**problem(), "model": {"name": "mlp", "hidden": [8, 8]}}
    start = {"config": "pre.yaml", "new": ["head.*"]}
    with pytest.raises(
        UserError, match=r"has no hidden2.weight, hidden2.bias, it has head.bias, .*start.new.*start.names"
    ):
        setup_of(write(tmp_path, "deep", problem=deeper, start=start))
    setup_of(write(tmp_path, "deep", problem=deeper, start={**start, "new": ["head.*", "hidden2.*"]}))


@pytest.mark.parametrize("key", ["only", "new"])
def test_a_glob_that_matches_nothing_is_refused(tmp_path: Path, key: str) -> None:
    go(write(tmp_path, "pre"))
    with pytest.raises(
        UserError, match=f"start.{key}: 'heads' matches no parameter; the parameters are hidden1.weight"
    ):
        setup_of(write(tmp_path, "next", start={"config": "pre.yaml", key: ["heads"]}))


def test_local_ones_that_were_not_saved_or_are_to_be_shared_are_refused(tmp_path: Path) -> None:
    go(personalized(tmp_path, "per"))
    with pytest.raises(UserError, match=r"has no head.weight, head.bias, .*is local there, .*save.local: true$"):
        setup_of(personalized(tmp_path, "fine", start={"config": "per.yaml"}))
    go(personalized(tmp_path, "saved", seed=1, save={"local": True}))
    with pytest.raises(UserError, match=r"head.weight, head.bias is local there, each client has its own, and shared"):
        setup_of(write(tmp_path, "back", start={"config": "saved.yaml"}))


def test_local_ones_that_the_other_run_has_not_at_all_are_called_missing(tmp_path: Path) -> None:
    go(write(tmp_path, "pre", save={"local": True}))
    deeper = {**problem("hidden2.*"), "model": {"name": "mlp", "hidden": [8, 8]}}
    with pytest.raises(UserError, match=r"has no hidden2.weight, hidden2.bias, it has head.bias, .*allowed: start.new"):
        setup_of(personalized(tmp_path, "deep", problem=deeper, start={"config": "pre.yaml", "new": ["head.*"]}))
    with pytest.raises(UserError, match=r"own head.weight, head.bias is not beside it; .*by a method with a model"):
        setup_of(personalized(tmp_path, "own", start={"config": "pre.yaml", "deployed": True}))


def test_a_start_that_is_not_there_names_the_command_that_makes_it(tmp_path: Path) -> None:
    write(tmp_path, "pre")
    nxt = write(tmp_path, "next", start={"config": "pre.yaml", "set": {"rounds": 4}})
    with pytest.raises(UserError, match=r"no such result; it comes from: ppfl run \S+pre.yaml --set rounds=4$"):
        go(nxt)
    assert not (tmp_path / "results").exists()


def test_diverged_damaged_and_other_results_are_refused(tmp_path: Path) -> None:
    diverged = go(write(tmp_path, "pre", algorithm={**ALL_SHARED, "lr": 1e30}))
    with pytest.raises(UserError, match="has diverged; allowed: a run that is complete"):
        go(write(tmp_path, "next", start={"config": "pre.yaml"}))
    good = go(write(tmp_path, "good"))
    other = {"result": str(good.default_out()), "digest": diverged.digest}
    with pytest.raises(UserError, match=f"holds run {good.digest}, and not {diverged.digest}"):
        go(write(tmp_path, "next", start=other))
    theta = good.default_out().with_name(f"{good.default_out().name}.shared.safetensors")
    content = bytearray(theta.read_bytes())
    content[-1] ^= 1
    theta.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        setup_of(write(tmp_path, "next", start={"config": "good.yaml"}))


@pytest.mark.parametrize("local", [(), ("head.*",)])
def test_ranks_change_no_bit(tmp_path: Path, local: tuple[str, ...]) -> None:
    go(write(tmp_path, "pre"))
    go(personalized(tmp_path, start={"config": "pre.yaml"}, save={"local": True}))
    path = personalized(tmp_path, "fine", start={"config": "per.yaml"}, save={"local": True})
    found = []
    for size in (1, 2):
        config = on_ranks(size, lambda c, size=size: go(path, f"name=on_{size}", communicator=c))[0]
        found.append(
            {0: load_shared(config.default_out()), **{m + 1: w for m, w in load_local(config.default_out()).items()}}
        )
    assert found[0].keys() == found[1].keys()
    assert all(is_equal(found[0][key], found[1][key]) for key in found[0])


def test_a_rank_reads_the_local_parameters_of_its_own_clients_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(personalized(tmp_path, "per", save={"local": True}))
    config = load(personalized(tmp_path, "fine", start={"config": "per.yaml"}))
    read: dict[int, set[int]] = {0: set(), 1: set()}

    def build_on(communicator: object) -> None:
        setup = build(config, communicator)  # type: ignore[arg-type]
        values = setup.problem.objective.beginning  # type: ignore[attr-defined]
        of_client = values.files.of_client

        def noted(client: int) -> object:
            read[communicator.rank].add(client)  # type: ignore[attr-defined]
            return of_client(client)

        values.files.of_client = noted
        for client in setup.problem.client_data.clients:
            setup.problem.objective.init_local(client)

    on_ranks(2, build_on)
    assert read == {0: {0, 1}, 1: {2, 3}}


def test_quadratics_start_too_and_together(tmp_path: Path) -> None:
    """Runs of a pack that are lanes of one computation begin each at its own start."""
    base = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 3, "rows": 30}
    algorithm = {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "conjugate_gradient", "steps": 3}}
    sections = {"problem": base, "algorithm": algorithm, "precision": "float64"}
    for rounds in (2, 5):
        go(write(tmp_path, f"pre{rounds}", rounds=rounds, save={"local": True}, **sections))
    grid = {"start.config": ["pre2.yaml", "pre5.yaml"]}
    path = write(tmp_path, "grid", **sections, start={"config": "pre2.yaml"}, grid=grid)
    cells = load_cells(path)
    runs = [RunOfCell(cell.config, tmp_path / "packed" / f"{digest}.h5", "") for digest, cell in cells.items()]
    assert run_together(runs, build_problem, lambda: False) == ["complete", "complete"]
    for config_file, one in zip(grid["start.config"], runs, strict=True):
        alone = go(write(tmp_path, "alone", **sections, start={"config": config_file}))
        assert alone.digest == one.config.digest
        assert is_equal(load_shared(one.out), load_shared(alone.default_out()))
        objective = build(one.config, SoloCommunicator()).problem.objective
        assert is_equal(objective.init_shared(), load_shared(load(config_file).default_out()))


def test_the_yaml_of_a_start_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, "pre")
    path = write(tmp_path, "next", start={"config": "pre.yaml", "new": ["head.*"], "names": {"a": "b"}})
    config = load(path)
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load("again.yaml").digest == config.digest
    assert yaml.safe_load(config.to_yaml())["start"]["digest"] == load("pre.yaml").digest


def test_a_run_that_goes_on_needs_what_it_started_from_no_more(tmp_path: Path) -> None:
    """Checkpoints keep it: clients that have not taken part yet, and the stage `global`, begin at it again."""
    before = go(personalized(tmp_path, "per", save={"local": True}))
    path = personalized(
        tmp_path, "fine", start={"config": "per.yaml"}, cohort=1, rounds=6, evaluate={"every": 2}, save={"local": True}
    )
    whole = go(path, "name=whole")
    rounds: list[int] = []
    stops = Caller(wants_stop=lambda: len(rounds) > 2, told=rounds.append)
    out = go(path, caller=stops).default_out()
    kept = out.with_name(f"{out.name}.checkpoint") / "start"
    assert {file.name for file in kept.iterdir()} == {file.name for file in before.default_out().parent.glob("*.h5*")}
    assert all(file.stat().st_nlink == 2 for file in kept.iterdir())  # no second copy on the disk
    shutil.rmtree(before.default_out().parent)
    go(path)
    assert is_equal(load_shared(out), load_shared(whole.default_out()))
    one, other = load_local(out), load_local(whole.default_out())
    assert all(is_equal(one[client], other[client]) for client in range(4))
    with h5py.File(out) as mine, h5py.File(whole.default_out()) as theirs:
        assert mine["clients/global_test_accuracy"][:].tolist() == theirs["clients/global_test_accuracy"][:].tolist()
    assert not kept.exists()
    assert go(path, caller=stops).digest == whole.digest  # done is done, wherever it came from


def test_packs_and_jobs_refuse_a_start_that_is_not_there_and_grids_show_it(tmp_path: Path) -> None:
    write(tmp_path, "pre")
    write(tmp_path, "grid", start={"config": "pre.yaml"}, grid={"zip": [{"seed": [0, 1], "start.set.seed": [0, 1]}]})
    digests = [load("pre.yaml", [f"seed={seed}"]).digest for seed in (0, 1)]
    message = f"it comes from: ppfl run {tmp_path / 'pre.yaml'} --set seed=0 (and 1 more that runs start from)"
    for command in (["pack", "grid.yaml"], ["submit", "grid.yaml", "--dry-run"]):
        refused = CliRunner().invoke(main, command)
        assert refused.exit_code == 2
        assert message in refused.output + str(refused.exception or "")
    go(tmp_path / "pre.yaml", "seed=1")
    listed = CliRunner().invoke(main, ["grid", "grid.yaml", "--json"]).output
    assert [(row["start"]["digest"], row["start"]["is_there"]) for row in json.loads(listed)] == [
        (digests[0], False),
        (digests[1], True),
    ]
    assert f"{digests[0]} (missing)" in CliRunner().invoke(main, ["grid", "grid.yaml"]).output


def test_the_proximal_term_knows_one_start_alone(tmp_path: Path) -> None:
    go(write(tmp_path, "pre"))
    go(personalized(tmp_path, start={"config": "pre.yaml"}, save={"local": True}))
    setup = setup_of(personalized(tmp_path, "near", start={"config": "pre.yaml"}), "problem.training={proximal: 0.5}")
    objective, data = setup.problem.objective, setup.problem.client_data.data(0, 0)
    assert isinstance(objective, Supervised)
    theta, w = objective.init_shared(), objective.init_local(0)
    # nothing pulls where it begins
    assert objective.loss(theta, w, data) == objective.data_loss(theta, w, data)
    away = {name: value + 1.0 for name, value in w.items()}
    assert objective.loss(theta, away, data) > objective.data_loss(theta, away, data)
    fine = personalized(tmp_path, "fine", start={"config": "per.yaml"})
    with pytest.raises(
        UserError, match=r"^problem\.training\.proximal: is 0\.5, but each client begins at its own head"
    ):
        setup_of(fine, "problem.training={proximal: 0.5}")

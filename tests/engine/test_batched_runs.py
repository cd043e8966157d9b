"""Clients of several runs in one call: every run finds what it finds alone, by operations that no run adds to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.engine.mapping import batched_runs as module
from ppfl.engine.mapping.batched_runs import BatchedRuns, fits, kind_of, most_runs
from ppfl.engine.mapping.first_round import why_apart
from ppfl.engine.run import play_round
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces.personal_aggregates import goes_with_others
from ppfl.pack.cells import LastProblem
from ppfl.rows import exact_sum
from ppfl.runs.assemble import build
from tests import examples
from tests.algorithms.cases import is_gossip, split_of
from tests.engine.build import config, engine, ffgg
from tests.engine.test_batched import TUNERS, assert_equal, images, ragged, run_of
from tests.operations import Counts, counted, on_a_device
from tests.supervised_problems import CNN

__all__ = ["images"]

Section = dict[str, Any]
METHODS = [("ffgg", "head"), ("fedavg", "shared"), ("fedalt", "middle"), ("ditto", "shared")]
DIGITS: Section = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 5, "alpha": 0.5}, "test": 0.2},
    "model": {"name": "mlp", "hidden": [12]},
    "split": {"local": ["head.*"]},
    "batch_size": 20,
}
PRUNED: Section = {"name": "pruned_fedsim", "lr": 0.1, "local_steps": 1}
SGD: Section = {"name": "sgd", "lr": 0.1, "batch_size": 6}


def grid(name: str, split: str, lrs: tuple[float, ...], **more: Any) -> list[Section]:
    """Return runs that differ in their steps, those of the fine-tuner included, and in their seeds."""
    base, found = {**run_of(name, split), **more}, []
    for lr, seed in product(lrs, (0, 1)):
        method = {**base["algorithm"], "lr": lr}
        if "fine_tuner" in method:
            method["fine_tuner"] = {**method["fine_tuner"], "lr": lr / 2}
        found.append({**base, "algorithm": method, "seed": seed})
    return found


def equal_sizes(name: str, split: str) -> Section:
    """Return clients of one size."""
    dataset = {"name": "federated_hdf5", "train": ragged(), "test": 0.0, "validation": 0.0}
    return {"problem": {**run_of(name, split)["problem"], "dataset": dataset, "batch_size": 3}}


def told(running: Synchronous, scores: list[Any]) -> dict[str, np.ndarray]:
    """Return scores, costs, θ and all w."""
    found: dict[str, Any] = {"status": np.array(running.status == "complete")}
    for scored in scores:
        found |= {f"{scored.round} {key}": value for key, value in {**scored.metrics, **scored.costs}.items()}
    states = {"server": running.server} | {str(c): running.group.state(c) for c in running.group.clients}
    for owner, state in states.items():
        for group, params in state.items():
            found |= {f"{owner} {group} {key}": value.numpy() for key, value in params.items()}
    return {key: np.asarray(value) for key, value in found.items() if "seconds" not in key}


def alone(**sections: Any) -> dict[str, np.ndarray]:
    running = engine(**sections)
    return told(running, list(running))


def side_by_side(runs: list[Section]) -> list[dict[str, np.ndarray]]:
    """Run all of them on what stands for a device; return what each has found."""
    with on_a_device():
        engines = [engine(**sections) for sections in runs]
        assert all(fits(running.setup) for running in engines)
        assert len({kind_of(running.setup) for running in engines}) == 1
        assert why_apart(engines) == ""
        batched, scores = BatchedRuns(engines), [[] for _ in engines]  # type: ignore[var-annotated]
        going = [(running, running.turns(), mine) for running, mine in zip(engines, scores, strict=True)]
        going = [one for one in going if is_before_a_round(*one)]
        for round in range(runs[0]["rounds"]):
            if going:
                batched.compute(round, [running for running, _, _ in going])
                refuse_alone(running.group.mapping for running, _, _ in going)
            going = [one for one in going if is_before_a_round(*one)]
        assert not going
        return [told(running, mine) for running, mine in zip(engines, scores, strict=True)]


def refuse_alone(mappings: Iterator[Any]) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("clients were computed by their run")

    for mapping in mappings:
        mapping._own = refuse


def is_before_a_round(running: Synchronous, turns: Iterator[Any], scores: list[Any]) -> bool:
    for turn in turns:
        if turn is None:
            return True
        scores.append(turn)
    return False


@pytest.mark.parametrize(("sizes", "cohort"), [("equal", "all"), ("ragged", "all"), ("ragged", 3)])
@pytest.mark.parametrize(("name", "split"), METHODS)
def test_every_run_finds_what_it_finds_alone(name: str, split: str, sizes: str, cohort: str | int) -> None:
    more = equal_sizes(name, split) if sizes == "equal" else {}
    two_seeds_and_two_steps = grid(name, split, (0.1, 0.2), **more)[:3]
    runs = [{**one, "rounds": 2, "cohort": cohort, "evaluate": {"every": 2}} for one in two_seeds_and_two_steps]
    # chunks of three and two clients, several of which come of one call
    found = side_by_side([{**one, "engine": {"clients_per_chunk": 3}} for one in runs])
    for of_run, sections in zip(found, runs, strict=True):
        assert_equal(of_run, alone(**sections))


def test_liars_of_one_run_leave_the_others_alone() -> None:
    """Each lies in its own way about what was computed for all."""
    lies: list[Section] = [{}, {"strategic": {"clients": 2, "scale": 2.0}}]
    lies.append({"strategic": {"clients": 1, "scale": -1.0, "noise": 0.1}})
    evaluate = {"every": 1, "reports": ["squared_norm"]}
    runs = [{**run_of("ffgg", "head"), **lie, "rounds": 2, "evaluate": evaluate} for lie in lies]
    found = side_by_side([{**one, "engine": {"clients_per_chunk": 3}} for one in runs])
    for of_run, sections in zip(found, runs, strict=True):
        assert_equal(of_run, alone(**sections))
    assert len({of_run["2 report_squared_norm"].tobytes() for of_run in found}) == len(runs)


def scaled(settings: Any, factor: float) -> Any:
    """Multiply all floats among settings, those of parts included."""
    if isinstance(settings, dict):
        return {key: scaled(value, factor) for key, value in settings.items()}
    return settings * factor if isinstance(settings, float) else settings


def differ_in_all_numbers(runs: Section) -> list[Section]:
    """Return two runs; how much is kept where a method prunes decides what is done, and is the same."""
    kept = {key: value for key, value in runs["algorithm"].items() if key == "ratios"}
    return [
        {**runs, "algorithm": scaled(runs["algorithm"], 1 - 0.1 * k) | kept, "seed": k, "rounds": 2} for k in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", examples.names("algorithms"))
def test_every_method_with_numbers_and_seeds_of_its_own(name: str) -> None:
    """Data, initial values, cohorts and mini-batches differ, too."""
    method = examples.section("algorithms", name)
    if "fine_tuner" in method:
        method["fine_tuner"] = SGD
    batched = {key: value for key, value in method.items() if key != "local_steps"} | {"epochs": 2, "batch_size": 7}
    method = batched if examples.accepts("algorithms", name, batched) else method
    problem = {**DIGITS, "split": split_of(name, "digits")}
    runs = differ_in_all_numbers({"problem": problem, "algorithm": method, "cohort": 4})
    kind = examples.kind("algorithms", name)
    if not goes_with_others(kind):
        graph: Section = {"gossip": {"graph": {"name": "ring"}}, "cohort": "all"} if is_gossip(name) else {}
        with on_a_device():
            assert not fits(engine(**{**runs[0], **graph}).setup)
        return
    for of_run, sections in zip(side_by_side(runs), runs, strict=True):
        assert_equal(of_run, alone(**sections))


def has_numbers(name: str) -> bool:
    return any(isinstance(value, float) for value in examples.section("fine_tuners", name).values())


@pytest.mark.parametrize("name", [name for name in TUNERS if has_numbers(name)])
def test_every_fine_tuner_with_numbers_of_its_own(name: str) -> None:
    tuner = examples.section("fine_tuners", name)
    if "batch_size" in tuner:
        tuner["batch_size"] = 6
    runs = differ_in_all_numbers({**run_of("ffgg", "head"), "algorithm": ffgg(tuner, 0.1)})
    for of_run, sections in zip(side_by_side(runs), runs, strict=True):
        assert_equal(of_run, alone(**sections))


def test_steps_that_follow_schedules() -> None:
    runs = grid("fedalt", "head", lrs=(0.1, 0.2))
    for number, sections in enumerate(runs):
        schedule = {"name": "linear", "end": 0.1 * number}
        sections["algorithm"] = {**sections["algorithm"], "lr_schedule": schedule}
        sections["rounds"] = 3
    for of_run, sections in zip(side_by_side(runs), runs, strict=True):
        assert_equal(of_run, alone(**sections))


def test_a_run_that_diverges_disturbs_nobody() -> None:
    runs = [{**one, "rounds": 4} for one in grid("fedalt", "head", lrs=(0.1, 1e200))]
    found = side_by_side(runs)
    for of_run, sections in zip(found, runs, strict=True):
        expected = alone(**sections)
        assert bool(of_run["status"]) == bool(expected["status"]) == (sections["algorithm"]["lr"] < 1)
        if expected["status"]:
            assert_equal(of_run, expected)


def test_servers_may_do_what_they_like() -> None:
    """With the mean; they and scores are not computed together."""
    servers = [{"name": "sgd"}, {"name": "momentum", "beta": 0.5}, {"name": "adam", "lr": 0.1}]
    runs = [{**run_of("fedavg", "shared"), "server_optimizer": server, "rounds": 2} for server in servers]
    runs[1]["evaluate"] = {"every": 1}
    for of_run, sections in zip(side_by_side(runs), runs, strict=True):
        assert_equal(of_run, alone(**sections))


def test_a_number_that_decides_what_is_done_keeps_runs_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    method = examples.kind("algorithms", "ditto")
    client = method.client

    def branching(self: Any, *inputs: Any) -> Any:
        return (
            client(self, *inputs) if self.penalty > 0.5 else client(self.model_copy(update={"penalty": 0.0}), *inputs)
        )

    monkeypatch.setattr(method, "client", branching)
    base = run_of("ditto", "shared")
    with on_a_device():
        engines = [engine(**{**base, "algorithm": {**base["algorithm"], "penalty": one}}) for one in (0.3, 0.6)]
        assert "data-dependent control flow" in why_apart(engines)


def test_what_is_another_formula_keeps_runs_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    method = examples.kind("algorithms", "fedavg")
    client = method.client

    def forgetting(self: Any, *inputs: Any) -> Any:
        lr = 0.3 if isinstance(self.lr, torch.Tensor) else self.lr
        return client(self.model_copy(update={"lr": lr}), *inputs)

    monkeypatch.setattr(method, "client", forgetting)
    with on_a_device():
        apart = why_apart([engine(**sections) for sections in grid("fedavg", "shared", lrs=(0.3, 0.6))])
    assert apart == "in torch.float64 they find something else side by side"


def test_who_is_of_another_kind() -> None:
    base = run_of("fedalt", "head")
    method, tuner = base["algorithm"], base["algorithm"]["fine_tuner"]
    others = [
        {"algorithm": {**method, "lr": 0.3, "fine_tuner": {**tuner, "lr": 0.4}}, "seed": 3},
        {"algorithm": {**method, "epochs": 2}},
        {"algorithm": {**method, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}}},
        {"problem": {**base["problem"], "split": {"local": ["norm1.*", "conv2.*"]}}},
        {"rounds": 7},
    ]
    with on_a_device():
        kinds = [kind_of(engine(**{**base, **other}).setup) for other in ({}, *others)]
        pruned = [engine(**{**base, "algorithm": PRUNED | {"ratios": ratio}}) for ratio in (0.5, 0.5, 0.6)]
    assert [kind == kinds[0] for kind in kinds] == [True, True, False, False, False, False]
    kinds = [kind_of(running.setup) for running in pruned]
    assert kinds[0] == kinds[1] == kinds[2]  # ratios come to clients as what they draw


def test_who_does_not_fit() -> None:
    base = run_of("fedalt", "head")
    attackers = {"clients": 1, "attack": {"name": "sign_flip"}}
    with on_a_device():
        assert fits(engine(**base).setup)
        assert not fits(engine(**base, aggregator={"name": "median"}).setup)
        assert not fits(engine(**base, byzantine=attackers).setup)
        assert not fits(engine(**base, engine={"client_state": "host"}).setup)
        assert not fits(engine().setup)
    assert not fits(engine(**base).setup), "on a host one client at a time is fastest"


def test_memory_bounds_how_many_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_a_device():
        setup = engine(**run_of("fedavg", "shared"), cohort=4).setup
        needed = setup.problem.objective.bytes_of_client(setup.problem.client_data.data(1, 0))  # type: ignore[attr-defined]
        assert most_runs(setup) == module.MAX_MEMBERS // 4
        assert most_runs(replace(setup, bytes_together=12 * needed)) == 3
        assert most_runs(replace(setup, bytes_together=needed)) == 1
        monkeypatch.setenv("PPFL_GPU_BYTES", str(8 * needed * module._SHARE_OF_ALLOTTED))
        assert most_runs(replace(setup, bytes_together=12 * needed)) == 2


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(exact_sum, "_compiled", lambda: None)
    with on_a_device():
        yield


def counts_of(runs: list[Section], cohort: str | int) -> tuple[Counts, Counts]:
    """Count the second round: the clients of all runs, and what the runs do with what these send."""
    problems = LastProblem()
    documents = [config(**one, rounds=2, cohort=cohort, precision="float32") for one in runs]
    engines = [Synchronous(build(one, SoloCommunicator(), problems)) for one in documents]
    batched = BatchedRuns(engines)
    for round in range(2):
        with counted() as of_clients:
            batched.compute(round, engines)
        with counted() as of_servers:
            for running in engines:
                play_round(running, round)
    return of_clients, of_servers


def of_images(path: str, algorithm: Section, local: list[str], batch_size: int | str) -> Section:
    dataset = {"name": "federated_hdf5", "train": path, "test": 0.0, "validation": 0.0}
    problem = {"name": "supervised", "dataset": dataset, "model": CNN, "split": {"local": local}}
    chunk = {"clients_per_chunk": 4}
    return {"problem": {**problem, "batch_size": batch_size}, "algorithm": algorithm, "engine": chunk}


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("cohort", ["all", 3])
@pytest.mark.parametrize("batch_size", ["all", 42], ids=["fixed", "drawn"])
def test_operations_do_not_grow_with_step_sizes(
    images: Callable[[int, int], str], cohort: str | int, batch_size: int | str
) -> None:
    tuner = {"name": "gradient_descent", "steps": 3, "lr": 0.05}
    base = of_images(images(4, 7), ffgg(tuner, 0.1), ["head.*"], batch_size)
    few, many = ([{**base, "algorithm": ffgg({**tuner, "lr": 0.01 * (k + 1)}, 0.1)} for k in range(n)] for n in (3, 9))
    (of_few, servers), (of_many, more_servers) = counts_of(few, cohort), counts_of(many, cohort)
    assert of_many.operations == of_few.operations
    assert of_many.waits == of_few.waits == 0
    assert more_servers.operations <= 3 * servers.operations


@pytest.mark.usefixtures("device")
def test_operations_do_not_grow_with_seeds(images: Callable[[int, int], str]) -> None:
    """But for the gather of a run's own mini-batch, where not all samples are used."""
    base = of_images(images(4, 7), run_of("fedavg", "shared")["algorithm"], [], "all")
    method = {"name": "fedavg", "lr": 0.1, "batch_size": 16, "local_steps": 3}

    def of_device(num_runs: int, batch_size: int | str) -> int:
        problem = {**base["problem"], "batch_size": batch_size}
        runs = [{**base, "algorithm": method, "problem": problem, "seed": seed} for seed in range(num_runs)]
        of_clients = counts_of(runs, "all")[0]
        assert of_clients.waits == 0
        return of_clients.of_device

    assert of_device(8, "all") == of_device(2, "all")
    assert of_device(8, 42) - of_device(2, 42) == 6 * 4


def test_precision_of_float32_is_that_of_the_run() -> None:
    """Steps as tensors change no number type, and no more than last bits."""
    runs = [{**one, "rounds": 2, "precision": "float32"} for one in grid("ditto", "shared", lrs=(0.1, 0.2))]
    for of_run, sections in zip(side_by_side(runs), runs, strict=True):
        for key, value in alone(**sections).items():
            assert of_run[key].dtype == value.dtype
            np.testing.assert_allclose(of_run[key], value, rtol=1e-4, atol=1e-6)
    assert torch.get_default_dtype() == torch.float32

"""A configuration: YAML in, one frozen and validated value out, named by the digest of what matters for results."""

from __future__ import annotations

import copy
import hashlib
import json
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from ppfl.config.clients import Round, unfit_graph
from ppfl.config.computing import Checkpoint, Engine, Save
from ppfl.config.errors import ConfigError, Finding, error_of
from ppfl.config.evaluate import Evaluate
from ppfl.config.refusals import REFUSALS
from ppfl.config.schema import schema_of
from ppfl.config.scope import Scope, carried, origins_in, scope_of
from ppfl.config.start import Start
from ppfl.config.yaml_file import apply_overrides, read_yaml
from ppfl.core.plugins import ChosenFrom, Seed, Settings, joined_by
from ppfl.core.results_version import RESULTS_VERSION as RESULTS_VERSION
from ppfl.core.yaml_text import dump_text
from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.asynchronous import Asynchronous
from ppfl.interfaces.byzantine import Byzantine
from ppfl.interfaces.compression import Compression
from ppfl.interfaces.compute_times import ComputeTimes
from ppfl.interfaces.gossip import Neighbourhood
from ppfl.interfaces.method import Algorithm, ServerOptimizer
from ppfl.interfaces.problem import ProblemSettings
from ppfl.interfaces.strategic import Strategic
from ppfl.interfaces.wireless import Wireless

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.interfaces.schedule import Schedule

_NOT_SCIENTIFIC = {"name", "engine", "save", "checkpoint", "plugins"}
_MAX_SEED = 2**32
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False)
_SGD: Any = {"name": "sgd"}
_MEAN: Any = {"name": "mean"}


class Config(Settings):
    """One run."""

    silent: ClassVar[frozenset[str]] = frozenset({"start", "strategic", "network", "gossip", "compression"})
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=100)]
    """What results are filed under."""
    seed: Seed = 0
    """Drives everything random."""
    rounds: Annotated[int, Field(ge=1)]
    """Rounds of communication; arrivals when asynchronous."""
    precision: Literal["float32", "float64", "tf32", "bfloat16"] = "float32"
    """Number type of parameters and data; tf32: float32, with a GPU's products in TF32; bfloat16: float32, with a
    model's stages but the last one in bfloat16."""
    problem: Annotated[ProblemSettings, ChosenFrom("ppfl.problems")]
    """What to minimize: losses and data of the clients."""
    algorithm: Annotated[Algorithm, ChosenFrom("ppfl.algorithms")]
    """What clients and the server do in a round."""
    cohort: Literal["all"] | Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] = "all"
    """Clients that take part in a round: all, a number (1 is one client) or a fraction (1.0 is all)."""
    weights: Literal["uniform", "samples"] = "uniform"
    """Weight of a client in the mean: the same for all, or its number of training samples."""
    server_optimizer: Annotated[ServerOptimizer, ChosenFrom("ppfl.server_optimizers")] = Field(
        default=_SGD, validate_default=True
    )
    """What the server makes of the aggregate before it takes a step."""
    aggregator: Annotated[Aggregator, ChosenFrom("ppfl.aggregators")] = Field(default=_MEAN, validate_default=True)
    """How the clients' vectors become one."""
    byzantine: Byzantine | None = None
    """Clients that send what they like; null: all are honest."""
    strategic: Strategic | None = None
    """Clients that send a multiple of what they computed, and noise, to fare better; null: nobody does."""
    compression: Compression | None = None
    """How what clients send is shortened; null: it is not."""
    start: Start | None = None
    """Where parameters begin; null: at the initial law of the problem."""
    compute_times: Annotated[ComputeTimes, ChosenFrom("ppfl.compute_times")] | None = None
    """How long clients take on a virtual clock; null: nothing counts virtual seconds."""
    network: Wireless | None = None
    """How long clients compute and send in a round; null: nothing is known of it."""
    asynchronous: Asynchronous | None = None
    """Uplinks are applied as they arrive; null: in rounds. With it, `rounds` and `evaluate.every` count arrivals."""
    gossip: Neighbourhood | None = None
    """Clients are nodes of a graph, and each sends to its neighbours; null: to a server."""
    evaluate: Evaluate = Evaluate()
    """Scores during the run and at its end."""
    save: Save = Save()
    """Files beside the result."""
    checkpoint: Checkpoint = Checkpoint()
    """When the state of the run is saved."""
    engine: Engine = Engine()
    """How to compute."""
    plugins: tuple[Path, ...] = Field(default=(), strict=False)
    """Folders with plug-ins of one's own, relative to the file; of those that are used the content is in the digest."""

    @model_validator(mode="before")
    @classmethod
    def _seed_of_data(cls, document: Any) -> Any:
        """Fill in problem.seed, so that leaving it out and writing the run's seed there are the same run."""
        if not isinstance(document, dict):
            return document
        # given here, they are not copied deeply for every run of a grid
        document = {"server_optimizer": _SGD, "aggregator": _MEAN, **document}
        problem, seed = document.get("problem"), document.get("seed", 0)
        is_seed = type(seed) is int and 0 <= seed < _MAX_SEED
        if not is_seed or not isinstance(problem, dict) or problem.get("seed") is not None:
            return document
        return document | {"problem": {**problem, "seed": seed}}

    @model_validator(mode="after")
    def _sections_go_together(self) -> Config:
        for refuse in REFUSALS:
            refuse(self)
        return self

    @property
    def known_clients(self) -> int | None:
        """Number of clients that train, when the settings say it; None when data do."""
        known, newcomers = self.problem.known_clients, self.evaluate.newcomers
        return known if known is None or newcomers is None else known - newcomers.number_of(known)

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]:
        """`engine.device`, where auto is cpu for problems of statistics."""
        # lanes of small runs are worth more than a card, which has none (ppfl/engine/mapping/laned.py)
        has_lanes = self.problem.has_statistics and self.engine.device == "auto"
        return "cpu" if has_lanes else self.engine.device

    @property
    def schedules_over_rounds(self) -> tuple[str, ...]:
        """Keys of the schedules that `rounds` decides: with more rounds they differ from the first round on."""
        return tuple(key for key, schedule in self.schedules().items() if schedule.depends_on_num_rounds)

    def schedules(self) -> dict[str, Schedule]:
        """Return the schedules of step sizes by their keys."""
        sections = {"algorithm": self.algorithm, "server_optimizer": self.server_optimizer}
        return {
            f"{name}.{key}": schedule
            for name, section in sections.items()
            for key, schedule in section.schedules().items()
        }

    def scientific(self) -> dict[str, Any]:
        """Return what decides the results, defaults filled in, data files by their content; JSON types only."""
        content: dict[str, Any] = _canonical(self._content())
        return content

    def _content(self) -> dict[str, Any]:
        # whatever is not named there counts: a new key is part of the digest unless somebody decides otherwise
        content = self.model_dump(exclude={**dict.fromkeys(_NOT_SCIENTIFIC, True), **self.silent_keys()})
        tuned, newcomers = content["evaluate"]["tuned"], content["evaluate"].get("newcomers")
        # null and the method's own fine-tuner written out are the same run
        of_method = _unscheduled(content["algorithm"].get("fine_tuner"))
        if tuned is not None and tuned["fine_tuner"] is None:
            tuned["fine_tuner"] = of_method
        if newcomers is not None and newcomers["fine_tuner"] is None:
            newcomers["fine_tuner"] = of_method if tuned is None else tuned["fine_tuner"]
        if origins := origins_in(self):
            content["plugins"] = {key: origin.identity for key, origin in origins.items()}
        return content

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the hash of the scientific content."""
        text = _json(self._content())
        if "-0.0" in text:  # the one number that JSON writes in two ways
            text = _json(self.scientific())
        # 64 bits: two of a million runs have one digest with a chance of 3e-8
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @staticmethod
    def decides_results(key: str) -> bool:
        """Whether a top-level key is part of the digest."""
        return key not in _NOT_SCIENTIFIC

    def to_yaml(self) -> str:
        """Return the whole configuration with defaults filled in; `load` reads it back."""
        left_out = {**({} if self.plugins else {"plugins": True}), **self.silent_keys()}
        return dump_text(self.model_dump(mode="json", exclude=left_out))

    def __reduce__(self) -> tuple[Any, ...]:
        """Bring the files of plug-ins along to another process."""
        return carried(self)

    def default_out(self) -> Path:
        """Return where the result goes when nothing else is said."""
        return Path("results") / self.name / f"{self.digest}.h5"


def _unscheduled(tuner: dict[str, Any] | None) -> dict[str, Any] | None:
    return tuner and {key: value for key, value in tuner.items() if key != "lr_schedule"}


def _json(content: dict[str, Any]) -> str:
    content = {"results_version": RESULTS_VERSION, "config": content}
    return _ENCODER.encode(content)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    # -0.0 is 0.0
    return value + 0.0 if isinstance(value, float) else value


def validate(document: Mapping[str, Any], folder: Path, source: str, scope: Scope | None = None) -> Config:
    """Return the configuration that a document without grid describes; relative paths start at `folder`.

    `scope`: plug-ins that the document may name, where they are known already. Raises ConfigError with everything that
    is wrong.
    """
    scope = scope or scope_of(document, folder, source)
    with joined_by(scope):
        try:
            config = Config.model_validate({**document, "plugins": scope.folders}, context={"folder": folder})
        except ValidationError as error:
            raise error_of(source, error, dict(document), schema_of(Config)) from error
    if (unfit := _unfit_for_clients(config)) is not None:
        raise ConfigError(source, unfit)
    return config


def _unfit_for_clients(config: Config) -> Finding | None:
    clients = config.known_clients
    if clients is None:
        return None
    if config.gossip is not None and (lonely := unfit_graph(config.gossip, clients, config.seed)) is not None:
        return lonely
    wanted, key, buffer = config.cohort, "cohort", None
    if config.asynchronous is not None:
        wanted, key = config.asynchronous.concurrency, "asynchronous.concurrency"
        buffer = config.asynchronous.buffer
    least = config.algorithm.least_cohort
    found = Round(clients, wanted, key, config.aggregator, config.byzantine, config.strategic, least, buffer)
    return found.unfit() or found.unfit_queries(config.algorithm)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read the configuration of one run; `overrides` are texts key.path=value.

    Raises ConfigError for whatever is wrong, and for a file with a grid (`ppfl.config.grid.load_cells` reads those).
    """
    path = Path(path)
    document = apply_overrides(read_yaml(path), tuple(overrides))
    if "grid" in document:
        raise ConfigError(str(path), Finding("grid", document["grid"], "no grid here: this is to be one run"))
    return validate(document, path.parent, str(path))


@cache
def takes_both_kinds(key: str) -> bool:
    """Whether a key, told by its last part, takes whole numbers and fractions that mean different things."""

    def kinds(field: dict[str, Any]) -> set[str]:
        return {branch.get("type", "") for branch in field.get("anyOf", [])}

    document = Config.model_json_schema()
    nodes = [document, *document["$defs"].values()]
    return any({"integer", "number"} <= kinds(node.get("properties", {}).get(key, {})) for node in nodes)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, grid section included.

    Keys may be left out of the file when the grid sets them, so only `name` is required.
    """
    from ppfl.config.docs import DescribedSchema

    document = copy.deepcopy(Config.model_json_schema(schema_generator=DescribedSchema))
    for node in (document, *document["$defs"].values()):
        # every plug-in needs its `name`, by which an editor knows what the other keys are
        required = [key for key in node.pop("required", []) if key == "name"]
        if required:
            node["required"] = required
    paths = {"type": "object", "minProperties": 1}
    values = {"type": "array", "minItems": 1}
    document["properties"]["grid"] = {
        "type": "object",
        "description": "Many runs: the product of all entries; dotted paths of keys to lists of values.",
        "properties": {
            "zip": {
                "description": "Mappings of paths to lists of equal length, taken together.",
                "type": "array",
                "items": {**paths, "additionalProperties": values},
            },
            "cases": {
                "description": "Listed combinations: mappings of paths to values.",
                "type": "array",
                "items": paths,
            },
        },
        "additionalProperties": values,
        "minProperties": 1,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}

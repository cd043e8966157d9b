"""Folders of plug-ins: what they offer, and one line for whatever is wrong in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

import ppfl
from ppfl.config.errors import ConfigError
from ppfl.config.grid import load_cells
from ppfl.config.run import Config, load, schema
from ppfl.config.scope import scope_of
from ppfl.core.plugins import discover, joined_by
from ppfl.outside.origin import ROOMS
from tests.grids import ppfl as command
from tests.outside.sources import DOCUMENT, SMALLEST, project, rule_called

LITERAL = 'name: Literal["smallest"]'


def refusal(config: Path) -> str:
    """Return the one line of the error, which all commands that read the file end with."""
    done = command("grid", config)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ppfl: error: {config}: ")
    return line.removeprefix(f"ppfl: error: {config}: ")


def test_rooms_are_the_folders_that_sections_choose_from() -> None:
    root = Path(ppfl.__file__).parent
    named = {
        room
        for path in root.rglob("*.py")
        for room in re.findall(r'(?:ChosenFrom\(|_PRE_AGGREGATORS = )"ppfl\.(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert named == set(ROOMS)
    for room, base in ROOMS.items():
        assert all(issubclass(kind, base) for kind in discover(f"ppfl.{room}").values())


def test_a_plug_in_of_a_folder_is_a_choice_of_this_configuration_alone(tmp_path: Path) -> None:
    config = project(tmp_path, aggregator={"name": "smallest", "f": 1, "before": [{"name": "nnm"}]})
    loaded = load(config)
    assert (type(loaded.aggregator).__name__, loaded.aggregator.model_dump()["before"][0]["f"]) == ("Smallest", 1)
    assert loaded.plugins == (tmp_path / "rules",)
    assert "smallest" not in discover("ppfl.aggregators")
    assert "'smallest'" not in str(schema())
    with joined_by(scope_of(DOCUMENT, tmp_path, "test")):
        assert discover("ppfl.aggregators")["smallest"] is type(loaded.aggregator)
    with pytest.raises(ConfigError, match=r"aggregator.name: unknown name \(given 'smallest'\)"):
        load(config, ["plugins=[]"])


def test_keys_of_a_plug_in_are_checked_like_others(tmp_path: Path) -> None:
    config = project(tmp_path, aggregator={"name": "smallest", "g": 1})
    done = command("grid", config)
    missing, unknown = done.stderr.splitlines()
    assert missing.endswith("aggregator.f: missing key; allowed: a whole number of at least 0")
    assert unknown.endswith("aggregator.g: unknown key (given 1); allowed: before, f, name")
    misspelt = refusal(project(tmp_path, aggregator={"name": "smalest", "f": 1}))
    assert "aggregator.name: unknown name (given 'smalest'); allowed: " in misspelt
    assert misspelt.endswith("did you mean 'smallest'?")


def test_an_instance_is_taken_where_it_belongs(tmp_path: Path) -> None:
    config = load(project(tmp_path))
    fields = {name: getattr(config, name) for name in Config.model_fields}
    assert Config(**fields) == config
    with pytest.raises(ValidationError, match="aggregator"):
        Config(**{**fields, "aggregator": config.algorithm})


def test_every_room_takes_plug_ins(tmp_path: Path) -> None:
    """Each plug-in of the package, copied under another name, is one from outside."""
    root, files = Path(ppfl.__file__).parent, {}
    for room in ROOMS:
        name = next(name for name in discover(f"ppfl.{room}") if "_families" not in _text(root, room, name))
        text = re.sub(rf'name: Literal\["{name}"\]', f'name: Literal["own_{name}"]', _text(root, room, name))
        for helper in (root / room).glob("_*.py"):
            if helper.stem != "__init__":
                text = text.replace(f"from ppfl.{room}.{helper.stem} ", f"from .{helper.stem} ")
                files[f"{room}/{helper.name}"] = re.sub(
                    rf"from ppfl\.{room}\.(_\w+) ", r"from .\1 ", helper.read_text(encoding="utf-8")
                )
        files[f"{room}/own_{name}.py"] = text
    config = project(tmp_path, files)
    with joined_by(scope_of(DOCUMENT, config.parent, "test")):
        for room in ROOMS:
            assert [name for name in discover(f"ppfl.{room}") if name.startswith("own_")], room


def _text(root: Path, room: str, name: str) -> str:
    return (root / room / f"{name}.py").read_text(encoding="utf-8")


RULE, HELPER = "aggregators/smallest.py", "aggregators/_choice.py"
EXACTLY_ONE = f"a plug-in file defines exactly one class with `{LITERAL}`, found "
WRONG: list[tuple[str, str | bytes, str]] = [
    (
        RULE,
        SMALLEST.replace("import NonN", "import Nonn"),
        "line 5: cannot import name 'NonnegativeInt' from 'pydantic'",
    ),
    (RULE, "import no_such\n" + SMALLEST, "line 1: No module named 'no_such'; install it, or take the import out"),
    (RULE, "import _choice\n" + SMALLEST, "named '_choice'; `from . import _choice` imports the file beside it"),
    (RULE, SMALLEST.replace("._choice", "._chosen"), "line 9: no aggregators/_chosen.py in "),
    (HELPER, "import no_such", "line 1: No module named 'no_such'"),
    (
        RULE,
        SMALLEST.replace("weights_of_smallest", "weight"),
        "line 9: cannot import name 'weight' from 'aggregators._choice'",
    ),
    (RULE, SMALLEST + "1 / 0\n", "line 22: cannot be imported: ZeroDivisionError: division by zero"),
    (RULE, SMALLEST + "raise SystemExit(3)\n", "line 22: cannot be imported: SystemExit: 3"),
    (RULE, SMALLEST.replace("class Smallest(", "class Smallest(("), "line 12: not Python: "),
    (RULE, SMALLEST + "    return 1\nreturn 2\n", "line 22: not Python: 'return' outside function"),
    (HELPER, "def f(:\n", "line 1: not Python: invalid syntax"),
    (RULE, b"\xff\xfe", "line 1: not Python: "),
    (RULE, b"x = 1\0", "not Python: source code string cannot contain null bytes"),
    (RULE, SMALLEST.replace(LITERAL, "eps: float = 0.0"), f"{EXACTLY_ONE}Smallest (without name)"),
    (RULE, SMALLEST.replace(LITERAL, "name: str"), f"{EXACTLY_ONE}Smallest (without name)"),
    (RULE, SMALLEST.replace(LITERAL, 'name: Literal["least"]'), f"{EXACTLY_ONE}Smallest (least)"),
    (RULE, SMALLEST + rule_called("other"), f"{EXACTLY_ONE}Smallest (smallest), Other (other)"),
    (RULE, "x = 1\n", f"{EXACTLY_ONE}none"),
    (RULE, SMALLEST.replace("def rule", "def rules"), "Smallest has no rule, which every Aggregator has to define"),
    (
        "aggregators/krum.py",
        rule_called("krum"),
        "aggregators has one called 'krum', which comes with ppfl; allowed: another",
    ),
    ("attacks/one.py", rule_called("one"), "One is no Attack, which is what attacks/ has"),
    ("aggregator", SMALLEST, "no room for plug-ins; allowed: aggregators, algorithms, "),
]


@pytest.mark.parametrize(("file", "text", "expected"), WRONG)
def test_what_is_wrong_with_a_file_is_told_in_one_line(
    tmp_path: Path, file: str, text: str | bytes, expected: str
) -> None:
    line = refusal(project(tmp_path, {file if "/" in file else f"{file}/smallest.py": text}))
    assert line.startswith(f"plugins[0]: {tmp_path}/rules/{file}: ")
    assert expected in line


def test_what_was_not_hashed_cannot_be_imported(tmp_path: Path) -> None:
    hidden = 'import importlib\nimportlib.import_module("..hidden", __package__)\n' + SMALLEST
    line = refusal(project(tmp_path, {RULE: hidden, "hidden.py": ""}))
    assert line.endswith("line 2: hidden.py is imported so that the source does not show it; `from . import ...` does")


NO_FOLDER = "no such folder; allowed: an existing one, relative to the configuration"


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        (["nowhere"], "plugins[0]: {0}/nowhere: " + NO_FOLDER),
        (["rules", "run.yaml"], "plugins[1]: {0}/run.yaml: " + NO_FOLDER),
        (["rules", "empty"], "plugins[1]: {0}/empty: has no plug-ins; allowed: a folder with files in aggregators, "),
        (
            ["rules", "rules"],
            "plugins[1]: {0}/rules/aggregators/smallest.py: aggregators has one called 'smallest', which is {0}/",
        ),
        ("rules", "plugins: wrong value (given 'rules'); allowed: a list of folders, e.g. [plugins]"),
        ([3], "plugins: wrong value (given [3]); allowed: a list of folders"),
        ([""], "plugins: wrong value (given [''])"),
        (None, "plugins: wrong value (given null)"),
        (["~nosuchuser/rules"], "plugins: ~nosuchuser/rules: there is no home ~nosuchuser"),
        (["x" * 300], "cannot be read: File name too long"),
    ],
)
def test_what_is_wrong_with_a_list_of_folders_is_told_in_one_line(
    tmp_path: Path, plugins: object, expected: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert expected.format(tmp_path) in refusal(project(tmp_path, plugins=plugins))


def test_a_grid_has_one_list_of_folders(tmp_path: Path) -> None:
    line = refusal(project(tmp_path, grid={"plugins": [["rules"], []]}))
    assert line == ("grid.plugins: cannot vary (given [[rules], []]); allowed: the same folders for all runs of a file")
    assert (
        len(load_cells(project(tmp_path, grid={"aggregator": [{"name": "mean"}, {"name": "smallest", "f": 1}]}))) == 2
    )


def test_helpers_and_what_is_no_python_file_are_no_plug_ins(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "_shared/things.py": "import no_such_thing", ".git/hook.py": "(", "notes/read.me": "(", "setup.py": "(",
        "aggregators/.hidden.py": "(", "aggregators/notes.txt": "(", "aggregators/__init__.py": "",
    }  # fmt: skip
    assert load(project(tmp_path, files)).aggregator.name == "smallest"

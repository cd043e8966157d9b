"""Counts how crowded the house is: python -m tests.house.counts [--config FILE]

Everything is measured on the source, or on one run of it; what is found by a name says so, since a name may change.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parent.parent.parent
FLAGS_OF_2026_11_28 = {
    "has_samples", "has_joint_pass", "fixed_data", "pure_scores", "needs_iterations", "sums_clients",
    "branches_on_server", "server_settings", "needs_rounds", "solves_exactly", "memoryless", "on_data", "has_labels",
    "has_body", "linear", "reads", "is_linear", "apply_blocked",
}  # fmt: skip
"""What was counted by hand then; `found_flags` finds them by what they look like, and others that came since."""
INTERFACES = ("core", "interfaces", "networks")
"""Folders of what plug-ins implement."""
_PRAGMA = re.compile(r"#\s*(noqa|type:|fmt:|pragma:)")
_SAYS_YES_OR_WHY = re.compile(r"bool|str|frozenset\[str\]")
_Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef"

_PROFILED = """
import os, runpy, sys, threading
notes = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
seen = set()

def profile(frame, event, argument):
    code = frame.f_code
    # bodies of modules and of classes are no functions: these alone have local variables in slots
    if event == "call" and code.co_flags & 1 and code.co_filename not in seen:
        seen.add(code.co_filename)
        # at once, since a rank may be a fork of this process, and leave without a word
        os.write(notes, (code.co_filename + chr(10)).encode())

threading.setprofile(profile)
sys.setprofile(profile)
sys.argv[:] = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Source:
    """One file of the package."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def num_lines(self) -> int:
        return len(self.text.splitlines())


def sources_of(package: Path) -> list[Source]:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    return [Source(path, text, ast.parse(text)) for path, text in texts.items()]


def entered(package: Path, arguments: list[str]) -> set[Path]:
    """Files of a package of which a run, `python -m <package> <arguments>`, enters a function."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "entered")
        subprocess.run(
            [sys.executable, "-c", _PROFILED, str(notes), package.name, *arguments],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(package.parent)}, check=True, capture_output=True,
        )  # fmt: skip
        found = {Path(line) for line in notes.read_text(encoding="utf-8").splitlines()}
    return {path for path in found if path.is_relative_to(package)}


def num_modules(sources: list[Source], folder: Path) -> int:
    """Files directly in a folder, empty ones left out."""
    return sum(source.path.parent == folder and source.num_lines > 0 for source in sources)


def public_members(node: ast.ClassDef) -> tuple[int, int]:
    """Methods, properties among them, and attributes that a class defines itself."""
    methods, attributes = set(), set()
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            methods.add(item.name)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            attributes.add(item.target.id)
    return len(methods), len([name for name in attributes if not name.startswith("_")])


def largest_interface(sources: list[Source]) -> tuple[str, int, int]:
    """Name, methods and attributes of the class with an abstract method that has most public methods."""
    classes = [node for source in sources for node in _classes(source) if any(map(_is_abstract, node.body))]
    largest = max(classes, key=lambda node: sum(public_members(node)))
    return largest.name, *public_members(largest)


def found_flags(sources: list[Source], folders: tuple[str, ...] = INTERFACES) -> set[str]:
    """Public names by which a part says what it can do, and that another file asks for.

    They are class variables and bool attributes with a default, and in classes that others extend properties and
    methods without arguments, in a folder of interfaces, that say yes or no, why not, which ones, or None where there
    is nothing.
    """
    declared: dict[str, set[Path]] = {}
    extended = {ast.unparse(base) for source in sources for node in _classes(source) for base in node.bases}
    for source in sources:
        if source.path.parent.name in folders:
            for node in _classes(source):
                for name in _flags_declared(node, is_extended=node.name in extended):
                    declared.setdefault(name, set()).add(source.path)
    return {
        node.attr
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        and node.attr in declared
        and declared[node.attr] != {source.path}
    }


def callers_of(sources: list[Source], name: str) -> list[Path]:
    """Files that call a method of this name on something else than themselves."""
    return [
        source.path
        for source in sources
        if any(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == name
            and ast.unparse(node.func.value) not in ("self", "super()")
            for node in ast.walk(source.tree)
        )
    ]


def deciders_of(sources: list[Source], word: str) -> list[Path]:
    """Files of `engine` that assign, return or hand over a word; comparing with it decides nothing."""
    return [
        source.path for source in sources if source.path.parent.name == "engine" and _says(ast.walk(source.tree), word)
    ]


def num_comments(sources: list[Source]) -> int:
    """Comments for readers; what speaks to linters is none."""
    return sum(
        token.type == tokenize.COMMENT and not _PRAGMA.match(token.string)
        for source in sources
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline)
    )


def docstrings(sources: list[Source]) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for source in sources for node in ast.walk(source.tree) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def num_examples(text: str) -> int:
    return len(doctest.DocTestParser().get_examples(text))


def counts(package: Path, config: Path | None) -> dict[str, str]:
    """What is counted -> figure, as docs/architecture.md shows them."""
    sources = sources_of(package)
    texts = docstrings(sources)
    lines = sum(source.num_lines for source in sources)
    examples = [num for text in texts if (num := num_examples(text))]
    name, methods, attributes = largest_interface(sources)
    flags = found_flags(sources)
    table = {}
    if config is not None:
        with tempfile.TemporaryDirectory() as folder:
            files = entered(package, ["run", str(config), "--out", str(Path(folder, "result.h5"))])
        lines_entered = sum(source.num_lines for source in sources if source.path in files)
        table["files entered by one `ppfl run` of digits"] = f"{len(files)} files, {lines_entered:,} lines"
    return table | {
        "`ppfl/core`": f"{num_modules(sources, package / 'core')} files",
        "loose modules in `ppfl/`": f"{num_modules(sources, package)}",
        "largest interface": f"`{name}`: {methods} public methods and {attributes} attributes",
        "capability flags, of those of 2026-11-28": f"{len(flags & FLAGS_OF_2026_11_28)}",
        "others that look like flags": f"{len(flags - FLAGS_OF_2026_11_28)}: "
        + (", ".join(f"`{flag}`" for flag in sorted(flags - FLAGS_OF_2026_11_28)) or "none"),
        "implementations of a synchronous round": f"{len(callers_of(sources, 'server_of_cohort'))}",
        "places that decide divergence": f"{len(deciders_of(sources, 'diverged'))}",
        "comments": f"{num_comments(sources):,}, one for {lines / max(num_comments(sources), 1):.0f} lines",
        "docstrings of one line": f"{100 * sum(chr(10) not in text for text in texts) / len(texts):.0f} %",
        "runnable examples": f"{len(examples)} docstrings, {sum(examples)} statements",
    }


def _classes(source: Source) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef))


def _decorators(node: _Definition) -> set[str]:
    return {ast.unparse(decorator).rsplit(".", 1)[-1] for decorator in node.decorator_list}


def _is_property(node: ast.FunctionDef) -> bool:
    return bool(_decorators(node) & {"property", "cached_property"})


def _is_abstract(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and "abstractmethod" in _decorators(node)


def _flags_declared(node: ast.ClassDef, is_extended: bool) -> Iterator[str]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            name, kind = item.target.id, ast.unparse(item.annotation)
            of_class = re.fullmatch(r"ClassVar\[(.*)\]", kind)
            is_flag = bool(_SAYS_YES_OR_WHY.fullmatch(of_class[1])) if of_class else kind == "bool"
            # a function that may be missing
            is_flag |= kind.startswith("Callable") and kind.endswith("| None")
        elif isinstance(item, ast.FunctionDef) and is_extended and len(item.args.args) == 1 and not _is_abstract(item):
            name, kind = item.name, ast.unparse(item.returns) if item.returns else ""
            is_flag = (_is_property(item) and kind in ("bool", "str")) or kind.endswith("| None")
        else:
            continue
        if is_flag and not name.startswith("_"):
            yield name


def _says(nodes: Iterator[ast.AST], word: str) -> bool:
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return | ast.keyword):
            given = [node.value]
        elif isinstance(node, ast.Call):
            given = list(node.args)
        else:
            continue
        for value in given:
            options = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
            if any(isinstance(option, ast.Constant) and option.value == word for option in options):
                return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=inspect.cleandoc(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs/test/digits.yaml", help="what is run")
    for what, figure in counts(ROOT / "ppfl", parser.parse_args().config).items():
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()

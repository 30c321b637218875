"""The arrows between modules go one way, modules stay small, and the printed trees show the modules there are."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lift"
MAX_LINES = 450

# What every stage may import, then the stages in the order of the method, then the doors.
SHARED = ["errors", "config", "recipes", "losses", "models"]
STAGES = [
    "documents",
    "sentences",
    "segments",
    "contexts",
    "tasks",
    "prompts",
    "batches",
    "adapters",
    "training",
    "scoring",
    "retrieval",
    "follow_up",
    "memories",
    "answers",
    "prose",
    "choosing",
    "asking",
    "routes",
    "answering",
    "many_memories",
    "recall",
    "events",
    "preparation",
    "planning",
    "plan_estimate",
    "session",
    "absorption",
    "updating",
    "remote",
    "serving",
    "jobs",
    "evaluation",
    "reader_tuning",
    "bench",
]
DOORS = ["api", "server", "cli"]
TREES = ["README.md", "docs/architecture.md"]


TREE = re.compile(r"^([ ]*)src/lift/.*\n((?:\1[ ]+\S.*\n)+)", re.MULTILINE)


def pages_with_a_tree() -> list[str]:
    return [page for page in TREES if (ROOT / page).is_file() and TREE.search((ROOT / page).read_text("utf-8"))]


def modules() -> dict[str, Path]:
    """Dotted name below lift -> file; packages by their own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def runtime_imports(path: Path) -> set[str]:
    """Dotted names below lift that `path` imports when it runs, at its top or within functions."""
    known = modules()
    tree = ast.parse(path.read_text("utf-8"))
    for_types_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lift":
            base = node.module.removeprefix("lift").removeprefix(".")
            for alias in node.names:
                submodule = f"{base}.{alias.name}".removeprefix(".")
                found.add(submodule if submodule in known else base)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("lift").removeprefix(".")
                for alias in node.names
                if alias.name.split(".")[0] == "lift"
            }
    return found


def stage_of(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_its_place_in_the_order() -> None:
    assert {stage_of(module) for module in modules() if module} == {*SHARED, *STAGES, *DOORS}


@pytest.mark.parametrize("module", [module for module in modules() if module])
def test_arrows_go_to_earlier_stages_only(module: str) -> None:
    order = [*SHARED, *STAGES, *DOORS]
    place = order.index(stage_of(module))
    # "" is the package itself, whose names are lazy doors onto the stages; only doors may read its version there
    allowed = {*order[: place + 1], *([""] if stage_of(module) in DOORS else [])}
    wrong = {other for other in runtime_imports(modules()[module]) if stage_of(other) not in allowed}
    assert not wrong, f"{module} comes before {wrong}"


def test_nothing_imports_a_door() -> None:
    inside = [module for module in modules() if stage_of(module) not in DOORS]
    assert not [module for module in inside if any(stage_of(o) in DOORS for o in runtime_imports(modules()[module]))]


def test_there_is_no_cycle() -> None:
    known = modules()
    arrows = {module: runtime_imports(path) & known.keys() - {module} for module, path in known.items()}
    while removable := [module for module, targets in arrows.items() if not targets & arrows.keys()]:
        for module in removable:
            del arrows[module]
    assert not arrows, f"these import each other: {sorted(arrows)}"


@pytest.mark.parametrize("module", list(modules()))
def test_modules_stay_small(module: str) -> None:
    lines = len(modules()[module].read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines; split it at a concept"


@pytest.mark.parametrize("page", pages_with_a_tree() or ["none"])
def test_the_printed_tree_lists_exactly_the_modules(page: str) -> None:
    assert page in TREES, "no page shows the tree of src/lift/"
    printed = printed_tree((ROOT / page).read_text("utf-8"))
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".toml") and (path.name != "__init__.py" or path.parent == PACKAGE)
    }
    assert printed == there


def test_every_package_that_is_imported_is_declared() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    declared = {_normal(re.split(r"[<>=~!\[ ;]", requirement)[0]) for requirement in requirements}
    distributions = packages_distributions()
    imported = {
        name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in imported_names(node)
        if name not in sys.stdlib_module_names and name != "lift"
    }
    missing = {name for name in imported if not declared & {_normal(each) for each in distributions.get(name, [name])}}
    # optional: what needs them says so itself
    served = {"fastapi", "prometheus_client", "starlette", "uvicorn"}
    assert missing <= {"bitsandbytes", "llama_cpp", "matplotlib", "openai", *served}


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(script: Path) -> None:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def imported_names(node: ast.AST) -> list[str]:
    """Top-level packages that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module.partition(".")[0]]
    return []


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def printed_tree(text: str) -> set[str]:
    """Files of the first block that begins with src/lift/: what a folder holds stands after it, indented further."""
    block = TREE.search(text)
    assert block
    folders: list[tuple[int, str]] = []
    found = set()
    for line in block[2].splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.match(r"((?:[\w-]+(?:\.py|\.toml|/)[ ,]*)+)", line.strip())
        assert names, f"expected file names first in the line {line!r}"
        while folders and indent <= folders[-1][0]:
            folders.pop()
        for name in re.findall(r"[\w-]+(?:\.py|\.toml|/)", names[1]):
            if name.endswith("/"):
                folders.append((indent, name))
            else:
                found.add("".join(folder for _, folder in folders) + name)
    return found

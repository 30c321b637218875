"""The arrows between modules go one way, there is no circle, and whatever is imported is declared."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lift"

# From the bottom to the top: a package imports those before it alone.
ORDER = [
    "errors",
    "config",
    "endpoints",
    "documents",
    "models",
    "recipes",
    "packing",
    "adapters",
    "inference",
    "tasks",
    "memories",
    "training",
    "answering",
    "serving",
    "absorbing",
    "remote",
    "jobs",
    "farm",
    "evaluation",
    "exporting",
    "engines",
    "bench",
    "api",
    "server",
    "cli",
]
DOORS = ["api", "server", "cli"]


@functools.cache
def modules() -> dict[str, Path]:
    """Dotted name below lift -> file; packages by their own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


@functools.cache
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


def package_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", [module for module in modules() if module])
def test_arrows_run_one_way(module: str) -> None:
    # "" is the package itself, whose names are lazy doors onto the others; only doors may read its version there
    package = package_of(module)
    allowed = {*ORDER[: ORDER.index(package) + 1], *([""] if package in DOORS else [])}
    wrong = {other for other in runtime_imports(modules()[module]) if package_of(other) not in allowed}
    assert not wrong, f"{module} comes before {wrong}"


def test_there_is_no_cycle() -> None:
    known = modules()
    arrows = {module: runtime_imports(path) & known.keys() - {module} for module, path in known.items()}
    while removable := [module for module, targets in arrows.items() if not targets & arrows.keys()]:
        for module in removable:
            del arrows[module]
    assert not arrows, f"these import each other: {sorted(arrows)}"


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
    served = {"fastapi", "h11", "prometheus_client", "starlette", "uvicorn"}
    farm = {"obstore", "pyarrow", "ray"}
    assert missing <= {"bitsandbytes", "cv2", "llama_cpp", "matplotlib", "openai", "rapidocr", *farm, *served}


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(script.parent)  # as python does for a script that it runs
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, script.stem, module)
    spec.loader.exec_module(module)


def imported_names(node: ast.AST) -> list[str]:
    """Top-level packages that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module.partition(".")[0]]
    return []


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()

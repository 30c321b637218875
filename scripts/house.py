"""How the source is built: `python scripts/house.py [SRC]` counts packages, lines and names, and finds circles.

SRC is the folder of the package (default src/lift), so that another state of the source can be counted beside it.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

_IGNORED_FILES = {"__init__.py"}
_DEFINED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def main() -> None:
    """Print the counts."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "src/lift")
    files = sorted(root.rglob("*.py"))
    trees = {path: ast.parse(path.read_text("utf-8")) for path in files}
    arrows = package_arrows(root, trees)
    packages = [path for path in root.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    modules = [path.name for path in root.glob("*.py") if path.name not in _IGNORED_FILES]
    classes = Counter(
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    names = Counter(path.name for path in files if path.name not in _IGNORED_FILES)
    print(f"packages at the top          {len(packages)}")
    print(f"modules in the root          {len(modules)} ({', '.join(sorted(modules))})")
    print(f"files                        {len(files)}")
    print(f"lines of code                {sum(code_lines(path, trees[path]) for path in files):,}")
    print(f"classes of one name          {_repeated(classes)}")
    print(f"files of one name            {_repeated(names)}")
    print(f"arrows between packages      {sum(map(len, arrows.values()))}")
    circles = packages_in_circles(arrows)
    print(f"packages in circles          {', '.join(circles) or 'none'}")
    if not circles:
        print(f"longest chain of packages    {longest_chain(arrows)}")


def code_lines(path: Path, tree: ast.Module) -> int:
    """Lines that hold a token of the program: no blanks, no comments, no docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    told: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, *_DEFINED)) and ast.get_docstring(node) is not None:
            first = node.body[0]
            told.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - told)


def package_arrows(root: Path, trees: dict[Path, ast.Module]) -> dict[str, set[str]]:
    """Package, or module of the root -> those that it imports, wherever in its files."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        here = _top(path.relative_to(root).with_suffix("").parts)
        if here == "__init__":  # the package's own names are lazy
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "lift":
                inside = node.module.split(".")[1:]
                targets = [inside[0]] if inside else [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                targets = [each.name.split(".")[1] for each in node.names if each.name.startswith("lift.")]
            else:
                continue
            known = {target for target in targets if (root / target).is_dir() or (root / f"{target}.py").exists()}
            arrows[here] |= known - {here}
    return arrows


def packages_in_circles(arrows: dict[str, set[str]]) -> list[str]:
    """Those that can be reached from themselves."""
    left = {name: set(targets) for name, targets in arrows.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def longest_chain(arrows: dict[str, set[str]]) -> int:
    """Packages on the longest way along the arrows."""

    @cache
    def depth(name: str) -> int:
        return 1 + max(map(depth, arrows.get(name, ())), default=0)

    return max(map(depth, arrows))


def _top(parts: tuple[str, ...]) -> str:
    return parts[0]


def _repeated(counts: Counter[str]) -> str:
    repeated = sorted(name for name, count in counts.items() if count > 1)
    return f"{len(repeated)} ({', '.join(repeated)})" if repeated else "0"


if __name__ == "__main__":
    main()

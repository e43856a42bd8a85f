"""Imports lead down: the layers that docs/developing.md draws."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.project import ROOT

PACKAGE = ROOT / "v4d"


def layers() -> dict[str, int]:
    """The line of each package or module in the page, counted from the top."""
    page = (ROOT / "docs/developing.md").read_text(encoding="utf-8")
    section = page.partition("## Layers")[2].partition("## ")[0]
    lines = re.findall(r"^    (\S.*)$", section, flags=re.MULTILINE)
    return {name.removesuffix(".py"): number for number, line in enumerate(lines) for name in line.split()}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """What of v4d a module imports, by the first name, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name.split(".")[1], node.lineno) for name in names if name.startswith("v4d."))


def test_every_package_has_a_line():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py") and path.name[:2] != "__"}
    assert there == set(layers())


def test_no_import_leads_up_or_aside():
    level = layers()
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for name, line in imported(path):
            if own in level and name != own and level.get(name, len(level)) <= level[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []

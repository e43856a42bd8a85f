"""What is particular to a data set stands in `v4d/datasets` and nowhere else."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import ROOT, environment
from v4d.datasets import SOURCES

OWN = ("v4d/datasets/kinetics*.py", "v4d/datasets/youtube.py", "v4d/datasets/replacements.py")
"""Modules of Kinetics; `v4d/datasets/__init__.py` registers it."""
NAMES = re.compile(r"kinetics|youtube|mini200")
ASKING = re.compile(rf"""\bsource['"\]]*\s*(==|!=|in|not in)\s*[(\[]?['"]({"|".join(SOURCES)})['"]""")


def modules() -> list[Path]:
    own = {path for pattern in OWN for path in ROOT.glob(pattern)} | {ROOT / "v4d/datasets/__init__.py"}
    return [path for path in sorted(ROOT.glob("v4d/**/*.py")) if path not in own]


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names and strings of a program with their lines, without docstrings."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.Expr) and isinstance(child, ast.Constant):
                continue  # a docstring
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.lineno, child.value
            elif isinstance(child, ast.Name):
                yield child.lineno, child.id
            elif isinstance(child, ast.Attribute):
                yield child.lineno, child.attr
            elif isinstance(child, ast.ImportFrom):
                yield child.lineno, child.module or ""


def test_no_other_module_names_a_data_set():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in modules()
        for line, word in words(ast.parse(path.read_text()))
        if NAMES.search(word)
    ]
    assert found == []


def test_nothing_asks_which_source_it_is():
    files = [*modules(), *sorted(ROOT.glob("workflow/rules/*.smk")), ROOT / "Snakefile"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ASKING.search(line) or (path.parent.name == "rules" and NAMES.search(line))
    ]
    assert found == []


@pytest.mark.parametrize("name", SOURCES)
def test_keys_of_a_source_have_a_description(name):
    options = SOURCES[name].Options
    assert options.__doc__ and all(field.description for field in options.model_fields.values())


FETCHING = "requests urllib3 tqdm av ffmpeg imageio_ffmpeg decord yt_dlp"


@pytest.mark.parametrize(
    ("modules", "blocked"),
    [
        # what every command and the Snakefile import
        ("v4d.datasets, v4d.workflow", f"{FETCHING} numpy pandas pyarrow simplejpeg lmdb torch"),
        # a training: torch, numpy, pandas, pyarrow, yaml, pydantic, lmdb, simplejpeg
        (
            "v4d.training.worker, v4d.data.index, v4d.distributed.launcher",
            f"{FETCHING} snakemake mlflow matplotlib jinja2 jsonschema psutil",
        ),
    ],
)
def test_only_what_is_needed_is_imported(modules, blocked):
    code = f"import sys\nfor name in {blocked.split()!r}: sys.modules[name] = None\nimport {modules}\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

"""The pages: what they name exists, what is derived is fresh, and the marked blocks run."""

import contextlib
import importlib
import importlib.util
import io
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import docs
from tests.support.project import ROOT
from tests.support.shared import made_once
from tests.test_tree import LAYERS
from v4d import __version__
from v4d.cli import COMMANDS, main
from v4d.config import registry
from v4d.config.fields import Block, block_of
from v4d.config.load import dataset_class
from v4d.config.models import ModelKeys, StageConfig
from v4d.config.root import RootKeys

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CODE = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "v4d").rglob("*.py"))
TOP = "v4d|config|docs|workflow|profiles|envs|tests|benchmarks"
SUFFIXES = (
    ".md",
    ".py",
    ".json",
    ".jsonl",
    ".yaml",
    ".yml",
    ".csv",
    ".parquet",
    ".pt",
    ".db",
    ".html",
    ".lock",
)


def pages() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", docs.PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def spans(page: Path) -> list[str]:
    """What stands in backticks outside of fences."""
    return re.findall(r"`([^`\n]+)`", docs.outside(page))


def shell_commands(page: Path) -> list[list[str]]:
    """The commands of all shell blocks, and those in backticks."""
    found = [words for block in docs.blocks(page) if block.language == "sh" for words in docs.commands(block)]
    for span in spans(page):
        with contextlib.suppress(ValueError):  # a lone quote
            found += docs.commands(docs.Block("sh", span, ""))
    return found


def config_keys() -> set[str]:
    """The path of every key, with `<model>` and `<source>` as they stand in the pages."""

    def walk(block: type[Block], prefix: str) -> Iterator[str]:
        for name, info in block.model_fields.items():
            yield f"{prefix}{name}"
            inner = block_of(info)
            if inner is not None:
                yield from walk(inner, f"{prefix}{name}.")

    registry.fill()
    keys = {*walk(RootKeys, ""), *walk(dataset_class(), "dataset."), "dataset.<source>", "models.<model>"}
    for block in (ModelKeys, StageConfig, *(entry.Options for entry in registry.MODELS.values())):
        keys |= set(walk(block, "models.<model>."))
    return keys


def slug(heading: str) -> str:
    """The address that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", heading.replace("&lt;", "").lower()).replace(" ", "-")


@pages()
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", docs.outside(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", docs.outside(file), flags=re.MULTILINE)
            assert anchor in map(slug, headings), target


@pages()
def test_every_command_and_option_exists(page):
    for words in shell_commands(page):
        if words[0] != "v4d" or len(words) == 1 or not re.fullmatch(r"[a-z-]+", words[1]):
            continue
        if words[1].startswith("--"):
            assert words[1] in _help(), words
            continue
        assert words[1] in COMMANDS, words
        for option in (word for word in words[2:] if word.startswith("--")):
            assert re.search(rf"{option}\b", _help(words[1])), words


def _help(*command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        main([*command, "--help"])
    return out.getvalue()


@pages()
def test_every_make_target_exists(page):
    targets = {
        word
        for words in shell_commands(page)
        if words[0] == "make"
        for word in words[1:]
        if re.fullmatch(r"[a-z]+", word)
    }
    assert {target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)} == set()


@pages()
def test_every_rule_exists(page):
    rules = "".join(
        path.read_text(encoding="utf-8") for path in [ROOT / "Snakefile", *ROOT.glob("workflow/rules/*")]
    )
    for words in shell_commands(page):
        for option, rule in itertools.pairwise(words):
            if words[0] == "snakemake" and option in ("--forcerun", "--until") and rule.islower():
                assert f"\nrule {rule}:" in rules, words


@pages()
def test_every_config_key_exists(page):
    keys = config_keys()
    roots = "|".join(name for name in RootKeys.model_fields if name not in ("name", "seed", "plugins"))
    for span in spans(page):
        key = span.partition(": ")[0].removesuffix(".*")
        if re.fullmatch(rf"(?:{roots})(?:\.[\w<>]+)+", key) and not key.endswith(SUFFIXES):
            assert key in keys, span


@pages()
def test_every_path_and_module_exists(page):
    text = page.read_text(encoding="utf-8")
    written = {
        block.mark.removeprefix("file: ") for block in docs.blocks(page) if block.mark.startswith("file")
    }
    for path in re.findall(rf"(?<![\w/.<>-])(?:{TOP})/[\w./-]+", text):
        if path not in written:
            assert (ROOT / path.rstrip(".")).exists(), path
    for name in re.findall(r"`(v4d(?:\.\w+)+)`", text):
        if name == "v4d.plugins":  # a group of entry points
            continue
        module, _, attribute = name.rpartition(".")
        there = importlib.util.find_spec(name) or hasattr(importlib.import_module(module), attribute)
        assert there, name


@pages()
def test_every_variable_of_ours_exists(page):
    for name in re.findall(r"V4D_[A-Z_]+", page.read_text(encoding="utf-8")):
        assert name in CODE, name


def test_all_variables_of_ours_are_in_one_table():
    table = (ROOT / "docs/developing.md").read_text(encoding="utf-8")
    assert {
        name for name in re.findall(r'"((?:V4D|MLFLOW)_[A-Z_]+)"', CODE) if f"`{name}`" not in table
    } == set()


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in docs.PAGES[1:] if f"]({p.relative_to(ROOT).as_posix()})" not in text] == []


def test_the_layers_drawn_are_those_that_hold():
    section = (
        (ROOT / "docs/developing.md")
        .read_text(encoding="utf-8")
        .partition("## Layers")[2]
        .partition("## ")[0]
    )
    drawn = [
        line.replace(".py", "").split() for line in re.findall(r"^    (\S.*)$", section, flags=re.MULTILINE)
    ]
    assert drawn == [[name for name in line if name != "v4d"] for line in LAYERS]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__


def test_the_picture_is_what_its_script_draws():
    spec = importlib.util.spec_from_file_location("pipeline", ROOT / "docs/pipeline.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.FILE.read_text(encoding="utf-8") == script.picture(), "run `make docs`"


def test_every_mark_stands_before_a_fence():
    for page in docs.PAGES:
        marks = re.findall(
            r"^<!-- (?:runnable|file).*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert len(marks) == sum(bool(block.mark) for block in docs.blocks(page)), page


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose demo is small and finished."""
    return made_once(tmp_path_factory, "docs", docs.make_demo)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in docs.PAGES if any(block.mark for block in docs.blocks(page))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_marked_blocks_run(page, demo, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(demo, folder)
    for block in docs.blocks(page):
        if block.mark:
            docs.run_block(block, folder)

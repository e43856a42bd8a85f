"""The reference of all keys in docs/config.md is derived from the blocks."""

import runpy
from collections.abc import Iterator

from tests.support.project import ROOT
from v4d.config import registry
from v4d.config.fields import Block, block_of
from v4d.config.load import dataset_class
from v4d.config.models import ModelKeys, StageConfig
from v4d.config.root import RootKeys

SCRIPT = runpy.run_path(str(ROOT / "docs/config_reference.py"))
FILE, text = SCRIPT["FILE"], SCRIPT["text"]


def keys(block: type[Block]) -> Iterator[str]:
    for name, info in block.model_fields.items():
        yield name
        inner = block_of(info)
        if inner is not None:
            yield from keys(inner)


def test_the_file_is_what_the_blocks_say():
    assert FILE.read_text(encoding="utf-8") == text(), "run `make docs`"


def test_it_has_a_row_for_every_key():
    registry.fill()
    blocks = [RootKeys, dataset_class(), ModelKeys, StageConfig]
    blocks += [entry.Options for table in (registry.SOURCES, registry.MODELS) for entry in table.values()]
    page = text()
    sources = set(registry.SOURCES)
    absent = {name for block in blocks for name in keys(block) if f"\n| `{name}` |" not in page} - sources
    assert absent == set()
    assert all(f"\n## dataset.{source}\n" in page for source in sources)


def test_every_link_inside_leads_to_a_heading():
    page = text()
    headings = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    kept = {"".join(c for c in h.replace("&lt;", "") if c.isalnum() or c in "_- ") for h in headings}
    anchors = {heading.lower().replace(" ", "-") for heading in kept}
    linked = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert linked and linked <= anchors

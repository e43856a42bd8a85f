"""The reference of all keys, docs/config.md: `python docs/config_reference.py` derives it from the blocks.

It lists the built-in sources and architectures.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from v4d.config import registry
from v4d.config.data import ClipsConfig, DatasetConfig, FramesConfig
from v4d.config.fields import UNSET, Block, block_of, default_of, mark_of
from v4d.config.models import ModelKeys, StageConfig
from v4d.config.root import RootKeys, RowConfig, TableConfig
from v4d.config.schema import block_schema
from v4d.config.training import (
    CropConfig,
    OptimizerConfig,
    ScheduleConfig,
    TestingConfig,
    TrackingConfig,
    TrainingConfig,
)

FILE = Path(__file__).with_name("config.md")
HEADER = """\
<!-- Derived from v4d/config by `make docs`; do not edit. -->
# Config reference

A config is one YAML file, or several of which each is laid over the one before. It needs `name` and
`dataset`; every other key has a default. An unknown key, a value of another type and a value out of
bounds are refused in one line that names the key. Without `--configfile`, `snakemake` takes the demo,
[`config/config.yaml`](../config/config.yaml). [pipeline.md](pipeline.md#what-makes-a-stage-run-again)
says what runs again when a key changes.

Keys that contradict one another, as a jitter smaller than the crop, are refused like that. A key without
effect, as a warm-up beside `onecycle`, is noted in one line when `snakemake` starts, and by
`v4d doctor --config FILE`.

- A mapping in a later file is merged into the one before. A list or a single value replaces it, and so
  does the mapping `blocks` of a model.
- `null` removes a model of an earlier file.
- The resolved config, with every default, is written to `results/<name>/config.yaml`.
- [`workflow/schemas/config.schema.yaml`](../workflow/schemas/config.schema.yaml) is the JSON schema,
  for editors.

The column *decides* says what depends on a key: `results` (weights or scores), `cost` (memory and time, the
results being the same to the last bit), `videos` (which videos come through, not what they look like),
`runs` (where runs are logged), or nothing of these (-).
"""
COLUMNS = ("key", "type", "default", "bounds", "decides", "meaning")
SECTIONS = {
    ("Top level", "dataset"): "dataset",
    ("Top level", "models"): "models.<model>",
    ("models.<model>", "training"): "training",
    ("models.<model>", "testing"): "testing",
    ("models.<model>", "stages"): "models.<model>.stages",
    ("Top level", "tables"): "tables",
    ("tables", "rows"): "tables.rows",
}
"""Keys whose values the blocks do not type, with the sections that describe them."""


def text() -> str:
    """The file's content."""
    return "\n".join([HEADER, *_sections()])


def _sections() -> Iterator[str]:
    registry.fill()
    yield reference("Top level", RootKeys)
    yield reference("dataset", DatasetConfig)
    for name, source in registry.SOURCES.items():
        about = f"{(source.Options.__doc__ or '').strip()} Read where `dataset.source` is `{name}`."
        yield reference(f"dataset.{name}", source.Options, about)
    yield reference("clips", ClipsConfig)
    yield reference("frames", FramesConfig)
    yield reference("models.<model>", ModelKeys, "A block for each model, under a name of your choice.")
    for options, names in _options().items():
        about = f"Further keys of a model, and of its stages, whose `arch` is {_listed(names)}."
        families = dict.fromkeys(f"`{name.partition('_')[0]}_*`" for name in names)
        yield reference(f"models.<model>, arch {', '.join(families)}", options, about)
    about = (
        "An item of the list `stages` may have every key of its model; what it leaves out is the model's. "
        "`init` may also be `previous`, the stage before, which is the default from the second stage on. "
        "These keys are its own."
    )
    own = [name for name in StageConfig.model_fields if name not in ModelKeys.model_fields]
    yield reference("models.<model>.stages", StageConfig, about, only=own)
    about = (
        "`training` at the top holds for all models. A model and a stage may set any of these keys under "
        "their own `training`."
    )
    yield reference("training", TrainingConfig, about)
    yield reference("training.optimizer", OptimizerConfig)
    yield reference("training.schedule", ScheduleConfig)
    yield reference("training.crop", CropConfig)
    yield reference("testing", TestingConfig, "A model may set any of these keys under its own `testing`.")
    yield reference("tracking", TrackingConfig)
    yield reference(
        "tables", TableConfig, "A list; each item is a table of `comparison.md` and of the report."
    )
    yield reference("tables.rows", RowConfig, "A list; a model may stand in several tables.")


def _options() -> dict[type[Block], list[str]]:
    """The blocks of options that architectures have, each with the names of its architectures."""
    found: dict[type[Block], list[str]] = {}
    for name, entry in registry.MODELS.items():
        if entry.Options.model_fields:
            found.setdefault(entry.Options, []).append(name)
    return found


def reference(title: str, block: type[Block], about: str = "", *, only: list[str] | None = None) -> str:
    """A section with a table of a block's keys, a row a key.

    Args:
        title: the path of the block, as in `training.optimizer`.
        about: a sentence above the table.
        only: the keys to list; None for all.
    """
    lines = [f"## {_plain(title)}", ""]
    if about:
        lines += [_plain(about), ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    schema = block_schema(block)["properties"]
    for name, info in block.model_fields.items():
        if only is None or name in only:
            cells = [f"`{name}`", *_cells(title, name, info, schema[name])]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _cells(title: str, name: str, info: FieldInfo, schema: dict[str, Any]) -> list[str]:
    """All cells of a row but the first."""
    if block_of(info) or (title, name) in SECTIONS:
        path = SECTIONS.get((title, name)) or (name if title == "Top level" else f"{title}.{name}")
        return ["mapping", "", "", "", f"{_plain(info.description or '')} [Its keys.](#{_anchor(path)})"]
    decides = mark_of(info).changes
    bounds = ", ".join(dict.fromkeys(_bounds(schema)))
    default = _default(default_of(info))
    return [
        _type(schema),
        default,
        bounds,
        "-" if decides == "nothing" else decides,
        _plain(info.description or ""),
    ]


def _plain(words: str) -> str:
    """Text in which `<name>` is no tag of HTML."""
    return words.replace("<", "&lt;")


def _anchor(title: str) -> str:
    """The address that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _type(schema: dict[str, Any]) -> str:
    """A type in words, from a key's JSON schema."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return _listed(schema["enum"], " or ")
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema['items'])}"
        case "object":
            values = schema.get("additionalProperties")
            return f"mapping to {_type(values)}" if isinstance(values, dict) else "mapping"
        case "string":
            return "text"
        case "boolean":
            return "true or false"
        case kind:
            return str(kind)


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    signs = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "gt": "> {}",  # pydantic leaves these of a wrapped number as they are
        "ge": "≥ {}",
        "maximum": "≤ {}",
        "exclusiveMaximum": "< {}",
        "multipleOf": "multiple of {}",
        "pattern": "`{}`",
    }
    yield from (form.format(schema[name]) for name, form in signs.items() if name in schema)
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least is not None:
        yield f"{least} items" if least == most else f"≥ {least} item{'s' * (least > 1)}"
    for inner in [*schema.get("anyOf", []), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(inner, dict):
            yield from _bounds(inner)


def _default(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if value is not UNSET else ""
    text = re.sub(r'"([0-9a-f]{6})[0-9a-f]{58}"', r'"\1..."', text)  # a sha256
    return f"`{text}`" if text else "required"


def _listed(words: list[Any], between: str = ", ") -> str:
    return between.join(f"`{word}`" for word in words)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE, file=sys.stderr)

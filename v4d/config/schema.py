"""The JSON schema of a config, derived from the blocks: `python -m v4d.config.schema` writes it.

For editors and for readers; the blocks themselves check a config. It lists the built-in sources and
architectures.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from v4d.config import registry
from v4d.config.fields import Block
from v4d.config.load import dataset_class
from v4d.config.models import ModelKeys, StageConfig, with_options
from v4d.config.root import RootKeys
from v4d.config.training import TrainingConfig

FILE = Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml"
HEADER = """\
# Every key of a config: what it means, its bounds, its default. Unknown keys are refused.
# Derived from v4d/config by `make schema`; do not edit.
"""


def schema() -> dict[str, Any]:
    """The whole schema; blocks are under `$defs`."""
    registry.fill()
    root = block_schema(RootKeys)
    properties = root["properties"]
    described = {"description": properties["dataset"]["description"]}
    properties["dataset"] = block_schema(dataset_class()) | described
    properties["dataset"]["properties"]["source"]["enum"] = list(registry.SOURCES)
    properties["tracking"]["properties"]["backend"]["enum"] = [*registry.BACKENDS, "none"]
    properties["models"]["propertyNames"] = {"pattern": properties["name"]["pattern"]}
    properties["models"]["additionalProperties"] = {"oneOf": [{"$ref": "#/$defs/model"}, {"type": "null"}]}
    model, stage = _with_architectures(ModelKeys), _with_architectures(StageConfig)
    stage["required"] = ["name"]
    keys = stage["properties"]
    keys["training"] = {"type": "object", "description": keys["training"]["description"]}
    parts = {part: None for entry in registry.MODELS.values() for part in entry.freezable}
    keys["freeze"]["items"]["enum"] = list(parts)
    for key in keys.values():
        key.pop("default", None)  # the model's
    model["properties"]["stages"]["items"] = {"$ref": "#/$defs/stage"}
    properties["training"] = {"$ref": "#/$defs/training", "default": {}}
    defs = {"training": block_schema(TrainingConfig), "model": model, "stage": stage}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "v4d config"}
    return head | root | {"$defs": defs}


def text() -> str:
    """The file's content."""
    return HEADER + yaml.safe_dump(schema(), sort_keys=False, allow_unicode=True, width=110)


def _with_architectures(block: type[Block]) -> dict[str, Any]:
    """A block with the keys of all architectures, which differ in their own keys."""
    found: dict[str, Any] = {}
    for entry in registry.MODELS.values():
        one = block_schema(with_options(block, entry.Options))
        found = found | one | {"properties": found.get("properties", {}) | one["properties"]}
    found["properties"]["arch"]["enum"] = list(registry.MODELS)
    return found


def block_schema(block: type[Block]) -> dict[str, Any]:
    """A block's own schema with the blocks inside it in place, and without pydantic's titles."""
    whole = block.model_json_schema()
    return _plain(whole, whole.get("$defs", {}))


def _plain(value: Any, defs: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_plain(item, defs) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        inner = _plain(defs[value["$ref"].rsplit("/", 1)[1]], defs)
        absent: dict[str, Any] = {} if "required" in inner else {"default": {}}
        return inner | absent | {k: v for k, v in value.items() if k not in ("$ref", "default")}
    kept = {k: v for k, v in value.items() if k != "$defs" and not (k == "title" and isinstance(v, str))}
    if kept.get("type") == "object" and "properties" in kept:
        kept.pop("description", None)
    return {name: _plain(item, defs) for name, item in kept.items()}


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE, file=sys.stderr)

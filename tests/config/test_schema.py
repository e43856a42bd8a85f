"""The JSON schema: derived from the blocks, whole, and true of the configs that ship."""

from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.project import ROOT
from v4d.config.schema import FILE, schema, text

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))


def test_the_file_is_what_the_blocks_say():
    assert FILE.read_text(encoding="utf-8") == text(), "run `make schema`"


def test_every_key_has_a_meaning_and_a_default():
    whole = schema()
    without: list[str] = []

    def walk(block: dict[str, Any], where: str, defaults: bool = True) -> None:
        for name, sub in block["properties"].items():
            path = f"{where}.{name}".strip(".")
            target = whole["$defs"][sub["$ref"].rsplit("/", 1)[1]] if "$ref" in sub else sub
            if "properties" in target:
                walk(target, path)
            elif not sub.get("description"):
                without.append(f"{path}: no description")
            if defaults and "default" not in sub and name not in block.get("required", []):
                without.append(f"{path}: no default")

    walk(whole, "")
    walk(whole["$defs"]["model"], "models.*")
    walk(whole["$defs"]["stage"], "models.*.stages.*", defaults=False)
    assert without == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_that_ship_are_valid(path):
    jsonschema.Draft202012Validator(schema()).validate(yaml.safe_load(path.read_text()))


def test_an_unknown_key_is_not():
    document = yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"trainning": {}}
    assert not jsonschema.Draft202012Validator(schema()).is_valid(document)


def test_a_list_that_repeats_an_item_is_not():
    document = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for overlay in ({"splits": ["train", "val", "val"]}, {"splits": ["train", "val"]}):
        document["dataset"] |= overlay
        is_valid = jsonschema.Draft202012Validator(schema()).is_valid(document)
        assert is_valid == (len(set(overlay["splits"])) == len(overlay["splits"]))

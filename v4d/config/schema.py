"""A config held against its schema: defaults filled in, the first mistake in one line."""

import copy
import difflib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from v4d.errors import V4DError

SCHEMA_FILE = Path(__file__).with_name("config.schema.yaml")
_MISSING = object()


def check(value: dict[str, Any], rules: dict[str, Any], where: str) -> None:
    """Validate in place, filling defaults; `where` names the mapping inside the config, "" for all of it.

    Raises:
        V4DError: the first error by path, in one line.
    """
    _fill_defaults(value, rules)
    validator = jsonschema.Draft202012Validator(rules | {"$defs": schema()["$defs"]})
    errors = sorted(validator.iter_errors(value), key=lambda e: [str(part) for part in e.absolute_path])
    if errors:
        raise V4DError(f"config: {_explain(errors[0], where)}")


def _fill_defaults(value: Any, rules: dict[str, Any]) -> None:
    """Put the schema's defaults where keys are absent, down to the leaves, and the keys in its order.

    Snakemake compares settings as text: spelling a default out, or moving a line, must change nothing.
    """
    rules = _follow(rules)
    if "oneOf" in rules and isinstance(value, dict):
        rules = next((s for s in map(_follow, rules["oneOf"]) if s.get("type") == "object"), schema)
    if not isinstance(value, dict):
        return
    for key, sub in rules.get("properties", {}).items():
        default = sub.get("default", _follow(sub).get("default", _MISSING))
        if key not in value and default is not _MISSING:
            value[key] = copy.deepcopy(default)
        if key in value:
            _fill_defaults(value[key], sub)
    ordered = {key: value[key] for key in rules.get("properties", {}) if key in value} | value
    value.clear()
    value.update(ordered)
    extra = rules.get("additionalProperties")
    if isinstance(extra, dict):
        for key in value.keys() - rules.get("properties", {}).keys():
            _fill_defaults(value[key], extra)


def _follow(rules: dict[str, Any]) -> dict[str, Any]:
    reference = rules.get("$ref")
    return schema()["$defs"][reference.rsplit("/", 1)[1]] if reference else rules


def _explain(error: jsonschema.ValidationError, where: str) -> str:
    """One line: the key's full name and what is wrong with it."""
    while error.context:  # of the alternatives, the one that fits best
        error = jsonschema.exceptions.best_match([error])
        if not error.context:
            break
    path = ".".join(filter(None, [where, *map(str, error.absolute_path)]))
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {})
        unknown = sorted(set(error.instance) - set(known))[0]
        near = _nearest(unknown, known)
        return f"unknown key {'.'.join(filter(None, [path, unknown]))}" + (
            f"; did you mean {near}?" if near else ""
        )
    return f"{path or 'the file'}: {error.message}"


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


@functools.cache
def schema() -> dict[str, Any]:
    """The whole schema; what its `$defs` hold is validated one by one as well."""
    return yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))

"""From YAML files to typed objects: read, merge, fill in defaults, check.

The defaults of the keys lie below everything, then what the data set brings (`SourceOptions.defaults`), then
the user's files in their order. Snakemake's config goes the same way, see `v4d.workflow`.
"""

import contextlib
import copy
import difflib
import functools
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from v4d.config import registry
from v4d.config.data import NAME, DatasetConfig, SourceOptions
from v4d.config.fields import UNSET, Block, block_of, default_of, key, plain, settings, whole_keys
from v4d.config.models import STAGE_KEYS, ModelConfig, ModelKeys, StageConfig, architecture, with_options
from v4d.config.relations import check_relations
from v4d.config.root import Config, RootKeys
from v4d.config.training import TestingConfig, TrainingConfig
from v4d.errors import V4DError
from v4d.utils.addresses import keep_secrets
from v4d.utils.files import write_text

Document = dict[str, Any]


def load(*paths: str | Path) -> Config:
    """Read YAML files, each laid over the one before, and check them.

    Raises:
        V4DError: a file is missing or no YAML, a key is unknown, a value is out of bounds.
    """
    return build(resolve(read(*paths)))


def read(*paths: str | Path) -> Document:
    """YAML files, each laid over the one before, unchecked."""
    return functools.reduce(merge, map(_read_yaml, map(Path, paths)), {})


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> Document:
    """Lay one mapping over another, deeply. Lists, scalars and places of blocks (`Mark.whole`) replace."""
    registry.fill()
    return _merge(base, overlay, _whole_keys())


def _merge(base: Mapping[str, Any], overlay: Mapping[str, Any], whole: Collection[str] = ()) -> Document:
    result = dict(base)
    for name, value in overlay.items():
        old = result.get(name)
        if isinstance(old, dict) and isinstance(value, dict) and name not in whole:
            value = _merge(old, value, whole)
        result[name] = value
    return result


def _whole_keys() -> frozenset[str]:
    options = [entry.Options for table in (registry.MODELS, registry.SOURCES) for entry in table.values()]
    return whole_keys(RootKeys).union(*map(whole_keys, options))


def resolve(given: Mapping[str, Any]) -> Document:
    """Check a config, fill every default in and spell every stage out.

    Passwords in addresses are kept elsewhere (`v4d.utils.addresses`). The result is a fixed point: resolving
    it again changes nothing. Keys stand in one order, whatever the
    order in the files: Snakemake compares settings as text.

    Raises:
        V4DError: one line that names the key.
    """
    document: Document = keep_secrets(copy.deepcopy(dict(given)))
    plugins = document.get("plugins", [])
    registry.fill(plugins if isinstance(plugins, list) and all(isinstance(p, str) for p in plugins) else ())
    if isinstance(document.get("dataset"), dict) and "source" in document["dataset"]:
        source = registry.named(registry.SOURCES, document["dataset"]["source"], "dataset.source")
        document = _merge(source.Options.defaults, document, _whole_keys())
    document = _filled(document, RootKeys, "")
    validate(document, RootKeys, "")
    document["dataset"] = _filled(document["dataset"], dataset_class(), "dataset")
    validate(document["dataset"], dataset_class(), "dataset")
    document["models"] = {
        name: _resolve_model(name, model, document["training"])
        for name, model in document["models"].items()
        if model is not None
    }
    if document["tracking"]["experiment"] is None:
        document["tracking"]["experiment"] = f"v4d/{document['name']}"
    check_relations(build(document))
    return document


def build(document: Document) -> Config:
    """Typed objects from a resolved mapping."""
    models = {}
    for name, model in document["models"].items():
        stages = [
            validate(stage, stage_class(stage), f"models.{name}.stages.{number}")
            for number, stage in enumerate(model["stages"])
        ]
        testing = {**document["testing"], **model["testing"]}
        testing = validate(testing, TestingConfig, f"models.{name}.testing")
        models[name] = ModelConfig(name, model["checkpoint"], tuple(stages), testing)
    keys = dict(validate(document, RootKeys, ""))
    del keys["training"]  # the stages have it
    keys["seeds"] = keys["seeds"] or (keys["seed"],)
    dataset = validate(document["dataset"], dataset_class(), "dataset")
    return Config(**keys | {"dataset": dataset, "models": models, "document": document})


def dataset_class() -> type[DatasetConfig]:
    """`dataset` with a block for each registered source."""
    return _dataset_class(tuple((name, source.Options) for name, source in registry.SOURCES.items()))


@functools.cache
def _dataset_class(blocks: tuple[tuple[str, type[SourceOptions]], ...]) -> type[DatasetConfig]:
    fields: dict[str, Any] = {}
    for name, options in blocks:
        before = plain(options()) if options.traceless else UNSET
        fields[name] = (options, key(options, options.__doc__ or "", before=before))
    return pydantic.create_model(
        "DatasetConfig", __base__=DatasetConfig, __doc__=DatasetConfig.__doc__, **fields
    )


def stage_class(stage: Mapping[str, Any]) -> type[Block]:
    """The keys of a resolved stage: the common ones and its architecture's."""
    return with_options(StageConfig, architecture(stage["arch"]).Options)


def preparation_settings(config: Config) -> dict[str, Document]:
    """What makes clips and frames what they are: part of a data set's fingerprint, kept in dataset.json."""
    return {
        name: settings(config.document[name], type(getattr(config, name)), but=("nothing", "videos"))
        for name in ("clips", "frames")
    }


def write_resolved(config: Config) -> Path:
    """Write the resolved config to the file that the stages read, unless it is there already; its path."""
    path = config.paths.config
    text = yaml.safe_dump(config.document, sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


def config_sha(config: Config) -> str:
    """Tells a config from others; the same for configs that mean the same (`Mark.before`)."""
    document = settings(config.document, RootKeys, but=())
    document["dataset"] = settings(document["dataset"], dataset_class(), but=())
    document["models"] = {
        name: settings(model, with_options(ModelKeys, architecture(model["arch"]).Options), but=())
        | {"stages": [settings(stage, stage_class(stage), but=()) for stage in model["stages"]]}
        for name, model in document["models"].items()
    }
    return sha(document)


def sha(value: Any) -> str:
    """The sha256 of a mapping's canonical JSON, 16 hex digits: tells settings apart, whatever their order."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resolve_model(name: str, model: Document, training: Document) -> Document:
    """Lay the model's settings under each of its stages."""
    where = f"models.{name}"
    if not re.fullmatch(NAME, name):
        raise V4DError(f"config: models: {name!r} should match {NAME}: it is the name of a folder")
    entry = architecture(model.get("arch"), where)
    keys = with_options(ModelKeys, entry.Options)
    model = _filled(model, keys, where)
    validate(model, keys, where)
    _check_known(model["testing"], TestingConfig, f"{where}.testing")
    stages = [
        _resolve_stage(stage, number, model, training, f"{where}.stages.{number}")
        for number, stage in enumerate(model["stages"])
    ]
    if len({stage["name"] for stage in stages}) < len(stages):
        raise V4DError(f"config: {where}.stages: two stages have the same name")
    return model | {"stages": stages}


def _resolve_stage(stage: Document, number: int, model: Document, training: Document, where: str) -> Document:
    """A stage with every key: its own, else the model's, else the default."""
    entry = architecture(stage.get("arch", model["arch"]), where)
    keys = with_options(StageConfig, entry.Options)
    _check_known(stage, keys, where)
    whole: Document = {}
    for name in dict.fromkeys([*STAGE_KEYS, *entry.Options.model_fields]):
        if name in keys.model_fields:
            inherited = model[name] if name in model else default_of(keys.model_fields[name])
            whole[name] = stage.get(name, inherited)
    if "init" not in stage and number > 0:
        whole["init"] = "previous"
    if "name" in stage:
        whole["name"] = stage["name"]
    whole["freeze"] = stage.get("freeze", [])
    own = stage.get("training", {})
    if not isinstance(own, dict):
        raise V4DError(f"config: {where}.training: {own!r} should be a mapping of keys")
    merged = _merge(_merge(training, model["training"]), own)
    whole["training"] = _filled(merged, TrainingConfig, f"{where}.training")
    validate(whole, keys, where)
    optimizer = whole["training"]["optimizer"]
    if optimizer["reference_batch"] == whole["training"]["batch_size"]:
        whole["training"]["optimizer"] = optimizer | {"reference_batch": None}  # the same in fewer words
    if whole["init"] == "previous" and number == 0:
        raise V4DError(f"config: {where}.init is 'previous', but it is the first stage")
    unknown = [part for part in whole["freeze"] if part not in entry.freezable]
    if unknown:
        parts = ", ".join(entry.freezable) or "nothing"
        raise V4DError(f"config: {where}.freeze: {unknown[0]!r}: {whole['arch']} can freeze {parts}")
    return whole


def _filled(values: Any, block: type[Block], where: str) -> Any:
    """A mapping with defaults where keys are absent, down to the leaves, in the order of the block's keys.

    The values stay as the user wrote them: 20 does not become 20.0, which would be another text.
    """
    if not isinstance(values, dict):
        return values  # pydantic says what is wrong with it
    _check_known(values, block, where)
    filled = {}
    for name, info in block.model_fields.items():
        value = values[name] if name in values else default_of(info)
        if value is not UNSET:
            inner = block_of(info)
            filled[name] = _filled(value, inner, f"{where}.{name}".strip(".")) if inner else value
    return filled


def _check_known(values: Mapping[str, Any], block: type[Block], where: str) -> None:
    """Refuse a key that a block does not have, and name the nearest."""
    for name in values:
        if name not in block.model_fields:
            near = difflib.get_close_matches(str(name), list(block.model_fields), n=1)
            unknown = f"{where}.{name}".strip(".")
            raise V4DError(f"config: unknown key {unknown}" + (f"; did you mean {near[0]}?" if near else ""))


def validate(values: Any, block: type[Block], where: str) -> Any:
    """The typed block.

    Raises:
        V4DError: the first mistake by path, in one line.
    """
    try:
        return block.model_validate(values)
    except pydantic.ValidationError as error:
        raise V4DError(f"config: {_explain(error.errors(), values, block, where)}") from None


_WORDS = {
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "dataclass_type": "should be a mapping",
}
"""YAML's words, where pydantic has Python's."""


def _explain(errors: Sequence[Any], values: Any, block: type[Block], where: str) -> str:
    """One line: the key's full name, its value and what is wrong with it."""
    # An item that does not fit is left out, and the list is then too short: what is wrong is the item.
    errors = [error for error in errors if error["type"] != "too_short"] or errors
    paths = [_path(error["loc"], values) for error in errors]
    path = min(paths)
    found = [error for error, its_path in zip(errors, paths, strict=True) if its_path == path]
    name = ".".join(filter(None, [where, *path])) or "the file"
    if found[0]["type"] == "missing":
        return f"{name} is required"
    value = found[0]["input"]
    if len(found) > 1:  # alternatives, none of which fits
        return f"{name}: {value!r} does not fit: {_description(path, block)}"
    message = found[0]["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if found[0]["type"] in ("too_short", "too_long"):
        message = message.partition(" ")[2].replace(" after validation", "")
    if found[0]["type"] == "string_pattern_mismatch":
        message = f"should match {found[0]['ctx']['pattern']}"
    if found[0]["type"] in _WORDS:
        message = _WORDS[found[0]["type"]]
    if isinstance(value, str) and found[0]["type"] == "float_type":
        with contextlib.suppress(ValueError):  # a word that is no number
            number = yaml.safe_dump(float(value)).split()[0]  # Python's 1e-05 is text as well
            message += f" (YAML reads {value} as text: write {number})"
    return f"{name}: {value!r} {message[0].lower()}{message[1:]}"


def _path(location: Iterable[Any], values: Any) -> tuple[str, ...]:
    """A mistake's path in the document, without the names that pydantic gives to alternatives."""
    path: list[str] = []
    for step in location:
        if (isinstance(values, Mapping) and step in values) or (
            isinstance(values, list | tuple) and isinstance(step, int) and step < len(values)
        ):
            values = values[step]
        elif isinstance(values, Mapping) and isinstance(step, str) and not path:
            pass  # a key that is missing
        else:
            break
        path.append(str(step))
    return tuple(path)


def _description(path: Sequence[str], block: type[Block]) -> str:
    """What a key means; of a key in a mapping without a block, nothing is known."""
    for step in path[:-1]:
        inner = block_of(block.model_fields[step]) if step in block.model_fields else None
        if inner is None:
            return "its meaning"
        block = inner
    info = block.model_fields.get(path[-1])
    return (info.description or "") if info else ""


def _read_yaml(path: Path) -> Document:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise V4DError(f"no such config file: {path}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise V4DError(f"cannot read config {path}: {error}") from error
    if not isinstance(document, dict):
        raise V4DError(f"config {path}: a mapping of keys is expected at the top")
    return document

"""What a key of a config is: type, unit, meaning, bounds, default, and what depends on it.

A block of keys is a class, a key an attribute made by `key`. Everything else is read off these classes: the
checks, the typed objects, the JSON schema, the reference in `docs/`, and which keys make a stage run again.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapValidator
from pydantic.fields import FieldInfo

Changes = Literal["results", "cost", "videos", "runs", "nothing"]
"""What a key decides: results; what they cost, the results being the same, but for the rounding of another
kernel (the key stays in rule params, where it has always been); which videos come through (a deadline), not
what they look like; where runs are logged; nothing."""
UNSET = object()
Item = TypeVar("Item")


class Block(BaseModel):
    """A block of keys: immutable, of exact types, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> "Any":
        """The same block with some keys changed, checked again."""
        return type(self).model_validate(
            {**{n: getattr(self, n) for n in type(self).model_fields}, **changes}
        )


@dataclasses.dataclass(frozen=True)
class Mark:
    """What pydantic does not know of a key."""

    changes: Changes = "results"
    before: Any = UNSET
    """The value that means what the pipeline did before the key came. At this value the key leaves no trace
    in rule params, settings of trainings, test plans and fingerprints: a new key makes nothing anew."""
    whole: bool = False
    """A mapping that an overlay replaces instead of merging into it."""
    recorded: Any = UNSET
    """What stands for the default in rule params and settings: the default of before, so that a new one makes
    nothing anew."""


def key(
    default: Any,
    description: str,
    *,
    changes: Changes = "results",
    before: Any = UNSET,
    whole: bool = False,
    recorded: Any = UNSET,
    unique: bool = False,
    **bounds: Any,
) -> Any:
    """A key of a block.

    Args:
        default: `...` where the user has to give one; a class of `Block` for a block with its own defaults.
        description: meaning and unit, for the schema and the reference.
        changes, before, whole, recorded: see `Mark`.
        unique: the items of the list are different.
        bounds: `ge`, `gt`, `le`, `lt`, `multiple_of`, `min_length`, `max_length`, `pattern` as in pydantic.
    """
    is_block = isinstance(default, type) and issubclass(default, Block)
    bounds["default_factory" if is_block else "default"] = default
    if unique:  # given here: an attribute that is set later does not reach a class's schema
        bounds["json_schema_extra"] = {"uniqueItems": True}
    info = Field(description=description, **bounds)
    info.metadata += [Mark(changes, before, whole, recorded), *([AfterValidator(_unique)] if unique else [])]
    return info


def _unique(items: Collection[Item]) -> Collection[Item]:
    if len(set(items)) < len(items):
        raise ValueError("should have no item twice")
    return items


Number = Annotated[float, WrapValidator(lambda value, check: (check(value), value)[1])]
"""A number as the user wrote it: Snakemake and MLflow would take 20.0 in place of 20 for a change."""
List = Annotated[tuple[Item, ...], Field(strict=False)]
"""A list in YAML, a tuple in Python."""


def mark_of(info: FieldInfo) -> Mark:
    """The mark of a key."""
    return next((each for each in info.metadata if isinstance(each, Mark)), Mark())


def block_of(info: FieldInfo) -> type[Block] | None:
    """The class of a key that is a block itself."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Block) else None


def default_of(info: FieldInfo) -> Any:
    """A key's default as YAML has it; `UNSET` where the user has to give one."""
    if info.is_required():
        return UNSET
    return plain(info.get_default(call_default_factory=True, validated_data={}))


def plain(value: Any) -> Any:
    """Blocks as mappings and tuples as lists, deeply: what YAML and a checkpoint give back compares equal."""
    if isinstance(value, Block):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def settings(
    values: Mapping[str, Any], block: type[Block], *, but: tuple[Changes, ...] = ("nothing",)
) -> dict[str, Any]:
    """The keys of a block on which something depends, in their order.

    Left out are the keys whose `changes` is in `but`, and new keys at the value that changes nothing
    (`Mark.before`). Rule params, settings of trainings, test plans and fingerprints are made by this.
    """
    chosen = {}
    for name, value in values.items():
        info = block.model_fields.get(name)
        if info is not None:
            mark, inner = mark_of(info), block_of(info)
            if mark.changes in but or (mark.before is not UNSET and plain(value) == plain(mark.before)):
                continue
            if mark.recorded is not UNSET and value == default_of(info):
                value = mark.recorded
            if inner is not None:
                value = settings(value, inner, but=but)
        chosen[name] = value
    return chosen


@functools.cache
def whole_keys(block: type[Block]) -> frozenset[str]:
    """Names of keys, at any depth, whose mappings an overlay replaces."""
    names = {name for name, info in block.model_fields.items() if mark_of(info).whole}
    inner = [found for info in block.model_fields.values() if (found := block_of(info))]
    return frozenset(names).union(*map(whole_keys, inner))

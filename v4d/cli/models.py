"""The commands of a network by itself: shapes and costs, export, and the authors' released weights."""

from argparse import ArgumentParser, Namespace
from typing import Any, get_args, get_origin

from v4d.cli.command import argument, command, config_argument, load_config
from v4d.errors import V4DError


def _option_fields() -> dict[str, Any]:
    """The keys that architectures have of their own, as pydantic describes them."""
    from v4d.config import registry

    registry.fill()
    return {
        name: info for entry in registry.MODELS.values() for name, info in entry.Options.model_fields.items()
    }


def _add_options(parser: ArgumentParser) -> None:
    """`--KEY` for each key of an architecture; on the command line a mapping is `a=1,2 b=3`, a list `1x2`."""
    forms = {dict: {"nargs": "*", "metavar": "NAME=N,N"}, tuple: {"metavar": "NxN"}, None: {}}
    for name, info in _option_fields().items():
        form: dict[str, Any] = forms[_kind(info.annotation)]
        parser.add_argument(f"--{name}", help=info.description, **form)


def _options(args: Namespace) -> dict[str, Any]:
    """The keys that were given, as `create_model` takes them."""
    import yaml

    chosen = {}
    for name, info in _option_fields().items():
        given, kind = getattr(args, name), _kind(info.annotation)
        if given is not None and kind is None:
            chosen[name] = yaml.safe_load(given)
        elif given is not None:
            option = f"--{name}"
            chosen[name] = _places(given, option) if kind is dict else _numbers(given, "x", option)
    return chosen


def _kind(annotation: Any) -> Any:
    """dict or tuple for a key that is one (or null), else None."""
    kinds = [get_origin(part) for part in (annotation, *get_args(annotation))]
    return next((kind for kind in kinds if kind in (dict, tuple)), None)


@command(
    argument("arch", help="v4d_resnet50, i3ds_resnet18, ... (a wrong name lists all)"),
    argument("--units", type=int, default=4, help="units of a video (default: 4)"),
    argument("--frames", type=int, default=4, help="frames of a unit (default: 4)"),
    argument("--size", type=int, default=224, help="height and width of a frame (default: 224)"),
    argument("--classes", type=int, default=400, help="number of classes (default: 400)"),
    _add_options,
)
def describe(args: Namespace) -> None:
    """Show an architecture: stages with the shape behind them, parameters and multiply-adds (GMAC).

    Shapes are C x T x H x W of one unit; GMACs are for all units of one video, convolutions and classifier.

    Example: v4d describe v4d_resnet50 --units 4 --frames 8
    """
    import torch

    from v4d.models import create_model
    from v4d.models.cost import cost_table

    if args.size < 1:
        raise V4DError(f"--size must be at least 1, not {args.size}")
    with torch.device("meta"):  # counting weights needs no memory for them
        model = create_model(
            args.arch, num_classes=args.classes, units=args.units, frames=args.frames, **_options(args)
        )
    print(cost_table(model, height=args.size, width=args.size))


@command(
    argument("checkpoint", help="final.pt of a training, or a model of `v4d import-released`"),
    argument("--out", required=True, help="file to write: NAME.pt2 or NAME.onnx"),
    argument("--size", type=int, default=256, help="height and width of a frame (default: 256)"),
    config_argument("config that names the plugin of the network, if it is one's"),
)
def export(args: Namespace) -> None:
    """Export a checkpoint as a program that runs without this package.

    `.pt2` (torch.export) can be given to `v4d predict`; `.onnx` needs the packages onnxscript and
    onnxruntime. The number of videos in a batch is free; units, frames and the size of a frame are fixed.

    Example: v4d export results/demo/v4d/main/final.pt --out v4d.pt2 --size 64
    """
    from v4d.models.checkpoint import load_model
    from v4d.models.export import export

    if args.size < 32:
        raise V4DError(f"--size must be at least 32, not {args.size}")
    if args.config:
        load_config(args)
    saved = load_model(args.checkpoint)
    description = {"classes": saved.classes, "architecture": saved.architecture, "info": saved.info}
    difference = export(saved.model, args.out, height=args.size, width=args.size, description=description)
    found = "not compared, no onnxruntime" if difference is None else f"off by {difference:.1e} at most"
    units, frames = saved.model.units, saved.model.frames
    print(f"{args.out}: x [videos, {units}, 3, {frames}, {args.size}, {args.size}] -> logits; {found}")


@command(
    argument("checkpoint", help="released checkpoint (.pth.tar)"),
    argument("--out", required=True, help="model file to write (.pt)"),
    argument("--units", type=int, default=4, help="units it was trained with (default: 4)"),
    argument("--frames", type=int, help="frames of a unit (default: 8 with 400 classes, else 4)"),
    argument("--converter", help="JSON file: Kinetics-400 class index to the checkpoint's"),
)
def import_released(args: Namespace) -> None:
    """Convert weights that the authors released into a model of ours.

    A network of 400 classes has those of Kinetics-400, in their order. One of 200 has those of Mini-Kinetics
    in an order of the authors' own, which is turned into the alphabetical one that our data sets have; a
    converter like theirs (JSON, Kinetics-400 index to the checkpoint's) can be given instead of the order we
    know.

    Example: v4d import-released released.pth.tar --out weights/released_kinetics400.pt
    """
    from v4d.checkpoints import import_released
    from v4d.models.checkpoint import save_model
    from v4d.models.cost import parameter_count

    ours = import_released(args.checkpoint, units=args.units, frames=args.frames, converter=args.converter)
    save_model(args.out, ours.model, architecture=ours.architecture, classes=ours.classes, info=ours.info)
    arch, parameters = ours.architecture["arch"], parameter_count(ours.model)
    print(f"{args.out}: {arch}, {len(ours.classes)} classes, {parameters:,} parameters")


def _places(texts: list[str], option: str) -> dict[str, list[int]]:
    """`["res3=2,4"]` -> `{"res3": [2, 4]}`."""
    places: dict[str, list[int]] = {}
    for text in texts:
        stage, _, positions = text.partition("=")
        if not positions:
            raise V4DError(f"{option}: {text!r} is not like res3=2,4")
        places.setdefault(stage, []).extend(_numbers(positions, ",", option))
    return places


def _numbers(text: str, separator: str, option: str) -> list[int]:
    """`"3x3x1x1"` -> `[3, 3, 1, 1]`."""
    try:
        return [int(number) for number in text.split(separator)]
    except ValueError as error:
        raise V4DError(f"{option}: {text!r} is not a list of numbers with {separator!r} between") from error

"""The commands of a network by itself: shapes and costs, export, and the authors' released weights."""

from argparse import Namespace

from v4d.cli.command import argument, command
from v4d.errors import V4DError


@command(
    argument("arch", help="v4d_resnet50, i3ds_resnet18, ... (a wrong name lists all)"),
    argument("--preset", default="released", help="paper or released (default)"),
    argument("--units", type=int, default=4, help="units of a video (default: 4)"),
    argument("--frames", type=int, default=4, help="frames of a unit (default: 4)"),
    argument("--size", type=int, default=224, help="height and width of a frame (default: 224)"),
    argument("--classes", type=int, default=400, help="number of classes (default: 400)"),
    argument("--blocks", nargs="*", metavar="STAGE=N,N", help="places of 4D blocks, as res3=2,4 res4=2,4,6"),
    argument("--kernel", default="3x3x1x1", help="of the 4D blocks, over U, T, H, W"),
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
            args.arch,
            num_classes=args.classes,
            units=args.units,
            frames=args.frames,
            preset=args.preset,
            blocks=None if args.blocks is None else _places(args.blocks),
            kernel=_numbers(args.kernel, "x", "--kernel"),
        )
    print(cost_table(model, height=args.size, width=args.size))


@command(
    argument("checkpoint", help="final.pt of a training, or a model of `v4d import-released`"),
    argument("--out", required=True, help="file to write: NAME.pt2 or NAME.onnx"),
    argument("--size", type=int, default=256, help="height and width of a frame (default: 256)"),
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


def _places(texts: list[str]) -> dict[str, list[int]]:
    """`["res3=2,4"]` -> `{"res3": [2, 4]}`."""
    places: dict[str, list[int]] = {}
    for text in texts:
        stage, _, positions = text.partition("=")
        if not positions:
            raise V4DError(f"--blocks: {text!r} is not like res3=2,4")
        places.setdefault(stage, []).extend(_numbers(positions, ",", "--blocks"))
    return places


def _numbers(text: str, separator: str, option: str) -> list[int]:
    """`"3x3x1x1"` -> `[3, 3, 1, 1]`."""
    try:
        return [int(number) for number in text.split(separator)]
    except ValueError as error:
        raise V4DError(f"{option}: {text!r} is not a list of numbers with {separator!r} between") from error

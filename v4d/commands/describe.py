"""Show an architecture: stages with the shape behind them, parameters and multiply-adds (GMAC).

Shapes are C x T x H x W of one unit; GMACs are for all units of one video, convolutions and classifier.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arch", help="v4d_resnet50, i3ds_resnet18, ... (a wrong name lists all)")
    parser.add_argument("--preset", default="released", help="paper or released (default)")
    parser.add_argument("--units", type=int, default=4, help="units of a video (default: 4)")
    parser.add_argument("--frames", type=int, default=4, help="frames of a unit (default: 4)")
    parser.add_argument("--size", type=int, default=224, help="height and width of a frame (default: 224)")
    parser.add_argument("--classes", type=int, default=400, help="number of classes (default: 400)")
    parser.add_argument(
        "--blocks", nargs="*", metavar="STAGE=N,N", help="places of 4D blocks, as res3=2,4 res4=2,4,6"
    )
    parser.add_argument("--kernel", default="3x3x1x1", help="of the 4D blocks, over U, T, H, W")


def run(args: argparse.Namespace) -> int:
    import torch

    from v4d.errors import V4DError
    from v4d.models import create_model
    from v4d.models.cost import cost_table

    if args.size < 1:
        raise V4DError(f"--size must be at least 1, not {args.size}")
    with torch.device("meta"):  # no weights are needed to count them
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
    return 0


def _places(texts: list[str]) -> dict[str, list[int]]:
    from v4d.errors import V4DError

    places: dict[str, list[int]] = {}
    for text in texts:
        stage, _, positions = text.partition("=")
        if not positions:
            raise V4DError(f"--blocks: {text!r} is not like res3=2,4")
        places.setdefault(stage, []).extend(_numbers(positions, ",", "--blocks"))
    return places


def _numbers(text: str, separator: str, option: str) -> list[int]:
    from v4d.errors import V4DError

    try:
        return [int(number) for number in text.split(separator)]
    except ValueError as error:
        raise V4DError(f"{option}: {text!r} is not a list of numbers with {separator!r} between") from error

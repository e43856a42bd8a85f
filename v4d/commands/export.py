"""Export a checkpoint as a program that runs without this package.

`.pt2` (torch.export) can be given to `v4d predict`; `.onnx` needs the packages onnxscript and onnxruntime.
The number of videos in a batch is free; units, frames and the size of a frame are fixed.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="final.pt of a training, or a model of `v4d import-released`")
    parser.add_argument("--out", required=True, help="file to write: NAME.pt2 or NAME.onnx")
    parser.add_argument("--size", type=int, default=256, help="height and width of a frame (default: 256)")


def run(args: argparse.Namespace) -> int:
    from v4d.errors import V4DError
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
    return 0

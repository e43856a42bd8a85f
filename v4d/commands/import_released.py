"""Convert weights that the authors released into a model of ours.

A network of 400 classes has those of Kinetics-400, in their order. One of 200 has those of Mini-Kinetics in
an order of the authors' own, which is turned into the alphabetical one that our data sets have; a converter
like theirs (JSON, Kinetics-400 index to the checkpoint's) can be given instead of the order we know.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="released checkpoint (.pth.tar)")
    parser.add_argument("--out", required=True, help="model file to write (.pt)")
    parser.add_argument("--units", type=int, default=4, help="units it was trained with (default: 4)")
    parser.add_argument("--frames", type=int, help="frames of a unit (default: 8 with 400 classes, else 4)")
    parser.add_argument("--converter", help="JSON file: Kinetics-400 class index to the checkpoint's")


def run(args: argparse.Namespace) -> int:
    from v4d.datasets import released_classes
    from v4d.models.checkpoint import save_model
    from v4d.models.cost import parameter_count
    from v4d.models.released import class_order, load_released, reorder_classes

    model = load_released(args.checkpoint, units=args.units, frames=args.frames)
    classes = [f"class {index}" for index in range(model.num_classes)]
    if args.converter is not None:
        order = class_order(args.converter, model.num_classes)
        reorder_classes(model, list(order.values()))
        classes = [released_classes()[index] for index in order]
    elif theirs := released_classes(model.num_classes):
        classes = sorted(theirs)
        reorder_classes(model, [theirs.index(name) for name in classes])
    # Every released network was trained on every 8th frame.
    info = {"stage": {"frame_stride": 8}, "imported_from": args.checkpoint}
    save_model(args.out, model, architecture=model.spec, classes=classes, info=info)
    print(f"{args.out}: {model.spec['arch']}, {len(classes)} classes, {parameter_count(model):,} parameters")
    return 0

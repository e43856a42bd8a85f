"""Show where and when a network looks: its answer taken apart over height, width, time and units.

Writes a contact sheet (.png) with a row a unit, or a video (.mp4) of all that the network saw. Red is
evidence for the class, blue against it. The numbers beside the units add up to the class's logit.
"""

import argparse
from pathlib import Path

from v4d.errors import V4DError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="any file that ffmpeg reads")
    parser.add_argument("--checkpoint", required=True, help="final.pt or a released checkpoint")
    parser.add_argument(
        "--out", required=True, type=Path, help="contact sheet (.png) or video (.mp4) to write"
    )
    parser.add_argument("--class", dest="label", help="class to explain (default: the predicted one)")
    parser.add_argument("--config", help="take preparation and crop from this config")
    parser.add_argument(
        "--crop-size", type=int, metavar="PIXELS", help="side of the crop (default: the test's)"
    )


def run(args: argparse.Namespace) -> None:
    from v4d import config
    from v4d.evaluation.predict import Predictor
    from v4d.plotting import maps
    from v4d.plotting.style import save

    maps.check_suffix(args.out)
    settings = config.load(args.config) if args.config else None
    predictor = Predictor.load(args.checkpoint, settings, crop_size=args.crop_size)
    classes = predictor.model.classes
    if args.label is not None and args.label not in classes:
        raise V4DError(f"--class {args.label!r} is none of the model's {len(classes)} classes")
    seen = predictor.explain(Path(args.video), classes.index(args.label) if args.label else None)
    title = (
        f"{classes[seen.class_index]}: {100 * seen.probability:.1f} %, "
        f"logit {seen.maps.logit:.2f} = {seen.maps.bias:+.2f} and the units"
    )
    if args.out.suffix.lower() in maps.PICTURES:
        save(args.out, maps.contact_sheet(seen.frames, seen.maps.contributions, title, seen.seconds))
    else:
        maps.write_video(args.out, seen.frames, seen.maps.contributions, title, seen.rate)
    print(f"{title}: {', '.join(f'{share:+.2f}' for share in seen.maps.units.tolist())}; {args.out}")

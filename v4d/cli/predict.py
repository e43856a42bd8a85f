"""The commands of single videos: classifying them, and showing what decides the class."""

import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from v4d.cli.command import argument, command, config_argument, load_config
from v4d.errors import V4DError
from v4d.utils.text import one_line

if TYPE_CHECKING:
    from v4d.evaluation.predict import Prediction


@command(
    argument("videos", nargs="+", metavar="VIDEO", help="files, or folders with videos at any depth"),
    argument("--checkpoint", required=True, help="final.pt, weights of others, or an exported .pt2"),
    argument("--top-k", type=int, default=5, metavar="K", help="classes to show (default: 5)"),
    argument("--json", action="store_true", help="print one JSON list instead of text"),
    argument("--timeline", type=Path, metavar="PLOT", help="draw what each unit of the video says"),
    config_argument("take preparation and test protocol from this config"),
    argument("--units", type=int, help="units of a video (default: the test's)"),
    argument("--crops", type=int, help="crops of a frame (default: the test's)"),
    argument("--crop-size", type=int, metavar="PIXELS", help="side of a crop (default: the test's)"),
    argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute"),
)
def predict(args: Namespace) -> int:
    """Classify single videos: any file that ffmpeg reads, or whole folders.

    A video is prepared and scored as in the test of the checkpoint's own config (or of --config). A file that
    cannot be read is named on stderr, the others are done all the same, and the exit code is then 1.

    Example: v4d predict clip.mp4 --checkpoint results/demo/v4d/main/final.pt
    """
    from v4d.evaluation.predict import Predictor
    from v4d.evaluation.video_file import find_videos

    for name in ("top_k", "units", "crops", "crop_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise V4DError(f"--{name.replace('_', '-')} must be at least 1")
    videos = find_videos(args.videos)
    if args.timeline:
        from v4d.plotting.style import check_picture

        check_picture(args.timeline)
        if len(videos) != 1:
            raise V4DError(f"--timeline draws one video, not {len(videos)}")
    config = load_config(args) if args.config else None
    testing = {"units": args.units, "crops": args.crops, "crop_size": args.crop_size}
    predictor = Predictor(args.checkpoint, config, args.device, **testing)
    classes = predictor.model.classes
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    processes = min(4, len(os.sched_getaffinity(0)))
    failed, rows = False, []
    for prediction in predictor.predict(videos, evidence=args.timeline is not None, processes=processes):
        failed |= bool(prediction.problem)
        if args.json:
            rows.append(prediction.as_dict(classes, args.top_k))
        _show(prediction, classes, args)
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    return int(failed)


@command(
    argument("video", metavar="VIDEO", help="any file that ffmpeg reads"),
    argument("--checkpoint", required=True, help="final.pt or a released checkpoint"),
    argument("--out", required=True, type=Path, help="contact sheet (.png) or video (.mp4) to write"),
    argument("--class", dest="label", help="class to explain (default: the predicted one)"),
    config_argument("take preparation and crop from this config"),
    argument("--crop-size", type=int, metavar="PIXELS", help="side of the crop (default: the test's)"),
)
def explain(args: Namespace) -> None:
    """Show where and when a network looks: its answer taken apart over height, width, time and units.

    Writes a contact sheet (.png) with a row a unit, or a video (.mp4) of all that the network saw. Red is
    evidence for the class, blue against it. The numbers beside the units add up to the class's logit.

    Example: v4d explain clip.mp4 --checkpoint results/demo/v4d/main/final.pt --out clip.png
    """
    from v4d.evaluation.predict import Predictor
    from v4d.plotting import maps
    from v4d.plotting.style import save

    maps.check_suffix(args.out)
    config = load_config(args) if args.config else None
    predictor = Predictor(args.checkpoint, config, crop_size=args.crop_size)
    classes = predictor.model.classes
    if args.label is not None and args.label not in classes:
        raise V4DError(f"--class {args.label!r} is none of the model's {len(classes)} classes")
    seen = predictor.explain(Path(args.video), classes.index(args.label) if args.label else None)
    title = seen.as_text(classes)
    if args.out.suffix.lower() in maps.PICTURES:
        save(args.out, maps.contact_sheet(seen.frames, seen.maps.contributions, title, seen.seconds))
    else:
        maps.write_video(args.out, seen.frames, seen.maps.contributions, title, seen.rate)
    print(f"{title}: {', '.join(f'{share:+.2f}' for share in seen.maps.units.tolist())}; {args.out}")


def _show(prediction: "Prediction", classes: Sequence[str], args: Namespace) -> None:
    """Print one video's classes, or what is wrong with it; draw its timeline where that is asked for."""
    if prediction.problem:
        print(
            f"v4d predict: error: {prediction.path}: {one_line(prediction.problem)}",
            file=sys.stderr,
            flush=True,
        )
        return
    if not args.json:
        print(prediction.as_text(classes, args.top_k), flush=True)
    if args.timeline:
        from v4d.plotting.curves import timeline
        from v4d.plotting.style import save

        save(args.timeline, timeline(prediction, classes))

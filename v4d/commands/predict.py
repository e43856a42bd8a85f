"""Classify single videos: any file that ffmpeg reads, or whole folders.

A video is prepared and scored as in the test of the checkpoint's own config (or of --config). A file that
cannot be read is named on stderr, the others are done all the same, and the exit code is then 1.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from v4d.errors import V4DError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="files, or folders with videos at any depth"
    )
    parser.add_argument(
        "--checkpoint", required=True, help="final.pt, a released checkpoint, or an exported .pt2"
    )
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="classes to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of text")
    parser.add_argument("--timeline", type=Path, metavar="PLOT", help="draw what each unit of the video says")
    parser.add_argument("--config", help="take preparation and test protocol from this config")
    parser.add_argument("--units", type=int, help="units of a video (default: the test's)")
    parser.add_argument("--crops", type=int, help="crops of a frame (default: the test's)")
    parser.add_argument(
        "--crop-size", type=int, metavar="PIXELS", help="side of a crop (default: the test's)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute")


def run(args: argparse.Namespace) -> int:
    import torch

    from v4d import config
    from v4d.evaluation.predict import Predictor
    from v4d.evaluation.video_file import find_videos

    for name in ("top_k", "units", "crops", "crop_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise V4DError(f"--{name.replace('_', '-')} must be at least 1")
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise V4DError("--device cuda: this machine has no CUDA device")
    videos = find_videos(args.videos)
    if args.timeline:
        from v4d.plotting.style import check_picture

        check_picture(args.timeline)
        if len(videos) != 1:
            raise V4DError(f"--timeline draws one video, not {len(videos)}")
    predictor = Predictor.load(
        args.checkpoint,
        config.load(args.config) if args.config else None,
        device,
        units=args.units,
        crops=args.crops,
        crop_size=args.crop_size,
    )
    classes = predictor.model.classes
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no UTF-8
    done, failed = [], 0
    cores = len(os.sched_getaffinity(0))
    for prediction in predictor.predict(videos, evidence=args.timeline is not None, processes=min(4, cores)):
        if prediction.problem:
            failed += 1
            problem = " ".join(prediction.problem.split())
            print(f"v4d predict: error: {prediction.path}: {problem}", file=sys.stderr, flush=True)
        if args.json:
            done.append(prediction.as_dict(classes, args.top_k))
        elif not prediction.problem:
            print(prediction.as_text(classes, args.top_k), flush=True)
        if args.timeline and not prediction.problem:
            from v4d.plotting.curves import timeline
            from v4d.plotting.style import save

            save(args.timeline, timeline(prediction, classes))
    if args.json:
        print(json.dumps(done, indent=2, ensure_ascii=False))
    return 1 if failed else 0

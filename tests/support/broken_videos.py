"""Videos as the world has them: sound ones of every sort, and those that are broken in one way each."""

import functools
import random
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from v4d.utils.ffmpeg import ffmpeg_binary

FRAMES, RATE, WIDTH, HEIGHT = 25, 25, 64, 48
MOVING = f"testsrc2=s={WIDTH}x{HEIGHT}:r={RATE}:d=1"


def ffmpeg(*arguments: str, name: str = "out.mp4", inputs: dict[str, bytes] | None = None) -> bytes:
    """Run ffmpeg in a folder that holds `inputs`; the bytes of the file `name` that it leaves there."""
    with tempfile.TemporaryDirectory() as folder:
        for file, data in (inputs or {}).items():
            (Path(folder) / file).write_bytes(data)
        command = [ffmpeg_binary(), "-v", "error", "-nostdin", *arguments, "-y", name]
        subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL)
        return (Path(folder) / name).read_bytes()


def picture(source: str, options: str, name: str = "out.mp4") -> bytes:
    """Encode a picture that one of ffmpeg's generators makes."""
    return ffmpeg("-f", "lavfi", "-i", source, *options.split(), "-threads", "1", name=name)


@functools.cache
def sound(frames: int = FRAMES, size: str = f"{WIDTH}x{HEIGHT}", seed: int = 0, options: str = "") -> bytes:
    """A clip of a moving test picture with a sound track; `seed` makes different ones."""
    seconds = frames / RATE
    moving = f"testsrc2=s={size}:r={RATE}:d={seconds},hue=h={37 * seed % 360}"
    tone = f"-f lavfi -i sine=frequency={200 + seed}:duration={seconds}"
    coding = "-c:v libx264 -pix_fmt yuv420p -preset ultrafast -c:a aac"
    return picture(moving, f"{tone} {coding} {options}")


def empty() -> bytes:
    return b""


def garbage() -> bytes:
    return random.Random(1).randbytes(20_000)


def html_page() -> bytes:
    return b"<!DOCTYPE html><html><body>Please sign in to your hotel's network</body></html>"


def truncated_index_behind() -> bytes:
    video = sound()
    assert video.index(b"moov") > video.index(b"mdat")
    return video[: len(video) * 6 // 10]


def truncated_index_in_front() -> bytes:
    video = sound(options="-movflags +faststart")
    assert video.index(b"moov") < video.index(b"mdat")
    return video[: len(video) * 6 // 10]


def bit_damage() -> bytes:
    video = bytearray(sound(size="128x96", options="-g 5 -an"))
    dice = random.Random(2)
    start = video.index(b"mdat") + 1000
    for _ in range(40):
        video[dice.randrange(start, start + 6000)] ^= 1 << dice.randrange(8)
    return bytes(video)


def audio_only() -> bytes:
    return picture("sine=duration=1", "-c:a aac")


def zero_duration() -> bytes:
    """A video track, and not one frame in it."""
    return picture(MOVING, "-c:v libx264 -frames:v 0 -movflags empty_moov")


def wrong_extension() -> bytes:
    """A WebM that calls itself .mp4."""
    return picture(MOVING, "-c:v libvpx", name="out.webm")


def one_frame() -> bytes:
    return picture(MOVING, "-frames:v 1 -c:v libx264")


def edit_list() -> bytes:
    """A cut made by copying: from the key frame before, and an edit list hides what was not wanted."""
    long = sound(frames=100, options="-g 60 -an")
    return ffmpeg("-ss", "1.2", "-i", "in.mp4", "-t", "1.2", "-c", "copy", inputs={"in.mp4": long})


def variable_rate() -> bytes:
    """25 frames whose distances differ: every third one of the first 24 was dropped."""
    source = f"testsrc2=s={WIDTH}x{HEIGHT}:r={RATE}:d=1.32"
    return picture(source, "-vf select='not(eq(mod(n,3),1)*lt(n,24))' -fps_mode vfr -c:v libx264 -bf 0")


def rotated() -> bytes:
    return ffmpeg("-display_rotation", "90", "-i", "in.mp4", "-c", "copy", inputs={"in.mp4": sound()})


def odd_size() -> bytes:
    return picture(f"{MOVING},format=yuv444p,scale=63:47", "-c:v libx264")


def ten_bit() -> bytes:
    return picture(MOVING, "-pix_fmt yuv420p10le -c:v libx264")


def attached_picture() -> bytes:
    """Sound with a cover picture, which ffmpeg lists as a video stream."""
    cover = picture(MOVING, "-frames:v 1", name="cover.jpg")
    options = "-f lavfi -i sine=duration=1 -i cover.jpg -map 0 -map 1 -c:a aac -c:v copy"
    return ffmpeg(*options.split(), "-disposition:v", "attached_pic", inputs={"cover.jpg": cover})


def playlist() -> bytes:
    """Not broken but bad: an HLS playlist, by which ffmpeg would read another file of this machine."""
    return b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


def full_range() -> bytes:
    """As phones record: full range, BT.709."""
    bars = f"smptebars=s={WIDTH}x{HEIGHT}:r={RATE}:d=1,scale=out_range=pc:out_color_matrix=bt709"
    tags = "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range pc"
    return picture(bars, f"-pix_fmt yuvj420p -c:v libx264 -crf 5 {tags}")


def anamorphic() -> bytes:
    """Pixels twice as wide as high."""
    return picture(f"{MOVING},setsar=2", "-c:v libx264")


# kind: (what makes it, the status it must get, frames that can be decoded; None where any number will do)
KINDS: dict[str, tuple[Callable[[], bytes], str, int | None]] = {
    "empty": (empty, "corrupt", 0),
    "garbage": (garbage, "corrupt", 0),
    "html_page": (html_page, "corrupt", 0),
    "truncated_index_behind": (truncated_index_behind, "corrupt", 0),
    "truncated_index_in_front": (truncated_index_in_front, "ok", None),
    "bit_damage": (bit_damage, "ok", None),
    "audio_only": (audio_only, "no_video_stream", 0),
    "zero_duration": (zero_duration, "corrupt", 0),
    "wrong_extension": (wrong_extension, "ok", 25),
    "one_frame": (one_frame, "ok", 1),
    "edit_list": (edit_list, "ok", 30),
    "variable_rate": (variable_rate, "ok", 25),
    "rotated": (rotated, "ok", 25),
    "odd_size": (odd_size, "ok", 25),
    "ten_bit": (ten_bit, "ok", 25),
    "attached_picture": (attached_picture, "no_video_stream", 0),
    "playlist": (playlist, "corrupt", 0),
    "full_range": (full_range, "ok", 25),
    "anamorphic": (anamorphic, "ok", 25),
}

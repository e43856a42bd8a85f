"""What a config will cost, before anything runs: bytes to fetch, bytes on disk, CPU hours, by stage.

Every figure is a product of a number of videos and an average a video. The averages are constants below,
with where they come from; as soon as jobs of this data set have run on this machine, what they cost
takes their place (`basis` says which).
"""

from pathlib import Path

import pandas

from v4d.config import ClipsConfig, Config, DatasetConfig, FramesConfig, frame_size
from v4d.datasets import DataSource, open_source
from v4d.utils.cost import StageCost, total_cost

SECONDS, RATE = 10.0, 30.0
"""Length and frame rate of the clips for which the averages below hold."""
CLIP_BYTES = 0.15e12 / 240_000
"""A 10 s clip at 320x256, CRF 18, a key frame every 16: measured, 0.15 TB for 240,000 videos."""
CLIP_CPU = 0.65
"""CPU seconds to transcode 10 s of 640x360 to that: benchmarks/clips.py, one core of an AMD EPYC."""
CLIP_FIXED = 0.38
"""Share of it that does not depend on the clip's size (decoding); the rest goes with its pixels."""
PRESETS = pandas.read_csv(Path(__file__).parent / "facts" / "x264_presets.csv", index_col="preset")
"""CPU time and bytes of x264's presets against veryfast, on the same footage; measured."""
JPEG_BYTES = {80: 14.9e3, 85: 17.3e3, 90: 21.5e3, 95: 30.5e3}
"""A frame of 320x256, 4:2:0, by quality: measured."""
LMDB_OVERHEAD = 1.107
"""One key a frame: measured."""
FRAMES_CPU = 0.567
"""CPU seconds to decode 300 frames of 320x256 (0.447) and encode them with simplejpeg: measured."""
DECODE_SHARE = 0.447 / 0.567
PIXELS = 320 * 256


def estimate(config: Config) -> pandas.DataFrame:
    """A row a stage: videos, download_gb, disk_gb (stays), passing_gb (is deleted again), cpu_hours, basis.

    Raises:
        V4DError: the folder of a `folder` source cannot be read.
    """
    dataset, source = config.dataset, open_source(config.dataset)
    videos, seconds = count_videos(source), _seconds(source)
    stages = {
        "archives": source.archive_cost(videos),
        "clips": _clips(dataset, config.clips, videos, seconds),
        "frames": _frames(dataset, config.frames, config.clips, videos, seconds),
    }
    table = pandas.DataFrame([vars(cost) for cost in stages.values()], pandas.Index(stages, name="stage"))
    table.insert(0, "videos", videos)
    for name in ("download", "disk", "passing"):
        table[name] /= 1e9
    table["cpu_seconds"] /= 3600
    gigabytes = {name: f"{name}_gb" for name in ("download", "disk", "passing")}
    return table.rename(columns={**gigabytes, "cpu_seconds": "cpu_hours"})


def summary(table: pandas.DataFrame, *, cores: int, free: float) -> list[str]:
    """The totals in words: how long on so many cores, and whether it fits on a disk with `free` bytes."""
    cores = max(1, cores)
    download, disk, hours = table["download_gb"].sum(), table["disk_gb"].sum(), table["cpu_hours"].sum()
    lines = [
        f"in all {download:,.1f} GB to download, {disk:,.1f} GB that stay, {hours:,.1f} CPU hours: "
        f"{hours / cores:,.1f} hours on {cores} cores"
    ]
    passing = table["passing_gb"].sum()
    if passing:
        lines.append(f"besides, up to {passing:,.1f} GB that are deleted after use")
    if download:
        at_gigabit = download / 450  # 125 MB/s are 450 GB an hour
        lines.append(f"the download: {at_gigabit:,.1f} h at 1 Gbit/s, {10 * at_gigabit:,.1f} h at 100 Mbit/s")
    fits = "enough" if (disk + passing) * 1e9 < free else "NOT ENOUGH"
    lines.append(f"{free / 1e9:,.1f} GB free here: {fits}")
    return lines


def count_videos(source: DataSource) -> int:
    """Videos that will be transcoded: as annotated where that is known, else as the source expects."""
    tables = [source.paths.annotations(split) for split in source.dataset.splits]
    if not all(table.exists() for table in tables):
        return source.expected_videos()
    return source.transcoded(sum(len(pandas.read_parquet(table, columns=["video_id"])) for table in tables))


def _clips(dataset: DatasetConfig, settings: ClipsConfig, videos: int, seconds: float) -> StageCost:
    pixels = _pixels(settings.size) / PIXELS
    length = seconds / SECONDS
    preset = PRESETS.loc[settings.preset]
    cpu = CLIP_CPU * length * (CLIP_FIXED + (1 - CLIP_FIXED) * pixels * preset["cpu"])
    size = CLIP_BYTES * length * pixels**0.7 * 2 ** ((18 - settings.crf) / 6) * preset["bytes"]
    ledgers = _ledgers(dataset, "clips")
    cost = total_cost(dataset.paths.costs("clips"))
    if len(ledgers):
        size = ledgers["bytes"].mean()
    if cost.videos:
        cpu = cost.cpu_seconds / cost.videos
    disk, passing = (videos * size, 0.0) if settings.keep else (0.0, videos * size)
    return StageCost(disk=disk, passing=passing, cpu_seconds=videos * cpu, basis=_basis(ledgers))


def _frames(
    dataset: DatasetConfig, settings: FramesConfig, clips: ClipsConfig, videos: int, seconds: float
) -> StageCost:
    clip_pixels = _pixels(clips.size) / PIXELS
    pixels = clip_pixels if settings.size is None else _pixels(settings.size) / PIXELS
    frames = seconds * (clips.fps or RATE)
    kept = frames / settings.stride
    decode, encode = DECODE_SHARE * frames * clip_pixels, (1 - DECODE_SHARE) * kept * pixels
    cpu = FRAMES_CPU * (decode + encode) / 300
    size = kept * _jpeg_bytes(settings.quality) * pixels * LMDB_OVERHEAD
    ledgers = _ledgers(dataset, "frames")
    if len(ledgers):
        size = ledgers["bytes"].mean() * LMDB_OVERHEAD
        cpu = _benchmark_cpu(dataset, "frames") / len(ledgers) or cpu
    return StageCost(disk=videos * size, cpu_seconds=videos * cpu, basis=_basis(ledgers))


def _jpeg_bytes(quality: int) -> float:
    """Bytes of a frame at 320x256, between the measured qualities and beyond them by their slope in log."""
    import numpy as np

    at = sorted(JPEG_BYTES)
    if quality < at[0]:
        return JPEG_BYTES[80] * max(0.15, quality / 80)
    return float(np.exp(np.interp(quality, [*at, 100], np.log([*(JPEG_BYTES[q] for q in at), 60e3]))))


def _pixels(size: str | int) -> int:
    """Pixels of a frame; 16:9 where only the short side is given."""
    wanted = frame_size(size)
    return wanted * wanted * 16 // 9 if isinstance(wanted, int) else wanted[0] * wanted[1]


def _seconds(source: DataSource) -> float:
    """Seconds of a video: as found in the clips so far, else as the source says."""
    ledgers = _ledgers(source.dataset, "clips")
    return float(ledgers["seconds"].mean()) if len(ledgers) else source.seconds


def _ledgers(dataset: DatasetConfig, stage: str) -> pandas.DataFrame:
    """Usable rows of the ledgers that a stage has written so far."""
    paths = dataset.paths.ledgers(stage)
    columns = ["status", "bytes", "seconds"]
    if not paths:
        return pandas.DataFrame(columns=columns)
    rows = pandas.concat([pandas.read_parquet(path, columns=columns) for path in paths])
    return rows[rows["status"] == "ok"]


def _benchmark_cpu(dataset: DatasetConfig, stage: str) -> float:
    """CPU seconds that Snakemake noted for a stage's jobs; 0 where it did not run them."""
    tables = [pandas.read_csv(path, sep="\t", na_values="-") for path in dataset.paths.benchmarks(stage)]
    return float(sum(table["cpu_time"].fillna(0).iloc[-1] for table in tables if "cpu_time" in table))


def _basis(ledgers: pandas.DataFrame) -> str:
    return f"measured, {len(ledgers)} videos" if len(ledgers) else "averages"

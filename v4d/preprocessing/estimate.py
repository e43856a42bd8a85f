"""What a config will cost, before anything runs: bytes to fetch, bytes on disk, CPU hours, by stage.

Every figure is a product of a number of videos and an average a video. The averages are constants below,
with where they come from; as soon as jobs of this data set have run on this machine, what they cost
takes their place (`basis` says which).
"""

from dataclasses import dataclass

import pandas

from v4d.config import ClipsConfig, Config, DatasetConfig, FramesConfig, frame_size
from v4d.datasets.annotations import archive_names, folder_videos
from v4d.datasets.kinetics import published_counts
from v4d.datasets.lockfile import LockFile
from v4d.utils.cost import total_cost

SECONDS, RATE = 10.0, 30.0
"""Length and frame rate of a Kinetics clip."""
ARCHIVE_BYTES = 436e9 / 301
"""436 GB in 301 public archives of Kinetics-400."""
VIDEO_BYTES = 436e9 / (240_258 + 19_881 + 38_685)
"""The same by the videos in them: 1.46 MB."""
ARCHIVES_AT_ONCE = 54
"""On their way, waiting or in use: four downloads beside the 50 jobs of a cluster's profile. One machine
has fewer: clips are made before more is fetched (the priorities in workflow/rules)."""
REPLACEMENT_BYTES = 1_392 * VIDEO_BYTES
CLIP_BYTES = 0.15e12 / 240_000
"""A 10 s clip at 320x256, CRF 18, a key frame every 16: measured, 0.15 TB for 240,000 videos."""
CLIP_CPU = 0.65
"""CPU seconds to transcode 10 s of 640x360 to that: benchmarks/clips.py, one core of an AMD EPYC."""
CLIP_FIXED = 0.38
"""Share of it that does not depend on the clip's size (decoding); the rest goes with its pixels."""
PRESET_CPU = {
    "ultrafast": 0.58,
    "superfast": 0.8,
    "veryfast": 1.0,
    "faster": 1.46,
    "fast": 1.82,
    "medium": 2.07,
    "slow": 3.2,
}
PRESET_BYTES = {"ultrafast": 2.75, "superfast": 1.45, "veryfast": 1.0}
"""Against veryfast, on the same footage; slower ones are 1.05 to 1.07."""
JPEG_BYTES = {80: 14.9e3, 85: 17.3e3, 90: 21.5e3, 95: 30.5e3}
"""A frame of 320x256, 4:2:0, by quality: measured."""
LMDB_OVERHEAD = 1.107
"""One key a frame: measured."""
FRAMES_CPU = 0.567
"""CPU seconds to decode 300 frames of 320x256 (0.447) and encode them with simplejpeg: measured."""
DECODE_SHARE = 0.447 / 0.567
ARCHIVE_CPU = 5.0
"""CPU seconds a GB of an archive: sha256, MD5 and gunzip are 3, the rest is TLS."""
PIXELS = 320 * 256
SYNTHETIC_BYTES, SYNTHETIC_CPU, SYNTHETIC_SECONDS = 200e3, 0.17, 3.8
"""A synthetic video of 128x128: bytes, CPU seconds, length; measured on one core of an AMD EPYC."""


@dataclass(frozen=True)
class Stage:
    """A row of the estimate; `disk` is what stays, `passing` what is deleted again (bytes)."""

    stage: str
    videos: int
    download: float
    disk: float
    cpu_seconds: float
    basis: str
    passing: float = 0.0


def estimate(config: Config) -> pandas.DataFrame:
    """A row a stage: videos, download_gb, disk_gb (stays), passing_gb (is deleted again), cpu_hours, basis.

    Raises:
        V4DError: the folder of a `folder` source cannot be read.
    """
    dataset = config.dataset
    videos, seconds = count_videos(dataset), _seconds(dataset)
    stages = [
        _archives(dataset, videos),
        _clips(dataset, config.clips, videos, seconds),
        _frames(dataset, config.frames, config.clips, videos, seconds),
    ]
    return pandas.DataFrame(
        {
            "stage": [s.stage for s in stages],
            "videos": [s.videos for s in stages],
            "download_gb": [s.download / 1e9 for s in stages],
            "disk_gb": [s.disk / 1e9 for s in stages],
            "passing_gb": [s.passing / 1e9 for s in stages],
            "cpu_hours": [s.cpu_seconds / 3600 for s in stages],
            "basis": [s.basis for s in stages],
        }
    ).set_index("stage")


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


def count_videos(dataset: DatasetConfig) -> int:
    """Videos that will be transcoded: as annotated where that is known, else as published."""
    tables = [dataset.root / "annotations" / f"{split}.parquet" for split in dataset.splits]
    if all(table.exists() for table in tables):
        annotated = sum(len(pandas.read_parquet(table, columns=["video_id"])) for table in tables)
        return round(annotated * _share_of_archives(dataset))
    if dataset.source == "synthetic":
        counts = [dataset.synthetic.videos[split] for split in dataset.splits]
        return sum(_limited(count, 4, dataset.limit) for count in counts)
    if dataset.source == "folder":
        listed = [folder_videos(dataset, split) for split in dataset.splits]
        return sum(
            _limited(len(videos), len({label for _, label in videos}), dataset.limit) for videos in listed
        )
    published = published_counts(_whole(dataset))
    classes = 200 if dataset.kinetics.subset else 400
    counts = published["in_archives"].fillna(published["annotated"])
    return round(sum(_limited(int(n), classes, dataset.limit) for n in counts) * _share_of_archives(dataset))


def _archives(dataset: DatasetConfig, videos: int) -> Stage:
    cost = total_cost(dataset.root, "archives")
    if dataset.source == "folder":
        return Stage("archives", videos, 0.0, 0.0, 0.0, "none are needed")
    if dataset.source == "synthetic":
        scale = (dataset.synthetic.size / 128) ** 2
        size, cpu = SYNTHETIC_BYTES * scale * videos, SYNTHETIC_CPU * scale * videos
        return Stage("archives", videos, 0.0, 0.0, cpu, "averages", passing=size)
    parts = [(split, part) for split in dataset.splits for part in archive_names(dataset, split)]
    count = sum(not dataset.given_up(*part) for part in parts)
    entries = LockFile(dataset.root).entries()
    sizes = [entry.size for name, entry in entries.items() if "/part_" in name]
    size = sum(sizes) / len(sizes) if sizes else ARCHIVE_BYTES
    extra = REPLACEMENT_BYTES if dataset.kinetics.use_replacements and "train" in dataset.splits else 0.0
    download = count * size + extra
    cpu = cost.cpu_seconds / (cost.bytes / 1e9) if cost.bytes else ARCHIVE_CPU
    disk = download if dataset.kinetics.keep_archives else extra
    passing = 0.0 if dataset.kinetics.keep_archives else min(count, ARCHIVES_AT_ONCE) * size
    basis = f"measured, {len(sizes)} archives" if sizes else "averages"
    return Stage("archives", videos, download, disk, cpu * download / 1e9, basis, passing)


def _clips(dataset: DatasetConfig, settings: ClipsConfig, videos: int, seconds: float) -> Stage:
    pixels = _pixels(settings.size) / PIXELS
    length = seconds / SECONDS
    cpu = CLIP_CPU * length * (CLIP_FIXED + (1 - CLIP_FIXED) * pixels * PRESET_CPU[settings.preset])
    size = CLIP_BYTES * length * pixels**0.7 * 2 ** ((18 - settings.crf) / 6)
    size *= PRESET_BYTES.get(settings.preset, 1.06)
    ledgers = _ledgers(dataset, "clips")
    cost = total_cost(dataset.root, "clips")
    if len(ledgers):
        size = ledgers["bytes"].mean()
    if cost.videos:
        cpu = cost.cpu_seconds / cost.videos
    stays, passes = (size, 0.0) if settings.keep else (0.0, size)
    return Stage("clips", videos, 0.0, videos * stays, videos * cpu, _basis(ledgers), videos * passes)


def _frames(
    dataset: DatasetConfig, settings: FramesConfig, clips: ClipsConfig, videos: int, seconds: float
) -> Stage:
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
    return Stage("frames", videos, 0.0, videos * size, videos * cpu, _basis(ledgers))


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


def _seconds(dataset: DatasetConfig) -> float:
    """Seconds of a video: as found in the clips so far, else Kinetics' 10."""
    ledgers = _ledgers(dataset, "clips")
    if len(ledgers):
        return float(ledgers["seconds"].mean())
    return SYNTHETIC_SECONDS if dataset.source == "synthetic" else SECONDS


def _ledgers(dataset: DatasetConfig, stage: str) -> pandas.DataFrame:
    """Usable rows of the ledgers that a stage has written so far."""
    paths = sorted((dataset.root / stage).glob("*/*.parquet"))
    columns = ["status", "bytes", "seconds"]
    if not paths:
        return pandas.DataFrame(columns=columns)
    rows = pandas.concat([pandas.read_parquet(path, columns=columns) for path in paths])
    return rows[rows["status"] == "ok"]


def _benchmark_cpu(dataset: DatasetConfig, stage: str) -> float:
    """CPU seconds that Snakemake noted for a stage's jobs; 0 where it did not run them."""
    paths = sorted((dataset.root / "benchmarks" / stage).glob("*/*.tsv"))
    tables = [pandas.read_csv(path, sep="\t", na_values="-") for path in paths]
    return float(sum(table["cpu_time"].fillna(0).iloc[-1] for table in tables if "cpu_time" in table))


def _basis(ledgers: pandas.DataFrame) -> str:
    return f"measured, {len(ledgers)} videos" if len(ledgers) else "averages"


def _limited(count: int, classes: int, limit: int | None) -> int:
    return count if limit is None else min(count, classes * limit)


def _share_of_archives(dataset: DatasetConfig) -> float:
    """The share of Kinetics' archives that the config takes: of the others' videos none is transcoded."""
    if dataset.source != "kinetics":
        return 1.0
    public = {"train": 242, "val": 20, "test": 39}
    if dataset.kinetics.class_count != 400:
        return 1.0  # a mirror of its own
    splits = [split for split in dataset.splits if split in public]
    taken = sum(min(dataset.kinetics.parts[split], public[split]) for split in splits)
    return taken / sum(public[split] for split in splits)


def _whole(dataset: DatasetConfig) -> DatasetConfig:
    """The public data set that this one is a trial run or a mirror of."""
    kinetics = dataset.kinetics.replace(class_count=400)
    return dataset.replace(limit=None, kinetics=kinetics)

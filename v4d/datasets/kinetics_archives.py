"""The public archives of Kinetics: downloaded, and locked by their checksums.

{base_url}/{version}/{split}/k{version}_{split}_path.txt        the address of an archive a line
{base_url}/{version}/{split}/part_{i}.tar.gz                    {id}_{start:06d}_{end:06d}.mp4
{base_url}/{version}/replacement_for_corrupted_k{version}.tgz   for corrupted training videos
"""

import functools
import sys
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pandas

from v4d.config import DatasetConfig
from v4d.datasets.archives import check_archive
from v4d.datasets.base import SourceVideo, archive_videos
from v4d.datasets.download.checksums import digest
from v4d.datasets.download.fetch import fetch
from v4d.datasets.download.http import RetryPolicy, TransientError, UnavailableError, read_text
from v4d.datasets.lockfile import LockFile
from v4d.datasets.replacements import Replacements, repack
from v4d.errors import V4DError
from v4d.utils.cost import measured
from v4d.utils.files import atomic_path, exclusive
from v4d.utils.text import some_of

PATIENCE = RetryPolicy()


def address(dataset: DatasetConfig, *words: str) -> str:
    """An address below the folder of the version."""
    return "/".join([dataset.options.base_url.rstrip("/"), dataset.options.version, *words])


def replacements_path(dataset: DatasetConfig, split: str) -> Path | None:
    """Where the replacements for a split lie; None where there are none or they are not wanted."""
    wanted = dataset.options.use_replacements and split == dataset.options.whole.replaced_split
    return dataset.paths.replacements(split) if wanted else None


def download_archive(dataset: DatasetConfig, split: str, part: str, patience: RetryPolicy = PATIENCE) -> Path:
    """Bring one archive, and the replacements for its split; the path it then has.

    In the place of one that is given up (dataset.kinetics.give_up) comes an archive of nothing.

    Raises:
        V4DError: the archive cannot be had or is another than the one that was locked.
    """
    path = dataset.paths.archive(split, part)
    if dataset.options.given_up(split, part):
        return _nothing(path, f"{split}/{part}")
    _check_list(dataset, split)
    download_replacements(dataset, split, patience)
    with measured(dataset.paths.cost("archives", split, part)) as cost:
        try:
            _download(dataset, address(dataset, split, f"{part}.tar.gz"), path, patience)
        except UnavailableError as error:
            way_out = f"dataset.kinetics.give_up: [{split}/{part}] makes the data set without this archive"
            raise V4DError(f"{error}; {way_out}") from error
        cost.bytes = path.stat().st_size
    return path


def download_replacements(
    dataset: DatasetConfig, split: str, patience: RetryPolicy = PATIENCE
) -> Path | None:
    """Bring the replacements for a split, once for all its parts; None where there are none.

    Every download job of the split sees to it, so that it is there before any clips are made.
    """
    path = replacements_path(dataset, split)
    if path is None:
        return None
    lock, name = LockFile(dataset.paths.lock), f"{split}/{path.name}"
    with exclusive(path):
        entry = lock.get(name)
        if path.exists() and entry is not None and path.stat().st_size == entry.size:
            return path
        packed = path.with_suffix(".tgz")
        url = address(dataset, f"replacement_for_corrupted_k{dataset.options.version}.tgz")
        try:
            _download(dataset, url, packed, patience)
        except V4DError as error:
            hint = "dataset.kinetics.use_replacements: false does without replacements"
            raise V4DError(f"{error}; {hint}") from error
        repack(packed, path)
        lock.record_file(name, path, url)
        packed.unlink()
    return path


def archived_videos(
    dataset: DatasetConfig, split: str, part: str, expected: pandas.DataFrame
) -> Iterator[SourceVideo]:
    """The videos of an archive, corrupted ones replaced.

    Raises:
        V4DError: the archive is not there or damaged, or the replacements are.
    """
    archive = dataset.paths.archive(split, part)
    replaced = None if dataset.options.given_up(split, part) else replacements_path(dataset, split)
    return archive_videos(archive, expected, Replacements(replaced).get if replaced else None)


def _nothing(path: Path, name: str) -> Path:
    print(f"{name} is given up (dataset.kinetics.give_up): its videos count as missing", file=sys.stderr)
    with exclusive(path), atomic_path(path) as temporary, tarfile.open(temporary, "w"):
        pass
    return path


def _download(dataset: DatasetConfig, url: str, path: Path, patience: RetryPolicy) -> None:
    """Download an archive, unless it is there already and whole."""
    lock, name = LockFile(dataset.paths.lock), f"{path.parent.name}/{path.name}"
    if path.exists() and _adopted(lock, name, path, url):
        return
    options, accept = dataset.options, functools.partial(lock.record, name)
    limits = {"connections": options.connections, "rate_limit": options.rate_limit}
    fetch(url, path, **limits, patience=patience, check=check_archive, accept=accept)


def _adopted(lock: LockFile, name: str, path: Path, url: str) -> bool:
    """Whether a file that lies at the target can stay: the locked one, or a whole archive without a lock."""
    entry = lock.get(name)
    if entry is None:
        try:
            check_archive(path)
        except V4DError as error:
            print(f"{error}; it is downloaded again", file=sys.stderr, flush=True)
            return False
        lock.record_file(name, path, url)
        return True
    digests = digest(path)
    return (entry.size, entry.sha256) == (digests.size, digests.sha256)


def _check_list(dataset: DatasetConfig, split: str) -> None:
    """Hold the configured number of archives against the list at the source, where that can be had.

    A trial run (`dataset.limit`) may take fewer than there are.

    Raises:
        V4DError: they differ; the message says in what.
    """
    url = address(dataset, split, f"k{dataset.options.version}_{split}_path.txt")
    try:
        text = read_text(url)
    except (TransientError, V4DError) as error:
        print(f"note: the list of archives cannot be had ({error})", file=sys.stderr, flush=True)
        return
    addresses = [line.strip() for line in text.splitlines() if line.strip()]
    listed = {Path(urllib.parse.urlsplit(address).path).name for address in addresses}
    parts = dataset.options.archive_names(split)
    expected = {f"{part}.tar.gz" for part in parts}
    missed = {f"{part}.tar.gz" for part in parts if not dataset.options.given_up(split, part)}
    unknown = set() if dataset.limit is not None else listed - expected
    gone, new = (sorted(names, key=lambda name: (len(name), name)) for names in (missed - listed, unknown))
    if gone or new:
        odd = {"not there any more": gone, "new": new}
        changes = [f"{len(names)} are {what} ({some_of(names)})" for what, names in odd.items() if names]
        raise V4DError(
            f"the archives of {split} have changed: {url} lists {len(listed)}, "
            f"dataset.kinetics.parts.{split} is {len(expected)}: {' and '.join(changes)}"
            + ("; dataset.kinetics.give_up does without some" if gone else "")
        )

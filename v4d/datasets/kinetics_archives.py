"""Archives, brought here: rendered for the synthetic set, downloaded and locked for Kinetics."""

import sys
import tarfile
import urllib.parse
from pathlib import Path

from v4d.config import DatasetConfig
from v4d.datasets import youtube
from v4d.datasets.annotations import archive_names
from v4d.datasets.archives import check_archive
from v4d.datasets.download.checksums import digest
from v4d.datasets.download.fetch import fetch
from v4d.datasets.download.http import RetryPolicy, TransientError, UnavailableError, read_text
from v4d.datasets.kinetics import archive_list_url, archive_url, replacements_path, replacements_url
from v4d.datasets.lockfile import LockEntry, LockFile
from v4d.datasets.replacements import repack
from v4d.errors import V4DError
from v4d.utils.cost import measured
from v4d.utils.files import atomic_path, exclusive

PATIENCE = RetryPolicy()


def download_archive(dataset: DatasetConfig, split: str, part: str, patience: RetryPolicy = PATIENCE) -> Path:
    """Bring one archive; the path it then has.

    Args:
        part: `part_<i>`; for Kinetics also `replacements`, and `youtube` for what no archive holds. In the
            place of one that is given up (dataset.kinetics.give_up) comes an archive of nothing.

    Raises:
        V4DError: the source has no archives or no such part, the archive cannot be had or is another than
            the one that was locked.
    """
    if split not in dataset.splits:
        raise V4DError(f"no split {split!r}; dataset.splits has {', '.join(dataset.splits)}")
    path = dataset.root / "archives" / split / f"{part}.tar.gz"
    if dataset.source == "folder":
        raise V4DError("dataset.source folder has no archives: its clips are made from the files themselves")
    if dataset.source == "synthetic":
        from v4d.datasets.synthetic import make_archive

        make_archive(dataset, split, part, path)
        return path
    if part == "replacements":
        replaced = download_replacements(dataset, split, patience)
        if replaced is None:
            raise V4DError(f"{split} has no replacements, or dataset.kinetics.use_replacements is off")
        return replaced
    if part == youtube.PART:
        return youtube.download_missing(dataset, split)
    _check_part(dataset, split, part)
    if dataset.given_up(split, part):
        return _nothing(path, f"{split}/{part}")
    _check_list(dataset, split)
    download_replacements(dataset, split, patience)
    with measured(dataset.root, "archives", split, part) as cost:
        try:
            _download(dataset, archive_url(dataset.kinetics, split, part), path, patience)
        except UnavailableError as error:
            way_out = f"dataset.kinetics.give_up: [{split}/{part}] makes the data set without this archive"
            raise V4DError(f"{error}; {way_out}") from error
        cost.bytes = path.stat().st_size
    return path


def _nothing(path: Path, name: str) -> Path:
    print(f"{name} is given up (dataset.kinetics.give_up): its videos count as missing", file=sys.stderr)
    with exclusive(path), atomic_path(path) as temporary, tarfile.open(temporary, "w"):
        pass
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
    lock, name = LockFile(dataset.root), f"{split}/{path.name}"
    with exclusive(path):
        entry = lock.get(name)
        if path.exists() and entry is not None and path.stat().st_size == entry.size:
            return path
        packed = path.with_suffix(".tgz")
        try:
            _download(dataset, replacements_url(dataset.kinetics), packed, patience)
        except V4DError as error:
            hint = "dataset.kinetics.use_replacements: false does without replacements"
            raise V4DError(f"{error}; {hint}") from error
        repack(packed, path)
        digests = digest(path)
        lock.record(name, LockEntry(digests.size, digests.sha256, "", replacements_url(dataset.kinetics)))
        packed.unlink()
    return path


def _download(dataset: DatasetConfig, url: str, path: Path, patience: RetryPolicy) -> None:
    """Download an archive, unless it is there already and whole."""
    lock, name = LockFile(dataset.root), f"{path.parent.name}/{path.name}"
    if path.exists() and _adopted(lock, name, path, url):
        return
    fetch(
        url,
        path,
        connections=dataset.kinetics.connections,
        rate_limit=dataset.kinetics.rate_limit,
        patience=patience,
        check=check_archive,
        accept=lambda entry: lock.record(name, entry),
    )


def _adopted(lock: LockFile, name: str, path: Path, url: str) -> bool:
    """Whether a file that lies at the target can stay: the locked one, or a whole archive without a lock."""
    entry = lock.get(name)
    digests = digest(path)
    if entry is None:
        try:
            check_archive(path)
        except V4DError as error:
            print(f"{error}; it is downloaded again", file=sys.stderr, flush=True)
            return False
        lock.record(name, LockEntry(digests.size, digests.sha256, "", url))
        return True
    return (entry.size, entry.sha256) == (digests.size, digests.sha256)


def _check_part(dataset: DatasetConfig, split: str, part: str) -> None:
    names = archive_names(dataset, split)
    if part not in names:
        raise V4DError(f"no part {part!r}: {split} has part_0 to {names[-1]} (dataset.kinetics.parts)")


def _check_list(dataset: DatasetConfig, split: str) -> None:
    """Hold the configured number of archives against the list at the source, where that can be had.

    A trial run (`dataset.limit`) may take fewer than there are.

    Raises:
        V4DError: they differ; the message says in what.
    """
    url = archive_list_url(dataset.kinetics, split)
    try:
        text = read_text(url)
    except (TransientError, V4DError) as error:
        print(f"note: the list of archives cannot be had ({error})", file=sys.stderr, flush=True)
        return
    addresses = [line.strip() for line in text.splitlines() if line.strip()]
    listed = {Path(urllib.parse.urlsplit(address).path).name for address in addresses}
    expected = {f"{part}.tar.gz" for part in archive_names(dataset, split)}
    given_up = {f"{part}.tar.gz" for part in archive_names(dataset, split) if dataset.given_up(split, part)}
    gone = _in_order(expected - listed - given_up)
    new = [] if dataset.limit is not None else _in_order(listed - expected)
    if gone or new:
        changes = [f"{len(gone)} are not there any more ({_some(gone)})"] if gone else []
        changes += [f"{len(new)} are new ({_some(new)})"] if new else []
        raise V4DError(
            f"the archives of {split} have changed: {url} lists {len(listed)}, "
            f"dataset.kinetics.parts.{split} is {len(expected)}: {' and '.join(changes)}"
            + ("; dataset.kinetics.give_up does without some" if gone else "")
        )


def _in_order(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (len(name), name))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

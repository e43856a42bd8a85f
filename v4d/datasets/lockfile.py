"""The lock of a data set: sizes and sha256 of what was downloaded, written once, held against ever after.

data/<dataset>/archives.lock.json   {"train/part_0.tar.gz": {"size", "sha256", "etag", "url"}, ...}

It outlives the archives, which are deleted once their clips are made: an archive that is fetched again
must be the one that was fetched first. Keep it with your results, and another machine gets the same data.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from v4d.config.paths import DatasetPaths
from v4d.datasets.download.checksums import digest
from v4d.errors import V4DError
from v4d.utils.addresses import without_secrets
from v4d.utils.files import exclusive, file_sha256, read_json, write_json
from v4d.utils.progress import progress


@dataclass(frozen=True)
class LockEntry:
    """What a file was when it was fetched first."""

    size: int
    """Bytes."""
    sha256: str
    etag: str = ""
    url: str = ""


class LockFile:
    """The lock file of one data set (`DatasetPaths.lock`); safe to use from several processes."""

    def __init__(self, path: Path):
        self.path = path

    def entries(self) -> dict[str, LockEntry]:
        """Everything that is locked, by name.

        Raises:
            V4DError: the file is no lock file.
        """
        if not self.path.exists():
            return {}
        try:
            entries = {name: LockEntry(**entry) for name, entry in read_json(self.path).items()}
            return {
                name: dataclasses.replace(entry, url=without_secrets(entry.url))  # an older version wrote it
                for name, entry in entries.items()
            }
        except (TypeError, AttributeError) as error:
            raise V4DError(f"{self.path} is no lock file: {error}") from error

    def get(self, name: str) -> LockEntry | None:
        """What is locked under a name, if anything."""
        return self.entries().get(name)

    def record_file(self, name: str, path: Path, url: str = "", *, replace: bool = False) -> None:
        """`record` a file as it is on disk."""
        digests = digest(path)
        self.record(name, LockEntry(digests.size, digests.sha256, "", url), replace=replace)

    def record(self, name: str, entry: LockEntry, *, replace: bool = False) -> None:
        """Write an entry, or hold a file against the one that is there unless it may be replaced.

        Raises:
            V4DError: it is another file than the one that was locked.
        """
        with exclusive(self.path):
            entries = self.entries()
            known = None if replace else entries.get(name)
            if known is None:
                entries[name] = entry
                write_json(self.path, {key: asdict(entries[key]) for key in sorted(entries)})
            elif (known.size, known.sha256) != (entry.size, entry.sha256):
                raise V4DError(
                    f"{name} is not what it was: {self.path} holds {known.size} bytes, sha256 "
                    f"{known.sha256[:12]}..., now it is {entry.size} bytes, {entry.sha256[:12]}...; delete "
                    f"its entry there to accept the new one"
                )


def verify_archives(paths: DatasetPaths, unlocked: Collection[Path] = ()) -> list[str]:
    """Hold every archive that is on disk against the lock; a line for each that is wrong.

    Archives that were deleted after use are no fault, those without an entry are.

    Args:
        unlocked: archives that are not to be looked at.
    """
    lock = LockFile(paths.lock)
    entries = lock.entries()
    files = sorted(
        path
        for path in paths.archives.glob("*/*")
        if path.suffix in (".gz", ".tar") and not path.name.startswith(".") and path not in unlocked
    )
    problems = []
    for path in progress(files, what="verify archives", unit="archives"):
        name = path.relative_to(paths.archives).as_posix()
        entry = entries.get(name)
        if entry is None:
            problems.append(f"{path}: not in {lock.path}")
        elif path.stat().st_size != entry.size:
            problems.append(f"{path}: {path.stat().st_size} bytes, {entry.size} were locked")
        elif file_sha256(path) != entry.sha256:
            problems.append(f"{path}: its sha256 is not the locked one")
    return problems

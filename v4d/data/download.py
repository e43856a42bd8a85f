"""Archives, brought here."""

from pathlib import Path

from v4d.config import DatasetConfig
from v4d.errors import V4DError


def bring_archive(dataset: DatasetConfig, split: str, part: str) -> Path:
    """Bring one archive; the path it then has.

    Raises:
        V4DError: the source has no archives, or the archive cannot be had.
    """
    path = dataset.root / "archives" / split / f"{part}.tar.gz"
    if dataset.source == "synthetic":
        from v4d.data.synthetic import make_archive

        make_archive(dataset, split, part, path)
    elif dataset.source == "folder":
        raise V4DError("dataset.source folder has no archives: its clips are made from the files themselves")
    else:
        raise V4DError("not yet")
    return path

"""A user's own videos."""

from typing import ClassVar, Literal

from v4d.config.data import SourceOptions
from v4d.config.fields import key


class FolderOptions(SourceOptions):
    """Your own videos."""

    traceless: ClassVar[bool] = False

    path: str = key(
        "videos",
        "The folder, with <split>/<class>/*.mp4 (class_dirs) or <split>.csv with the columns path,label "
        "(csv).",
    )
    layout: Literal["class_dirs", "csv"] = key("class_dirs", "How labels are given.")


class Folder:
    """A user's own videos."""

    Options = FolderOptions

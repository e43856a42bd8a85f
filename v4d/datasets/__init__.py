"""Where videos come from: `SOURCES`, a `DataSource` a data set."""

from v4d.config.registry import SOURCES
from v4d.datasets.base import Annotations, DataSource, open_source
from v4d.datasets.folder import FileSource, Folder
from v4d.datasets.kinetics import Kinetics
from v4d.datasets.kinetics_versions import released_classes
from v4d.datasets.synthetic import Synthetic

__all__ = ["SOURCES", "Annotations", "DataSource", "FileSource", "open_source", "released_classes"]

SOURCES |= {"synthetic": Synthetic, "folder": Folder, "kinetics": Kinetics}

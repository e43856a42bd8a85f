"""Where videos come from: `SOURCES`, a class a data set."""

from v4d.config.registry import SOURCES
from v4d.datasets.folder import Folder
from v4d.datasets.kinetics_options import Kinetics
from v4d.datasets.synthetic_options import Synthetic

__all__ = ["SOURCES"]

SOURCES |= {"synthetic": Synthetic, "folder": Folder, "kinetics": Kinetics}

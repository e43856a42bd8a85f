"""How files with videos are named."""

_NAMES = """
3g2 3gp apng asf avi dv f4v flv gif ivf m2ts m2v m4v mj2 mjpeg mkv mov mp4 mpeg mpg mts mxf nut ogg ogv ts vob
webm wmv y4m
"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""What `v4d predict` takes for a video in a folder. A file that is named is tried whatever it is called."""
ARCHIVED_SUFFIXES = frozenset({".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".flv", ".mpg"})
"""What is a video in an archive: formats in which data sets are delivered. Others are files beside the
videos, a GIF as a preview for one."""
FOLDER_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv")
"""What is a video in a user's folder: the formats that the documentation promises. A further one would turn
files beside the videos of a finished data set into videos, and the set into another."""

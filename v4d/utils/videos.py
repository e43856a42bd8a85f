"""How files with videos are named."""

_NAMES = """
3g2 3gp apng asf avi dv f4v flv gif ivf m2ts m2v m4v mj2 mjpeg mkv mov mp4 mpeg mpg mts mxf nut ogg ogv ts vob
webm wmv y4m
"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""What `v4d predict` takes for a video in a folder. A file that is named is tried whatever it is called."""
DATASET_SUFFIXES = frozenset({".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".flv", ".mpg"})
"""What is a video in a data set, in an archive or a folder: formats in which data sets are delivered and
cameras record. Others are files beside the videos, a GIF as a preview for one."""

"""Algorithm 1, views, metrics and temporal order."""

from v4d.evaluation.algorithm1 import video_scores

__all__ = ["video_scores"]

"""The run `dataset` of an experiment: the data set's counts, settings and tables."""

from v4d.config import Config, config_sha
from v4d.data.index import dataset_info
from v4d.tracking import open_tracker


def log_dataset_run(config: Config) -> str | None:
    """Log a finished data set as the run `dataset`; the run's id, or None where nothing is tracked.

    Raises:
        V4DError: the data set is not finished.
    """
    info = dataset_info(config)
    files = config.dataset.paths
    with open_tracker(config, "dataset") as tracker:
        tracker.set_tags({"dataset_fingerprint": info["fingerprint"], "config_sha": config_sha(config)})
        tracker.log_params({"name": info["name"], "source": info["source"], "classes": info["classes"]})
        for split, counts in info["counts"].items():
            tracker.log_metrics({f"{split}/{status}": count for status, count in counts.items()}, step=0)
        tracker.log_dataset(info)
        for file in (files.info, files.missing, files.quarantine):
            tracker.log_artifact(file)
        tracker.close("FINISHED")
    return tracker.run_id

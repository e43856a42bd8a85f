"""Config files, read once: YAML in, typed and checked objects out.

A key is said once, in `data`, `training`, `models` and `root`; the JSON schema, the reference in `docs/` and
what makes a stage run again follow from it. Sources of videos and architectures bring keys of their own
(`registry`).
"""

from v4d.config.data import ClipsConfig, DatasetConfig, FramesConfig, SourceOptions, frame_size
from v4d.config.fields import Block, key, plain, settings
from v4d.config.load import (
    build,
    config_sha,
    load,
    merge,
    preparation_settings,
    read,
    resolve,
    sha,
    stage_class,
    validate,
    write_resolved,
)
from v4d.config.models import ArchOptions, ModelConfig, StageConfig
from v4d.config.relations import notes
from v4d.config.root import Config
from v4d.config.training import (
    CropConfig,
    OptimizerConfig,
    ScheduleConfig,
    TestingConfig,
    TrackingConfig,
    TrainingConfig,
    check_mixup,
    check_share,
    compiles,
    decodes_on_gpu,
    takes_bf16,
)

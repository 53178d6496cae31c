"""The YAML file as frozen models: every field documented, every bound checked before work begins.

Paths are taken relative to the YAML file's folder. Options of merge methods are kept as given here and bound by
:mod:`aftermix.merging.methods`, which knows them.
"""

from aftermix.config.calibrate import CalibrateConfig, CalibrationConfig
from aftermix.config.compare import RivalConfig, RivalTrainingConfig
from aftermix.config.evaluate import CALLABLE, EvaluateConfig, ItemsConfig, PromptConfig, Split, TaskConfig
from aftermix.config.fields import ConfigSection
from aftermix.config.file import Config, as_yaml_values, explain_missing_section, load_config, parse_config, require
from aftermix.config.machines.hardware import (
    DiskConfig,
    EngineConfig,
    GpuConfig,
    HardwareConfig,
    HostConfig,
    SpeedConfig,
    WorkConfig,
    load_hardware,
)
from aftermix.config.merge import SEARCH_EXCLUDE, MergeConfig, VectorConfig
from aftermix.config.mixture import LevelConfig, MixtureConfig, UtilityConfig
from aftermix.config.optimizer import OptimizerConfig, ScaleConfig
from aftermix.config.rounds.iterate import IterateConfig
from aftermix.config.search import Dimension, Objective, SearchConfig, SearchedSettings
from aftermix.config.tracking.track import TrackConfig
from aftermix.config.train import (
    DatasetConfig,
    LoraConfig,
    SourceConfig,
    TrainConfig,
    TrainedMixturesConfig,
)

__all__ = [
    "CALLABLE",
    "SEARCH_EXCLUDE",
    "CalibrateConfig",
    "CalibrationConfig",
    "Config",
    "ConfigSection",
    "DatasetConfig",
    "Dimension",
    "DiskConfig",
    "EngineConfig",
    "EvaluateConfig",
    "GpuConfig",
    "HardwareConfig",
    "HostConfig",
    "ItemsConfig",
    "IterateConfig",
    "LevelConfig",
    "LoraConfig",
    "MergeConfig",
    "MixtureConfig",
    "Objective",
    "OptimizerConfig",
    "PromptConfig",
    "RivalConfig",
    "RivalTrainingConfig",
    "ScaleConfig",
    "SearchConfig",
    "SearchedSettings",
    "SourceConfig",
    "SpeedConfig",
    "Split",
    "TaskConfig",
    "TrackConfig",
    "TrainConfig",
    "TrainedMixturesConfig",
    "UtilityConfig",
    "VectorConfig",
    "WorkConfig",
    "as_yaml_values",
    "explain_missing_section",
    "load_config",
    "load_hardware",
    "parse_config",
    "require",
]

"""Typed, validated configuration: YAML in, a frozen ``Config`` out."""

from dathvd.config.attack import AttackConfig
from dathvd.config.base import Section
from dathvd.config.compression import CompressionConfig
from dathvd.config.data import DataConfig
from dathvd.config.evaluation import EvaluationConfig
from dathvd.config.guard import GuardConfig
from dathvd.config.load import dump_config, explain, load_config
from dathvd.config.model import ModelConfig
from dathvd.config.objective import ObjectiveConfig
from dathvd.config.optimizer import OptimizerConfig, ScheduleConfig
from dathvd.config.root import Config
from dathvd.config.shipped import find_config, shipped_configs
from dathvd.config.stationarity import StationarityConfig
from dathvd.config.train import TrainConfig

__all__ = [
    "AttackConfig",
    "CompressionConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "GuardConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "Section",
    "StationarityConfig",
    "TrainConfig",
    "dump_config",
    "explain",
    "find_config",
    "load_config",
    "shipped_configs",
]

"""The whole configuration, and the rules that span its sections."""

from __future__ import annotations

from pydantic import model_validator

from dathvd.config.attack import AttackConfig
from dathvd.config.base import Natural, Section
from dathvd.config.compression import CompressionConfig
from dathvd.config.data import DataConfig
from dathvd.config.evaluation import EvaluationConfig
from dathvd.config.model import ModelConfig
from dathvd.config.objective import ObjectiveConfig
from dathvd.config.optimizer import OptimizerConfig, ScheduleConfig
from dathvd.config.train import TrainConfig


class Config(Section):
    """All that decides a run, apart from hosts and resources."""

    seed: Natural = 0
    """Seed of every random choice of the run."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    attack: AttackConfig = AttackConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    compression: CompressionConfig = CompressionConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        if self.train.overlap == "attack" and self.attack.name in ("none", "free"):
            raise ValueError(
                f"train.overlap: attack has nothing to hide behind with attack.name "
                f"{self.attack.name!r}; set train.overlap to none"
            )
        if self.objective.name == "plain" and self.attack.name != "none":
            raise ValueError(
                "objective.name: plain uses no adversarial images; set attack.name to "
                "none"
            )
        return self

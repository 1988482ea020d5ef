"""The whole configuration, and the rules that span its sections."""

from __future__ import annotations

from pydantic import model_validator

from dathvd.config.attack import AttackConfig
from dathvd.config.base import Natural, Section
from dathvd.config.compression import CompressionConfig
from dathvd.config.data import DataConfig
from dathvd.config.evaluation import EvaluationConfig
from dathvd.config.following import attack_of_objective, evaluation_of_training
from dathvd.config.model import ModelConfig
from dathvd.config.objective import ObjectiveConfig
from dathvd.config.optimizer import OptimizerConfig, ScheduleConfig
from dathvd.config.train import TrainConfig
from dathvd.registry import Choice, is_foreign


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
    def _fill_in_what_follows(self) -> Config:
        attack = attack_of_objective(self.attack, self.objective.name)
        judge = evaluation_of_training(self.evaluation.attack, attack)
        evaluation = self.evaluation.model_copy(update={"attack": judge})
        # the sections are frozen for users; these values are part of their making
        self.__dict__.update(attack=attack, evaluation=evaluation)
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        if self.train.overlap == "attack" and self.attack.name in ("none", "free"):
            raise ValueError(
                f"train.overlap: attack has nothing to hide behind with attack.name "
                f"{self.attack.name!r}; set train.overlap to none"
            )
        if (
            self.train.batch_norm == "synchronised"
            and self.attack.model_mode == "train"
        ):
            raise ValueError(
                "train.batch_norm: synchronised would exchange statistics at every "
                "step of an attack in train mode; set attack.model_mode to eval"
            )
        if self.train.activation_checkpointing and (
            self.train.compile or self.train.batch_norm == "synchronised"
        ):
            raise ValueError(
                "train.activation_checkpointing: does not go together with "
                "train.compile or train.batch_norm synchronised; set it to false"
            )
        self._guard_has_something_to_watch()
        if self.objective.name == "plain" and self.attack.name != "none":
            raise ValueError(
                "objective.name: plain uses no adversarial images; set attack.name to "
                "none"
            )
        if not self.objective.has_classes and (
            self.attack.from_clean or self.attack.target != "none"
        ):
            raise ValueError(
                f"objective.name: {self.objective.name} has no classes to diverge from "
                "or to aim at; set attack.loss to cross_entropy and attack.target to "
                "none"
            )
        return self

    @model_validator(mode="after")
    def _there_is_a_worst_case_to_measure(self) -> Config:
        attack, objective = self.attack.name, self.objective
        if self.train.stationarity.every and (
            attack == "none" or objective.is_self_supervised
        ):
            raise ValueError(
                "train.stationarity.every: there is no worst-case loss of labelled "
                f"images with attack.name {attack!r} and objective.name "
                f"{objective.name!r}; set train.stationarity.every to 0"
            )
        return self

    @model_validator(mode="after")
    def _images_are_apart_where_each_has_its_ball(self) -> Config:
        if self.attack.combine == "sample" and not self.objective.has_classes:
            raise ValueError(
                f"objective.name: {self.objective.name} compares a batch's images, and "
                "attack.combine sample attacks them apart; set attack.combine to max"
            )
        return self

    @model_validator(mode="after")
    def _gradients_can_be_aligned(self) -> Config:
        if not self.objective.grad_align:
            return self
        train, attack = self.train, self.attack
        problem = None
        if not self.objective.has_classes:
            problem = f"{self.objective.name} has no classes to take gradients of"
        elif attack.name == "none" or tuple(attack.threat) != ("linf",):
            problem = "it is of an attack in one L∞ ball"
        elif train.batch_norm == "synchronised" or train.activation_checkpointing:
            problem = (
                "second derivatives do not go through train.batch_norm synchronised or "
                "train.activation_checkpointing"
            )
        elif train.compile:
            problem = "second derivatives do not go through train.compile"
        if problem is not None:
            raise ValueError(f"objective.grad_align: {problem}; set it to 0")
        return self

    @model_validator(mode="after")
    def _noise_is_not_clipped(self) -> Config:
        if self.data.noise and self.attack.name != "none":
            raise ValueError(
                f"data.noise: {self.data.noise:g} moves images beyond [0, 1], to which "
                f"attack.name {self.attack.name} clips them; set attack.name to none"
            )
        return self

    @model_validator(mode="after")
    def _mixed_labels_fit(self) -> Config:
        mix = self.data.mix
        if mix is None:
            return self
        if self.objective.is_self_supervised or self.objective.name == "mart":
            raise ValueError(
                f"data.mix: {mix} gives an image two labels, and objective.name "
                f"{self.objective.name} wants one; set data.mix to null"
            )
        if self.attack.loss == "margin" or self.attack.target != "none":
            raise ValueError(
                f"data.mix: {mix} gives an image two labels, and the attack wants one; "
                "set attack.loss to cross_entropy, and attack.target to none"
            )
        return self

    def foreign(self) -> dict[str, str]:
        """The components that lie outside of dathvd: field, such as ``model.name``, to
        place. Building one of them runs its module's code."""
        sections: dict[str, Choice] = {
            "data": self.data,
            "model": self.model,
            "attack": self.attack,
            "objective": self.objective,
            "optimizer": self.optimizer,
            "compression": self.compression,
            "evaluation.attack": self.evaluation.attack,
        }
        return {
            f"{place}.name": section.name
            for place, section in sections.items()
            if is_foreign(section.name)
        }

    def _guard_has_something_to_watch(self) -> None:
        action, attack = self.train.guard.action, self.attack.name
        if not self.train.probes:
            return
        if attack == "none" or self.objective.is_self_supervised:
            field, off = "guard.action", "none"
            if action == "none":
                field, off = "select", "last"
            if action == "none" and self.train.select == "last":
                field, off = "ema_decay", "one decay, without swa_start"
            raise ValueError(
                f"train.{field}: there is no robust accuracy to watch with "
                f"attack.name {attack!r} and objective.name {self.objective.name!r}; "
                f"set train.{field} to {off}"
            )
        if attack == "free" and action not in ("none", "warn"):
            raise ValueError(
                f"train.guard.action: {action} cannot add steps to attack.name free; "
                "set train.guard.action to warn"
            )

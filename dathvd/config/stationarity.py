"""The estimate of how far training is from a stationary point."""

from __future__ import annotations

from pydantic import model_validator

from dathvd.config.base import Count, Natural, Section

MIN_GROUPS = 3
"""Groups that a jackknife's error needs: it leaves out one of at least two pairs."""


class StationarityConfig(Section):
    """An unbiased estimate of the squared length of the objective's gradient.

    The objective is the run's own, on the worst images that a strong PGD finds in the
    ball of the training attack: what the convergence theorem of DAT bounds (Zhang et
    al., UAI 2022). Nothing of the training changes by it.
    """

    every: Natural = 0
    """Steps between estimates, each with a row of metrics; 0 leaves them out."""
    num_samples: Count = 512
    """Training images that are drawn once, as training draws them, with their random
    starts and augmentation: the same in every estimate, for any number of workers."""
    group_size: Count = 32
    """Images of a group: products of different groups' gradients are averaged, as a
    gradient's own square is too large by its variance."""
    num_steps: Count = 20
    """Steps of the PGD that attacks them, from random starts."""
    restarts: Count = 1
    """Runs of it from different starts; the highest loss counts for each image."""

    @model_validator(mode="after")
    def _there_are_whole_groups(self) -> StationarityConfig:
        size, few = self.group_size, MIN_GROUPS * self.group_size
        if self.num_samples % size or self.num_samples < few:
            nearest = max(round(self.num_samples / size) * size, few)
            raise ValueError(
                f"num_samples: {self.num_samples} images are not {MIN_GROUPS} or more "
                f"groups of group_size {size}; take {nearest}"
            )
        return self

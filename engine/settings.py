"""Settings: everything that can change a result, by section.

Each section stands with its owner: the steps', the partitions' and training's in modules of their own, a method's in
the method's folder. ``engine.commands.configuration`` adds the methods' sections and reads settings from files and
options.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field, PrivateAttr

from engine.learning.settings import MetricSettings, SamplingSettings, TrainSettings
from engine.partitions.settings import PartitionSettings
from engine.sections import MAX_INTEGER, Section
from engine.steps.settings import IngestSettings, KnnSettings, ScoreSettings

S = TypeVar("S", bound=Section)


class Settings(Section):
    """The settings that methods share; ``of`` gives a method's own.

    ``named``: the settings that were given by name for one piece of work, which must read each of them. A file or a
    preset may serve several.
    """

    _named: frozenset[str] = PrivateAttr(default=frozenset())
    method: str = Field(
        "auto",
        description="auto: the model's; without one self_trained where N is not very large and no "
        "partition.min_score is set, else cosine; training: star_fc if settings of it are set or rows are many, "
        "else structural",
    )
    seed: int = Field(0, ge=0, le=MAX_INTEGER, description="seeds sampling, training and k-means")
    ingest: IngestSettings = IngestSettings()
    knn: KnnSettings = KnnSettings()
    score: ScoreSettings = ScoreSettings()
    partition: PartitionSettings = PartitionSettings()
    sampling: SamplingSettings = SamplingSettings()
    train: TrainSettings = TrainSettings()
    metric: MetricSettings = MetricSettings()

    @property
    def named(self) -> frozenset[str]:
        return self._named

    def unnamed(self) -> Settings:
        """Return the same settings as if a file gave them: what a piece of work does not read is not refused."""
        settings = self.model_copy()
        settings._named = frozenset()
        return settings

    def of(self, section: type[S]) -> S:
        """Return the section of this type; its defaults where nothing of it is given."""
        found = getattr(self, section.name, None)
        return found if isinstance(found, section) else section()

    def with_section(self, section: Section) -> Settings:
        """Return the same settings with another section of this type."""
        return self.model_copy(update={section.name: section})

    def with_k(self, k: int) -> Settings:
        """Return the same settings with another ``knn.k``."""
        return self.with_section(self.knn.model_copy(update={"k": k}))

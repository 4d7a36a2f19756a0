"""What a search for neighbours is of, whichever way it goes, and what its recall is estimated from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.settings import Settings
from engine.steps.ingest import Rows, Vectors
from engine.steps.knn import Order, Sampled, Truth
from engine.steps.settings import KnnSettings


@dataclass(frozen=True)
class Search:
    """A search for the ``k`` nearest neighbours of each row.

    ``vectors``: what is compared, by row: the rows as they are, or in a learned metric. ``prefix`` tells the steps of
    one graph from those of another in a plan.
    """

    rows: Rows
    vectors: Vectors[Any]
    settings: Settings
    k: int
    prefix: str = ""

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    @property
    def config(self) -> KnnSettings:
        return self.settings.knn

    @property
    def stored_bytes(self) -> int:
        """Bytes of a stored number."""
        return 2 if self.settings.ingest.dtype == "float16" else 4

    def truth(self, features: Vectors[Any], order: Order | None) -> Truth | None:
        """The exact neighbours of sampled rows, unless no rows are to be sampled.

        ``features``: the vectors by vertex, numbered as ``order`` says.
        """
        samples = min(self.config.recall_samples, self.num_rows)
        if not samples:
            return None
        sampled = Sampled(
            prefix=self.prefix,
            num_rows=self.num_rows,
            features=features,
            rows=self.rows,
            order=order,
            k=self.k,
            samples=samples,
            seed=self.settings.seed,
            scratch=True,
        )
        return Truth(prefix=self.prefix, sampled=sampled)

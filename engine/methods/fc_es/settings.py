"""Settings of FC-ES and FC-ESER."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from engine.sections import Section


class FcEsSettings(Section):
    """FC-ES's walks, and what FC-ESER takes back."""

    name: ClassVar[str] = "fc_es"
    neighbors: int = Field(
        0, ge=0, le=80, description="nearest neighbours of each row that are read; 0: as training chose, else knn.k"
    )
    delta: float = Field(0.12, ge=0, le=1, description="fc_eser: least NEP of an edge that is taken back")
    eta: float = Field(0.6, ge=0, le=1, description="fc_eser: least probability of an edge that is taken back")


_PUBLISHED = {"method": "map_equation", "weight": "score", "min_score": 0.22}
FC_ES_PRESETS: dict[str, dict[str, Any]] = {"original": {"partition": _PUBLISHED}}


FC_ESER_PRESETS: dict[str, dict[str, Any]] = {"original": {"fc_es": {"neighbors": 80}, "partition": _PUBLISHED}}

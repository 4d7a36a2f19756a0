"""Settings of GCN-E."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from engine.sections import Section, Width


class GcnESettings(Section):
    """GCN-E's network over the candidates of a vertex, which ``train`` trains after GCN-V's."""

    name: ClassVar[str] = "gcn_e"
    inputs: Literal["vectors", "embedded"] = Field(
        "vectors", description="what candidates are told apart by; embedded: GCN-V's embeddings, as published"
    )
    widths: tuple[Width, ...] = Field((512, 512, 256, 256), min_length=1, description="widths of the convolutions")
    hidden: int = Field(256, ge=1, description="width of the classifier's hidden layer")
    active: int = Field(10, ge=1, description="candidates are joined if either lists the other among its first so many")
    skip_share: float = Field(
        0.8, ge=0, lt=1, description="share of the vertices, of lowest confidence, that link to their nearest candidate"
    )
    pivots_per_step: int = Field(32, ge=1, description="vertices of one minibatch")

"""Settings of training that several methods share."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from engine.sections import Section, Share


class SamplingSettings(Section):
    """Structure-preserved subgraph sampling (SPSS)."""

    name: ClassVar[str] = "sampling"
    num_seeds: int = Field(2, ge=1, description="M: seed clusters of one subgraph")
    num_nearest: int = Field(750, ge=1, description="N: nearest clusters taken with each seed")
    cluster_share: float = Field(0.87, gt=0, le=1, description="K1 as a share of the clusters gathered")
    vertex_share: float = Field(0.9, gt=0, le=1, description="K2: share of each cluster's vertices kept")
    far_share: float = Field(0.1, ge=0, le=1, description="random far clusters added, as a share of those kept")
    max_vertices: int = Field(70_000, ge=2, description="clusters are dropped at random until it fits")
    max_per_identity: int = Field(0, ge=0, description="rows of one identity in a subgraph at most; 0 = all")
    identity_balance: float = Field(0.5, ge=0, le=1, description="0: every edge counts alike; 1: every identity")
    positive_share: float = Field(0.5, gt=0, lt=1, description="share of same-identity edges in a minibatch")


class TrainSettings(Section):
    """Training and the choice of thresholds on held-out identities."""

    name: ClassVar[str] = "train"
    max_steps: int = Field(600, ge=1, description="optimiser steps at most")
    edges_per_step: int = Field(4_096, ge=2, description="edges of one minibatch")
    steps_per_subgraph: int = Field(20, ge=1, description="minibatches drawn from each sampled subgraph")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd = published")
    learning_rate: float = Field(2e-3, gt=0, description="initial learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    milestones: tuple[Share, ...] = Field(
        (0.5, 0.8, 0.9), description="shares of max_steps where the rate falls tenfold"
    )
    holdout: float = Field(0.2, gt=0, lt=1, description="share of identities held out for stopping and thresholds")
    evaluate_every: int = Field(50, ge=1, description="steps between checkpoints and held-out evaluations")
    patience: int = Field(6, ge=1, description="evaluations without improvement before training stops")


class MetricSettings(Section):
    """The metric learned from labels, or from first clusters, in which a graph of training and runs is built."""

    name: ClassVar[str] = "metric"
    learn: Literal["auto", "none"] = Field(
        "auto",
        description="auto: by methods that are better for it; none: vectors stay as they are, and a structural "
        "model takes those of any dimension",
    )
    second_graph_rows: int = Field(
        200_000,
        ge=0,
        description="structural, self_trained: up to so many rows, of a training and of a run, edges "
        "are scored in two graphs, of the vectors as they are and in the metric, and both scores count",
    )

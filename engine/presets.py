"""Published settings, by name."""

from __future__ import annotations

from typing import Any

_FULL_GRAPH: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 1e-5,
    "evaluate_every": 500,
    "patience": 160,
}

_STAR_FC_STEPS: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 1e-5,
    "max_steps": 2000,
    "edges_per_step": 8192,
}

_FIVE_PROPOSALS: dict[str, Any] = {"thresholds": [0.55, 0.6, 0.65, 0.7, 0.75], "min_size": 3}
_UNITED: dict[str, Any] = {"thresholds": [0.6, 0.7], "min_size": 3, "union_thresholds": [0.6, 0.7, 0.75]}

# Published settings, by name: ``--config star_fc/original``.
PRESETS: dict[str, dict[str, Any]] = {
    "star_fc/default": {"method": "star_fc"},
    "star_fc/original": {
        "method": "star_fc",
        "model": {"head": "concat", "hidden": 512, "head_hidden": 512},
        "train": _STAR_FC_STEPS,
        "partition": {"method": "components", "min_score": 0.70, "min_intimacy": 0.72},
        "metric": {"learn": "none"},
    },
    "star_fc_hierarchical/original": {
        "method": "star_fc_hierarchical",
        "knn": {"k": 120},
        "sampling": {"num_seeds": 1, "num_nearest": 1_149, "far_share": 0},
        "hierarchy": {"head": "concat", "hidden": 512, "head_hidden": 512},
        "train": _STAR_FC_STEPS,
        "partition": {"method": "components", "min_score": 0.85, "min_intimacy": "adaptive"},
        "metric": {"learn": "none"},
    },
    "l_gcn/original": {
        "method": "l_gcn",
        "l_gcn": {"widths": [512, 512, 256, 256]},
        "train": {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4},
        "partition": {"method": "propagation", "max_size": 300, "step": 0.6},
    },
    "cdp/original": {"method": "cdp", "knn": {"k": 15}, "partition": {"max_size": 600, "step": 0.05}},
    "cdp_mediator/original": {
        "method": "cdp_mediator",
        "knn": {"k": 15},
        "train": {"optimizer": "sgd", "learning_rate": 1e-3, "edges_per_step": 1_024},
        "partition": {"method": "propagation", "max_size": 600, "step": 0.05},
    },
    "fc_es/original": {
        "method": "fc_es",
        "partition": {"method": "map_equation", "weight": "score", "min_score": 0.22},
    },
    "fc_eser/original": {
        "method": "fc_eser",
        "fc_es": {"neighbors": 80},
        "partition": {"method": "map_equation", "weight": "score", "min_score": 0.22},
    },
    "gcn_d/2_proposals": {"method": "gcn_d", "gcn_d": {"thresholds": [0.7, 0.75], "min_size": 3}},
    "gcn_d/5_proposals": {"method": "gcn_d", "gcn_d": _FIVE_PROPOSALS},
    "gcn_d/8_proposals": {"method": "gcn_d", "gcn_d": {**_UNITED, "unions": [[2, 8], [3, 5]]}},
    "gcn_d/20_proposals": {
        "method": "gcn_d",
        "gcn_d": {**_UNITED, "unions": [[2, 8], [2, 12], [2, 16], [3, 5], [3, 10], [4, 4]]},
    },
    "gcn_d/ms1m": {
        "method": "gcn_d",
        "gcn_d": _FIVE_PROPOSALS,
        "train": {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4},
    },
    "gcn_v/ms1m": {
        "method": "gcn_v",
        "gcn_v": {"vertices_per_step": 0},
        "train": {**_FULL_GRAPH, "max_steps": 80_000, "milestones": [0.5, 0.8, 0.9]},
        "partition": {"min_score": 0.65},
    },
    "gcn_v/deepfashion": {
        "method": "gcn_v",
        "knn": {"k": 5},
        "gcn_v": {"vertices_per_step": 0},
        "train": {**_FULL_GRAPH, "max_steps": 80_000, "milestones": [0.5, 0.8, 0.9]},
        "partition": {"min_score": 0.80},
    },
}

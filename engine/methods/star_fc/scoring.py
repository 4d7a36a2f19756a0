"""Vertex codes and edge scores from a trained model, in fixed padded tiles.

Legend: N vertices, n rows of a block, D feature dimension, W width of a vertex code, E edges.
A matrix product gives the same bits for a row wherever it stands in a tile of fixed shape, so neither threads nor the
cut into blocks can change a score. A score is exactly symmetric: an edge is always (lower id, higher id).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from engine.graph.adjacency import EdgeList
from engine.graph.structural_inputs import fill_cosines, fill_products, fill_structural
from engine.learning.layers import EMBED_ROWS, padded_tile
from engine.methods.star_fc.network import NUM_EDGE_INPUTS, InteractionHead, StarFC
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

SCORE_EDGES = 1_024  # the head's layers of one tile stay in a core's second-level cache
DEVICE_TILES = 32  # as large on a GPU, where every call costs more than a small tile's work


@torch.no_grad()
def embed_block(
    model: StarFC, features_nD: Array, *aggregated_nD: Array, threads: int = 1, device: str = "cpu"
) -> Array:
    """Compute the codes of a block of vertices: (n, W) float16, from their unit vectors and rows of Âx."""
    codes = np.empty((len(features_nD), model.code_width), np.float16)
    model, size = model.eval().to(device), _tile_size(EMBED_ROWS, device)

    def run(tile: tuple[int, int]) -> None:
        a, b = tile
        rows = [padded_tile(part[a:b], size, device) for part in (features_nD, *aggregated_nD)]
        with torch.no_grad():
            codes[a:b] = model.encode(*rows)[: b - a].half().cpu().numpy()

    map_tiles(run, tile_bounds(0, len(codes), size), threads)
    return codes


def edge_inputs(
    neighbors_NK: Array, similarities_NK: Array, aggregated_ND: Array, edges: EdgeList, *, threads: int = 1
) -> Array:
    """Compute what an edge's score takes besides the codes.

    The structural inputs, then the cosine of the float16 aggregated vectors: (E, ``NUM_EDGE_INPUTS``) float32.
    """
    inputs = np.empty((len(edges.sources), NUM_EDGE_INPUTS), np.float32)
    graph = np.asarray(neighbors_NK), np.asarray(similarities_NK), np.asarray(aggregated_ND)

    def run(tile: tuple[int, int]) -> None:
        part = slice(*tile)
        _fill_inputs(*graph, EdgeList(*(column[part] for column in edges)), inputs[part])

    map_tiles(run, tile_bounds(0, len(inputs), SCORE_EDGES), threads)
    return inputs


def _fill_inputs(neighbors: Array, similarities: Array, aggregated: Array, edges: EdgeList, out: Array) -> None:
    fill_structural(neighbors, similarities, *edges, out)
    fill_cosines(aggregated, edges.sources, edges.targets, out[:, -1])


def score_edges(
    model: StarFC,
    codes_NW: Array,
    aggregated_ND: Array,
    neighbors_NK: Array,
    similarities_NK: Array,
    edges: EdgeList,
    *,
    threads: int = 1,
    device: str = "cpu",
) -> Array:
    """Score undirected edges: (E,) float32 in [0, 1], the model's probability that both ends are one identity.

    ``codes_NW`` from ``embed_block`` and ``aggregated_ND`` as float16, plain or memory-mapped: only the rows of each
    tile's ends are read. Memory besides the result: a few MB per thread.
    """
    scores = np.empty(len(edges.sources), np.float32)
    model, size = model.eval().to(device), _tile_size(SCORE_EDGES, device)
    codes = np.asarray(codes_NW)
    graph = np.asarray(neighbors_NK), np.asarray(similarities_NK), np.asarray(aggregated_ND)

    def run(tile: tuple[int, int]) -> None:
        part = EdgeList(*(column[slice(*tile)] for column in edges))
        count = len(part.sources)
        inputs = np.zeros((size, NUM_EDGE_INPUTS), np.float32)
        _fill_inputs(*graph, part, inputs[:count])
        given = torch.from_numpy(inputs).to(device)
        with torch.no_grad():
            if isinstance(model.head, InteractionHead):
                products = np.zeros(size, np.float32)
                fill_products(codes, part.sources, part.targets, products[:count])
                logits = model.head.mix(torch.from_numpy(products).to(device) / codes.shape[1], given)
            else:
                first, second = (padded_tile(codes[side], size, device) for side in (part.sources, part.targets))
                logits = model.edge_logits(first, second, given)
            scores[slice(*tile)] = (
                torch.sigmoid(logits)[:count].cpu().numpy()
            )  # whole: the last lanes may round otherwise

    map_tiles(run, tile_bounds(0, len(scores), size), threads)
    return scores


def _tile_size(size: int, device: str) -> int:
    return size if device == "cpu" else size * DEVICE_TILES

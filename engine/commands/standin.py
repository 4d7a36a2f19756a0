"""Stand-in data: unit vectors with the sizes and the difficulty of a large face benchmark, that anyone can make.

Legend: I identities, M modes (poses, ages; several per identity), N rows (images), D = 256 dimensions,
F families, J junk directions.

A direction is a unit vector with Gaussian coordinates whose spread decays with rank, rotated at random. Identity
centres huddle in families of look-alikes; an image is its mode plus noise of its own, and a few images of low quality
also lean towards junk directions that all identities share, which is what chains real clusters together.

Rotations and junk directions (the embedding model's and the camera's doing) are the same for every seed, everything
else is drawn from the seed: one stream for the identities, one for each tile of global rows. Rows are therefore the
same bytes for any block and any number of threads, and two seeds share no identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError
from engine.random_streams import STAND_IN_IDENTITIES, STAND_IN_MODES, STAND_IN_ROWS, STAND_IN_SHARED, stream
from engine.tiles import map_tiles, single_threaded_kernels, tile_bounds

DIM = 256
# Identities of the benchmark's splits, about 68 rows each. Ultra-large has the 52 million rows of the published one.
PARTS = {
    "part1": 8_573,
    "part3": 25_719,
    "part5": 42_865,
    "part7": 60_011,
    "part9": 77_157,
    "ten-million": 147_000,
    "ultra-large": 765_000,
}
TILE_ROWS = 2048
BLOCK_ROWS = 32 * TILE_ROWS

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StandIn:
    """A stand-in data set: what is drawn per identity, from which any rows can be made.

    ``identities`` (N,) say whose image each row is, ``labels`` (N,) what it is labelled: another identity's, for about
    1 % of rows. ``noise`` (I,) is the usual length of an image's own noise. Identity i has the ``modes`` (M, D)
    ``first_modes[i]`` to ``first_modes[i + 1]``; a uniform number u chooses the first whose ``mode_ends`` (M,) exceeds
    i + u. Holds 0.5 KiB per mode (4 modes per identity) and 8 bytes per row: 400 MB for ten million rows.
    """

    seed: int
    num_identities: int
    identities: NDArray[np.int32]
    labels: NDArray[np.int32]
    noise: Floats
    first_modes: NDArray[np.int64]
    mode_ends: NDArray[np.float64]
    modes: NDArray[np.float16]

    @property
    def num_rows(self) -> int:
        """Count the rows, N."""
        return len(self.labels)

    def rows(self, start: int, stop: int, threads: int = 1) -> tuple[Floats, NDArray[np.int64]]:
        """Make rows ``start..stop``: features (n, 256) float32 of norm 1, and their labels (n,) int64.

        Same bytes for any cut into blocks and any number of threads. Whole tiles are drawn (``TILE_ROWS``), so
        blocks much smaller than a tile waste time. Peak: the result and 10 MB per thread.
        """
        if not 0 <= start <= stop <= self.num_rows:
            raise ConfigError(
                f"stand-in data: rows {start}..{stop} asked for, expected a range within 0..{self.num_rows}"
            )
        features_ND = np.empty((stop - start, DIM), np.float32)

        def draw(tile: tuple[int, int]) -> None:
            a, b = tile
            first = a - a % TILE_ROWS
            tile_ND = self._draw_tile(first // TILE_ROWS)
            features_ND[a - start : b - start] = tile_ND[a - first : b - first]

        map_tiles(draw, tile_bounds(start, stop, TILE_ROWS), threads)
        return features_ND, self.labels[start:stop].astype(np.int64)

    def blocks(self, block_rows: int = BLOCK_ROWS, threads: int = 1) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
        """Yield all rows in their order, ``block_rows`` at a time, as ``rows`` makes them."""
        if block_rows < 1:
            raise ConfigError(f"stand-in data: expected at least 1 row per block, got {block_rows}")
        for start in range(0, self.num_rows, block_rows):
            yield self.rows(start, min(start + block_rows, self.num_rows), threads)

    def _draw_tile(self, tile: int) -> Floats:
        identities = self.identities[tile * TILE_ROWS : (tile + 1) * TILE_ROWS]
        n = len(identities)
        random = stream(self.seed, STAND_IN_ROWS, tile)
        modes = np.searchsorted(self.mode_ends, identities + random.random(n), side="right")
        modes = np.clip(modes, self.first_modes[identities], self.first_modes[identities + 1] - 1)
        noise = self.noise[identities] * np.exp(0.35 * random.standard_normal(n, np.float32))
        junk_JD = _junk(_num_junk(self.num_identities))
        low_quality = random.random(n) < 0.04
        lean = np.where(low_quality, random.uniform(0.4, 1.6, n), 0).astype(np.float32)
        towards = random.integers(0, len(junk_JD), n)
        rows_ND = _directions(random, n, _noise_basis())
        rows_ND *= noise[:, None]
        rows_ND += self.modes[modes]
        low = np.flatnonzero(low_quality)
        rows_ND[low] += lean[low, None] * junk_JD[towards[low]]
        return _normalise(rows_ND)


def synthesize(num_identities: int, seed: int, threads: int = 1) -> StandIn:
    """Draw the identities of a stand-in data set: about 68 rows each, at least 2.

    Deterministic in ``num_identities`` and ``seed``. Peak about 1.5 GB for 147,000 identities. Raises ``ConfigError``
    for a number of identities below 2 or a negative seed.
    """
    if num_identities < 2 or seed < 0:
        raise ConfigError(
            f"stand-in data: expected at least 2 identities and a seed >= 0, got {num_identities} and {seed}"
        )
    random = stream(seed, STAND_IN_IDENTITIES)
    with single_threaded_kernels():
        centres_ID = _draw_centres(random, num_identities)
    sizes_I = np.exp(np.log(68) - 0.7**2 / 2 + 0.7 * random.standard_normal(num_identities))
    sizes_I = np.maximum(2, np.rint(sizes_I)).astype(np.int64)
    num_modes_I = 1 + random.poisson(3, num_identities)
    first_mode_I = np.concatenate(([0], np.cumsum(num_modes_I)))
    owners_M = np.repeat(np.arange(num_identities, dtype=np.int32), num_modes_I)
    weights_M = random.standard_gamma(1.0, len(owners_M))
    noise_I = (0.7 * np.exp(0.25 * random.standard_normal(num_identities))).astype(np.float32)
    identities_N = np.repeat(np.arange(num_identities, dtype=np.int32), sizes_I)
    random.shuffle(identities_N)
    labels_N = identities_N.copy()
    mislabelled = random.choice(len(labels_N), len(labels_N) // 100, replace=False)
    labels_N[mislabelled] = labels_N[random.permutation(mislabelled)]
    return StandIn(
        seed=seed,
        num_identities=num_identities,
        identities=identities_N,
        labels=labels_N,
        noise=noise_I,
        first_modes=first_mode_I,
        mode_ends=np.cumsum(weights_M / np.add.reduceat(weights_M, first_mode_I[:-1])[owners_M]),
        modes=_draw_modes(seed, centres_ID, owners_M, threads),
    )


def _draw_centres(random: np.random.Generator, num_identities: int) -> Floats:
    basis = _centre_basis()
    num_families = max(1, num_identities // 6)
    weights_F = random.standard_gamma(1.0, num_families)
    family_I = random.choice(num_families, num_identities, p=weights_F / weights_F.sum())
    closeness_F = np.maximum(0, random.normal(0.5, 0.5, num_families)).astype(np.float32)
    families_FD = _directions(random, num_families, basis) * closeness_F[:, None]
    centres_ID = _directions(random, num_identities, basis)
    centres_ID += families_FD[family_I]
    _normalise(centres_ID)
    num_doubles = num_identities // 100
    doubles, originals = np.split(random.permutation(num_identities)[: 2 * num_doubles], 2)
    centres_ID[doubles] = _normalise(centres_ID[originals] + 0.3 * _directions(random, num_doubles, basis))
    return centres_ID


def _draw_modes(seed: int, centres_ID: Floats, owners_M: NDArray[np.int32], threads: int) -> NDArray[np.float16]:
    modes_MD = np.empty((len(owners_M), DIM), np.float16)

    def draw(tile: tuple[int, int]) -> None:
        a, b = tile
        random = stream(seed, STAND_IN_MODES, a // TILE_ROWS)
        spread = 0.6 * np.exp(0.3 * random.standard_normal((b - a, 1), np.float32))
        modes_MD[a:b] = _normalise(centres_ID[owners_M[a:b]] + spread * _directions(random, b - a, _noise_basis()))

    map_tiles(draw, tile_bounds(0, len(owners_M), TILE_ROWS), threads)
    return modes_MD


def _directions(random: np.random.Generator, num: int, basis_DD: Floats) -> Floats:
    return _normalise(random.standard_normal((num, DIM), np.float32) @ basis_DD)


def _normalise(vectors_ND: Floats) -> Floats:
    """Divide rows by their norms, in place."""
    vectors_ND /= np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))[:, None]
    return vectors_ND


def _num_junk(num_identities: int) -> int:
    return max(1, round(24 * (num_identities / 1000) ** 0.5))


@cache
def _centre_basis() -> Floats:
    return _basis(0.25, 0)


@cache
def _noise_basis() -> Floats:
    return _basis(0.4, 1)


@cache
def _junk(num: int) -> Floats:
    """Return the first ``num`` of the junk directions: small data sets share theirs with large ones."""
    with single_threaded_kernels():
        return _directions(stream(DIM, STAND_IN_SHARED, 2), num, _noise_basis())


def _basis(decay: float, number: int) -> Floats:
    """Return a random rotation (D, D) whose rows are scaled by rank ** -decay, in unit mean square."""
    gaussian: NDArray[Any] = stream(DIM, STAND_IN_SHARED, number).standard_normal((DIM, DIM))
    with single_threaded_kernels():
        q, r = np.linalg.qr(gaussian)
    scale = np.arange(1, DIM + 1) ** -decay
    scale /= np.sqrt(np.mean(scale**2))
    return (scale[:, None] * (q * np.sign(np.diag(r))).T).astype(np.float32)

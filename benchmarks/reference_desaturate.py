"""Desaturation the plain way: the rules of `desaturation_rules`, voxel by voxel.

Written from the rules, not for speed; the tests hold the fast functions against it and `bench_desaturate` tells how
much faster those are.
"""

import math
from collections.abc import Sequence

import numpy as np

Cubes = Sequence[np.ndarray]


def reference_usable(sci: np.ndarray, dq: np.ndarray) -> np.ndarray:
    """Where there is data: finite, not 0, without DO_NOT_USE."""
    out = np.zeros(sci.shape, bool)
    for i in np.ndindex(*sci.shape):
        out[i] = math.isfinite(sci[i]) and sci[i] != 0 and not int(dq[i]) & 1
    return out


def reference_factors(sci: Cubes, err: Cubes, ok: Cubes) -> tuple[np.ndarray, np.ndarray]:
    """Number of the ramp and reason of each voxel by fixed factors; longest ramp first, `ok` where there is data."""
    shape = sci[0].shape
    best, known = sci[0].astype(float), ok[0].copy()
    ramp, kind = np.zeros(shape, int), np.zeros(shape, int)
    for n in range(1, len(sci)):
        reason = np.zeros(shape, int)
        for i in np.ndindex(*shape):
            if not ok[n][i]:
                continue
            shorter, snr = float(sci[n][i]), float(sci[n][i]) / float(err[n][i])
            if not known[i]:
                reason[i] = 1
            elif snr > 300 and best[i] < 0.9 * shorter and ok[-1][i] and shorter < 1.2 * float(sci[-1][i]):
                reason[i] = 2
            elif (
                (best[i] > 1.2 * shorter and snr > 100)
                or (best[i] > 1.5 * shorter and snr > 30)
                or best[i] > 3 * shorter
            ):
                reason[i] = 3
        taken = reason.copy()
        for w, y, x in np.ndindex(*shape):
            near = [reason[v, y, x] for d in (1, 2) for v in (w - d, w + d) if 0 <= v < shape[0] and reason[v, y, x]]
            if not taken[w, y, x] and near:
                taken[w, y, x] = near[0]
        for i in np.ndindex(*shape):
            if taken[i] and ok[n][i]:
                best[i], ramp[i], known[i] = sci[n][i], n, True
                kind[i] = kind[i] or taken[i]
    return ramp, kind


def reference_onset(sci: Cubes, err: Cubes, ok: Cubes, coverage: Cubes | None) -> tuple[np.ndarray, np.ndarray]:
    """From the shortest ramp up, for cubes with too few voxels to find an onset in."""
    shape, last = sci[0].shape, len(sci) - 1
    ramp, kind = np.zeros(shape, int), np.zeros(shape, int)
    for i in np.ndindex(*shape):
        best, error, known = float(sci[last][i]), float(err[last][i]), ok[last][i]
        cover = coverage[last][i] if coverage else 0
        ramp[i] = last
        for n in range(last - 1, -1, -1):
            value, value_error = float(sci[n][i]), float(err[n][i])
            reason = 0
            if known and not ok[n][i]:
                reason = 1
            elif known and coverage and coverage[n][i] < cover:
                reason = 2
            elif known and (not coverage or coverage[n][i] == cover):
                sigma = math.sqrt(value_error**2 + error**2 + (0.0005 * best) ** 2)
                if value - best > 6 * sigma and value > 1.05 * best:
                    reason = 3
            kind[i] = reason
            if reason == 0:
                best, error, ramp[i] = value, value_error, n
                cover = coverage[n][i] if coverage else 0
            known = known or ok[n][i]
    return ramp, kind


def reference_steps(ramp: np.ndarray, ok: Cubes, step: int, free: np.ndarray) -> np.ndarray:
    """Voxels move one after the other until none has to."""
    ramp, shape = ramp.astype(int), ramp.shape
    used = np.zeros(shape, bool)
    for i in np.ndindex(*shape):
        used[i] = ok[ramp[i]][i]
    moved = True
    while moved:
        moved = False
        for i in np.ndindex(*shape):
            if not (used[i] and free[i]):
                continue
            neighbours = []
            for axis in range(3):
                for d in (-1, 1):
                    j = list(i)
                    j[axis] += d
                    if 0 <= j[axis] < shape[axis] and used[tuple(j)]:
                        neighbours.append(ramp[tuple(j)])
            wanted = max(neighbours, default=0) - step
            if wanted > ramp[i]:
                choice = [n for n in range(wanted, len(ok)) if ok[n][i]]
                if choice and choice[0] != ramp[i]:
                    ramp[i], moved = choice[0], True
    return ramp

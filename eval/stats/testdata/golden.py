"""Writes frechet.json and stats.npz, the reference values of this package's tests.

Pinned: numpy 2.4.6, scipy 1.16.3. Run in this folder: python golden.py
Features come from a 64-bit LCG, so that the Go tests rebuild them bit by bit.
"""

import json

import numpy as np
import scipy.linalg


def features(seed, n, dims, shift, spread):
    """[n, dims]: uniform noise with decaying scales, neighbouring dimensions mixed."""
    state, out = seed, np.zeros((n, dims))
    for i in range(n):
        for j in range(dims):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            u = (state >> 11) / 2.0**53 - 0.5
            out[i, j] = u * spread / (1 + j % 7)
            if j:
                out[i, j] += 0.5 * out[i, j - 1]
    return out + shift


def by_sqrtm(a, b):
    """pytorch-fid's formula."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb)
    d = a.mean(0) - b.mean(0)
    return float(d @ d + np.trace(ca) + np.trace(cb) - 2 * np.trace(root).real)


def by_nuclear_norm(a, b):
    d = a.mean(0) - b.mean(0)
    ac = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    bc = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    s = np.linalg.svd(ac @ bc.T, compute_uv=False)
    return float(d @ d + (ac**2).sum() + (bc**2).sum() - 2 * s.sum())


cases = []
for na, nb, dims, shift, spread, method in [
    (50, 40, 1, 0.2, 1.5, "nuclear"),
    (40, 60, 6, 0.1, 1.3, "sqrtm"),
    (200, 150, 16, 0.05, 0.8, "sqrtm"),
    (400, 500, 64, 0.01, 1.1, "sqrtm"),
    (300, 260, 128, 0.0, 2.0, "sqrtm"),
    (12, 9, 32, 0.3, 1.2, "nuclear"),
    (33, 33, 32, 0.0, 1.2, "sqrtm"),
    (20, 300, 48, 0.1, 0.7, "nuclear"),
    (300, 20, 48, 0.1, 0.7, "nuclear"),
    (64, 50, 200, 0.02, 1.0, "nuclear"),
    (2, 2, 5, 1.0, 1.0, "nuclear"),
]:
    a, b = features(1, na, dims, 0.0, 1.0), features(2, nb, dims, shift, spread)
    value = by_sqrtm(a, b) if method == "sqrtm" else by_nuclear_norm(a, b)
    # the two formulas agree wherever sqrtm is reliable
    assert method != "sqrtm" or abs(value - by_nuclear_norm(a, b)) < 1e-7 * abs(value)
    cases.append(dict(na=na, nb=nb, dims=dims, shift=shift, spread=spread, method=method, value=value))
with open("frechet.json", "w") as f:
    json.dump(cases, f, indent=1)
    f.write("\n")

x = features(3, 10, 3, 0.5, 1.0)
np.savez_compressed("stats.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
np.savez("stats_fortran_float32.npz", mu=x.mean(0).astype(">f4"), sigma=np.asfortranarray(np.cov(x, rowvar=False).astype("<f4")))

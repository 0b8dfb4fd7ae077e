"""Writes pixels.json: Laplacian energies and differences of small drawn images, by scipy and numpy.

Made with scipy 1.17.1, numpy 2.4.6; run in this folder: python pixels.py
"""

import json

import numpy as np
from scipy import ndimage


def drawn(width, height, k):
    """Eight-bit RGB [height, width, 3]: value of (x, y, c) is (k + 7x² + 13xy + 5y + 31c·(x + 1)) mod 251."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((k + 7 * x * x + 13 * x * y + 5 * y + 31 * c * (x + 1)) % 251).astype(np.uint8)


def energy(image):
    grey = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return float(np.var(ndimage.laplace(grey)))  # mode reflect


def rms(a, b):
    return float(np.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


cases = []
for width, height, k in [(8, 8, 0), (5, 3, 11), (16, 9, 100), (1, 4, 3), (64, 64, 17)]:
    a, b = drawn(width, height, k), drawn(width, height, k + 40)
    cases.append({"width": width, "height": height, "k": k, "energy": energy(a), "rms": rms(a, b)})
flat = np.full((6, 6, 3), 99, np.uint8)
assert energy(flat) == 0
with open("pixels.json", "w") as f:
    json.dump(cases, f, indent=1)
    f.write("\n")

"""Writes matrices.safetensors: differences of layers with several kinds of spectra, and, from numpy's SVD in f64, the
norm of what the best approximation of each rank misses (<name>.missed[rank], from rank 0 on).

Made with numpy 2.4.6, safetensors 0.8.0; run: python3 make_golden.py
"""
import pathlib

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(5)


def spectrum(shape, values):
    rows, columns = shape[0], int(np.prod(shape[1:]))
    u, _ = np.linalg.qr(rng.standard_normal((rows, min(rows, columns))))
    v, _ = np.linalg.qr(rng.standard_normal((columns, min(rows, columns))))
    return (u * values[: u.shape[1]] @ v.T).reshape(shape)


k = np.arange(1, 1000, dtype=np.float64)
cases = {
    "slow": spectrum((96, 128), k**-0.5 * 1e-2),          # a full fine-tune's
    "fast": spectrum((128, 64), 0.8**k * 1e-3),
    "noise": rng.standard_normal((80, 96)) * 1e-4,         # the hardest: all directions alike
    "low": spectrum((64, 96), np.where(k <= 6, 1.0, 0.0)), # a merged LoRA of rank 6
    "kernel": spectrum((24, 12, 3, 3), k**-1.0),
    "tiny": rng.standard_normal((3, 5)),                   # smaller than the rank
}
out = {}
for name, d in cases.items():
    d = d.astype(np.float32)
    s = np.linalg.svd(d.reshape(d.shape[0], -1).astype(np.float64), compute_uv=False)
    out[name] = d
    out[name + ".missed"] = np.sqrt(np.append(np.cumsum((s**2)[::-1])[::-1], 0))
save_file(out, pathlib.Path(__file__).parent / "matrices.safetensors")

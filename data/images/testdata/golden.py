"""Writes golden.safetensors and the JPEG and PNG files of this package's tests.

Made with pillow 12.3.0, clean-fid 0.1.35, torch 2.15.0, torchvision 0.29.2, torch-fidelity 0.4.0, numpy 2.4.6; run in
this folder: python golden.py
Pillow 13 resamples the columns first where that is cheaper, which changes 8-bit results; published numbers were made
with earlier ones.
Images are drawn from their size by the formula below, as drawn in images_test.go. Of large results only every
STRIDE-th value is kept.
"""

import io
import os

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from cleanfid.resize import make_resizer
from PIL import Image
from safetensors.numpy import save_file
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

STRIDE = 151


def drawn(width, height):
    """Noise over slow waves, with black and white edges: [height, width, 3] uint8."""
    i = np.arange(height * width * 3, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (i + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    noise = (z >> np.uint64(57)).astype(np.int64)  # below 128
    c, x, y = i.astype(np.int64) % 3, i.astype(np.int64) // 3 % width, i.astype(np.int64) // 3 // width
    v = noise + (3 * x * (c + 1) + 5 * y) % 128
    v = np.where((x // 9 + y // 7) % 5 == 0, 0, np.where((x // 11 + y // 5) % 5 == 0, 255, v))
    return v.reshape(height, width, 3).astype(np.uint8)


def smooth(width, height):
    """What JPEG is made for, with coloured edges."""
    y, x = np.mgrid[0:height, 0:width]
    a = np.stack([128 + 100 * np.sin(x / 9 + 1), 128 + 90 * np.cos(y / 7), 128 + 80 * np.sin((x + y) / 11)], -1)
    a[(x // 16 + y // 12) % 3 == 0] = [220, 30, 40]
    return a.clip(0, 255).astype(np.uint8)


out = {}


def keep(name, values):
    values = np.ascontiguousarray(values)
    flat = values.reshape(-1)
    out[name] = flat if flat.size <= 2000 else np.ascontiguousarray(flat[::STRIDE])


sizes = [(64, 64), (97, 61), (333, 517), (1024, 768), (299, 311)]
for width, height in sizes:
    a = drawn(width, height)
    name = f"{width}x{height}"
    keep(f"clean.{name}.299x299", make_resizer("PIL", False, "bicubic", (299, 299))(a))
    keep(f"clean.{name}.31x17", make_resizer("PIL", False, "bicubic", (31, 17))(a))
    t = torch.from_numpy(a).permute(2, 0, 1)[None].float()
    for to in [(299, 299), (31, 17)]:
        size = f"{to[0]}x{to[1]}"
        keep(f"torch.{name}.{size}", 255 * F.interpolate(t / 255, size=to[::-1], mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy())
        keep(f"tf1.{name}.{size}", interpolate_bilinear_2d_like_tensorflow1x(t, size=to[::-1], align_corners=False)[0].permute(1, 2, 0).numpy())
        for filter in ("LANCZOS", "BICUBIC"):
            keep(f"{filter.lower()}.{name}.{size}", np.asarray(Image.fromarray(a).resize(to, getattr(Image, filter))))
    keep(f"crop.{name}.50x31", np.asarray(TF.center_crop(Image.fromarray(a), [31, 50])))
    keep(f"square.{name}", np.asarray(TF.center_crop(Image.fromarray(a), min(width, height))))

a = smooth(75, 53)
for sampling in ("4:4:4", "4:2:2", "4:2:0"):
    file = io.BytesIO()
    Image.fromarray(a).save(file, "JPEG", quality=88, subsampling=sampling)
    name = "sampled_" + sampling.replace(":", "") + ".jpg"
    with open(name, "wb") as f:
        f.write(file.getvalue())
    out[name] = np.asarray(Image.open(name).convert("RGB")).reshape(-1)
alpha = np.concatenate([drawn(13, 9), drawn(13, 9)[:, :, :1]], -1)
for mode, image in {"rgba": Image.fromarray(alpha), "palette": Image.fromarray(drawn(13, 9)).quantize(17), "grey": Image.fromarray(drawn(13, 9)[:, :, 0])}.items():
    image.save(mode + ".png")
    out[mode + ".png"] = np.asarray(Image.open(mode + ".png").convert("RGB")).reshape(-1)

save_file(out, "golden.safetensors")
os.chmod("golden.safetensors", 0o644)
print({k: v.shape for k, v in out.items()}, os.path.getsize("golden.safetensors"))

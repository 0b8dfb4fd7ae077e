"""Writes fit.json: what Pillow makes of images that are resized to cover a shape and cut to its middle.

Made with pillow 12.3.0, numpy 2.1.3; run in this folder: python fit.py
Pillow 13 resamples the columns first where that is cheaper, which changes 8-bit results.
Images are drawn from their size by drawn(), as in fit_test.go. Of a result its SHA-256 is kept: width·height·3 bytes.
Oblong shapes: the image is resized as a whole (its side that decides rounded exactly, the other to nearest), then cut.
Squares: the largest centred square is cut, then resized.
"""

import hashlib
import json

import numpy as np
from PIL import Image

# SDXL's shapes at a sixteenth of their sides, and others.
SHAPES = [(32, 128), (36, 112), (40, 100), (44, 92), (48, 84), (52, 76), (56, 72), (60, 68), (64, 64),
          (68, 60), (72, 56), (76, 52), (84, 48), (92, 44), (100, 40), (112, 36), (128, 32), (50, 50), (24, 72)]


def drawn(width, height):
    """Noise over slow waves, with black and white edges: [height, width, 3] uint8."""
    i = np.arange(height * width * 3, dtype=np.int64)
    c, x, y = i % 3, i // 3 % width, i // 3 // width
    noise = i * 2654435761 % 4294967296 // 33554432  # below 128
    v = noise + (3 * x * (c + 1) + 5 * y) % 128
    v = np.where((x // 9 + y // 7) % 5 == 0, 0, np.where((x // 11 + y // 5) % 5 == 0, 255, v))
    return v.reshape(height, width, 3).astype(np.uint8)


cases = []
for n in range(240):
    width, height = 20 + n * 37 % 211, 20 + n * 53 % 197
    w, h = SHAPES[n % len(SHAPES)]
    image = Image.fromarray(drawn(width, height))
    if w == h:
        side = min(width, height)
        left, top = round((width - side) / 2), round((height - side) / 2)  # as torchvision's CenterCrop
        image = image.crop((left, top, left + side, top + side))
        if side != w:
            image = image.resize((w, h), Image.BICUBIC)
    else:
        if width * h > height * w:  # wider than the shape
            size = max(w, int(width * (h / height) + 0.5)), h
        else:
            size = w, max(h, int(height * (w / width) + 0.5))
        if size != (width, height):
            image = image.resize(size, Image.BICUBIC)
        left, top = (size[0] - w) // 2, (size[1] - h) // 2
        image = image.crop((left, top, left + w, top + h))
    assert image.size == (w, h)
    cases.append({"image": [width, height], "shape": [w, h], "sha256": hashlib.sha256(image.tobytes()).hexdigest()})

with open("fit.json", "w") as f:
    f.write("[" + ",\n ".join(json.dumps(c) for c in cases) + "]\n")

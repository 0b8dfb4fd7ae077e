"""Reads what `fewstep data encode` wrote, by the schema that data/encoded describes and with nothing of fewstep.

Usage: python read_encoded.py DIR
Prints a line of JSON for every row of rows.parquet: what stands there, the shape of its picture, and the SHA-256 of its
latents, deviations (null where there are none) and embeddings as little-endian f32; then one with the rows that are bad.
"""

import hashlib
import json
import pathlib
import sys

import pyarrow.parquet
from safetensors import safe_open

PER_SHARD = 256

folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "encoded.json").read_text())
rows = pyarrow.parquet.read_table(folder / "rows.parquet").to_pylist()


def digest(tensor):
    return hashlib.sha256(tensor.float().numpy().astype("<f4").tobytes()).hexdigest()


texts = {}
for name in manifest["texts"]:
    with safe_open(folder / "text" / f"{name}.safetensors", "pt") as f:
        text, pooled = f.get_tensor("text"), f.get_tensor("pooled")
        assert list(text.shape[1:]) == manifest["text_shape"] and pooled.shape[1] == manifest["pooled_size"]
        for i, caption in enumerate(json.loads(f.metadata()["captions"])):
            texts[caption] = digest(text[i]), digest(pooled[i])

pictures, sizes, bad = {}, {}, {}
for number, name in enumerate(manifest["latents"]):
    with safe_open(folder / "latents" / f"{name}.safetensors", "pt") as f:
        first = number * PER_SHARD
        for i, size in enumerate(f.get_tensor("sizes").tolist()):
            sizes[first + i] = size
        for i, why in json.loads(f.metadata()["bad"]).items():
            bad[first + int(i)] = why
        for shape in manifest["shapes"]:
            width, height = shape["width"], shape["height"]
            name = f"{width}x{height}"
            if f"rows.{name}" not in f.keys():
                continue
            latents = f.get_tensor(f"latents.{name}")
            deviations = f.get_tensor(f"deviations.{name}") if manifest["deviations"] else None
            factor = manifest["factor"]
            assert list(latents.shape[1:]) == [height // factor, width // factor, manifest["channels"]]
            for i, row in enumerate(f.get_tensor(f"rows.{name}").tolist()):
                pictures[first + row] = name, digest(latents[i]), None if deviations is None else digest(deviations[i])

assert len(sizes) == manifest["rows"] and len(bad) == manifest["bad"] and len(pictures) + len(bad) == len(sizes)
for row in rows:
    shape, latents, deviations = pictures[row["row"]]
    assert sizes[row["row"]] == [row["width"], row["height"]]
    text, pooled = texts[row["caption"]]
    print(json.dumps({"row": row["row"], "key": row["key"], "caption": row["caption"], "width": row["width"], "height": row["height"],
                      "shape": shape, "latents": latents, "deviations": deviations, "text": text, "pooled": pooled}))
print(json.dumps({"bad": sorted(bad)}))

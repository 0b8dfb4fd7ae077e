"""Writes forms.zip: small parquet files in the shapes that people have, and an MDS data set, with what they hold.

Made with pyarrow 26.0.1, pillow 13.0.0, mosaicml-streaming 0.13.0; run in this folder: python forms.py
NAME.json beside NAME.parquet lists key, caption and colour of each usable row. Images are 2×2 pixels of one colour.
"""

import io
import json
import os
import shutil
import tempfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from streaming import MDSWriter

COLOURS = [(10, 20, 30), (200, 100, 50), (0, 255, 0), (90, 90, 200)]


def png(colour):
    b = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(b, "PNG")
    return b.getvalue()


P, C = [png(c) for c in COLOURS], ["a", "b", "c", "d"]
files = {}


def put(name, columns, rows=None, **options):
    b = io.BytesIO()
    pq.write_table(pa.table(columns), b, **options)
    files[name + ".parquet"] = b.getvalue()
    rows = rows or [(f"row{i}", C[i], i) for i in range(4)]
    files[name + ".json"] = json.dumps([{"key": k, "caption": c, "colour": COLOURS[i]} for k, c, i in rows]).encode()


picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
put("hf", {"image": [{"bytes": p, "path": f"{i}.png"} for i, p in enumerate(P)], "text": C}, [(f"{i}.png", C[i], i) for i in range(4)])
nulls = pa.array([{"bytes": P[0], "path": "x.png"}, {"bytes": None, "path": "y.png"}, None, {"bytes": P[3], "path": None}], picture)
put("null_bytes", {"image": nulls, "text": C}, [("x.png", "a", 0), ("row3", "d", 3)])
put("null_bytes_without_statistics", {"image": nulls, "text": C}, [("x.png", "a", 0), ("row3", "d", 3)], write_statistics=False)
put("img2dataset", {
    "url": ["u"] * 4, "caption": pa.array(["a", "b", None, "d"]), "key": ["000", "001", "002", "003"],
    "status": ["success", "failed_to_download", "failed_to_download", "success"], "error_message": [None, "HTTP 404", "x", None],
    "jpg": pa.array([P[0], None, None, P[3]], pa.binary()), "AESTHETIC_SCORE": [5.5, None, None, 6.25], "width": [2, None, None, 2]},
    [("000", "a", 0), ("003", "d", 3)])
put("webdataset", {"jpg": [{"bytes": p, "path": "x"} for p in P], "json": [{"caption": c, "width": 8} for c in C], "__key__": C}, [(C[i], C[i], i) for i in range(4)])
put("upper", {"image": P, "TEXT": C})
put("listed", {"image": P, "caption": [["a", "a2"], ["b"], ["", "c"], ["d"]]})
put("large", {"image": pa.array(P, pa.large_binary()), "caption": pa.array(C, pa.large_string())})
put("view", {"image": pa.array(P, pa.binary_view()), "caption": pa.array(C, pa.string_view())})
put("dictionary", {"image": P, "caption": pa.array(C).dictionary_encode()}, use_dictionary=["caption"])
for codec in ("zstd", "brotli", "lz4", "gzip", "snappy", "none"):
    put("codec_" + codec, {"image": P, "caption": C}, compression=codec, row_group_size=3)
put("delta", {"image": P, "caption": C}, data_page_version="2.0", column_encoding={"caption": "DELTA_BYTE_ARRAY", "image": "DELTA_LENGTH_BYTE_ARRAY"}, use_dictionary=False)
put("indexed", {"image": P, "caption": C}, write_page_index=True, data_page_size=1, write_batch_size=1)
put("null_captions", {"image": P, "caption": pa.array(["a", None, "", "d"])}, [("row0", "a", 0), ("row3", "d", 3)])
put("many", {"image": [P[i % 4] for i in range(600)], "caption": [f"picture {i}" for i in range(600)]},
    [(f"row{i}", f"picture {i}", i % 4) for i in range(600)], row_group_size=250, data_page_size=900, write_batch_size=5)

dir = tempfile.mkdtemp()
for name, packed in (("mds", None), ("mds_zstd", "zstd:3")):
    out = os.path.join(dir, name)
    with MDSWriter(out=out, columns={"image": "png", "caption": "str", "id": "int", "score": "float32"}, compression=packed, size_limit=400) as w:
        for i, c in enumerate(COLOURS):
            w.write({"image": Image.new("RGB", (2, 2), c), "caption": C[i], "id": i, "score": 5 + i / 4})
    for f in sorted(os.listdir(out)):
        files[f"{name}/{f}"] = open(os.path.join(out, f), "rb").read()
shutil.rmtree(dir)

with zipfile.ZipFile("forms.zip", "w") as z:
    for name in sorted(files):
        z.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
print({n: len(b) for n, b in files.items()}, os.path.getsize("forms.zip"))

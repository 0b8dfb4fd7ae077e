"""Writes kohya.json: shapes and choices of kohya-ss/sd-scripts for sizes drawn by a formula.

Usage: git clone https://github.com/kohya-ss/sd-scripts (Apache-2.0); python kohya.py sd-scripts
Only its functions make_bucket_resolutions and BucketManager are run, taken out of the files, so that nothing else of it is
needed. Made with commit COMMIT below.
"""

import ast
import json
import math
import os
import subprocess
import sys
import typing

import numpy as np

COMMIT = "48d368fa557731ad0488c07304dfeba8c07910eb"


def take(path, names, scope):
    tree = ast.parse(source(path))
    body = [n for n in tree.body if getattr(n, "name", None) in names]
    exec(compile(ast.Module(body, []), path, "exec"), scope)


def source(path):
    root = sys.argv[1]
    if os.path.isdir(os.path.join(root, "library")):
        return open(os.path.join(root, path)).read()
    return subprocess.run(["git", "--git-dir", root, "show", "HEAD:" + path], check=True, capture_output=True, text=True).stdout


class Logger:
    def info(self, *a): pass
    warning = info


scope = {"math": math, "np": np, "random": None, "logger": Logger(), **{n: getattr(typing, n) for n in ("List", "Tuple", "Dict", "Set", "Optional", "Union")}}
take("library/model_util.py", ["make_bucket_resolutions"], scope)
scope["model_util"] = type("m", (), {"make_bucket_resolutions": staticmethod(scope["make_bucket_resolutions"])})
take("library/train_util.py", ["BucketManager"], scope)
out = {"resolutions": [], "choices": []}
for reso, least, most, step in (((1024, 1024), 256, 2048, 64), ((1024, 1024), 512, 2048, 64), ((1024, 1024), 256, 1024, 64), ((512, 512), 256, 1024, 64), ((768, 1280), 256, 1536, 32)):
    out["resolutions"].append({"area": reso[0] * reso[1], "least": least, "most": most, "step": step, "sizes": scope["make_bucket_resolutions"](reso, least, most, step)})
manager = scope["BucketManager"](False, (1024, 1024), 256, 2048, 64)
manager.make_buckets()
x = 1
for _ in range(1000):
    size = []
    for _ in range(2):
        x = x * 48271 % 2147483647
        size.append(200 + x % 4000)
    reso, resized, _ = manager.select_bucket(*size)
    out["choices"].append([*size, *reso, *resized])
with open("kohya.json", "w") as f:
    json.dump(out, f, separators=(",", ":"))
print(out["choices"][:3], [len(r["sizes"]) for r in out["resolutions"]])

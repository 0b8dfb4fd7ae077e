#!/usr/bin/env python3
"""Fetches a pretrained Inception-v3 from the npm package nsfwjs and converts it to safetensors. Needs python3 and npm.

    python3 scripts/fetch_nsfwjs.py                    into the user's cache folder, for --inception nsfwjs-inception
    python3 scripts/fetch_nsfwjs.py --tarball FILE     from a package that was brought along
    python3 scripts/fetch_nsfwjs.py --output FILE      somewhere else

The package (MIT, 25 MB) is pinned by version and sha256. Its Keras network is in JavaScript, quantised to 8 bits:
each tensor is minimum + scale * byte. The result (87 MB) has the names and layouts of torchvision's Inception, with
gains of 1 where Keras has none, and the hashes that fewstep checks. It was fine-tuned from ImageNet weights and is
not the FID network: distances in its features are called FD(nsfwjs-inception).
"""

import argparse
import array
import base64
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

VERSION = "4.4.0"
SHA256 = "585cd178f3b994337c4d10a87b080d342fc52f8b9bf0085c4d1f345a3a1c5382"
FOLDER = "package/dist/models/inception_v3/"
SHARDS = 6

# Keras numbers convolutions in the order in which they were made: torchvision's names in that order.
LAYERS = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
BRANCHES = {
    "a": ["branch1x1", "branch5x5_1", "branch5x5_2", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", "branch_pool"],
    "b": ["branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
    "c": ["branch1x1", "branch7x7_1", "branch7x7_2", "branch7x7_3"] + [f"branch7x7dbl_{i}" for i in range(1, 6)] + ["branch_pool"],
    "d": ["branch3x3_1", "branch3x3_2", "branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"],
    "e": ["branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a",
          "branch3x3dbl_3b", "branch_pool"],
}
for module, kind in zip(["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"], "aaabccccdee"):
    LAYERS += [f"Mixed_{module}.{branch}" for branch in BRANCHES[kind]]


def say(message):
    print(f"fetch_nsfwjs: {message}", file=sys.stderr)


def cache_file():
    """<user's cache>/fewstep/models/nsfwjs-inception.safetensors, where fewstep looks for it."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache or not os.path.isabs(cache):
        cache = os.path.join(os.environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return pathlib.Path(cache) / "fewstep" / "models" / "nsfwjs-inception.safetensors"


def package(folder):
    say(f"npm pack nsfwjs@{VERSION} (25 MB)")
    subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", f"nsfwjs@{VERSION}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return os.path.join(folder, f"nsfwjs-{VERSION}.tgz")


def quantised(path):
    """name -> (shape, minimum, scale, bytes) of every tensor of the network."""
    data, listing = b"", None
    with tarfile.open(path) as tar:
        def text(name):
            return tar.extractfile(FOLDER + name).read().decode()
        listing = text("model.min.js")
        for i in range(1, SHARDS + 1):
            encoded = re.search(r'\.exports="([A-Za-z0-9+/=]+)"', text(f"group1-shard{i}of{SHARDS}.min.js"))
            data += base64.b64decode(encoded.group(1))
    out, at = {}, 0
    pattern = r'\{name:"([^"]+)",shape:\[([\d,]*)\],dtype:"float32",quantization:\{min:([-+.\de]+),scale:([-+.\de]+),dtype:"uint8"\}\}'
    for name, shape, least, scale in re.findall(pattern, listing):
        shape = [int(d) for d in shape.split(",")]
        size = 1
        for d in shape:
            size *= d
        out[name] = (shape, float(least), float(scale), data[at:at + size])
        at += size
    if at != len(data):
        raise ValueError(f"the listed tensors have {at} bytes, the package has {len(data)}")
    return out


def floats(tensor, raw=None):
    _, least, scale, own = tensor
    table = [least + scale * q for q in range(256)]
    return array.array("f", [table[q] for q in (own if raw is None else raw)])


def kernel(tensor):
    """HWIO to OIHW, of the bytes."""
    (h, w, i, o), _, _, raw = tensor
    out = bytearray()
    for to in range(o):
        one = raw[to::o]
        for source in range(i):
            out += one[source::i]
    return [o, i, h, w], floats(tensor, bytes(out))


def convert(tensors):
    out = {}
    for number, layer in enumerate(LAYERS, 1):
        shape, values = kernel(tensors[f"conv2d_{number}/kernel"])
        out[layer + ".conv.weight"] = (shape, values)
        norm = f"batch_normalization_{number}/"
        out[layer + ".bn.weight"] = ([shape[0]], array.array("f", [1.0] * shape[0]))
        for ours, theirs in {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}.items():
            t = tensors[norm + theirs]
            if t[0] != [shape[0]]:
                raise ValueError(f"{norm}{theirs} has the shape {t[0]}, want [{shape[0]}]")
            out[f"{layer}.bn.{ours}"] = (t[0], floats(t))
    return out


def write(path, tensors, metadata):
    """A safetensors file, complete or not at all."""
    if sys.byteorder == "big":
        for _, values in tensors.values():
            values.byteswap()
    digest = hashlib.sha256()
    header, at = {}, 0
    for name in sorted(tensors):
        shape, values = tensors[name]
        digest.update(f"{name} {shape}\n".encode())
        digest.update(values.tobytes())
        end = at + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    content = digest.hexdigest()
    header["__metadata__"] = dict(metadata, **{"inception.content_sha256": content})
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    try:
        with open(partial, "wb") as f:
            f.write(len(raw).to_bytes(8, "little") + raw)
            for name in sorted(tensors):
                f.write(tensors[name][1].tobytes())
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return content


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tarball", help="the package, instead of npm")
    parser.add_argument("--output", default=cache_file(), help="file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = options.tarball or package(scratch)
        with open(path, "rb") as f:
            found = hashlib.sha256(f.read()).hexdigest()
        if found != SHA256:
            say(f"{path} has the sha256 {found}, want {SHA256}: it is not nsfwjs {VERSION}")
            return 1
        say("converting (10 s)")
        tensors = convert(quantised(path))
    content = write(options.output, tensors, {"inception.source_sha256": SHA256, "inception.last_pool": "average"})
    say(f"{options.output}: content {content}")
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

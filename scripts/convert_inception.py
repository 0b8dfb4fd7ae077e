#!/usr/bin/env python3
"""Converts pytorch-fid's published Inception weights to safetensors, with a record that fewstep checks. Needs torch.

    curl -LO https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth
    python3 scripts/convert_inception.py pt_inception-2015-12-05-6726825d.pth inception.safetensors

fewstep reads the .pth file itself; the conversion is for those who keep no pickles. A file with another sha256 is
refused: the features of other weights are not FID's.
"""

import array
import hashlib
import pathlib
import sys

import torch

from fetch_nsfwjs import write

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    source, target = sys.argv[1:]
    found = hashlib.sha256(pathlib.Path(source).read_bytes()).hexdigest()
    if found != SHA256:
        print(f"convert_inception: {source} has the sha256 {found}, want {SHA256}: it is not pytorch-fid's published file", file=sys.stderr)
        return 1
    state = torch.load(source, map_location="cpu", weights_only=True)
    tensors = {}
    for name, value in state.items():
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            tensors[name] = (list(value.shape), array.array("f", value.float().flatten().tolist()))
    content = write(target, tensors, {"inception.source_sha256": SHA256})
    print(f"{target}: content {content}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

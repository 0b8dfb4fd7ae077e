"""Compares the speed of feature extraction: pytorch-fid's network in PyTorch, then fewstep's, on the same cores.

    python eval/metric/bench_features.py

Needs torch, torchvision and pytorch-fid beside Go. Both see batches of 16 images of 299 pixels, four times in turn.
"""

import os
import re
import subprocess
import time

import torch
from pytorch_fid import inception as fid

fid.load_state_dict_from_url = lambda *args, **kwargs: {}
fid.torchvision.models.Inception3.load_state_dict = lambda self, state: None
model = fid.InceptionV3(resize_input=False, normalize_input=False).eval()
torch.set_num_threads(len(os.sched_getaffinity(0)))
batch = torch.rand(16, 3, 299, 299) * 2 - 1


def pytorch(x, network):
    with torch.inference_mode():
        network(x)
        start, n = time.time(), 0
        while time.time() - start < 6:
            network(x)
            n += len(x)
        return n / (time.time() - start)


def fewstep():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    out = subprocess.run(["go", "test", "-run", "xxx", "-bench", "Inception", "-benchtime", "6s", "./eval/metric"], cwd=root, check=True,
                         capture_output=True, text=True, env=dict(os.environ, GOMLX_NO_AUTO_INSTALL="1", CGO_ENABLED="1")).stdout
    return float(re.search(r"([\d.]+) images/s", out).group(1))


for _ in range(4):
    print(f"PyTorch {torch.__version__}: {pytorch(batch, model.to(memory_format=torch.contiguous_format)):.2f} images/s, "
          f"channels last {pytorch(batch.to(memory_format=torch.channels_last), model.to(memory_format=torch.channels_last)):.2f} images/s; "
          f"fewstep: {fewstep():.2f} images/s", flush=True)

"""Writes sets.json: kernel distance, precision and recall of the features of golden.py.

Made with numpy 2.4.6, torch 2.15.0, clean-fid 0.1.35, torch-fidelity 0.4.0; run in this folder: python golden_sets.py
"""

import json

import numpy as np
import torch
from cleanfid.fid import kernel_distance
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.metric_prc import calculate_precision_recall_full

source = open("golden.py").read()
exec(source[source.index("def features"):source.index("def by_sqrtm")])

cases = []
for n, m, dims, shift, spread in [(40, 40, 6, 0.1, 1.3), (90, 90, 24, 0.02, 0.8), (60, 60, 3, 0.3, 1.0), (150, 110, 8, 0.15, 1.1)]:
    a, b = features(1, n, dims, shift, spread), features(2, m, dims, 0.0, 1.0)
    precision, recall = calculate_precision_recall_full(torch.tensor(a), torch.tensor(b), 3, 10000)
    case = dict(n=n, m=m, dims=dims, shift=shift, spread=spread, precision=precision, recall=recall)
    if n == m:  # a subset is everything, whatever the random numbers
        case["kid"] = kernel_distance(b, a, num_subsets=1, max_subset_size=n)
        assert abs(case["kid"] - kernel_mmd(a, b)) < 1e-9
    cases.append(case)
    print(case)
with open("sets.json", "w") as f:
    json.dump(cases, f, indent=1)
    f.write("\n")

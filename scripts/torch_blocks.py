#!/usr/bin/env python3
"""Runs the yardstick with its resnets and transformer blocks compiled one by one (torch.compile of a whole training step
of SDXL takes longer than six minutes): what a PyTorch user calls regional compilation.

  scripts/torch_blocks.py shared/bench/torch_baseline.py --preset sdxl --step mse-lora --batch 8 --ckpt 1
"""
import sys

if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
    sys.exit(__doc__)
import torch
import torch._dynamo

path = sys.argv.pop(1)
source = open(path).read()
for old, new in (
    ("def freeze(m):", "TransformerBlock.forward, Resnet.body = compiled(TransformerBlock.forward), compiled(Resnet.body)\n\n\ndef freeze(m):"),
    ('what="torch"', 'what="torch, blocks compiled"'),
):
    if source.count(old) != 1:
        sys.exit(f"{path}: {old!r} is there {source.count(old)} times, not once")
    source = source.replace(old, new)
# One code object serves blocks of several shapes, with and without gradients: each is a compilation of its own.
torch._dynamo.config.recompile_limit = 256
torch._dynamo.config.accumulated_recompile_limit = 2048
exec(compile(source, path, "exec"), {"__name__": "__main__", "compiled": lambda f: torch.compile(f, dynamic=False)})

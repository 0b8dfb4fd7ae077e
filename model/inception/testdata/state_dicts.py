"""Writes new.pth and old.pth: one small state dict in both of torch.save's formats (torch 2.15.0), and code.pth, which
would run code. Run in this folder: python state_dicts.py"""

import collections

import torch

state = collections.OrderedDict()
base = torch.arange(30, dtype=torch.float32) / 8 - 1
state["conv.weight"] = base[:24].reshape(2, 3, 2, 2)
state["bn.bias"] = base[24:]  # the same storage, further on
state["bn.running_var"] = torch.tensor([0.5, 2.0])
state["bn.num_batches_tracked"] = torch.tensor(7)
state["half"] = torch.tensor([1.5], dtype=torch.float16)
state["turned"] = torch.ones(2, 3).t()
state["own"] = torch.nn.Parameter(torch.tensor([3.0]), requires_grad=False)
state._metadata = {"": {"version": 1}}
torch.save(state, "new.pth")
torch.save(state, "old.pth", _use_new_zipfile_serialization=False)


class Code:
    def __reduce__(self):
        return (print, ("code was run",))


torch.save({"conv.weight": Code()}, "code.pth")

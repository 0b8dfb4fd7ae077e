"""Writes kinds/: adapters as PEFT saves them, each beside its adapter_config.json, and the weights that PEFT makes of the
base's with them (merged.safetensors, base.safetensors).

Made with the versions of interop/requirements.txt:  python model/lora/testdata/make_kinds.py
"""
import copy
import os
import shutil

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kinds")


class Base(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.down = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(4, 6, 3), "proj": torch.nn.Conv2d(6, 6, 1)})
        self.mid = torch.nn.ModuleDict({"to_q": torch.nn.Linear(6, 8), "conv": torch.nn.Linear(8, 4)})

    def forward(self, x):
        return x


LAYERS = ["down.conv", "down.proj", "mid.to_q", "mid.conv"]
CASES = {
    "patterns": LoraConfig(r=2, lora_alpha=5, target_modules=LAYERS, rank_pattern={"conv": 3, "mid.conv": 1},
                           alpha_pattern={"^mid.to_q": 7, "own.conv": 11, "down.conv": 3}),
    "rslora": LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS, use_rslora=True),
    "dora": LoraConfig(r=2, lora_alpha=3, target_modules=LAYERS, use_dora=True),
    "bias": LoraConfig(r=2, lora_alpha=6, target_modules=["mid.to_q", "mid.conv"], lora_bias=True),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=LAYERS, use_effective_conv2d=True),
    "loha_flat": LoHaConfig(r=2, alpha=3, target_modules=LAYERS),
    "lokr": LoKrConfig(r=1, alpha=3, target_modules=LAYERS, use_effective_conv2d=True),
    "lokr_both": LoKrConfig(r=1, alpha=3, target_modules=LAYERS, decompose_both=True, decompose_factor=2),
    "lokr_whole": LoKrConfig(r=8, alpha=3, target_modules=LAYERS, rank_pattern={"conv": 6}),
}

shutil.rmtree(OUT, ignore_errors=True)
torch.manual_seed(5)
base = Base()
for p in base.parameters():
    torch.nn.init.normal_(p)
os.makedirs(OUT)
save_file(base.state_dict(), os.path.join(OUT, "base.safetensors"))
for name, config in CASES.items():
    model = get_peft_model(copy.deepcopy(base), config, adapter_name="mine")
    for n, p in model.named_parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.5)
    if name == "dora":
        for n, p in model.named_parameters():
            if "magnitude" in n:
                p.data = p.data.abs() + 1
    model.save_pretrained(OUT)
    os.rename(os.path.join(OUT, "mine"), os.path.join(OUT, name))
    os.remove(os.path.join(OUT, name, "README.md")) if os.path.exists(os.path.join(OUT, name, "README.md")) else None
    merged = model.merge_and_unload()
    save_file({k: v.contiguous() for k, v in merged.state_dict().items()}, os.path.join(OUT, name, "merged.safetensors"))

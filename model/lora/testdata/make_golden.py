"""Writes the golden files of package lora with diffusers' and peft's own code.

modules.txt                   module paths of the linear and convolution layers of a tiny SDXL-like UNet
peft.safetensors              save_lora_weights with adapter metadata (alpha there, one pattern), a text encoder
kohya.safetensors             the same adapter through diffusers' convert_state_dict_to_kohya, alphas as trained
legacy.safetensors            the same adapter, diffusers-legacy names incl. attention processors, alpha folded into up
delta.safetensors             per module outside up_blocks, peft's get_delta_weight

Made with diffusers 0.42.1, peft 0.19.0, torch 2.15.0, safetensors 0.8.0; run: python3 make_golden.py
"""
import os
import pathlib
import tempfile

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(3)
unet = UNet2DConditionModel(
    sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=4,
    block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=1,
    attention_head_dim=(1, 2), cross_attention_dim=12, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=36,
)
paths = [n for n, m in unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
(here / "modules.txt").write_text("\n".join(paths) + "\n")

config = LoraConfig(
    r=3, lora_alpha=6, init_lora_weights=False,
    rank_pattern={"conv1": 2}, alpha_pattern={"conv1": 5},
    target_modules=["conv1", "conv_shortcut", "conv", "proj_in", "to_q", "to_out.0", "ff.net.0.proj"],
)
unet.add_adapter(config)
layers = get_peft_model_state_dict(unet)
torch.manual_seed(4)
for name, value in layers.items():
    layers[name] = torch.randn_like(value)
with torch.no_grad():
    for name, p in unet.named_parameters():
        if "lora_" in name:
            p.copy_(layers[name.replace(".default", "")])

metadata = unet.peft_config["default"].to_dict()
metadata = {k: sorted(v) if isinstance(v, set) else v for k, v in metadata.items()}
text_encoder = {"text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.randn(2, 4),
                "text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": torch.randn(4, 2)}
with tempfile.TemporaryDirectory() as folder:
    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, text_encoder_lora_layers=text_encoder, unet_lora_adapter_metadata=metadata)
    os.replace(pathlib.Path(folder) / "pytorch_lora_weights.safetensors", here / "peft.safetensors")

modules = {n: m for n, m in unet.named_modules() if hasattr(m, "get_delta_weight") and hasattr(m, "lora_A")}
with_prefix = {f"unet.{k}": v for k, v in layers.items()}
with_prefix |= {f"text_encoder.{k}": v for k, v in text_encoder.items()}
kohya = convert_state_dict_to_kohya(with_prefix)
for path, m in modules.items():
    kohya["lora_unet_" + path.replace(".", "_") + ".alpha"] = torch.tensor(float(m.lora_alpha["default"]))
save_file({k: v.contiguous() for k, v in kohya.items()}, here / "kohya.safetensors")

legacy = {}
for path, m in modules.items():
    key = path
    if ".attn" in path:
        head, last = path.rsplit(".to_", 1)
        key = f"{head}.processor.to_{last.removesuffix('.0')}_lora"
    else:
        key += ".lora"
    legacy[f"unet.{key}.down.weight"] = layers[f"{path}.lora_A.weight"]
    legacy[f"unet.{key}.up.weight"] = layers[f"{path}.lora_B.weight"] * m.scaling["default"]
save_file(legacy, here / "legacy.safetensors")

deltas = {p: m.get_delta_weight("default").detach() for p, m in modules.items() if not p.startswith("up_blocks")}
save_file({p: d.contiguous() for p, d in deltas.items()}, here / "delta.safetensors")
print(len(paths), "layers", len(modules), "modules")

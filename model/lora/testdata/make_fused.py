"""Writes fused.safetensors: layers of the UNet of make_golden.py before (base.*) and after (fused.*) diffusers' fuse_lora
of peft.safetensors at lora_scale 0.7, outside up_blocks.

Made with diffusers 0.42.1, peft 0.21.2, torch 2.15.0, safetensors 0.8.0; run: python3 make_fused.py
"""
import pathlib

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(3)
unet = UNet2DConditionModel(
    sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=4,
    block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=1,
    attention_head_dim=(1, 2), cross_attention_dim=12, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=36,
)
before = {k: v.clone() for k, v in unet.state_dict().items()}
layers, metadata = StableDiffusionXLPipeline.lora_state_dict(here / "peft.safetensors", return_lora_metadata=True)[:3:2]
unet.load_lora_adapter(layers, metadata=metadata, prefix="unet")
unet.fuse_lora(lora_scale=0.7)
unet.unload_lora()
after = unet.state_dict()
out = {}
for k, v in before.items():
    if not torch.equal(v, after[k]) and not k.startswith("up_blocks"):
        out["base." + k], out["fused." + k] = v, after[k].contiguous()
save_file(out, here / "fused.safetensors")
print(len(out) // 2, "layers")

"""Loads what `fewstep export` wrote with diffusers 0.42.1, transformers 5.23.0 and peft, and draws with it.

    python check_diffusers.py BASE RUN LORA_DIR ONE_STEP_DIR

BASE is the base model's directory, RUN a run directory with exports/8step_lora.safetensors, LORA_DIR made by
`fewstep export RUN --steps 8 --lora --dtype f32 --out LORA_DIR`, ONE_STEP_DIR by `--steps 1`. The LoRA file loaded
over the base must draw what the merged directory draws, and change the picture.
"""
import sys

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline

base, run, lora_dir, one = sys.argv[1:5]


def draw(pipe, steps):
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    shape = (1, 4, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    pipe.set_progress_bar_config(disable=True)
    return pipe("cat face, noto style", num_inference_steps=steps, guidance_scale=0, height=size, width=size,
                latents=noise, output_type="np").images[0]


merged = StableDiffusionXLPipeline.from_pretrained(lora_dir, torch_dtype=torch.float32)
assert merged.scheduler.config.timestep_spacing == "trailing"
a = draw(merged, 8)

pipe = StableDiffusionXLPipeline.from_pretrained(base, torch_dtype=torch.float32)
pipe.scheduler = merged.scheduler
plain = draw(pipe, 8)
try:
    import peft  # noqa: F401
except ImportError:
    print("peft is missing: the LoRA file was not loaded")
else:
    pipe.load_lora_weights(f"{run}/exports", weight_name="8step_lora.safetensors")
    b = draw(pipe, 8)
    print("merged against loaded LoRA:", abs(a - b).max(), "; LoRA against base:", abs(b - plain).max())
    assert abs(a - b).max() < 0.02 < abs(b - plain).max()

last = StableDiffusionXLPipeline.from_pretrained(one, torch_dtype=torch.float32)
assert last.scheduler.config.prediction_type == "sample"
c = draw(last, 1)
assert np.isfinite(c).all()
print("drawn", a.shape, c.shape)

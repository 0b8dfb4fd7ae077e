"""Writes names.txt.gz: every tensor of SDXL's single-file layout with its shape and the diffusers tensors it is made of.

Made with torch 2.15.0, diffusers 0.42.1, transformers 5.24.0; run from the repository's root as
    python model/ldm/testdata/make_names.py convert_diffusers_to_original_sdxl.py
with diffusers' script of that name (scripts/ in its repository, commit 58eb52c0803ea9af3abec60841c2a093bdf1f951).
A line is "LDM name <tab> shape <tab> component/name[,component/name...]", and the models are SDXL's configs below
model/golden, made without weights. diffusers' converters from the single file back to its own names are run over the
result and must give the state dicts again.

The script leaves text_projection.weight as it is; SDXL's own file and diffusers' reader have its transpose as
text_projection, and so has the list, where the line says "transposed".
"""

import gzip
import importlib.util
import os
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as back
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIGS = os.path.join(HERE, "..", "..", "golden", "testdata", "sdxl")

spec = importlib.util.spec_from_file_location("reference", sys.argv[1])
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def models():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(os.path.join(CONFIGS, "unet")))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(os.path.join(CONFIGS, "vae")))
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(os.path.join(CONFIGS, "text_encoder")))
        text2 = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(os.path.join(CONFIGS, "text_encoder_2")))
    return {"unet": unet, "vae": vae, "text_encoder": text, "text_encoder_2": text2}


def state(component, model):
    """Names as on disk: transformers 5 keeps CLIPTextModel's parameters without the prefix that files have."""
    prefix = "text_model." if component == "text_encoder" else ""
    return {k if k.startswith(prefix) else prefix + k: v for k, v in model.state_dict().items()}


def to_ldm(component, tensors):
    convert = {"unet": ("model.diffusion_model.", reference.convert_unet_state_dict),
               "vae": ("first_stage_model.", reference.convert_vae_state_dict),
               "text_encoder": ("conditioner.embedders.0.transformer.", reference.convert_openai_text_enc_state_dict),
               "text_encoder_2": ("conditioner.embedders.1.model.", reference.convert_openclip_text_enc_state_dict)}
    prefix, function = convert[component]
    return {prefix + k: v for k, v in function(dict(tensors)).items()}


checkpoint, lines = {}, []
built = models()
for component, model in built.items():
    tensors = state(component, model)
    names = list(tensors)
    # Tensors of one element, whose value is their place in names, keep their rank: what comes out tells its origin.
    tags = {k: torch.full([1] * v.ndim, float(i)) for i, (k, v) in enumerate(tensors.items())}
    whole, tagged = to_ldm(component, tensors), to_ldm(component, tags)
    for name, t in whole.items():
        origin = ",".join(f"{component}/{names[int(i)]}" for i in tagged[name].flatten())
        if name.endswith("text_projection.weight"):
            name, t, origin = name.removesuffix(".weight"), t.T, origin + " transposed"
        checkpoint[name] = t
        lines.append(f"{name}\t{'x'.join(map(str, t.shape))}\t{origin}\n")

unet = back.convert_ldm_unet_checkpoint(dict(checkpoint), built["unet"].config)
vae = back.convert_ldm_vae_checkpoint(dict(checkpoint), built["vae"].config)
text = back.convert_ldm_clip_checkpoint(dict(checkpoint))
text2 = back.convert_open_clip_checkpoint(built["text_encoder_2"], dict(checkpoint), prefix="conditioner.embedders.1.model.")
for component, got in {"unet": unet, "vae": vae, "text_encoder": text, "text_encoder_2": text2}.items():
    want = {k: v.shape for k, v in state(component, built[component]).items()}
    got = {k: v.shape for k, v in got.items()}
    assert got == want, (component, set(got) ^ set(want))

with gzip.GzipFile(os.path.join(HERE, "names.txt.gz"), "wb", mtime=0) as f:
    f.write("".join(sorted(lines)).encode())
print(len(lines), "tensors")

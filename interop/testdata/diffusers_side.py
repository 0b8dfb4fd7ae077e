"""The diffusers half of interop_test.go: reads tasks from stdin, one JSON object a line, and answers each with a line
{"error": null or text}.

A task has "do": "draw" or "save"; see the functions of those names. A missing or unexpected key, and any warning of
diffusers, transformers or peft, is an error.
"""
import json
import logging
import os
import sys
import traceback
import warnings

import numpy as np
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline,
                       UNet2DConditionModel)
from diffusers.utils import (convert_state_dict_to_diffusers, convert_state_dict_to_kohya, convert_unet_state_dict_to_peft,
                             logging as diffusers_logging)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

torch.set_num_threads(2)
torch.set_grad_enabled(False)


# Every LoRA of the UNet alone makes diffusers say the first of the text encoders, and every single file the second of its
# UNet and VAE.
HARMLESS = ("No LoRA keys associated to CLIPTextModel", "There are modules in ")


class Collect(logging.Handler):
    """Keeps what the libraries warn of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        if not record.getMessage().startswith(HARMLESS):
            self.messages.append(record.getMessage())


collected = Collect()
for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_warning()
    library.disable_progress_bar()
for name in ("diffusers", "transformers", "peft"):
    logging.getLogger(name).addHandler(collected)
    logging.getLogger(name).propagate = False


# Of each kind of pipeline the class, its text encoders and where a single file has them.
KINDS = {
    "StableDiffusionXLPipeline": (StableDiffusionXLPipeline, {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection},
                                  {"text_encoder": "conditioner.embedders.0.", "text_encoder_2": "conditioner.embedders.1."}),
    "StableDiffusionPipeline": (StableDiffusionPipeline, {"text_encoder": CLIPTextModel}, {"text_encoder": "cond_stage_model."}),
}


def kind_of(model):
    with open(os.path.join(model, "model_index.json")) as f:
        return KINDS[json.load(f)["_class_name"]]


def load(model, dtype="float32", variant=None, lora=None):
    """A pipeline, each network loaded by itself first to see the keys that do not fit."""
    pipeline, encoders, _ = kind_of(model)
    for folder, cls in ({"unet": UNet2DConditionModel, "vae": AutoencoderKL} | encoders).items():
        _, info = cls.from_pretrained(os.path.join(model, folder), variant=variant, output_loading_info=True)
        wrong = {k: v for k, v in info.items() if v}
        assert not wrong, f"{model}/{folder}: {wrong}"
    pipe = pipeline.from_pretrained(model, dtype=getattr(torch, dtype), variant=variant)
    if lora:
        load_lora(pipe, lora)
    return pipe


def load_single(path, config):
    """A pipeline from a single file, with the configs and tokenizers of a directory. Every tensor must find its place, and
    every parameter its tensor."""
    pipeline, _, prefixes = kind_of(config)
    pipe = pipeline.from_single_file(path, config=config, torch_dtype=torch.float32)
    sizes = {k: v.numel() for k, v in load_file(path).items()}
    for name, prefix in ({"unet": "model.diffusion_model.", "vae": "first_stage_model."} | prefixes).items():
        parameters = list(getattr(pipe, name).parameters())
        assert not any(p.is_meta for p in parameters), f"{path}: {name} lacks tensors"
        have, want = sum(p.numel() for p in parameters), sum(n for k, n in sizes.items() if k.startswith(prefix))
        assert have == want, f"{path}: {name} has {have} parameters, the file {want}"
        sizes = {k: n for k, n in sizes.items() if not k.startswith(prefix)}
    assert not any(sizes.values()), f"{path}: no place for {list(sizes)}"
    return pipe


def load_lora(pipe, path):
    pipe.load_lora_weights(os.path.dirname(path), weight_name=os.path.basename(path))
    have = sum(1 for name, _ in pipe.unet.named_modules() if name.endswith("lora_A.default_0"))
    want = sum(1 for name in load_file(path) if name.endswith((".lora_down.weight", ".lora_A.weight", ".lora.down.weight")))
    assert have == want > 0, f"{path}: {want} modules in the file, {have} loaded"


def draw(out, latents, steps, guidance=0, prompt="", negative=None, sampler="euler", size=None, conditions=None, tile=0,
         **source):
    """Draws one picture from the starting latents and writes a PNG. size is width and height; conditions are keyword
    arguments of the pipeline, pairs of numbers."""
    pipe = load_single(**source) if "path" in source else load(**source)
    pipe.set_progress_bar_config(disable=True)
    if sampler == "ddim":
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="trailing")
    elif isinstance(pipe, StableDiffusionPipeline) and not isinstance(pipe.scheduler, EulerDiscreteScheduler):
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert pipe.scheduler.config.timestep_spacing == "trailing"
    assert sampler == "ddim" or isinstance(pipe.scheduler, EulerDiscreteScheduler)
    if tile:
        pipe.vae.enable_tiling()
        pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = tile, tile // pipe.vae_scale_factor
    noise = load_file(latents)["latents"]
    factor = pipe.vae_scale_factor
    width, height = size or (noise.shape[3] * factor, noise.shape[2] * factor)
    keywords = {k: tuple(v) for k, v in (conditions or {}).items()}
    image = pipe(prompt, negative_prompt=negative, num_inference_steps=steps, guidance_scale=guidance, width=width,
                 height=height, latents=noise, output_type="pil", **keywords).images[0]
    image.save(out)


def save(out, kind, seed=1, **source):
    """Saves a pipeline as a directory (f32, fp16, bf16, fp16 variant, shards), one read from a single file (single), or
    fresh adapters of its UNet as a LoRA file (peft, diffusers, kohya)."""
    if kind == "single":
        load_single(**source).save_pretrained(out)
        return
    pipe = load(dtype={"fp16": "float16", "variant": "float16", "bf16": "bfloat16"}.get(kind, "float32"), **source)
    if kind in ("peft", "diffusers", "kohya"):
        save_lora(pipe, out, kind, seed)
        return
    pipe.save_pretrained(out, variant="fp16" if kind == "variant" else None, max_shard_size="200KB" if kind == "shards" else "10GB")


def save_lora(pipe, out, kind, seed):
    targets = [n for n, m in pipe.unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))
               and n not in ("conv_in", "conv_out") and not n.startswith(("time_embedding", "add_embedding"))]
    if kind == "diffusers":  # whose reader knows these names in attention alone
        targets = [n for n in targets if n.rsplit(".", 1)[-1] in ("to_q", "to_k", "to_v") or n.endswith("to_out.0")]
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False))
    generator = torch.Generator().manual_seed(seed)
    for name, p in pipe.unet.named_parameters():
        if "lora_" in name:
            fan = p[0].numel() if "lora_A" in name else 4
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4 / fan ** 0.5)
    state = get_peft_model_state_dict(pipe.unet)
    folder, name = os.path.split(out)
    if kind == "peft":  # unet.<path>.lora_A.weight
        pipe.save_lora_weights(folder, unet_lora_layers=state, weight_name=name)
    elif kind == "diffusers":  # unet.<path>.lora.down.weight
        pipe.save_lora_weights(folder, unet_lora_layers=convert_state_dict_to_diffusers(state), weight_name=name)
    else:
        state = {f"unet.{k}": v for k, v in state.items()}
        state = convert_state_dict_to_kohya(state)
        save_file({k: v.contiguous() for k, v in state.items()}, out)


def run(task):
    collected.messages.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        {"draw": draw, "save": save}[task.pop("do")](**task)
    messages = collected.messages + [str(w.message) for w in caught if not issubclass(w.category, (DeprecationWarning, ImportWarning, ResourceWarning))]
    assert not messages, f"warnings: {messages}"


def main():
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever the libraries print
    for line in sys.stdin:
        error = None
        try:
            run(json.loads(line))
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"error": error}), file=answers, flush=True)


main()

"""Writes testdata/: tiny UNets, autoencoders and CLIP models with their outputs and gradients in PyTorch.

Made with the versions of interop/requirements.txt; run as
    python model/golden/generate.py
Weights are not stored: both sides draw them from the parameter's name (see weight below and drawn.go), so that the
models need not be as small as the files. Each folder of testdata has
    config.json         as the library saves it
    tensors.json        the state dict's names and shapes, as a checkpoint has them, and unet_odd's adapters
    golden.safetensors  in.*, out.*, cot.* (the fixed factors of the gradient's scalar) and grad.* in PyTorch's layout
    gradients.json      of every parameter's gradient the norm and its products with PROBES fixed directions
The folders below testdata/sdxl, sd1 and sd2 have config.json and digest.json (parameter count and the hash of all names and shapes)
of the full-size models, made without weights.
"""

import hashlib
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.numpy import save_file
from transformers import (CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection,
                          CLIPVisionConfig)

PROBES = 3
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "testdata")


def uniform(name, count):
    """count numbers in [-1, 1): splitmix64 from the FNV-1a hash of the name, 24 bits each."""
    seed = 0xCBF29CE484222325
    for b in name.encode():
        seed = ((seed ^ b) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def weight(name, shape):
    u = uniform(name, int(np.prod(shape, dtype=np.int64)))
    if name.endswith("bias"):
        u = 0.2 * u
    elif "norm" in name.rsplit(".", 2)[-2:][0]:  # a norm's gain
        u = 1 + 0.3 * u
    elif len(shape) > 1:
        u = u * np.sqrt(3 / np.prod(shape[1:]))
    return torch.from_numpy(u.reshape(shape).astype(np.float32))


def checkpoint_names(model):
    """Names as on disk: transformers 5 keeps a text model's parameters without the prefix that files have."""
    names = {}
    for k in model.state_dict():
        if type(model) is CLIPTextModel and not k.startswith("text_model."):
            names[k] = "text_model." + k
        else:
            names[k] = k.removeprefix("unet.")  # a Critic's backbone
    return names


def fill(model, scale=lambda name: 1):
    names = checkpoint_names(model)
    model.load_state_dict({k: scale(names[k]) * weight(names[k], tuple(v.shape)) for k, v in model.state_dict().items()})
    return model.eval()


def adapt(model, rank, scale):
    """Adds scale·up(down(x)) to every linear and convolution but conv_in, conv_out and the embeddings' (kohya's LoRA:
    down has the convolution's kernel, up is 1×1). Returns the adapters under this project's names."""
    adapters = {}

    def hook(down, up):
        def forward(module, args, output):
            x = args[0]
            if isinstance(module, torch.nn.Linear):
                return output + scale * F.linear(F.linear(x, down), up)
            return output + scale * F.conv2d(F.conv2d(x, down, None, module.stride, module.padding), up)
        return forward

    for name, module in model.named_modules():
        if (not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) or name in ("conv_in", "conv_out")
                or name.startswith(("time_embedding", "add_embedding"))):
            continue
        shape = tuple(module.weight.shape)
        key = name + ".weight.lora_"
        down = weight(key + "down", (rank,) + shape[1:]).requires_grad_()
        up = weight(key + "up", (shape[0], rank) + (1,) * len(shape[2:])).requires_grad_()
        adapters.update({key + "down": down, key + "up": up})
        module.register_forward_hook(hook(down, up))
    return adapters


def write(case, model, inputs, run, params, adapters={}, scale=lambda name: 1):
    """Runs run(inputs) -> {name: output}; params are checkpoint names whose gradients are kept."""
    folder = os.path.join(HERE, case)
    os.makedirs(folder, exist_ok=True)
    fill(model, scale)
    names = checkpoint_names(model)
    inputs = {k: v.requires_grad_(v.is_floating_point()) for k, v in inputs.items()}
    outputs = run(inputs)
    cot = {k: torch.from_numpy(uniform(case + ".cot." + k, v.numel()).reshape(v.shape).astype(np.float32))
           for k, v in outputs.items()}
    sum((v * cot[k]).sum() for k, v in outputs.items()).backward()
    data = {}
    for k, v in inputs.items():
        data["in." + k] = v.detach().float()
        if v.grad is not None:
            data["grad.in." + k] = v.grad
    for k, v in outputs.items():
        data["out." + k] = v.detach()
        data["cot." + k] = cot[k]
    own = {names.get(k, k): p for k, p in model.named_parameters()} | adapters
    for k in params:
        assert own[k].grad is not None and own[k].grad.abs().max() > 0, k
        data["grad.param." + k] = own[k].grad
    save_file({k: np.array(v.numpy(), dtype=np.float32, order="C") for k, v in data.items()},
              os.path.join(folder, "golden.safetensors"))
    os.chmod(os.path.join(folder, "golden.safetensors"), 0o644)
    probes = {}
    for k, p in own.items():
        if p.grad is None or k.endswith("position_ids"):
            continue
        g = p.grad.double().numpy().ravel()
        probes[k] = [float(np.linalg.norm(g))] + [float(g @ uniform(f"{k}.probe{i}", g.size)) for i in range(PROBES)]
    dump(os.path.join(folder, "gradients.json"), {k: [float(f"{x:.5g}") for x in v] for k, v in probes.items()})
    shapes = {names[k]: list(v.shape) for k, v in model.state_dict().items()}
    shapes.update({k: list(v.shape) for k, v in adapters.items()})
    dump(os.path.join(folder, "tensors.json"), shapes)
    save_config(model, folder)
    print(case, sum(p.numel() for p in model.parameters()), "parameters,",
          os.path.getsize(os.path.join(folder, "golden.safetensors")), "bytes,",
          {k: [round(float(v.detach().std()), 3)] + list(v.shape) for k, v in outputs.items()})


def dump(path, values):
    """A JSON object with a line per key."""
    with open(path, "w") as f:
        f.write("{\n" + ",\n".join(f'"{k}":{json.dumps(v, separators=(",", ":"))}' for k, v in values.items()) + "\n}\n")


def save_config(model, folder):
    if isinstance(model, Critic):
        model = model.unet
    if isinstance(model, (UNet2DConditionModel, AutoencoderKL)):
        model.save_config(folder)
    else:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)


def digest(case, make):
    """Full-size models: the state dict as lines "name [d, d]\n" sorted by name, hashed."""
    folder = os.path.join(HERE, case)
    os.makedirs(folder, exist_ok=True)
    with torch.device("meta"):
        model = make()
    names = checkpoint_names(model)
    lines = sorted(f"{names[k]} {list(v.shape)}\n" for k, v in model.state_dict().items())
    count = sum(v.numel() for v in model.state_dict().values())
    with open(os.path.join(folder, "digest.json"), "w") as f:
        json.dump({"parameters": count, "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}, f, indent=2)
        f.write("\n")
    save_config(model, folder)
    print(case, count)


def tensor(name, *shape):
    return torch.from_numpy(uniform(name, int(np.prod(shape))).reshape(shape).astype(np.float32) * 1.7)


class Critic(torch.nn.Module):
    """The conditional discriminator of shared/METHOD.md: a UNet's encoder and mid block on two inputs, their features
    side by side, and the head for mid-block features of side 8."""

    def __init__(self, channels, groups, **config):
        super().__init__()
        self.unet = UNet2DConditionModel(**config)
        del self.unet.up_blocks, self.unet.conv_norm_out, self.unet.conv_out
        wide = 2 * config["block_out_channels"][-1]
        self.head = torch.nn.Module()
        self.head.convs = torch.nn.ModuleList([torch.nn.Conv2d(wide, channels, 3, 1, 1), torch.nn.Conv2d(channels, channels, 4, 2, 1),
                                               torch.nn.Conv2d(channels, channels, 4)])
        self.head.norms = torch.nn.ModuleList([torch.nn.GroupNorm(groups, channels) for _ in range(3)])
        self.head.out = torch.nn.Linear(channels, 1)

    def encode(self, x, t, text, added):
        u = self.unet
        emb = u.time_embedding(u.get_time_embed(sample=x, timestep=t))
        emb = emb + u.get_aug_embed(emb=emb, encoder_hidden_states=text, added_cond_kwargs=added)
        h = u.conv_in(x)
        for block in u.down_blocks:
            h, _ = block(h, emb, encoder_hidden_states=text) if hasattr(block, "attentions") else block(h, emb)
        return u.mid_block(h, emb, encoder_hidden_states=text)

    def forward(self, next, x, t_next, t, text, added):
        h = torch.cat([self.encode(next, t_next, text, added), self.encode(x, t, text, added)], 1)
        for conv, norm in zip(self.head.convs, self.head.norms):
            h = F.silu(norm(conv(h)))
        return self.head.out(h.flatten(1)).flatten()


def critic(case, side, tokens, channels, groups, **config):
    model = Critic(channels, groups, addition_embed_type="text_time", **config)
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    inputs = {k: tensor(f"{case}.{k}", 2, config["in_channels"], side, side) for k in ("next", "x")}
    inputs |= {"time_next": torch.tensor([749, 0]), "time": torch.tensor([999, 249]),
               "text": tensor(case + ".text", 2, tokens, config["cross_attention_dim"]), "pooled": tensor(case + ".pooled", 2, pooled),
               "ids": torch.tensor([[64, 64, 0, 0, 64, 64], [80, 96, 5, 7, 64, 72]])}

    def run(i):
        added = {"text_embeds": i["pooled"], "time_ids": i["ids"]}
        return {"logits": model(i["next"], i["x"], i["time_next"], i["time"], i["text"], added)}

    write(case, model, inputs, run, ["head.convs.1.weight", "mid_block.resnets.1.conv2.weight", "conv_in.weight"])


def plain(case, height, width, tokens, params, lora=None, **config):
    """A UNet as Stable Diffusion's: it is told text and nothing else."""
    model = UNet2DConditionModel(**config)
    adapters = adapt(model, *lora) if lora else {}
    inputs = {
        "sample": tensor(case + ".sample", 2, config["in_channels"], height, width),
        "time": torch.tensor([999, 431]),
        "text": tensor(case + ".text", 2, tokens, config["cross_attention_dim"]),
    }
    write(case, model, inputs, lambda i: {"sample": model(i["sample"], i["time"], i["text"]).sample}, params, adapters)


def unet(case, height, width, tokens, params, lora=None, **config):
    model = UNet2DConditionModel(addition_embed_type="text_time", **config)
    adapters = adapt(model, *lora) if lora else {}
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    inputs = {
        "sample": tensor(case + ".sample", 2, config["in_channels"], height, width),
        "time": torch.tensor([999, 431]),
        "text": tensor(case + ".text", 2, tokens, np.ravel(config["cross_attention_dim"])[0]),
        "pooled": tensor(case + ".pooled", 2, pooled),
        "ids": torch.tensor([[64, 64, 0, 0, 64, 64], [80, 96, 5, 7, 64, 72]]),
    }

    def run(i):
        added = {"text_embeds": i["pooled"], "time_ids": i["ids"]}
        return {"sample": model(i["sample"], i["time"], i["text"], added_cond_kwargs=added).sample}

    write(case, model, inputs, run, params, adapters)


def vae(case, height, width, params, **config):
    levels = len(config["block_out_channels"])
    model = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
                          **config)
    f = 2 ** (levels - 1)
    inputs = {
        "image": tensor(case + ".image", 2, 3, height, width),
        "noise": tensor(case + ".noise", 2, config["latent_channels"], height // f, width // f),
    }

    def run(i):
        latent = model.encode(i["image"]).latent_dist
        z = latent.mean + latent.std * i["noise"]
        return {"image": model.decode(z).sample, "mean": latent.mean, "logvar": latent.logvar}

    write(case, model, inputs, run, params)


def overflow(case, height, width, **config):
    """An autoencoder whose activations are beyond fp16's range, as those of SDXL's are: in fp16 it gives NaN."""
    levels = len(config["block_out_channels"])
    model = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
                          **config)
    inputs = {"image": tensor(case + ".image", 1, 3, height, width),
              "noise": tensor(case + ".noise", 1, config["latent_channels"], height // 2, width // 2)}

    def run(i):
        dtype = next(model.parameters()).dtype
        latent = model.encode(i["image"].to(dtype)).latent_dist
        z = latent.mean + latent.std * i["noise"].to(dtype)
        return {"image": model.decode(z).sample, "mean": latent.mean, "logvar": latent.logvar}

    write(case, model, inputs, run, [], scale=lambda name: 1e5 if name.endswith(".conv2.weight") else 1)
    assert all(p.abs().max() < 65504 for p in model.parameters())
    model.half()
    with torch.no_grad():
        assert not torch.isfinite(run(inputs)["image"]).all()


def text(case, model, ids, params):
    def run(i):
        out = model(input_ids=i["ids"], output_hidden_states=True)
        pooled = out.pooler_output if hasattr(out, "pooler_output") else model.text_model(input_ids=i["ids"]).pooler_output
        r = {"hidden": out.hidden_states[-2], "pooled": pooled}
        if hasattr(out, "text_embeds"):
            r["projected"] = out.text_embeds
        return r

    write(case, model, {"ids": torch.tensor(ids)}, run, params)


def last(case, model, ids, params):
    """A text encoder as Stable Diffusion's pipelines use it."""
    write(case, model, {"ids": torch.tensor(ids)}, lambda i: {"tokens": model(input_ids=i["ids"])[0]}, params)


def stable_diffusion():
    """Stable Diffusion 1's networks, with as many heads on every level and projections by convolutions, and 2's."""
    levels = dict(in_channels=4, out_channels=4, sample_size=8, layers_per_block=2,
                  down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
                  up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], norm_num_groups=8)
    plain("unet_sd1", 8, 12, 5,
          ["conv_in.weight", "down_blocks.0.attentions.1.proj_in.weight", "up_blocks.2.attentions.2.proj_out.weight",
           "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", "time_embedding.linear_1.bias",
           "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight.lora_down"], lora=(3, 0.5),
          attention_head_dim=4, block_out_channels=[16, 24, 24], cross_attention_dim=20, **levels)
    plain("unet_sd2", 8, 8, 4,
          ["down_blocks.0.attentions.0.proj_in.weight", "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v.weight",
           "mid_block.resnets.1.time_emb_proj.bias"],
          attention_head_dim=[2, 3, 6], block_out_channels=[16, 24, 48], cross_attention_dim=28, use_linear_projection=True,
          upcast_attention=True, only_cross_attention=False, dual_cross_attention=False, **levels)
    params = ["text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.weight",
              "text_model.encoder.layers.1.mlp.fc1.bias"]
    for case, act, eos in (("clip_sd1", "quick_gelu", 2), ("clip_sd2", "gelu", 59)):
        last(case, CLIPTextModel(CLIPTextConfig(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                                num_attention_heads=4, max_position_embeddings=9, hidden_act=act,
                                                bos_token_id=58, eos_token_id=eos, pad_token_id=1)),
             [[58, 7, 3, 3, 41, 59, 59, 59, 59], [58, 12, 59, 0, 0, 0, 0, 0, 0]], params)
    levels = dict(in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=[320, 640, 1280, 1280],
                  down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
                  up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    for name, side, config, encoder in (
            ("sd1", 64, dict(attention_head_dim=8, cross_attention_dim=768),
             dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)),
            ("sd2", 96, dict(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True,
                             upcast_attention=True),
             dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"))):
        digest(name + "/unet", lambda: UNet2DConditionModel(sample_size=side, **levels, **config))
        digest(name + "/text_encoder", lambda: CLIPTextModel(CLIPTextConfig(**encoder)))


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stable_diffusion()
    unet("unet", 8, 8, 5,
         ["conv_in.weight", "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight",
          "up_blocks.1.resnets.2.norm1.weight", "add_embedding.linear_1.bias"],
         in_channels=4, out_channels=4, sample_size=8, block_out_channels=[32, 64, 64], layers_per_block=2,
         down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
         up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
         transformer_layers_per_block=[1, 1, 1], attention_head_dim=[2, 4, 8], cross_attention_dim=48,
         use_linear_projection=True, addition_time_embed_dim=16, projection_class_embeddings_input_dim=120,
         norm_num_groups=8)
    unet("unet_odd", 8, 12, 7,
         ["conv_out.weight", "down_blocks.0.attentions.0.proj_in.weight", "mid_block.resnets.1.time_emb_proj.bias",
          "down_blocks.0.downsamplers.0.conv.weight.lora_down", "up_blocks.0.resnets.1.conv1.weight.lora_up",
          "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight.lora_down"], lora=(3, 0.5),
         in_channels=3, out_channels=5, sample_size=8, block_out_channels=[32, 96], layers_per_block=1,
         down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
         up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
         transformer_layers_per_block=[2, 1], attention_head_dim=[4, 3], cross_attention_dim=20,
         use_linear_projection=False, addition_time_embed_dim=8, projection_class_embeddings_input_dim=58,
         norm_num_groups=16, norm_eps=1e-6)
    unet("unet_lists", 12, 8, 3,
         ["mid_block.attentions.0.transformer_blocks.1.attn1.to_out.0.weight", "up_blocks.1.resnets.1.conv_shortcut.bias",
          "down_blocks.1.attentions.0.transformer_blocks.1.norm2.weight"],
         in_channels=4, out_channels=4, sample_size=8, block_out_channels=[12, 36], layers_per_block=[1, 2],
         down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
         transformer_layers_per_block=[1, [2, 1]], reverse_transformer_layers_per_block=[[1, 2, 1], 1],
         attention_head_dim=[1, 9], cross_attention_dim=[10, 10], use_linear_projection=True, upcast_attention=True,
         addition_time_embed_dim=6, projection_class_embeddings_input_dim=41, norm_num_groups=6)
    unet("unet_single", 5, 7, 1,
         ["mid_block.attentions.0.proj_out.weight", "up_blocks.0.resnets.3.conv_shortcut.weight"],
         in_channels=9, out_channels=4, sample_size=6, block_out_channels=[20], layers_per_block=3,
         down_block_types=["CrossAttnDownBlock2D"], up_block_types=["UpBlock2D"], transformer_layers_per_block=2,
         attention_head_dim=5, cross_attention_dim=14, use_linear_projection=False, addition_time_embed_dim=4,
         projection_class_embeddings_input_dim=31, norm_num_groups=5, act_fn="swish")
    # The mid blocks of Segmind-Vega, one resnet, and of KOALA, none.
    for case, mid, params in (("unet_vega", "UNetMidBlock2D", ["mid_block.resnets.0.conv2.weight"]), ("unet_koala", None, ["up_blocks.0.resnets.0.conv1.bias"])):
        unet(case, 6, 4, 3, params, in_channels=4, out_channels=4, sample_size=6, block_out_channels=[8, 16], layers_per_block=1,
             down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
             mid_block_type=mid, transformer_layers_per_block=[1, 1], attention_head_dim=[1, 2], cross_attention_dim=10,
             use_linear_projection=True, addition_time_embed_dim=4, projection_class_embeddings_input_dim=30, norm_num_groups=4)
    critic("critic", 16, 5, 12, 4, in_channels=4, out_channels=4, sample_size=16, block_out_channels=[16, 24],
           layers_per_block=1, down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
           up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"], transformer_layers_per_block=[1, 1],
           attention_head_dim=[2, 3], cross_attention_dim=18, use_linear_projection=True, addition_time_embed_dim=4,
           projection_class_embeddings_input_dim=34, norm_num_groups=8)
    vae("vae", 24, 24,
        ["encoder.down_blocks.0.downsamplers.0.conv.bias", "encoder.mid_block.attentions.0.to_q.weight",
         "decoder.up_blocks.1.resnets.0.norm2.weight", "quant_conv.weight"],
        block_out_channels=[32, 64, 64], layers_per_block=2, norm_num_groups=8, latent_channels=4, sample_size=24)
    vae("vae_odd", 16, 24,
        ["encoder.conv_in.weight", "encoder.down_blocks.2.downsamplers.0.conv.bias",
         "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"],
        block_out_channels=[16, 16, 32, 48], layers_per_block=1, norm_num_groups=16, latent_channels=3, sample_size=16,
        mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False)
    overflow("vae_overflow", 12, 8, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, latent_channels=4,
             sample_size=8)
    params = ["text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight",
              "text_model.encoder.layers.0.self_attn.k_proj.weight", "text_model.encoder.layers.1.mlp.fc1.bias"]
    text("clip_text",
         CLIPTextModel(CLIPTextConfig(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                      num_attention_heads=4, max_position_embeddings=9, hidden_act="quick_gelu",
                                      bos_token_id=0, eos_token_id=2, pad_token_id=1)),
         [[58, 7, 3, 3, 41, 59, 59, 59, 59], [58, 12, 59, 0, 0, 0, 0, 0, 0]], params)
    text("clip_text_projection",
         CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=60, hidden_size=48, intermediate_size=100,
                                                    num_hidden_layers=2, num_attention_heads=3, projection_dim=20,
                                                    max_position_embeddings=12, hidden_act="gelu", bos_token_id=56,
                                                    eos_token_id=57, pad_token_id=0)),
         [[56, 7, 3, 59, 41, 57, 0], [56, 57, 0, 0, 0, 0, 0]], params + ["text_projection.weight"])
    both = CLIPModel(CLIPConfig(
        text_config=CLIPTextConfig(vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                   num_attention_heads=2, max_position_embeddings=6, bos_token_id=28,
                                   eos_token_id=29, pad_token_id=0).to_dict(),
        vision_config=CLIPVisionConfig(hidden_size=40, intermediate_size=72, num_hidden_layers=2,
                                       num_attention_heads=5, image_size=18, patch_size=4).to_dict(),
        projection_dim=12))

    def run(i):
        out = both(input_ids=i["ids"], pixel_values=i["image"])
        states = both.vision_model(i["image"], output_hidden_states=True).hidden_states
        features = both.visual_projection(both.vision_model(i["image"]).pooler_output)
        r = {"logits": out.logits_per_image, "image": features}
        r.update({f"state{k}": h for k, h in enumerate(states)})
        return r

    write("clip", both, {"image": tensor("clip.image", 2, 3, 18, 18),
                         "ids": torch.tensor([[28, 3, 4, 29, 0, 0], [28, 9, 29, 0, 0, 0]])}, run,
          ["vision_model.embeddings.patch_embedding.weight", "vision_model.embeddings.class_embedding",
           "vision_model.embeddings.position_embedding.weight", "vision_model.encoder.layers.1.self_attn.v_proj.weight",
           "text_projection.weight", "logit_scale"])

    digest("sdxl/unet", lambda: UNet2DConditionModel(
        in_channels=4, out_channels=4, sample_size=128, block_out_channels=[320, 640, 1280], layers_per_block=2,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816))
    digest("sdxl/vae", lambda: AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4, sample_size=1024,
        scaling_factor=0.13025))
    small = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    digest("sdxl/text_encoder", lambda: CLIPTextModel(CLIPTextConfig(**small, projection_dim=768)))
    digest("sdxl/text_encoder_2", lambda: CLIPTextModelWithProjection(CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280,
        hidden_act="gelu")))
    digest("sdxl/clip_vit_l14", lambda: CLIPModel(CLIPConfig(
        text_config=CLIPTextConfig(**small).to_dict(),
        vision_config=CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                                       num_attention_heads=16, image_size=224, patch_size=14).to_dict(),
        projection_dim=768)))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""PyTorch's counterpart of `fewstep bench --step vae-encode` and `vae-decode`: diffusers' AutoencoderKL with SDXL's
config, random weights and inputs, bf16 on a GPU and f32 on a CPU. One line of JSON with the yardstick's keys.

  python3 train/bench/vae_torch.py --step vae-decode --batch 1
  python3 train/bench/vae_torch.py --step vae-encode --batch 1 --channels-last 1 --compile 1

vae-encode gives the moments of an image, vae-decode the image of a latent. --side is the latent's; images are 8 times
(preset mini: 4 times) as wide.
"""
import argparse, json, time
import torch
from diffusers import AutoencoderKL

PRESETS = {"sdxl": ((128, 256, 512, 512), 128), "mini": ((32, 64, 64), 16)}  # widths, latent side
ap = argparse.ArgumentParser()
ap.add_argument("--preset", choices=PRESETS, default="sdxl")
ap.add_argument("--step", choices=["vae-encode", "vae-decode"], default="vae-decode")
ap.add_argument("--batch", type=int, default=1)
ap.add_argument("--side", type=int, default=0, help="of the latents; 0 = the preset's")
ap.add_argument("--iters", type=int, default=5, help="timed calls, after one that compiles and two that warm up")
ap.add_argument("--channels-last", type=int, default=0)
ap.add_argument("--compile", type=int, default=0)
a = ap.parse_args()

GPU = torch.cuda.is_available()
DEV, DTYPE = ("cuda", torch.bfloat16) if GPU else ("cpu", torch.float32)
torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
widths, side = PRESETS[a.preset]
side = a.side or side
n = len(widths)
vae = AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=widths, layers_per_block=2,
                    down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
                    norm_num_groups=32, act_fn="silu", scaling_factor=0.13025)
vae = vae.to(DEV, DTYPE).eval().requires_grad_(False)
shape = (a.batch, 3, side << (n - 1), side << (n - 1)) if a.step == "vae-encode" else (a.batch, 4, side, side)
x = torch.randn(shape, device=DEV, dtype=DTYPE)
if a.channels_last:
    vae, x = vae.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
if a.step == "vae-encode":
    net = lambda v: vae.encode(v).latent_dist.parameters
else:
    net = lambda v: vae.decode(v).sample
if a.compile:
    net = torch.compile(net)


@torch.no_grad()
def timed():
    start = time.perf_counter()
    net(x).float().cpu()  # the result is read, as fewstep's is
    return time.perf_counter() - start


first = timed()
timed(), timed()
ts = sorted(timed() for _ in range(a.iters))
median = ts[len(ts) // 2]
print(json.dumps(dict(what="torch", torch=torch.__version__, device=torch.cuda.get_device_name() if GPU else "cpu",
                      preset=a.preset, step=a.step, batch=a.batch, channels_last=a.channels_last, compile=a.compile,
                      first_s=round(first, 2), median_ms=round(1e3 * median, 1), min_ms=round(1e3 * ts[0], 1),
                      samples_per_s=round(a.batch / median, 3),
                      peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 2) if GPU else None)))

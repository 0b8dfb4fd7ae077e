#!/usr/bin/env python3
"""PyTorch's counterpart of `fewstep bench --step vae-encode` and `vae-decode`: SDXL's autoencoder in plain PyTorch with
random weights and inputs, bf16 on a GPU and f32 on a CPU. One line of JSON with the yardstick's keys.

  python3 train/bench/vae_torch.py --step vae-decode --batch 1
  python3 train/bench/vae_torch.py --step vae-encode --batch 1 --channels-last 1 --compile 1
  python3 train/bench/vae_torch.py --preset mini --check 1    # the same function as diffusers' AutoencoderKL, if that is here

vae-encode gives the moments of an image, vae-decode the image of a latent. --side is the latent's; images are 8 times
(preset mini: 4 times) as wide.
"""
import argparse, json, time
import torch
import torch.nn.functional as F
from torch import nn


def norm(c):
    return nn.GroupNorm(32, c, eps=1e-6)


class Resnet(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.norm1, self.conv1 = norm(cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2, self.conv2 = norm(cout), nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, c):
        super().__init__()
        self.group_norm = norm(c)
        self.to_q, self.to_k, self.to_v = (nn.Linear(c, c) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        h = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        return x + self.to_out[0](h)[:, 0].transpose(1, 2).reshape(x.shape)


class Mid(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList([Resnet(c, c), Resnet(c, c)]), nn.ModuleList([Attention(c)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Down(nn.Module):
    """Halves the side, padded right and below."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Doubles the side."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, and the change to the next."""

    def __init__(self, cin, cout, blocks, name, change):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(cin if i == 0 else cout, cout) for i in range(blocks)])
        self.name = name
        setattr(self, name, nn.ModuleList([change(cout)] if change else []))

    def forward(self, x):
        for m in [*self.resnets, *getattr(self, self.name)]:
            x = m(x)
        return x


class Encoder(nn.Module):
    def __init__(self, widths):
        super().__init__()
        n, before = len(widths), (widths[0], *widths)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList([Level(before[i], widths[i], 2, "downsamplers", Down if i < n - 1 else None) for i in range(n)])
        self.mid_block = Mid(widths[-1])
        self.conv_norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], 8, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, widths):
        super().__init__()
        widths = widths[::-1]
        n, before = len(widths), (widths[0], *widths)
        self.conv_in = nn.Conv2d(4, widths[0], 3, padding=1)
        self.mid_block = Mid(widths[0])
        self.up_blocks = nn.ModuleList([Level(before[i], widths[i], 3, "upsamplers", Up if i < n - 1 else None) for i in range(n)])
        self.conv_norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x):
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VAE(nn.Module):
    """Parameters have the names of diffusers' AutoencoderKL."""

    def __init__(self, widths):
        super().__init__()
        self.encoder, self.decoder = Encoder(widths), Decoder(widths)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1)

    def encode(self, x):
        return self.quant_conv(self.encoder(x))

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


PRESETS = {"sdxl": ((128, 256, 512, 512), 128), "mini": ((32, 64, 64), 16)}  # widths, latent side
ap = argparse.ArgumentParser()
ap.add_argument("--preset", choices=PRESETS, default="sdxl")
ap.add_argument("--step", choices=["vae-encode", "vae-decode"], default="vae-decode")
ap.add_argument("--batch", type=int, default=1)
ap.add_argument("--side", type=int, default=0, help="of the latents; 0 = the preset's")
ap.add_argument("--iters", type=int, default=5, help="timed calls, after one that compiles and two that warm up")
ap.add_argument("--channels-last", type=int, default=0)
ap.add_argument("--compile", type=int, default=0)
ap.add_argument("--check", type=int, default=0, help="compare with diffusers instead of timing, in f32 on the CPU")
a = ap.parse_args()

GPU = torch.cuda.is_available() and not a.check
DEV, DTYPE = ("cuda", torch.bfloat16) if GPU else ("cpu", torch.float32)
torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
widths, side = PRESETS[a.preset]
side = a.side or side
n = len(widths)
vae = VAE(widths).to(DEV, DTYPE).eval().requires_grad_(False)
image, latent = (a.batch, 3, side << (n - 1), side << (n - 1)), (a.batch, 4, side, side)

if a.check:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=widths, layers_per_block=2,
                           down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
                           norm_num_groups=32, act_fn="silu").eval()
    theirs.load_state_dict(vae.state_dict())  # refuses missing and unexpected names
    with torch.no_grad():
        x, z = torch.randn(image), torch.randn(latent)
        pairs = {"encode": (vae.encode(x), theirs.encode(x).latent_dist.parameters), "decode": (vae.decode(z), theirs.decode(z).sample)}
    apart = {k: ((p - q).abs().max() / q.abs().max()).item() for k, (p, q) in pairs.items()}
    print(json.dumps(dict(what="check", parameters=sum(p.numel() for p in vae.parameters()), apart=apart)))
    raise SystemExit(0 if max(apart.values()) < 1e-5 else 1)

net, shape = (vae.encode, image) if a.step == "vae-encode" else (vae.decode, latent)
x = torch.randn(shape, device=DEV, dtype=DTYPE)
if a.channels_last:
    vae.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
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

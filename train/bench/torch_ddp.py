#!/usr/bin/env python3
"""Times distillation steps under PyTorch's DistributedDataParallel: the yardstick of `fewstep bench --devices N`.

The networks and the work of a step are those of fewstep's bench: SDXL's UNet, bf16 arithmetic, trained weights in f32 and
frozen ones in bf16, on a CPU all f32. Weights and inputs are random: it times steps and does not train well. Each
process drives one GPU of this host. Needs PyTorch 2 and nothing else. Prints one line of JSON for each configuration.

  python3 torch_ddp.py --devices 1,2 --steps adv-lora,mse-lora --batch 2
  python3 torch_ddp.py --tiny --backend gloo                 # two processes on a CPU

mse-lora             four guided teacher calls (batch doubled); student's LoRA forward, backward, Adam
adv-lora, adv-full   two teacher calls; an update of the discriminator (conditional form, every weight) on real and fake;
                     an update of the student, its LoRA or every weight, through the discriminator; Adam (0, 0.99)
"""
import argparse, gc, json, os, socket, statistics, sys, time
import torch, torch.distributed as dist, torch.nn as nn, torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.checkpoint import checkpoint

SDXL = dict(ch=(320, 640, 1280), depth=(0, 2, 10), text=2048, head=64, added=2816, side=128, tokens=77, rank=64)
TINY = dict(ch=(32, 64, 128), depth=(0, 1, 2), text=128, head=32, added=384, side=16, tokens=77, rank=4)
N = SDXL  # the sizes of the networks
recompute = False


class Layer(nn.Module):
    """A linear layer or convolution; with a rank, frozen with a trained pair of adapters beside it."""

    def __init__(self, base, rank):
        super().__init__()
        self.base, self.rank = base, rank
        if rank and isinstance(base, nn.Linear):
            self.down, self.up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        elif rank:
            self.down = nn.Conv2d(base.in_channels, rank, base.kernel_size, base.stride, base.padding, bias=False)
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)

    def forward(self, x):
        y = self.base(x)
        return y + self.up(self.down(x)) * (8 / self.rank) if self.rank else y


def linear(i, o, rank=0, bias=True):
    return Layer(nn.Linear(i, o, bias=bias), rank)


def conv(i, o, k, rank=0, stride=1):
    return Layer(nn.Conv2d(i, o, k, stride, k // 2), rank)


def run(module, *xs):
    """Calls a block; with --ckpt its inner values are computed again in the backward pass."""
    return checkpoint(module, *xs, use_reentrant=False) if recompute and torch.is_grad_enabled() else module(*xs)


class Attention(nn.Module):
    def __init__(self, c, width, rank):
        super().__init__()
        self.q, self.k, self.v = (linear(i, c, rank, bias=False) for i in (c, width, width))
        self.out = linear(c, c, rank)

    def forward(self, x, kv):
        q, k, v = (y.unflatten(-1, (-1, N["head"])).transpose(1, 2) for y in (self.q(x), self.k(kv), self.v(kv)))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, c, rank):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(3))
        self.own, self.cross = Attention(c, c, rank), Attention(c, N["text"], rank)
        self.widen, self.narrow = linear(c, 8 * c, rank), linear(4 * c, c, rank)

    def forward(self, x, text):
        y = self.norms[0](x)
        x = x + self.own(y, y)
        x = x + self.cross(self.norms[1](x), text)
        y, gate = self.widen(self.norms[2](x)).chunk(2, -1)
        return x + self.narrow(y * F.gelu(gate))


class Transformer(nn.Module):
    def __init__(self, c, depth, rank):
        super().__init__()
        self.norm, self.enter, self.leave = nn.GroupNorm(32, c, 1e-6), linear(c, c, rank), linear(c, c, rank)
        self.blocks = nn.ModuleList(Block(c, rank) for _ in range(depth))

    def forward(self, x, text):
        y = self.enter(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for b in self.blocks:
            y = run(b, y, text)
        return x + self.leave(y).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Resnet(nn.Module):
    def __init__(self, i, o, rank):
        super().__init__()
        self.n1, self.n2, self.time = nn.GroupNorm(32, i), nn.GroupNorm(32, o), linear(4 * N["ch"][0], o, rank)
        self.c1, self.c2 = conv(i, o, 3, rank), conv(o, o, 3, rank)
        self.short = conv(i, o, 1, rank) if i != o else nn.Identity()

    def forward(self, x, t):
        y = self.c1(F.silu(self.n1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.short(x) + self.c2(F.silu(self.n2(y)))


class Level(nn.Module):
    """A resnet and, where the level has them, transformer blocks."""

    def __init__(self, i, level, rank):
        super().__init__()
        c, depth = N["ch"][level], N["depth"][level]
        self.resnet, self.transformer = Resnet(i, c, rank), Transformer(c, depth, rank) if depth else None

    def forward(self, x, t, text):
        x = run(self.resnet, x, t)
        return self.transformer(x, text) if self.transformer else x


class Encoder(nn.Module):
    """Embeddings, the way down and the middle."""

    def __init__(self, rank=0):
        super().__init__()
        ch, wide = N["ch"], 4 * N["ch"][0]
        self.time = nn.Sequential(linear(ch[0], wide), nn.SiLU(), linear(wide, wide))
        self.pooled = nn.Sequential(linear(N["added"], wide), nn.SiLU(), linear(wide, wide))
        self.enter, self.skips, self.down, c = conv(4, ch[0], 3), [ch[0]], nn.ModuleList(), ch[0]
        for i, o in enumerate(ch):
            self.down += [Level(c, i, rank), Level(o, i, rank)] + ([conv(o, o, 3, rank, stride=2)] if i < 2 else [])
            self.skips += [o] * (3 if i < 2 else 2)
            c = o
        self.mid, self.last = Level(c, 2, rank), Resnet(c, c, rank)

    def forward(self, x, t, text, added):
        half = N["ch"][0] // 2
        angles = t[:, None].float() * torch.exp(-9.21034 * torch.arange(half, device=x.device) / half)
        emb = self.time(torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype)) + self.pooled(added)
        skips = [self.enter(x)]
        for m in self.down:
            skips.append(m(skips[-1], emb, text) if isinstance(m, Level) else m(skips[-1]))
        return run(self.last, self.mid(skips[-1], emb, text), emb), skips, emb


class UNet(nn.Module):
    def __init__(self, rank=0):
        super().__init__()
        self.encoder, self.up, ch = Encoder(rank), nn.ModuleList(), N["ch"]
        skips, c = list(self.encoder.skips), ch[2]
        for i in (2, 1, 0):
            for _ in range(3):
                self.up.append(Level(c + skips.pop(), i, rank))
                c = ch[i]
            if i:
                self.up.append(conv(c, c, 3, rank))
        self.norm, self.leave = nn.GroupNorm(32, ch[0]), conv(ch[0], 4, 3)

    def forward(self, x, t, text, added):
        h, skips, emb = self.encoder(x, t, text, added)
        for m in self.up:
            h = m(torch.cat([h, skips.pop()], 1), emb, text) if isinstance(m, Level) else m(F.interpolate(h, scale_factor=2))
        return self.leave(F.silu(self.norm(h)))


class Discriminator(nn.Module):
    """A UNet's encoder on both points of the path, and a head on both outputs side by side. Gives the losses themselves,
    so that one forward pass of DDP precedes one backward pass."""

    def __init__(self):
        super().__init__()
        c, side = N["ch"][2], N["side"] // 4
        kernels = [(3, 1, 1)] + [(4, 2, 1)] * (side.bit_length() - 3) + [(4, 1, 0)]
        layers = [[nn.Conv2d(c if i else 2 * c, c, *k), nn.GroupNorm(32, c), nn.SiLU()] for i, k in enumerate(kernels)]
        self.encoder, self.head = Encoder(), nn.Sequential(*sum(layers, []), nn.Flatten(), nn.Linear(c, 1))

    def forward(self, signs, x, t0, t, text, added):
        """signs: pairs of (+1, sample wanted as real) or (-1, as fake); x [batch, 4, side, side] the noisy latents at t."""
        judge = lambda y: self.head(torch.cat([self.encoder(y, t0, text, added)[0], self.encoder(x, t, text, added)[0]], 1))
        return sum(F.softplus(-sign * judge(y).float()) for sign, y in signs).mean()


def measure(rank, a, devices, kind):
    """Times one kind of step on this process's device; returns what rank 0 prints."""
    gpu, lora = a.backend == "nccl", kind.endswith("lora")
    dev, low = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    torch.manual_seed(0)
    with torch.device(dev):
        student, teacher = UNet(N["rank"] if lora else 0), UNet().requires_grad_(False).to(low)
        critic = Discriminator() if kind.startswith("adv") else None
        torch.manual_seed(1 + rank)
        noise = [torch.randn(s, dtype=low) for s in ((a.batch, 4, N["side"], N["side"]), (a.batch, N["tokens"], N["text"]), (a.batch, N["added"]))]
        t, t0 = torch.full((a.batch,), 999), torch.full((a.batch,), 499)
    for name, p in student.named_parameters():
        if lora and ".down.weight" not in name and ".up.weight" not in name:
            p.requires_grad_(False).data = p.data.to(low)
    nets = [m.to(memory_format=torch.channels_last) for m in (student, teacher, critic) if m is not None]
    x, text, added = noise[0].to(memory_format=torch.channels_last), noise[1], noise[2]
    optimizers = [torch.optim.Adam([p for p in m.parameters() if p.requires_grad], 1e-6, (0.0, 0.99) if critic else (0.9, 0.999), fused=gpu)
                  for m in (student, critic) if m is not None]
    wrap = lambda m: m if devices == 1 else DDP(m, device_ids=[rank] if gpu else None, gradient_as_bucket_view=True)
    reduced, judged = wrap(student), wrap(critic) if critic else None

    def update(loss, optimizer):
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def step():
        with torch.autocast(dev, low, enabled=gpu):
            y = x
            with torch.no_grad():
                for _ in range(2 if critic else 4):
                    if critic:
                        y = y - 0.1 * teacher(y, t, text, added)
                    else:
                        given, without = teacher(torch.cat([y, y]), t.repeat(2), text.repeat(2, 1, 1), added.repeat(2, 1)).chunk(2)
                        y = y - 0.1 * (without + 6 * (given - without))
                if critic:
                    fake = x - 0.1 * student(x, t, text, added)
            if critic:
                loss = judged([(1, y), (-1, fake)], x, t0, t, text, added)
        if critic:
            update(loss, optimizers[1])
            critic.requires_grad_(False)
        with torch.autocast(dev, low, enabled=gpu):
            out = x - 0.1 * reduced(x, t, text, added)
            loss = critic([(1, out)], x, t0, t, text, added) if critic else F.mse_loss(out.float(), y.float())
        update(loss, optimizers[0])
        if critic:
            critic.requires_grad_(True)

    def timed():
        begun = time.time()
        step()
        if gpu:
            torch.cuda.synchronize()
        return 1e3 * (time.time() - begun)

    first, _ = timed(), timed()
    times = [timed() for _ in range(a.iters)]
    # After updates from different samples, ranks that reduced their gradients have the same weights.
    sums = torch.stack([sum(p.detach().double().abs().sum() for p in m.parameters()) for m in nets] + [torch.tensor(statistics.median(times), dtype=torch.double, device=dev)])
    everyone = [sums]
    if devices > 1:
        everyone = [torch.empty_like(sums) for _ in range(devices)]
        dist.all_gather(everyone, sums)
    if any((s[:-1] != sums[:-1]).any() for s in everyone):
        raise SystemExit("torch_ddp: ranks have different weights: gradients were not reduced")
    median = max(s[-1].item() for s in everyone)
    return dict(what="torch-ddp", torch=torch.__version__, device=torch.cuda.get_device_name() if gpu else "cpu", preset="tiny" if a.tiny else "sdxl",
                step=kind, devices=devices, batch=a.batch * devices, ckpt=a.ckpt, first_s=round(first / 1e3, 2), median_ms=round(median, 1),
                min_ms=round(min(times), 1), samples_per_s=round(1e3 * a.batch * devices / median, 3),
                peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 2) if gpu else None)


def worker(rank, a, devices, port, begun):
    """The process of one device: measures every kind of step that there is time for."""
    global N, recompute
    N, recompute = TINY if a.tiny else SDXL, a.ckpt
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if a.backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(a.backend, rank=rank, world_size=devices)
    for kind in a.steps.split(","):
        late = torch.tensor([time.time() - begun > a.budget], device="cuda" if a.backend == "nccl" else "cpu", dtype=torch.int32)
        dist.all_reduce(late)
        if late.item():
            print(f"torch_ddp: no time for {kind} on {devices} devices", file=sys.stderr)
            continue
        row = measure(rank, a, devices, kind)
        if rank == 0:
            print(json.dumps(row), flush=True)
        gc.collect()
        if a.backend == "nccl":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    dist.destroy_process_group()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--devices", default="1,2", help="numbers of devices to measure on, with commas")
    p.add_argument("--steps", default="adv-lora,mse-lora", help="kinds of step, with commas: mse-lora, adv-lora, adv-full")
    p.add_argument("--batch", type=int, default=2, help="samples of a step on each device")
    p.add_argument("--iters", type=int, default=5, help="steps that are timed, after two that are not")
    p.add_argument("--ckpt", action="store_true", help="recompute the insides of blocks in the backward pass: less memory")
    p.add_argument("--budget", type=float, default=80, help="seconds after which no further configuration is begun")
    p.add_argument("--backend", choices=["nccl", "gloo"], default="nccl", help="nccl: GPUs; gloo: processes on the CPU")
    p.add_argument("--tiny", action="store_true", help="small networks, to test this script")
    a = p.parse_args()
    begun = time.time()
    for devices in map(int, a.devices.split(",")):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        # Forked processes need not import PyTorch again; this one has not touched a GPU.
        torch.multiprocessing.start_processes(worker, (a, devices, port, begun), devices, start_method="fork")


if __name__ == "__main__":
    main()

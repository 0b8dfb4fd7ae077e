"""Trajectories of diffusers' schedulers with an analytic network, for scheduler_test.go.

    python3 generate.py > schedulers.json     # diffusers, torch: versions are in the output

The network's output is u = 0.3 x + 0.2 sin(t / 100), in float64. Fresh noise of call k is cos(k + 1) times the vector
(1, -1, 0.5), which stands in for the random generator.
"""
import json, math, sys
import diffusers, torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler

torch.set_default_dtype(torch.float64)
config = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
shape = torch.tensor([1.0, -1.0, 0.5])
calls = 0


def noise(*args, **kwargs):
    global calls
    calls += 1
    return math.cos(calls) * shape


for module in ("scheduling_lcm", "scheduling_euler_ancestral_discrete"):
    sys.modules["diffusers.schedulers." + module].randn_tensor = noise

schedulers = {
    "euler": lambda: EulerDiscreteScheduler(timestep_spacing="trailing", **config),
    "euler-leading": lambda: EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **config),
    "euler-ancestral": lambda: EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **config),
    "ddim": lambda: DDIMScheduler(timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False, **config),
    "ddim-leading": lambda: DDIMScheduler(timestep_spacing="leading", steps_offset=1, clip_sample=False, set_alpha_to_one=True, **config),
    "lcm": lambda: LCMScheduler(**config),
}
out = []
for name, make in schedulers.items():
    for steps in (1, 2, 3, 4, 8, 30):
        s = make()
        # diffusers keeps alphas in float32; the tables are made again in float64.
        betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000) ** 2
        s.alphas_cumprod = torch.cumprod(1 - betas, 0)
        s.final_alpha_cumprod = torch.tensor(1.0) if getattr(s.config, "set_alpha_to_one", True) else s.alphas_cumprod[0]
        s.set_timesteps(steps)
        if hasattr(s, "sigmas"):
            sigma = ((1 - s.alphas_cumprod) / s.alphas_cumprod) ** 0.5
            s.sigmas = torch.cat([sigma[s.timesteps.long()], torch.zeros(1)])
            top = s.sigmas[0]
            s_init = top if s.config.timestep_spacing == "trailing" else (top**2 + 1) ** 0.5
        else:
            s_init = 1.0
        calls = 0
        x = torch.tensor([0.7, -1.3, 0.1]) * s_init
        fed, times = [], []
        for t in s.timesteps:
            feed = s.scale_model_input(x, t)
            fed.append(feed.tolist())
            times.append(int(t))
            u = 0.3 * feed + 0.2 * math.sin(float(t) / 100)
            x = s.step(u, t, x, return_dict=False)[0]
        out.append(dict(scheduler=name, steps=steps, timesteps=times, fed=fed, end=x.tolist(), noises=calls))
json.dump(dict(diffusers=diffusers.__version__, torch=torch.__version__, cases=out), sys.stdout)

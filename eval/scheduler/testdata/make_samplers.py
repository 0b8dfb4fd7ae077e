"""Writes samplers.json: what diffusers' schedulers with trailing spacing do, step by step, around a network that is a
formula: u[i] = 0.3·x[i] + sin(timestep/100 + i), for the x that the network is given.

Made with the versions of interop/requirements.txt:  python eval/scheduler/testdata/make_samplers.py
"""
import json
import os

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

COMMON = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
              timestep_spacing="trailing")
NOISE = [0.7, -1.3, 2.1, 0.05, -0.4]


def walk(scheduler, steps):
    scheduler.set_timesteps(steps)
    x = torch.tensor(NOISE, dtype=torch.float32) * scheduler.init_noise_sigma
    timesteps, inputs = [], []
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t)
        timesteps.append(int(t))
        inputs.append([float(v) for v in given])
        u = 0.3 * given + torch.sin(t.float() / 100 + torch.arange(len(NOISE)))
        x = scheduler.step(u, t, x).prev_sample
    return {"timesteps": timesteps, "inputs": [[round(v, 7) for v in i] for i in inputs], "end": [float(v) for v in x]}


cases = []
for steps in (1, 2, 4, 7, 8, 32):
    for prediction in ("epsilon", "sample"):
        cases.append({"sampler": "euler", "prediction": prediction, "steps": steps,
                      **walk(EulerDiscreteScheduler(prediction_type=prediction, **COMMON), steps)})
        for to_one in (True, False):
            cases.append({"sampler": "ddim", "prediction": prediction, "steps": steps, "alpha_to_one": to_one,
                          **walk(DDIMScheduler(prediction_type=prediction, set_alpha_to_one=to_one, clip_sample=False, **COMMON), steps)})
# v-prediction, as it is and with zero terminal SNR. There Euler's schedulers keep the last alpha at 2⁻²⁴, which is done to DDIM's
# too: it has zero there, and the difference is below f32's at every step but the first.
for steps in (1, 2, 4, 8):
    for zero in (False, True):
        cases.append({"sampler": "euler", "prediction": "v_prediction", "steps": steps, "zero_snr": zero,
                      **walk(EulerDiscreteScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=zero, **COMMON), steps)})
        ddim = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=zero, clip_sample=False, **COMMON)
        if zero:
            ddim.alphas_cumprod[-1] = 2 ** -24
        cases.append({"sampler": "ddim", "prediction": "v_prediction", "steps": steps, "zero_snr": zero, "alpha_to_one": True, **walk(ddim, steps)})
    cases.append({"sampler": "euler", "prediction": "sample", "steps": steps, "zero_snr": True,
                  **walk(EulerDiscreteScheduler(prediction_type="sample", rescale_betas_zero_snr=True, **COMMON), steps)})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "samplers.json"), "w") as f:
    json.dump({"noise": NOISE, "cases": cases}, f, separators=(",", ":"))
    f.write("\n")

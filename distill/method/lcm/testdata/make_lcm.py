"""Values of latent consistency distillation in float64, computed with NumPy alone from the papers' formulas.

    python3 make_lcm.py > lcm.json

The network is analytic: u(x, i, c) = 0.6·tanh(x) + 0.3·c·cos(i/300) + 0.1, fed the index i = t − 1; the student's output is
0.9 times it and the target network's 0.95 times. Schedule: SDXL's. Clean data, t = 0, has ā = 1.
"""
import json

import numpy as np

betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])


def net(x, t, c):
    return 0.6 * np.tanh(x) + 0.3 * c * np.cos(max(t - 1, 0) / 300) + 0.1


def x0_and_eps(x, u, t, kind):
    s, n = np.sqrt(alpha_bar[t]), np.sqrt(1 - alpha_bar[t])
    if kind == "epsilon":
        return (x - n * u) / s, u
    return s * x - n * u, n * x + s * u  # v_prediction


def consistency(x, u, t, kind):
    tau, sigma = 10.0 * max(t - 1, 0), 0.5
    skip = sigma**2 / (tau**2 + sigma**2)
    out = tau / np.sqrt(tau**2 + sigma**2)
    return skip * x + out * x0_and_eps(x, u, t, kind)[0]


x0 = np.array([0.7, -1.3, 0.2, 2.1])
eps = np.array([-0.4, 0.9, 1.6, -1.1])
c = 0.8
rows = []
for kind in ("epsilon", "v_prediction"):
    for steps, k in ((50, 50), (50, 37), (50, 2), (50, 1), (40, 17)):
        for g in (1.0, 4.0, 8.5):
            t, nxt = 1000 * k // steps, 1000 * (k - 1) // steps
            x = eps if t == 1000 else np.sqrt(alpha_bar[t]) * x0 + np.sqrt(1 - alpha_bar[t]) * eps
            cond, empty = net(x, t, c), net(x, t, 0.0)
            w = g - 1
            u = cond + w * (cond - empty)
            clean, noise = x0_and_eps(x, u, t, kind)
            x_prev = np.sqrt(alpha_bar[nxt]) * clean + np.sqrt(1 - alpha_bar[nxt]) * noise
            student = consistency(x, 0.9 * cond, t, kind)
            target = consistency(x_prev, 0.95 * net(x_prev, nxt, c), nxt, kind)
            r = student - target
            rows.append({
                "prediction": kind, "steps": steps, "t": t, "t_next": nxt, "guidance": g, "x_t": x.tolist(), "teacher": x_prev.tolist(),
                "student": student.tolist(), "target": target.tolist(),
                "huber": float(np.mean(np.sqrt(r**2 + 0.001**2) - 0.001)), "square": float(np.mean(r**2)),
            })
print(json.dumps({"about": "made by make_lcm.py", "x0": x0.tolist(), "eps": eps.tolist(), "c": c, "rows": rows}, indent=1))

"""Goldens of tests/test_rotation.c: torch's randn on the CPU and the Haar rotation made of it (turboquant.md 5a).
Writes tests/golden/rotation.txt: lines "randn SEED N v..." and "haar SEED D v..."; needs torch and numpy."""
import os
import numpy as np
import torch

out = []
for seed in (0, 42, 2**32 + 7):
    for n in (1, 5, 6, 15, 16, 17, 33, 64):
        x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
        out.append(f"randn {seed} {n} " + " ".join(f"{v:.9g}" for v in x.tolist()))
for seed, d in ((42, 4), (0, 16), (42, 64)):
    g = torch.randn(d, d, generator=torch.Generator().manual_seed(seed)).numpy().astype(np.float64)
    q, r = np.linalg.qr(g)
    s = np.where(np.diag(r) < 0, -1.0, 1.0)
    out.append(f"haar {seed} {d} " + " ".join(f"{v:.7g}" for v in (q * s).ravel()))
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "rotation.txt"), "w") as f:
    f.write("\n".join(out) + "\n")

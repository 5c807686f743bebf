#!/usr/bin/env python3
"""A second implementation of turboquant.md, from its text alone, in numpy: checks what `whit quantize` wrote.

    check_packed.py SOURCE OUTPUT [--write DIR]

SOURCE is the Hugging Face directory that OUTPUT was made from (one file or shards). For each tq tensor it
  - decodes codes, scales, codebook and rotation, and compares the relative MSE with the manifest's;
  - encodes the source again in double and counts codes that differ (near ties only) and scales that do;
  - looks at unused bits, row bytes, dtypes.
Also: codebooks are fixed points of Lloyd's iteration, passthrough is the source bit for bit, every source tensor
appears once. Exit 1 if anything is off.
--write DIR makes an F32 checkpoint of the decoded weights; then
    whit eval DIR --ref OUTPUT --compute float --text ...
measures whit's own decoder against this one (KLD about 1e-12). Needs numpy, safetensors, torch (bf16, randn).
"""
import argparse, glob, json, math, os, shutil, sys
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

bad = 0


def check(ok, text):
    global bad
    if not ok:
        bad += 1
        print("FAILED:", text)


def words(seed, n):
    g = np.random.MT19937()
    g._legacy_seeding(int(seed) & 0xFFFFFFFF)  # init_genrand: multiplier 1812433253
    return g.random_raw(n).astype(np.uint64)


def sylvester(n):
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h


def paley(m):
    q = {12: 11, 20: 19, 28: 13}[m]
    square = {i * i % q for i in range(1, q)}
    chi = lambda x: 0 if x % q == 0 else 1 if x % q in square else -1
    Q = np.array([[chi(i - j) for j in range(q)] for i in range(q)], float)
    one = np.ones((1, q))
    if m != 28:
        return np.eye(m) + np.block([[np.zeros((1, 1)), one], [-one.T, Q]])
    s = np.block([[np.zeros((1, 1)), one], [one.T, Q]])
    zero, unit = np.array([[1, -1], [-1, -1.0]]), np.array([[1, 1], [1, -1.0]])
    return np.block([[zero if v == 0 else v * unit for v in row] for row in s])


class Rotation:
    """forward(x) of rows of width `padded`, and its inverse."""

    def __init__(self, r, padded):
        self.kind, self.d, self.b = r["kind"], padded, r["block"]
        if self.kind == "hadamard":
            check(r["base"] in (1, 12, 20, 28), f"base {r['base']}")
            check(padded % self.b == 0, f"padded {padded} and block {self.b}")
            m = r["base"]
            h = sylvester(self.b // m)
            self.h = (np.kron(paley(m), h) if m > 1 else h) / math.sqrt(self.b)
            check(np.abs(self.h @ self.h.T - np.eye(self.b)).max() < 1e-12, "H is orthogonal")
            self.sign = np.where(words(r["seed"], padded) & 1, 1.0, -1.0)
        elif self.kind == "haar_qr":
            check(r["dim"] == padded, f"haar_qr of {r['dim']} has padded {padded}")
            g = torch.randn(padded, padded, generator=torch.Generator().manual_seed(r["seed"]), dtype=torch.float32)
            q, t = np.linalg.qr(g.double().numpy())
            self.pi = q * np.where(np.diag(t) < 0, -1.0, 1.0)
        else:
            check(self.kind == "none", f"rotation kind {self.kind}")

    def forward(self, x):
        if self.kind == "hadamard":
            return ((x * self.sign).reshape(-1, self.b) @ self.h.T).reshape(x.shape)
        return x @ self.pi.T if self.kind == "haar_qr" else x

    def back(self, y):
        if self.kind == "hadamard":
            return (y.reshape(-1, self.b) @ self.h).reshape(y.shape) * self.sign
        return y @ self.pi if self.kind == "haar_qr" else y


def unpack(rows, bits, n):
    stream = np.unpackbits(rows, axis=1, bitorder="little")
    check(stream.shape[1] == (n * bits + 7) // 8 * 8, f"row of {rows.shape[1]} bytes for {n} codes of {bits} bits")
    check(not stream[:, n * bits :].any(), "unused bits are zero")
    code = stream[:, : n * bits].reshape(len(rows), n, bits).astype(np.int64)
    return (code << np.arange(bits)).sum(axis=2)


def check_book(name, c):
    """Each centroid is its cell's mean under the stated density."""
    v, d = np.array(c["values"]), c["dim"]
    check(len(v) == 1 << c["bits"] and (np.diff(v) > 0).all(), f"codebook {name}: ascending, 2^bits values")
    if c["density"] == "beta":
        t = np.linspace(-1, 1, 4000001)[1:-1]
        f = np.exp(0.5 * (d - 3) * np.log1p(-t * t))
    else:
        t = np.linspace(-12, 12, 4000001) / math.sqrt(d)
        f = np.exp(-0.5 * t * t * d)
    cell = np.searchsorted((v[1:] + v[:-1]) / 2, t)
    mean = np.bincount(cell, f * t, len(v)) / np.bincount(cell, f, len(v))
    err = np.abs(mean - v).max() * math.sqrt(d)
    check(err < 3e-6 * (1 << c["bits"]), f"codebook {name}: a centroid is {err:g} sigma from its cell's mean")
    return err


def scales_of(rule, n, y, c):
    yc, cc = (y * c).sum(-1), (c * c).sum(-1)
    return {"least_squares": n * yc / cc, "raw": n, "norm_corrected": n / np.sqrt(cc), "ip": n / yc}[rule]


def load(path):
    out = {}
    for f in sorted(glob.glob(path)):
        with safe_open(f, "pt") as s:
            for k in s.keys():
                out[k] = s.get_tensor(k)
    return out


def main():
    a = argparse.ArgumentParser()
    a.add_argument("source")
    a.add_argument("output")
    a.add_argument("--write")
    a = a.parse_args()
    man = json.load(open(os.path.join(a.output, "quant_manifest.json")))
    src = load(os.path.join(a.source, "*.safetensors"))
    file = {"whit-turboquant": "turboquant_weights", "whit-packed": "packed_weights"}[man["format"]]
    got = load(os.path.join(a.output, file + ".safetensors"))
    side = load(os.path.join(a.output, man["sidecar"])) if man["sidecar"] else {}
    check(man["format_version"] == 1 and man["packing"] == "lsb_le", "format_version 1, packing lsb_le")
    books = {k: check_book(k, c) for k, c in man["codebooks"].items() if f"codebook.{k}" not in side}
    print("codebooks: distance from Lloyd's fixed point, in sigma:", {k: float(f"{v:.2g}") for k, v in books.items()})
    names = [t["name"] for t in man["tensors"]] + [t["name"] for t in man["passthrough"]] + list(man["aliases"])
    check(sorted(names) == sorted(src), "every source tensor appears exactly once")
    used, decoded, rot = set(), {}, {}
    worst_mse = worst_scale = flips = total = skipped = 0
    for p in man["passthrough"]:
        x, y = src[p["name"]], got[p["name"]]
        used.add(p["name"])
        check(x.dtype == y.dtype and torch.equal(x.view(torch.uint8), y.view(torch.uint8)), p["name"] + " is the source")
        decoded[p["name"]] = y.float()
    for t in man["tensors"]:
        name = t["name"]
        if "format" in t:  # not tq: another program's business
            skipped += 1
            continue
        x = src[name].double().numpy()
        rows, cols = x.shape
        check(list(x.shape) == t["shape"], name + ": shape")
        w, bits, group = t["padded"], t["bits"], t["group"] or t["padded"]
        codes, scale = got[t["prefix"] + ".tq_codes"], got[t["prefix"] + ".tq_scales"]
        used |= {t["prefix"] + ".tq_codes", t["prefix"] + ".tq_scales"}
        check(codes.dtype == torch.uint8 and len(codes) == rows, name + ": codes")
        check(str(scale.dtype) == {"F16": "torch.float16", "F32": "torch.float32"}[t["norm_dtype"]], name + ": norm_dtype")
        check(list(scale.shape) == [rows, w // group], name + ": scales' shape")
        key = t["rotation"], w
        if key not in rot:
            rot[key] = Rotation(man["rotations"][t["rotation"]], w)
            if f"rotation.{t['rotation']}" in side:
                rot[key].kind, rot[key].pi = "haar_qr", side[f"rotation.{t['rotation']}"].double().numpy()
        book = man["codebooks"][t["codebook"]]
        check(book["bits"] == bits and book["dim"] == group, name + ": codebook's bits and dim")
        level = np.array(book["values"], np.float32).astype(float)
        k = unpack(codes.numpy(), bits, w)
        s = scale.double().numpy()
        c = level[k].reshape(rows, -1, group)
        back = rot[key].back((c * s[..., None]).reshape(rows, w))
        decoded[name] = torch.tensor(back[:, :cols]).float()
        mse = ((back[:, :cols] - x) ** 2).sum() / max((x * x).sum(), 1e-300)
        off = abs(mse - t["rel_mse"]) / max(mse, 1e-300)
        worst_mse = max(worst_mse, off)
        check(off < 1e-5, f"{name}: relative MSE is {mse:.9g}, manifest says {t['rel_mse']:.9g}")
        # encode again
        y = rot[key].forward(np.pad(x, ((0, 0), (0, w - cols)))).reshape(rows, -1, group)
        n = np.sqrt((y * y).sum(-1))
        check((n == 0).sum() == t["zero_groups"] and not s[n == 0].any() and not c[n == 0].max(initial=level[0]) > level[0],
              name + ": zero groups")
        u = y / np.where(n == 0, 1, n)[..., None]
        again = np.searchsorted((level[1:] + level[:-1]) / 2, u)
        again[n == 0] = 0
        flips += (again.reshape(rows, w) != k).sum()
        total += k.size
        rule = man["scale"]
        if rule != "mixed":
            with np.errstate(divide="ignore", invalid="ignore"):
                want = np.where(n > 0, scales_of(rule, n, u, c), 0)
            err = np.abs(s - want) / np.maximum(np.abs(want), 1e-300)
            worst_scale = max(worst_scale, err[n > 0].max(initial=0))
    check(set(got) - used - {p for t in man["tensors"] if "format" in t for p in got if p.startswith(t["prefix"])} == set(),
          "nothing else is in the file")
    check(worst_scale < 2.0**-11 * 1.01, f"a scale is off by {worst_scale:g}, need at most an F16 rounding")
    check(flips <= 1e-4 * total, f"{flips} of {total} codes differ")
    print(f"{len(man['tensors']) - skipped} tensors checked, {skipped} of other formats; relative MSE off by at most {worst_mse:.2g};"
          f" {flips} of {total} codes at near ties; scales off by at most {worst_scale:.3g} (2^-11 = {2.0**-11:.3g})")
    if a.write:
        os.makedirs(a.write)
        for f in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(a.output, f), a.write)
        save_file(decoded, os.path.join(a.write, "model.safetensors"))
    print("OK" if not bad else f"{bad} checks failed")
    return bad > 0


sys.exit(main())

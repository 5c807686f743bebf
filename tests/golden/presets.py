#!/usr/bin/env python3
"""Which type llama-quantize gives each tensor, for tests/test_export.c.   presets.py WHIT LLAMA_QUANTIZE >presets.txt
                                  presets.py --schema tests/snapshots/qwen3.6-27b.schema >>presets.txt

Models are empty (sparse) checkpoints of real depths and head ratios; `llama-quantize --dry-run` says what it would do.
A line: arch layers heads kv_heads tied hidden inner imatrix (0, 1, or 2 = with and without) preset, the type of most tensors, then
those of other type (or "refused"): "stem=TYPE", or along the layers "stem=TYPE*N,TYPE*M,...". Measured with llama.cpp d32676d77426.

qwen3_5's lines are of that commit's own list for Qwen3.6-27B, whose mix depends on layers, head ratio and blocks that fit alone; where
a layer has no such tensor, the type of the one before stands."""
import json, os, re, struct, subprocess, sys, tempfile

PRESETS = "Q1_0 Q2_0 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_1 Q4_K_S Q4_K_M Q5_0 Q5_1 Q5_K_S Q5_K_M Q6_K Q8_0 " \
          "IQ4_NL IQ4_XS TQ1_0 TQ2_0 F16 BF16".split()
MODELS = [m if len(m) > 5 else m + (256, 256) for m in
          [("llama", 6, 4, 4, 1, 256, 768), ("llama", 32, 8, 2, 0), ("llama", 80, 8, 1, 0), ("llama", 80, 8, 8, 0),
           ("qwen2", 80, 8, 1, 0), ("qwen2", 80, 8, 8, 0), ("qwen2", 24, 8, 4, 1), ("qwen3", 28, 8, 4, 1),
           ("qwen3", 40, 8, 1, 0), ("qwen3", 80, 8, 1, 0), ("qwen3", 13, 8, 4, 0), ("qwen3", 6, 6, 2, 1, 384, 1152),
           ("llama", 5, 8, 4, 1, 64, 172), ("llama", 9, 6, 3, 0, 96, 320)]]
VOCAB = 256


def checkpoint(path, arch, layers, heads, kv, tied, D, inner):
    os.mkdir(path)
    dim = D // heads
    config = {"model_type": arch, "vocab_size": VOCAB, "hidden_size": D, "num_hidden_layers": layers,
              "max_position_embeddings": 64, "intermediate_size": inner, "num_attention_heads": heads,
              "num_key_value_heads": kv, "head_dim": dim, "rms_norm_eps": 1e-6, "tie_word_embeddings": bool(tied)}
    json.dump(config, open(path + "/config.json", "w"))
    t = {"model.embed_tokens.weight": [VOCAB, D], "model.norm.weight": [D]}
    if not tied:
        t["lm_head.weight"] = [VOCAB, D]
    for i in range(layers):
        p = "model.layers.%d." % i
        rows = {"q": D, "k": kv * dim, "v": kv * dim, "o": D}
        for x, n in rows.items():
            t[p + "self_attn.%s_proj.weight" % x] = [n, D]
            if arch == "qwen2" and x != "o":
                t[p + "self_attn.%s_proj.bias" % x] = [n]
        for x in ("gate", "up", "down"):
            t[p + "mlp.%s_proj.weight" % x] = [D, inner] if x == "down" else [inner, D]
        for x in ("input_layernorm", "post_attention_layernorm"):
            t[p + x + ".weight"] = [D]
        if arch == "qwen3":
            for x in "qk":
                t[p + "self_attn.%s_norm.weight" % x] = [dim]
    head, at = {}, 0
    for name, shape in t.items():
        n = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(head).encode()
    with open(path + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)


def imatrix(path):
    D = 256
    s = lambda x: struct.pack("<Q", len(x)) + x.encode()
    kv = [s("general.type") + struct.pack("<i", 8) + s("imatrix"),
          s("imatrix.datasets") + struct.pack("<iiQ", 9, 8, 1) + s("none"),
          s("imatrix.chunk_count") + struct.pack("<iI", 4, 1), s("imatrix.chunk_size") + struct.pack("<iI", 4, 64)]
    name = "blk.0.attn_q.weight"
    info = [s(name + ".in_sum2") + struct.pack("<IqqiQ", 2, D, 1, 0, 0),
            s(name + ".counts") + struct.pack("<IqqiQ", 2, 1, 1, 0, 4 * D)]
    b = b"GGUF" + struct.pack("<Iqq", 3, len(info), len(kv)) + b"".join(kv) + b"".join(info)
    b += bytes(-len(b) % 32) + struct.pack("<%df" % D, *[1.0] * D) + struct.pack("<f", 1.0) + bytes(28)
    open(path, "wb").write(b)


def runs(types):
    out = []
    for t in types:
        if out and out[-1][0] == t:
            out[-1][1] += 1
        else:
            out.append([t, 1])
    return out[0][0] if len(out) == 1 else ",".join("%s*%d" % (t, n) for t, n in out)


def main(whit, quantize):
    tmp = tempfile.mkdtemp()
    imatrix(tmp + "/imatrix.gguf")
    for m in MODELS:
        path = tmp + "/" + "-".join(map(str, m))
        checkpoint(path, *m)
        subprocess.run([whit, "export", path, path + ".gguf", "--type", "F32", "--quiet"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for preset in PRESETS:
            seen = []
            for im in (0, 1):
                cmd = [quantize, "--dry-run"] + (["--imatrix", tmp + "/imatrix.gguf"] if im else [])
                r = subprocess.run(cmd + [path + ".gguf", preset], capture_output=True, text=True)
                text = r.stdout + r.stderr
                got = {}
                for name, t in re.findall(r"\] (\S+)\s+- \[[^\n]*\((\w+)\)\n", text):
                    k = name.split(".")
                    stem = k[2] if k[0] == "blk" else k[0]
                    got.setdefault(stem, []).append(t.upper())
                if r.returncode:
                    if "no tensor type fallback is defined" not in text:
                        sys.exit(text)
                    seen.append("refused")
                    continue
                base = got["attn_q"][0]
                seen.append(" ".join([base] + ["%s=%s" % (k, runs(v)) for k, v in sorted(got.items())
                                               if runs(v) != base]))
            for im, line in ((2, seen[0]),) if seen[0] == seen[1] else enumerate(seen):
                print(*m, im, preset, line)
        os.remove(path + ".gguf")


def schema(path):
    layers, base, lines = 64, {}, {}
    for line in open(path):
        part = line.split()
        if line[0] == "[":
            preset = part[0].strip("[]")
            base[preset], lines[preset] = part[1].upper(), {}
        elif part and line[0] != "#":
            lines[preset][part[0]] = part[1].upper()
    full = lambda l: (l + 1) % 4 == 0
    stems = {"attn_qkv": lambda l: not full(l), "attn_v": full, "attn_output": full, "ffn_down": lambda l: True}
    for preset in [p for p in PRESETS if p in base]:
        seen, known = [], set()
        for stem, there in stems.items():
            types, last = [], None
            for l in range(layers):
                name = "blk.%d.%s.weight" % (l, stem)
                last = lines[preset].get(name, base[preset]) if there(l) else last
                types.append(last)
                known.add(name)
            first = next(t for t in types if t)
            types = [t or first for t in types]
            if runs(types) != base[preset]:
                seen.append("%s=%s" % (stem, runs(types)))
        for name in ("output", "token_embd"):
            known.add(name + ".weight")
            if lines[preset].get(name + ".weight", base[preset]) != base[preset]:
                seen.append("%s=%s" % (name, lines[preset][name + ".weight"]))
        if set(lines[preset]) - known:
            sys.exit("%s: %s has tensors of other stems" % (path, preset))
        print("qwen3_5_text 64 24 4 0 768 1024 0", preset, base[preset], *sorted(seen))


schema(sys.argv[2]) if sys.argv[1] == "--schema" else main(*sys.argv[1:])

"""What transformers makes of ppl_text.txt with wiki12M-qwen3: perplexity in every mode, and the divergence of a
model whose weights lost bits.

    python make_ppl.py MODEL_DIR > ppl.json
    python make_ppl.py MODEL_DIR TEXT N     perplexity of TEXT's first N chunks of 512, as llama-perplexity scores them

Needs torch, transformers, safetensors. Maths in float32 on the bf16 weights, eager attention; log-softmax and sums
in float64. The `hf` cases repeat the loop of the transformers documentation ("Perplexity of fixed-length models");
the others are written from the definitions. The coarse model is the same with the low DROP bits of every bf16
weight cleared (tests/test_eval.c makes it so, too).
"""
import json, os, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
DROP = 4


def load(path, drop=0):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="eager")
    if drop:
        with torch.no_grad():
            for p in model.parameters():
                bits = p.data.view(torch.int16)
                bits &= -(1 << drop)
    return model.float().eval()


def log_probs(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(ids[None]).logits[0].double(), -1)


def documentation(model, ids, length, stride):
    """The published loop, its cross entropy in float64."""
    total, n, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        labels = ids[begin:end].clone()
        labels[: -(end - previous)] = -100
        with torch.no_grad():
            logits = model(ids[begin:end][None]).logits[0].double()
        loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
        count = (labels != -100).sum().item() - 1
        total += loss.item() * count
        n += count
        previous = end
        if end == len(ids):
            break
    return total / n, n


def windows(n_tokens, mode, length, stride):
    """(begin, end, first, last): inputs first..last-1 predict their successors and count."""
    if mode == "chunked":
        return [(b, b + length, b + length // 2, b + length - 1) for b in range(0, n_tokens // length * length, length)]
    out, previous, begin = [], 0, 0
    while previous < n_tokens:
        end = min(begin + length, n_tokens)
        out.append((begin, end, max(previous, begin + 1) - 1, end - 1))
        previous = end
        begin += stride
    return out


def rows(model, ids, mode, length, stride):
    out, targets = [], []
    for begin, end, first, last in windows(len(ids), mode, length, stride):
        out.append(log_probs(model, ids[begin:end])[first - begin : last - begin])
        targets.append(ids[first + 1 : last + 1])
    return torch.cat(out), torch.cat(targets)


def first_chunks(path, text, n):
    """llama-perplexity's 45.3264 for wiki.test.raw and N = 64 is the check of this."""
    ids = AutoTokenizer.from_pretrained(path)(open(text, newline="").read(), return_tensors="pt").input_ids[0]
    p, x = rows(load(path), ids[: 512 * n], "chunked", 512, 512)
    print(f"{torch.exp(-p.gather(1, x[:, None]).mean()).item():.6f}")


def main():
    path = sys.argv[1]
    if len(sys.argv) > 2:
        return first_chunks(path, sys.argv[2], int(sys.argv[3]))
    ids = AutoTokenizer.from_pretrained(path)(open(os.path.join(HERE, "ppl_text.txt")).read(), return_tensors="pt").input_ids[0]
    fine, coarse = load(path), load(path, DROP)
    result = {"tokens": len(ids), "drop": DROP, "cases": []}
    for mode, length, stride, n_tokens in [("sliding", 128, 64, 400), ("sliding", 100, 37, 400), ("sliding", 64, 64, 400),
                                           ("sliding", 512, 256, 1022), ("chunked", 64, 64, 400), ("chunked", 101, 101, 450),
                                           ("sliding_hf", 128, 64, 400), ("sliding_hf", 100, 37, 400),
                                           ("sliding_hf", 512, 256, 1022)]:
        some = ids[:n_tokens]
        if mode == "sliding_hf":
            nll, n = documentation(fine, some, length, stride)
        else:
            p, x = rows(fine, some, mode, length, stride)
            nll, n = -p.gather(1, x[:, None]).mean().item(), len(x)
        result["cases"].append({"mode": mode, "ctx": length, "stride": stride, "max_tokens": len(some), "n": n, "nll": nll})

    p, x = rows(fine, ids[:700], "sliding", 128, 64)
    q, _ = rows(coarse, ids[:700], "sliding", 128, 64)
    kld, rev = (p.exp() * (p - q)).sum(1), (q.exp() * (q - p)).sum(1)
    at = lambda y: y.gather(1, x[:, None])[:, 0]
    dp = at(q).exp() - at(p).exp()
    five = lambda y: torch.topk(y, 5).indices
    overlap = (five(p)[:, :, None] == five(q)[:, None, :]).sum((1, 2)).double() / 5
    pct = lambda v: torch.quantile(v, q_levels).tolist()
    q_levels = torch.tensor([0.5, 0.9, 0.99, 0.999, 1.0], dtype=torch.float64)
    result["pair"] = {"max_tokens": 700, "nll": -at(q).mean().item(), "nll_ref": -at(p).mean().item(), "kld_mean": kld.mean().item(),
                      "kld_rev_mean": rev.mean().item(), "kld_p50_90_99_999_max": pct(kld),
                      "kld_llama_mean": torch.where(p > -16, p.exp() * (p - q), 0).sum(1).mean().item(),
                      "top1": (p.argmax(1) == q.argmax(1)).double().mean().item(), "top5": overlap.mean().item(),
                      "dp_mean": dp.mean().item(), "dp_rms": dp.pow(2).mean().sqrt().item()}
    json.dump(result, sys.stdout, indent=1)
    print()


main()

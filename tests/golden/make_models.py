"""Small random checkpoints of each architecture and what transformers makes of them.

    python make_models.py [NAME ...]          random checkpoints: models/NAME/ and models/NAME.golden.safetensors
    python make_models.py --grads NAME ...    gradients of a checkpoint that is there: models/NAME.grads.safetensors
    python make_models.py --trained ROOT      logits of the trained models under ROOT: models/trained-NAME.golden.safetensors

Needs torch and transformers. The golden file holds `tokens` (I32) and `logits` (F32; row i is the prediction
after tokens 0..i; for long prompts only the rows named by `rows`). Maths in float32 on the stored weights,
eager attention.
"""
import json, os, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoConfig, Qwen3_5ForConditionalGeneration

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
QWEN35 = dict(head_dim=16, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2,
              linear_conv_kernel_dim=4, full_attention_interval=4, rms_norm_eps=1e-6,
              rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1],
                                   mrope_interleaved=True))
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
# name: (config, stored type, bytes per shard, what to change in the written config.json)
MODELS = {
    "llama-f32": (dict(model_type="llama"), torch.float32, None, {}),
    # biases everywhere, untied head, an odd head size, llama3 rope in the old spelling, prompt beyond the original context
    "llama-bias-llama3-bf16": (dict(model_type="llama", attention_bias=True, mlp_bias=True, head_dim=10, rope_theta=500000.0,
                                    rope_scaling=LLAMA3), torch.bfloat16, None,
                               dict(rope_parameters=None, rope_theta=500000.0, rope_scaling=LLAMA3)),
    "llama-tied-linear-f16": (dict(model_type="llama", tie_word_embeddings=True, num_key_value_heads=4,
                                   rope_scaling=dict(type="linear", factor=2.5)), torch.float16, None,
                              dict(rope_parameters=None, rope_scaling=dict(type="linear", factor=2.5))),
    "llama-yarn-f16": (dict(model_type="llama", rope_theta=1000.0, tie_word_embeddings=True, rope_parameters=dict(
                            rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=32)),
                       torch.float16, None, {}),
    "qwen2-bf16-sharded": (dict(model_type="qwen2", rope_theta=1000000.0), torch.bfloat16, 12000, {}),
    "qwen2-window-f16": (dict(model_type="qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=1,
                              tie_word_embeddings=True), torch.float16, None, {}),
    "qwen3-bf16": (dict(model_type="qwen3", head_dim=16, tie_word_embeddings=True, rope_theta=1000000.0), torch.bfloat16, None, {}),
    # gated delta net, three layers to one of gated attention; as many value as key heads, and three times as many
    "qwen3_5-f32": (dict(model_type="qwen3_5_text", num_hidden_layers=4, **QWEN35), torch.float32, None, {}),
    "qwen3_5-grouped-bf16": (dict(model_type="qwen3_5_text", num_hidden_layers=4, tie_word_embeddings=True,
                                  **dict(QWEN35, linear_num_value_heads=6)), torch.bfloat16, None, {}),
    # the whole multimodal checkpoint, with a vision tower and a next-token head that the language model ignores
    "qwen3_5-tower-bf16": (dict(model_type="qwen3_5", text_config=dict(SIZES, model_type="qwen3_5_text", num_hidden_layers=4,
                                                                       tie_word_embeddings=True, **QWEN35),
                                tie_word_embeddings=True,
                                vision_config=dict(depth=1, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=32,
                                                   patch_size=4, num_position_embeddings=16, spatial_merge_size=2),
                                image_token_id=90, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93),
                           torch.bfloat16, None, {}),
    "qwen3-bias-f32": (dict(model_type="qwen3", head_dim=12, attention_bias=True, num_key_value_heads=1), torch.float32, None, {}),
}


def load(path):
    tower = json.load(open(os.path.join(path, "config.json")))["model_type"] == "qwen3_5"
    kind = Qwen3_5ForConditionalGeneration if tower else AutoModelForCausalLM
    return kind.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def logits_of(path, tokens):
    model = load(path)
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].float()


def golden(name, path, tokens, rows):
    logits = logits_of(path, tokens)[rows].contiguous()
    save_file({"tokens": torch.tensor(tokens, dtype=torch.int32), "rows": torch.tensor(rows, dtype=torch.int32), "logits": logits},
              os.path.join(HERE, name + ".golden.safetensors"))
    print(name, tuple(logits.shape), "std %.3f" % logits.std().item())


def gradients(name):
    """Of the sum over positions of next-token cross entropy, by every weight of the text model; tied weights once."""
    path = os.path.join(HERE, name)
    tokens = torch.tensor([load_file(path + ".golden.safetensors")["tokens"].tolist()])
    model = load(path)
    logits = model(input_ids=tokens).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="sum").backward()
    stored = set()
    for file in os.listdir(path):
        if file.endswith(".safetensors"):
            stored |= set(load_file(os.path.join(path, file)).keys())
    grads = {}
    for key, p in model.named_parameters():
        names = [n for n in (key, key.replace("model.", "model.language_model.", 1)) if n in stored]
        if p.grad is not None and names:
            grads[names[0]] = p.grad.contiguous()
    save_file(grads, path + ".grads.safetensors")
    print(name, len(grads), "gradients")


def make(name):
    config, dtype, shard, written = MODELS[name]
    config = dict({} if "text_config" in config else SIZES, **config)
    if config["model_type"].startswith("qwen3_5"):
        config.pop("rms_norm_eps", None) if "text_config" in config else config.update(rms_norm_eps=1e-6)
    torch.manual_seed(sum(map(ord, name)))
    made = AutoConfig.for_model(**config)
    model = (Qwen3_5ForConditionalGeneration(made) if "text_config" in config else AutoModelForCausalLM.from_config(made)).eval()
    with torch.no_grad():  # far from the all-ones, all-zeros start, so that every weight matters
        for key, p in model.named_parameters():
            centred = config["model_type"].startswith("qwen3_5") and not key.endswith("linear_attn.norm.weight")
            p.copy_(torch.randn_like(p) * (0.3 if p.ndim == 2 else 0.2) +
                    (1.0 if key.endswith("norm.weight") and not centred else 0.0))
    path = os.path.join(HERE, name)
    model.to(dtype).save_pretrained(path, max_shard_size=shard or "1GB")
    for extra in ("generation_config.json",):
        if os.path.exists(os.path.join(path, extra)):
            os.remove(os.path.join(path, extra))
    if written:
        file = os.path.join(path, "config.json")
        c = json.load(open(file))
        c.update(written)
        c = {k: v for k, v in c.items() if v is not None}
        json.dump(c, open(file, "w"), indent=2)
    if "text_config" in config:  # transformers drops the next-token head: put one there as the published files have it
        file = os.path.join(path, "model.safetensors")
        tensors = load_file(file)
        h = config["text_config"]["hidden_size"]
        tensors["mtp.fc.weight"] = torch.randn(h, 2 * h, dtype=dtype)
        tensors["mtp.norm.weight"] = torch.randn(h, dtype=dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    tokens = torch.randint(0, SIZES["vocab_size"], (72,)).tolist()
    golden(name, path, tokens, list(range(0, 72, 1)))


def trained(root):
    text = "Once upon a time, there was a little girl named Lily."
    from tokenizers import Tokenizer
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if not os.path.exists(os.path.join(path, "config.json")):
            continue
        tokens = Tokenizer.from_file(os.path.join(path, "tokenizer.json")).encode(text).ids
        rows = sorted({0, 1, len(tokens) // 2, len(tokens) - 1})
        golden("trained-" + name, path, tokens, rows)


if __name__ == "__main__":
    os.makedirs(HERE, exist_ok=True)
    if sys.argv[1:2] == ["--trained"]:
        trained(sys.argv[2])
    elif sys.argv[1:2] == ["--grads"]:
        for name in sys.argv[2:]:
            gradients(name)
    else:
        for name in sys.argv[1:] or MODELS:
            make(name)

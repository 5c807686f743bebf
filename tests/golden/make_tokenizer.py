"""Makes tokenizer_model.json and tokenizer_kinds.json beside this file: texts and the ids that the Hugging Face
tokenizers library (0.23.3) gives for them. Run from the repository root: python tests/golden/make_tokenizer.py

tokenizer_model.json: cases for tests/models/wiki12M-qwen3 as it is.
tokenizer_kinds.json: the same file with some of its keys replaced, one entry for each kind of normalizer,
pre-tokenizer, decoder and added token; and a small SentencePiece-style model trained here.
A case is [parse specials, text in hex, ids, decoded text in hex or null]. Characters are those of Unicode 3.2, so that
the Unicode versions of the two sides do not matter."""
import json
import os
import random
import sys
import unicodedata

from tokenizers import Tokenizer, models, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = json.load(open(os.path.join(HERE, "../models/wiki12M-qwen3/tokenizer.json"), encoding="utf-8"))

old = unicodedata.ucd_3_2_0
assigned = [c for c in range(1, 0x30000) if not 0xD800 <= c < 0xE000 and old.category(chr(c)) != "Cn"
            and unicodedata.category(chr(c)) == old.category(chr(c)) and not 0xE000 <= c < 0xF900]
fixed = ["", " ", "  ", "\n", "a", "\0", "Hello, world! It's 12345 o'clock; we'LL see.", "\u0130\u0131\u00df\u1e9e\ufb01",
         "e\u0301\u0323 \u1e17 \uac00\u1100\u1161\u11a8 \u212b \ufb2a", "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2603",
         "a\u2581b\u2581\u2581c \u0120\u010a", "    indented\n\tline\r\n\r\n  end  ", "3.14159265358979 1,000,000", "\u180e \u0085\u00a0\u3000|"]


def texts(rng, extra, n):
    pools = [lambda: chr(rng.choice(assigned)), lambda: chr(rng.randrange(1, 128)),
             lambda: rng.choice("  \t\n\r\v\f\x85\xa0\u1680\u2003\u2028\u3000\u180e\u200b\u200d"),
             lambda: str(rng.randrange(10 ** rng.randrange(1, 9))),
             lambda: rng.choice(["'s", "'T", "'RE", "'ll", "'LL", "'\u017f", "'D", "'m", "hello", "world", "The", "x_y", "<|", ">"]),
             lambda: chr(rng.randrange(0x300, 0x340)), lambda: rng.choice(extra), lambda: " " * rng.randrange(1, 9)]
    out = list(fixed) + [a + b + a for a in extra for b in ("", " ", "x")][:30]
    for _ in range(n):
        few = rng.sample(pools, rng.randrange(1, 5))
        out.append("".join(rng.choice(few)() for _ in range(rng.randrange(1, 14))))
    return out


def cases(tokenizer, n, seed):
    t = Tokenizer.from_str(json.dumps(tokenizer))
    extra = [a["content"] for a in tokenizer["added_tokens"]] or ["x"]
    content = {a["id"]: a["content"] for a in tokenizer["added_tokens"]}
    out = []
    for i, text in enumerate(texts(random.Random(seed), extra, n)):
        parse = i % 4 != 3
        t.encode_special_tokens = not parse
        ids = t.encode(text, add_special_tokens=False).ids
        back = t.decode(ids, skip_special_tokens=False)
        assert "\ufffd" not in back, text
        # The library decodes a normalized added token to its normalized text, whit to its own.
        same = all(content.get(i, t.id_to_token(i)) == t.id_to_token(i) for i in ids)
        out.append([parse, text.encode().hex(), ids, back.encode().hex() if same else None])
    return out


def token(i, content, **flags):
    return dict({"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True}, **flags)


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": False, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False):
    kind = {"Regex": pattern[1:]} if pattern.startswith("~") else {"String": pattern}
    return {"type": "Split", "pattern": kind, "behavior": behavior, "invert": invert}


def pre(*steps):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}


def sentencepiece():
    """A model of characters, bytes and a few merges, in Llama 2's shape."""
    prose = ("the quick brown fox jumps over the lazy dog and the dog says that this is the way of the world "
             "where there is another thing in the thinking of things hello world The ").replace(" ", "\u2581")
    t = Tokenizer(models.BPE())
    t.train_from_iterator([prose], trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"]))
    m = json.loads(t.to_str())["model"]
    for b in range(256):
        m["vocab"]["<0x%02X>" % b] = len(m["vocab"])
    m.update(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    return {
        "added_tokens": [token(0, "<unk>"), token(1, "<s>"), token(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": m}


def kinds():
    form = lambda name: {"normalizer": {"type": name}}
    added = {"added_tokens": BASE["added_tokens"] + [
        token(4096, "[A]", lstrip=True), token(4097, "[B]", rstrip=True, special=False),
        token(4098, "word", single_word=True, special=False), token(4099, "Mid!", normalized=True, special=False),
        token(4100, "[AB]", lstrip=True, rstrip=True, special=False), token(4101, "[A"),
        token(4102, "wor", single_word=True, special=False, normalized=True)]}
    spm = sentencepiece()
    meta = lambda scheme, cut: {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": cut}
    yield "gpt2", pre(byte_level(False, True))
    yield "gpt2 with a space", pre(byte_level(True, True))
    yield "llama3", pre(split(r"~(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                              r"|\s*[\r\n]+|\s+(?!\S)|\s+"), byte_level())
    yield "qwen3.5", pre(split(r"~(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
                               r"|\s*[\r\n]+|\s+(?!\S)|\s+"), byte_level())
    yield "added tokens", added
    yield "added tokens, lowercase", dict(added, **form("Lowercase"))
    yield "NFKC", form("NFKC")
    yield "NFD", form("NFD")
    yield "NFKD", form("NFKD")
    yield "replace", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[aeiou]"}, "content": "_"},
        {"type": "Replace", "pattern": {"String": "__"}, "content": ""}]}}
    yield "digits and punctuation", pre({"type": "Digits", "individual_digits": True},
                                        {"type": "Punctuation", "behavior": "Contiguous"}, byte_level())
    yield "digits behind bytes", pre(byte_level(), {"type": "Digits", "individual_digits": False}, split("l", "MergedWithPrevious"))
    yield "previous", pre(split(r"~\s", "MergedWithPrevious"), byte_level())
    yield "next", pre(split(r"~[^\w]|_", "Isolated", True), split("o", "MergedWithNext"), byte_level())
    yield "contiguous", pre(split(r"~[aeiou]", "Contiguous", True), byte_level())
    yield "removed", pre(split(r"~\w+|[^\w\s]+", "Removed", True), byte_level())
    yield "whitespace", pre({"type": "Whitespace"}, byte_level())
    yield "whitespace split", pre({"type": "WhitespaceSplit"}, byte_level())
    yield "ruby repeats", pre(split(r"~\p{N}{1,3}+|\h{,2}x|\b\w{2}\b|(?m:.)$|^\S?+", "Isolated"), byte_level())
    yield "sentencepiece", spm
    yield "metaspace", dict(spm, normalizer=None, pre_tokenizer=meta("always", True), decoder=meta("always", True))
    yield "metaspace first", dict(spm, normalizer=None, pre_tokenizer=meta("first", False),
                                  decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, meta("first", False)]})
    no_bytes = dict(spm["model"], byte_fallback=False)
    yield "unknown, fused", dict(spm, normalizer=None, pre_tokenizer=meta("never", True), decoder=meta("never", True), model=no_bytes)
    yield "unknown, each", dict(spm, model=dict(no_bytes, fuse_unk=False))


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


write("tokenizer_model.json", cases(BASE, 150, 1))
write("tokenizer_kinds.json", [{"name": name, "keys": keys, "cases": cases(dict(BASE, **keys), 25, i)}
                               for i, (name, keys) in enumerate(kinds())])

#!/usr/bin/env python3
"""Trains small tokenizers of every model type and component mix in Hugging Face `tokenizers`, SentencePiece and
tiktoken, and writes them with the ids that those libraries give a list of texts:

    tokenizer_goldens.py                     tests/io/golden/tokenizers, as committed
    tokenizer_goldens.py --out DIR --texts 500 --seed 7 [--real DIR]

    tokenizer_goldens.py --compare DIR

The second form makes cases for a long run: io_tokenizer_golden_test reads them where CAPSTAN_TOKENIZER_CASES says so;
--real adds tokenizer files found in a directory (tokenizer.json, .model, .tiktoken, tekken.json, vocab.txt, CLIP's
bpe_simple_vocab). The third gives the tokenizer.json files in DIR/written, which another program made from the files of
such cases (X.json from the file X), to Hugging Face `tokenizers` and compares its ids with those of the cases. Needs
pip's tokenizers, sentencepiece and tiktoken (versions: VERSIONS below; others may differ for characters new in
Unicode).
"""
import argparse
import base64
import gzip
import json
import pathlib
import random
import unicodedata

import sentencepiece
import tiktoken
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VERSIONS = {"tokenizers": "0.23.3", "sentencepiece": "0.2.3", "tiktoken": "0.14.0"}
ENDS = ("<|endoftext|>", "</s>", "[SEP]", "<｜end▁of▁sentence｜>", "<EOT>")
SPECIAL = ("<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "<|endoftext|>")
RANGES = [(0x20, 0x7e)] * 3 + [
    (0xa0, 0xff), (0x100, 0x24f), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff), (0x530, 0x58f), (0x590, 0x5ff),
    (0x600, 0x6ff), (0x900, 0x97f), (0x980, 0x9ff), (0xb80, 0xbff), (0xe00, 0xe7f), (0x10a0, 0x10ff), (0x1100, 0x11ff),
    (0x1200, 0x137f), (0x1780, 0x17ff), (0x1e00, 0x1eff), (0x1f00, 0x1fff), (0x2000, 0x206f), (0x20a0, 0x20bf),
    (0x2100, 0x218f), (0x2460, 0x24ff), (0x2600, 0x27bf), (0x3000, 0x303f), (0x3040, 0x30ff), (0x4e00, 0x9fff),
    (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfb4f), (0xfe00, 0xfe0f), (0xff00, 0xffef), (0x1f300, 0x1f64f),
    (0x1f680, 0x1f6ff), (0x1f1e6, 0x1f1ff), (0x10400, 0x1044f), (0x1d400, 0x1d7ff), (0x20000, 0x2a6df)]
WORDS = ("the The quick brown fox don't I'm they've we'll IT'S 's hello world Hello, world! 12345 3.14159 foo_bar "
         "CamelCase a b c naïve café Straße ﬁnance Ⅷ ½ ① привет Мир γειά σου שלום مرحبا नमस्ते 你好 世界 日本語 ひらがな "
         "カタカナ 안녕하세요 ไทย ქართული አማርኛ 👍🏽 👨‍👩‍👧‍👦 🇩🇪 e\u0301 A\u030a [MASK] http://a.b/c?d=e#f x=y;").split(" ")
SPACES = [" "] * 4 + ["  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u0085",
                      "\x0b", "\x0c", " \n", "\n ", "        "]
ODD = [0, 1, 7, 8, 27, 31, 127, 0x80, 0x9f, 0xad, 0x130, 0x17f, 0x212a, 0x3a3, 0x180e, 0x1e9e, 0x200d, 0x2581, 0xfeff,
       0xfffd, 0x10ffff]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
POSSESSIVE = CL100K.replace("]?", "]?+").replace("{1,3}", "{1,3}+")
QWEN = CL100K.replace("{1,3}", "")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def made_up(draw):
    """A few words of many scripts, signs, white space, odd characters and runs."""
    out = []
    for _ in range(draw.randint(0, draw.choice([3, 8, 25]))):
        kind = draw.random()
        if kind < .45:
            out += [draw.choice(WORDS), draw.choice(SPACES) if draw.random() < .9 else ""]
        elif kind < .6:
            for _ in range(draw.randint(1, 6)):
                character = chr(draw.randint(*draw.choice(RANGES)))
                if unicodedata.category(character) not in ("Cn", "Cs"):
                    out.append(character)
        elif kind < .7:
            out.append(draw.choice(SPACES))
        elif kind < .75:
            out.append(chr(draw.choice(ODD)))
        elif kind < .85:
            out.append(draw.choice("aA1 .,!?-_\u0301你é") * draw.randint(1, 12))
        else:
            out.append("".join(draw.choice("abcdefghij ABC012'.,\n") for _ in range(draw.randint(1, 15))))
    return "".join(out)


def texts_of(count, seed):
    draw = random.Random(seed)
    return [made_up(draw) for _ in range(count)]


def long_runs(draw):
    """One character, or a few in turn, hundreds of times; with something else in the middle now and then."""
    units = ["a", " ", "\n", "\t", "0", "12", "ab", "!", "-", "e\u0301", "\u0301", "\u200d", "é", "你", "你好", "안녕", "\u3000",
             "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "A", "'s", " the", "\r\n", "▁", "\0", "\x7f", "ア", "ا", "\u1100\u1161", "𝒳", "x\u0323\u0307"]
    texts = []
    for unit in units:
        half = unit * (draw.randint(100, 400) // len(unit))
        texts += [half, half + draw.choice([" ", "x", "\n", "é"]) + half]
    return texts


def broken_texts(draw):
    """Text of good and bad bytes: cut characters, surrogates, overlong forms, beyond the last character, noise."""
    bad = [b"\xff", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80",
           b"\xe0\xa0\xe2\x82\xac", b"\xf8\x88\x80\x80\x80", b"\xef\xbb\xbf\xfe"]
    texts = [b"a" + one + b" b" for one in bad] + [b"\xff" * 200, bytes(range(256))]
    for _ in range(40):
        parts = [draw.choice(WORDS + SPACES).encode() if draw.random() < .6 else draw.choice(bad)
                 for _ in range(draw.randint(1, 20))]
        texts.append(b"".join(parts))
    return texts + [draw.randbytes(draw.randint(1, 60)) for _ in range(20)]


class Maker:
    def __init__(self, out, small):
        self.out = out
        self.corpus = texts_of(3000, 99)
        counts = {}
        for character in "".join(self.corpus):
            counts[character] = counts.get(character, 0) + 1
        keep = set(sorted(counts, key=lambda c: -counts[c])[:120 if small else 300])
        self.plain = ["".join(c for c in text if c in keep) for text in self.corpus]
        self.small = small

    def save(self, name, tokenizer):
        tokenizer.save(str(self.out / f"{name}.json"), pretty=False)

    def byte_level(self, name, pre, norm=None, post=None, added=()):
        tokenizer = Tokenizer(models.BPE())
        if norm:
            tokenizer.normalizer = norm
        tokenizer.pre_tokenizer = pre
        tokenizer.decoder = decoders.ByteLevel()
        if post:
            tokenizer.post_processor = post
        tokenizer.train_from_iterator(self.corpus, trainers.BpeTrainer(
            vocab_size=360 if self.small else 1200, special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        tokenizer.add_tokens(list(added))
        self.save(name, tokenizer)

    def byte_levels(self):
        level = lambda space=False, regex=True: pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=regex)
        by = lambda expression, behavior="isolated", invert=False: pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(expression), behavior, invert), level(regex=False)])
        added = [AddedToken("fox", single_word=True), AddedToken("hello", lstrip=True, normalized=True),
                 AddedToken("B_c", rstrip=True, normalized=False), AddedToken("  ", normalized=True),
                 AddedToken("    ", normalized=False), AddedToken("[MASK]", special=True, lstrip=True),
                 AddedToken("Ⅷ", normalized=True)]
        self.byte_level("gpt2", level(), post=processors.ByteLevel(trim_offsets=False))
        self.byte_level("qwen", by(QWEN), norm=normalizers.NFC())
        self.byte_level("added", level(), norm=normalizers.NFKC(), added=added)
        if self.small:
            return
        self.byte_level("gpt2_space", level(True))
        self.byte_level("cl100k", by(CL100K))
        self.byte_level("cl100k_removed", by(CL100K, "removed", True))
        self.byte_level("cl100k_possessive", by(POSSESSIVE))
        self.byte_level("o200k", by(O200K))
        self.byte_level("bloom", by(BLOOM))
        self.byte_level("starcoder", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level()]))
        self.byte_level("words_with_space", pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(GPT2), "isolated"), level(True, False)]))
        self.byte_level("symbols_then_digits", pre_tokenizers.Sequence([level(), pre_tokenizers.Digits()]))
        for name, norm in {
                "nfd": normalizers.NFD(), "nfkd": normalizers.NFKD(), "lower": normalizers.Lowercase(),
                "strip": normalizers.Strip(), "strip_left": normalizers.Strip(True, False), "nmt": normalizers.Nmt(),
                "bert": normalizers.BertNormalizer(), "bert_cased": normalizers.BertNormalizer(True, False, True, False),
                "replace": normalizers.Replace("a", "bb"), "spaces": normalizers.Replace(Regex(r"\s+"), " "),
                "prepend": normalizers.Prepend("▁"), "symbols": normalizers.ByteLevel(),
                "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])}.items():
            self.byte_level("norm_" + name, level(), norm=norm)

    def character_bpes(self):
        byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        trained.train_from_iterator(self.plain, trainers.BpeTrainer(
            vocab_size=480 if self.small else 900, special_tokens=["<unk>", "<s>", "</s>"] + byte_pieces,
            show_progress=False, limit_alphabet=80))
        spec = json.loads(trained.to_str())
        spec["pre_tokenizer"] = None
        spec["added_tokens"] = spec["added_tokens"][:3]
        spec["decoder"] = {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
        for name, fallback, fuse in (("llama", True, True), ("llama_unknown", False, True), ("llama_alone", False, False),
                                     ("llama_bytes", True, False)):
            spec["model"].update(byte_fallback=fallback, fuse_unk=fuse)
            tokenizer = Tokenizer.from_str(json.dumps(spec))
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
            self.save(name, tokenizer)
            if self.small:
                return
        for name, pre, norm, decoder, extra in (
                ("gpt1", pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(), decoders.BPEDecoder("</w>"),
                 {"end_of_word_suffix": "</w>"}),
                ("bpe_prefix", pre_tokenizers.Whitespace(), None, decoders.WordPiece(),
                 {"continuing_subword_prefix": "##"})):
            tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **extra))
            tokenizer.pre_tokenizer = pre
            if norm:
                tokenizer.normalizer = norm
            tokenizer.decoder = decoder
            tokenizer.train_from_iterator(self.plain, trainers.BpeTrainer(
                vocab_size=1500, special_tokens=["<unk>", "</s>"], show_progress=False, **extra))
            self.save(name, tokenizer)

    def unigrams(self):
        pre = {"metaspace": pre_tokenizers.Metaspace(), "metaspace_first": pre_tokenizers.Metaspace(prepend_scheme="first")}
        if not self.small:
            split = pre_tokenizers.Split
            pre.update({
                "whitespace": pre_tokenizers.Whitespace(), "metaspace_never": pre_tokenizers.Metaspace(prepend_scheme="never"),
                "metaspace_whole": pre_tokenizers.Metaspace(split=False), "digits": pre_tokenizers.Digits(),
                "words_metaspace": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
                "scripts": pre_tokenizers.UnicodeScripts(), "delimiter": pre_tokenizers.CharDelimiterSplit("a"),
                "fixed": pre_tokenizers.FixedLength(4)})
            for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
                pre["split_" + behavior] = split(Regex(r"\d|[,.]"), behavior)
                pre["invert_" + behavior] = split(Regex(r"\w+"), behavior, invert=True)
                pre["text_" + behavior] = split(" ", behavior)
                pre["empty_" + behavior] = split(Regex(r"(?=[A-Z])"), behavior)
                pre["signs_" + behavior] = pre_tokenizers.Punctuation(behavior)
        for name, step in pre.items():
            tokenizer = Tokenizer(models.Unigram())
            tokenizer.pre_tokenizer = step
            tokenizer.decoder = decoders.Metaspace() if "metaspace" in name else decoders.Fuse()
            tokenizer.train_from_iterator(self.plain, trainers.UnigramTrainer(
                vocab_size=220 if self.small else 900, special_tokens=["<unk>", "</s>"], unk_token="<unk>",
                show_progress=False))
            self.save("unigram_" + name, tokenizer)

    def words(self):
        for name, lower in (("bert", True), ("bert_cased", False)):
            tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece()
            tokenizer.train_from_iterator(self.plain, trainers.WordPieceTrainer(
                vocab_size=400 if self.small else 900, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
                show_progress=False))
            tokenizer.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
            self.save(name, tokenizer)
            if self.small:
                break
        tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.train_from_iterator(self.plain, trainers.WordLevelTrainer(
            vocab_size=120 if self.small else 900, special_tokens=["[UNK]", "[SEP]"], show_progress=False))
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[UNK]", 0))
        self.save("words", tokenizer)

    def sentencepieces(self):
        kinds = {"sp_unigram": dict(model_type="unigram", user_defined_symbols=["<sep>", "brown fox", "é", "▁x"]),
                 "sp_bpe": dict(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=False)}
        if not self.small:
            kinds.update({
                "sp_nfkc": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="nmt_nfkc"),
                "sp_fold": dict(model_type="bpe", normalization_rule_name="nmt_nfkc_cf",
                                user_defined_symbols=["<sep>", "fox"]),
                "sp_across": dict(model_type="unigram", split_by_whitespace=False, add_dummy_prefix=False)})
        lines = [text.replace("\n", " ").replace("\r", " ").replace("\0", "") for text in self.plain]
        for name, options in kinds.items():
            options = {"normalization_rule_name": "identity", **options}
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_prefix=str(self.out / name), vocab_size=450 if self.small else 1500,
                hard_vocab_limit=False, minloglevel=2, character_coverage=1.0, **options)
            (self.out / f"{name}.vocab").unlink()

    def ranks(self):
        expressions = {"r50k": GPT2} if self.small else {"r50k": GPT2, "cl100k": CL100K, "o200k": O200K}
        symbols = byte_symbols()
        for name in expressions:
            source = json.loads((self.out / ("gpt2.json" if name == "r50k" else name + ".json")).read_text("utf-8"))
            vocabulary = sorted(source["model"]["vocab"].items(), key=lambda item: item[1])
            pieces = [bytes(symbols[c] for c in piece) for piece, _ in vocabulary if piece != "<|endoftext|>"]
            (self.out / f"{name}_base.tiktoken").write_text("".join(
                f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces)), "utf-8")


def byte_symbols():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


def json_case(path, texts):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end = next((name for name in ENDS if tokenizer.token_to_id(name) is not None), "")
    tokenizer.encode_special_tokens = True
    plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    tokenizer.encode_special_tokens = False
    framed = [tokenizer.encode(text).ids for text in texts]
    return {"end": end, "ids": plain, "framed": framed, "decoded": [tokenizer.decode(ids) for ids in framed]}


def model_case(path, texts, broken=()):
    if b"\0" not in path.read_bytes():
        return ranks_case(path, texts)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    case = {"end": "", "ids": [processor.encode(text) if text else [] for text in texts]}
    return case | ({"broken": [processor.encode(text) for text in broken]} if broken else {})


def ranks_of(path):
    pairs = [line.split() for line in path.read_text("utf-8").splitlines() if line]
    return {base64.b64decode(token): int(rank) for token, rank in pairs if base64.b64decode(token)}


def ranks_case(path, texts):
    ranks = ranks_of(path)
    names = {"r50k": GPT2, "p50k": GPT2, "gpt2": GPT2, "multilingual": GPT2, "o200k": O200K, "llama4": O200K, "qwen": QWEN,
             "llama3": CL100K, "cl100k": CL100K}
    expression = next(expression for name, expression in names.items() if name in path.name)
    encoding = tiktoken.Encoding("case", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    return {"end": "", "ids": [encoding.encode_ordinary(text) for text in texts]}


def tekken_case(path, texts):
    source = json.loads(path.read_text("utf-8"))
    first = source["config"]["default_num_special_tokens"]
    used = source["config"]["default_vocab_size"] - first
    encoding = tiktoken.Encoding(
        "case", pat_str=source["config"]["pattern"], special_tokens={},
        mergeable_ranks={base64.b64decode(token["token_bytes"]): token["rank"] for token in source["vocab"][:used]})
    return {"end": "", "ids": [[first + rank for rank in encoding.encode_ordinary(text)] for text in texts]}


def clip_json(source, out):
    """CLIP's tokenizer as Hugging Face's converter makes it of the published merges."""
    lines = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")[1:49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    pieces = list(byte_symbols())
    pieces += [piece + "</w>" for piece in pieces] + ["".join(merge) for merge in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<|endoftext|>",
                                     continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "),
                                                 normalizers.Lowercase()])
    expression = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(expression), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", len(pieces) - 1), ("<|startoftext|>", len(pieces) - 2), add_prefix_space=False,
        trim_offsets=False)
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.save(str(out / "clip.json"), pretty=False)


def vocabulary_case(path, texts):
    pieces = path.read_text("utf-8").split("\n")
    vocabulary = {piece.rstrip("\r"): i for i, piece in enumerate(pieces) if piece}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return {"end": "", "ids": [tokenizer.encode(text).ids for text in texts]}


CASES = {".json": json_case, ".model": model_case, ".tiktoken": ranks_case, ".txt": vocabulary_case}


def case_of(path, texts, broken):
    if path.name.startswith("tekken"):
        return tekken_case(path, texts)
    if path.suffix == ".model":
        return model_case(path, texts, broken)
    return CASES[path.suffix](path, texts)


def exact(path):
    """Hugging Face has no components that are SentencePiece's to the bit: its character map works on whole graphemes,
    its Unigram adds scores up as doubles, which decides where two ways to cut a run are equally good, and it prepares the
    text between user-defined pieces stretch by stretch."""
    spec = json.loads(path.read_text("utf-8"))
    return not path.name.endswith(".model.json") or (
        spec["model"]["type"] == "BPE" and "Precompiled" not in json.dumps(spec["normalizer"]))


def compare(directory):
    """What Hugging Face makes of the files in written/, against the ids of the cases. Returns how many differ."""
    cases = json.loads((directory / "cases.json").read_text("utf-8"))
    wrong = 0
    for case in cases["tokenizers"]:
        path = directory / "written" / (pathlib.Path(case["file"]).name + ".json")
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in cases["texts"]]
        differ = [i for i, (ours, peer) in enumerate(zip(ids, case["ids"])) if ours != peer]
        if not differ:
            continue
        allowed = 0 if exact(path) else len(ids) // 5
        wrong += len(differ) > allowed
        first = differ[0]
        print(f"{path.name}: {len(differ)} of {len(ids)} texts differ ({allowed} may), the first: "
              f"{cases['texts'][first][:80]!r}\n  from the file {case['ids'][first][:30]}\n"
              f"  from ours     {ids[first][:30]}")
    print(f"{len(cases['tokenizers'])} written tokenizers read by Hugging Face, {wrong} differ more than they may")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=pathlib.Path)
    parser.add_argument("--compare", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.compare:
        raise SystemExit(1 if compare(arguments.compare) else 0)
    small = arguments.out is None
    out = arguments.out or pathlib.Path(__file__).resolve().parent / "golden" / "tokenizers"
    out.mkdir(parents=True, exist_ok=True)
    maker = Maker(out, small)
    for step in (maker.byte_levels, maker.character_bpes, maker.unigrams, maker.words, maker.sentencepieces, maker.ranks):
        step()
    # Trained tokenizers have special names as pieces now and then, which we do not let text become: leave such texts out.
    texts = [text for text in texts_of(arguments.texts, arguments.seed) if not any(name in text for name in SPECIAL[:6])]
    draw = random.Random(arguments.seed)
    broken = broken_texts(draw)[:12 if small else None]
    if not small:
        texts += long_runs(draw)
        for packed in arguments.real.glob("bpe_simple_vocab*.gz") if arguments.real else ():
            clip_json(packed, out)
    files = sorted(path for path in out.iterdir() if path.suffix in CASES and path.name != "cases.json")
    if arguments.real:
        files += sorted(path for path in arguments.real.iterdir() if path.suffix in CASES)
    cases = [{"file": str(path.resolve()) if path.parent != out else path.name, **case_of(path, texts, broken)}
             for path in files]
    versions = {"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__,
                "tiktoken": tiktoken.__version__}
    with open(out / "cases.json", "w", encoding="utf-8") as file:
        head = {"made_with": versions, "texts": texts, "broken": [base64.b64encode(text).decode() for text in broken]}
        file.write(json.dumps(head, ensure_ascii=True)[:-1] + ', "tokenizers": [\n')
        file.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]}\n")
    print(f"{len(cases)} tokenizers, {len(texts)} texts, {sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB in {out}")


if __name__ == "__main__":
    main()

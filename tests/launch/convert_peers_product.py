#!/usr/bin/env python3
# label: slow
# timeout: 2400
"""capstan convert against its peers: what it writes is opened by transformers (same logits, same greedy tokens), by
the gguf package and by llama.cpp (same logits, tokens, greedy tokens); Megatron's own reader reads .bin and .idx.

CAPSTAN_PEER_PYTHON names a Python that has torch, transformers, safetensors and gguf; without one, or without any of
them, the test is skipped. CAPSTAN_MEGATRON names a checkout of Megatron-LM, CAPSTAN_LLAMA_CPP one of llama.cpp, built in
its folder build (cmake -B build -DBUILD_SHARED_LIBS=ON -DLLAMA_CURL=OFF && cmake --build build --target llama); what
needs one of them is skipped without it.
"""
import array
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import SOURCE, ProductTest, capstan, train  # noqa: E402

PYTHON = os.environ.get("CAPSTAN_PEER_PYTHON", "python3")
FIXTURES = SOURCE / "tests" / "io" / "golden" / "weights"

LOGITS = """
import sys, json, torch, transformers, safetensors.torch
transformers.logging.set_verbosity_error()
for folder, golden in json.loads(sys.argv[1]):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True)
    wanted = safetensors.torch.load_file(golden + "/logits.safetensors")
    with torch.no_grad():
        logits = model.float().eval()(wanted["tokens"][None]).logits[0]
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    other = transformers.AutoConfig.from_pretrained(golden).to_dict()
    skip = {"_name_or_path", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "_commit_hash"}
    same = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
    config, other = ({k: same.get(v, v) if isinstance(v, str) else v for k, v in c.items() if k not in skip} for c in (config, other))
    print(json.dumps({"largest": float((logits - wanted["logits"]).abs().max()),
                      "missing": sorted(info["missing_keys"]), "unexpected": sorted(info["unexpected_keys"]),
                      "config": sorted(k for k in config.keys() | other.keys() if config.get(k) != other.get(k))}))
"""

ROWS = """
import sys, json, transformers, safetensors.torch
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="eager").float().eval()
tokens = safetensors.torch.load_file(sys.argv[1] + "/logits.safetensors")["tokens"]
print(json.dumps({"logits": model(tokens[None]).logits[0].flatten().tolist()}))
"""

GREEDY = """
import sys, json, torch, transformers
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).float().eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
tokens = tokenizer(sys.argv[2], add_special_tokens=False, return_tensors="pt").input_ids
for _ in range(int(sys.argv[3])):
    with torch.no_grad():
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
print(json.dumps({"ids": tokens[0].tolist(), "text": tokenizer.decode(tokens[0])}))
"""

GGUF = """
import sys, json, gguf, numpy, safetensors.numpy
reader = gguf.GGUFReader(sys.argv[1])
fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer")}
tensors = {t.name: [list(map(int, t.shape)), t.tensor_type.name, t.data.astype("float64").sum().item()]
           for t in reader.tensors}
print(json.dumps({"fields": fields, "tensors": tensors,
                  "tokens": len(reader.fields["tokenizer.ggml.tokens"].data) if "tokenizer.ggml.tokens" in reader.fields else 0}))
"""

# Their file, unchanged; the packages around it are entered without their __init__, which would want a GPU's libraries.
MEGATRON = """
import sys, types, json, pathlib
for name in ("megatron", "megatron.core", "megatron.core.datasets"):
    package = types.ModuleType(name)
    package.__path__ = [str(pathlib.Path(sys.argv[1], *name.split(".")))]
    sys.modules[name] = package
import megatron.core.parallel_state
from megatron.core.datasets.indexed_dataset import IndexedDataset
for mmap in (True, False):
    data = IndexedDataset(sys.argv[2], mmap=mmap)
    print(json.dumps({"dtype": data.index.dtype.__name__, "boundaries": data.document_indices.tolist(),
                      "documents": [data[i].tolist() for i in range(len(data))],
                      "middle": data.get(len(data) // 2, offset=1, length=3).tolist()}))
"""


def peer(script, *arguments):
    answer = subprocess.run([PYTHON, "-c", script, *map(str, arguments)], capture_output=True, encoding="utf-8",
                            check=False, timeout=1200)
    if answer.returncode != 0:
        raise AssertionError(answer.stderr[-3000:])
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]


def stored(path, name, code):
    """A tensor of a safetensors file, flat."""
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8:8 + length])[name]["data_offsets"]
    return array.array(code, data[8 + length:][begin:end])


# What written anew says the same in other members: YaRN's two mscale as attention_factor, and every second layer by
# layer_types with another max_window_layers beside it, which nothing reads then.
OTHER_WORDS = {"llama_yarn-hf": ["rope_parameters"], "qwen3_windows-hf": ["max_window_layers"]}


class Converting(ProductTest):
    def convert(self, source, name, form, *more):
        out = self.folder / name
        answer = capstan("convert", "--from", source, "--to", out, "--format", form, *more)
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        return out


class Peers(Converting):
    def test_transformers_opens_what_was_written(self):
        pairs = []
        for fixture in sorted(path for path in FIXTURES.iterdir() if path.is_dir()):
            run = self.convert(fixture, f"{fixture.name}-run", "capstan")
            for file in (run / "hugging_face").iterdir():  # so that config.json is written anew
                file.unlink()
            kind = json.loads((fixture / "config.json").read_text())["model_type"]
            pairs.append((str(self.convert(run, f"{fixture.name}-hf", "hf", "--family", kind)), str(fixture)))
        for (folder, _), found in zip(pairs, peer(LOGITS, json.dumps(pairs))):
            with self.subTest(family=pathlib.Path(folder).name):
                self.assertLess(found["largest"], 1e-4)
                self.assertEqual((found["missing"], found["unexpected"]), ([], []))
                self.assertEqual(found["config"], OTHER_WORDS.get(pathlib.Path(folder).name, []))

    def test_a_model_trained_over_ranks_says_the_same_there(self):
        run = self.folder / "run"
        code, output = train(4, self.config, f"data.corpora={self.corpus}", f"run.dir={run}", "layout.tp=2",
                             "layout.pp=2")
        self.assertEqual(code, 0, output)
        out = self.convert(run, "hf", "hf")
        mine = capstan("generate", "--run", run, "--prompt", "The ", "--tokens", "20", "--temperature", "0").stdout
        theirs = peer(GREEDY, out, "The ", 20)[0]
        self.assertEqual(theirs["text"].split("<|endoftext|>")[0].strip(), mine.strip())

    def test_the_gguf_package_reads_what_was_written(self):
        for family, arch in (("gpt2", "gpt2"), ("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"),
                             ("gpt_neox", "gptneox"), ("bloom", "bloom"), ("falcon_40b", "falcon")):
            with self.subTest(family=family):
                out = self.convert(FIXTURES / family, f"{family}.gguf", "gguf")
                found = peer(GGUF, out)[0]
                self.assertEqual(found["fields"]["general.architecture"], arch)
                self.assertEqual(found["fields"][f"{arch}.block_count"], 2)
                self.assertIn("token_embd.weight", found["tensors"])
                self.assertEqual(found["tensors"]["token_embd.weight"][0][1], 61)

    def megatron_reads(self, corpus):
        """Both splits of a corpus: their reader's documents are those of the shards, to the last token."""
        try:
            import h5py
        except ImportError as error:
            self.skipTest(f"{error} (Debian: python3-h5py)")
        manifest = json.loads((corpus / "manifest.json").read_text())
        types = set()
        for split in ("train", "validation"):
            out = self.convert(corpus, f"{corpus.name}-{split}", "megatron", "--split", split)
            wanted = []
            for record in manifest["splits"][split]["shards"]:
                with h5py.File(corpus / record[0], "r") as shard:
                    tokens, places = shard["tokens"][:].tolist(), shard["document_offsets"][:].tolist()
                wanted += [tokens[begin:end] for begin, end in zip(places, places[1:])]
            self.assertGreater(len(wanted), 1)
            for found in peer(MEGATRON, os.environ["CAPSTAN_MEGATRON"], out):
                self.assertEqual(found["boundaries"], list(range(len(wanted) + 1)))
                self.assertTrue(found["documents"] == wanted, "their reader gives other tokens")  # no diff of megabytes
                self.assertEqual(found["middle"], wanted[len(wanted) // 2][1:4])
                types.add(found["dtype"])
        return types, wanted

    def test_megatrons_own_reader_reads_the_tokens(self):
        if "CAPSTAN_MEGATRON" not in os.environ:
            self.skipTest("CAPSTAN_MEGATRON names no checkout of Megatron-LM")
        types, _ = self.megatron_reads(self.corpus)
        self.assertEqual(types, {"uint16"})
        words = sorted(set(" ".join(path.read_text() for path in self.text.iterdir()).replace(".", " .").split()))
        vocab = {f"unused{number}": number for number in range(70000)}
        places = {f"unused{number}": word for number, word in zip(range(70000 - len(words), 70000), words)}
        vocab = {places.get(name, name): number for name, number in vocab.items()}
        tokenizer = self.folder / "tokenizer.json"
        tokenizer.write_text(json.dumps({
            "version": "1.0", "added_tokens": [
                {"id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True} for number, name in ((70000, "<unk>"), (70001, "<|end|>"))],
            "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": {**vocab, "<unk>": 70000}, "unk_token": "<unk>"}}))
        large = self.folder / "large"
        answer = capstan("corpus", "build", "--out", large, "--tokenizer", tokenizer, "--end-of-document", "<|end|>",
                         self.text)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        types, documents = self.megatron_reads(large)
        self.assertEqual(types, {"int32"})
        self.assertGreater(min(token for document in documents for token in document), 65535)
        self.assertEqual({document[-1] for document in documents}, {70001})


# What llama.cpp's graphs leave out, so that we do not write a file that would run and be wrong.
NOT_THERE = {"gpt1", "gpt_neo", "gptj", "opt", "opt_350m", "xglm", "falcon_serial"}
TEXTS = ["The quick brown fox", "  two  spaces\n\nand\tlines\n", "it's 12345 we'll don't I'M", "naïve Straße 你好 👍🏽!?",
         "a", " ", "x=1;\r\n    return {y};", "<s>[INST] </s> <0x41> <|endoftext|>"]


@unittest.skipUnless("CAPSTAN_LLAMA_CPP" in os.environ, "CAPSTAN_LLAMA_CPP names no checkout of llama.cpp with its build")
class LlamaCpp(Converting):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        there = pathlib.Path(os.environ["CAPSTAN_LLAMA_CPP"])
        libraries = next((there / "build").rglob("libllama.so")).parent
        cls.peer = cls.shared / "llama_cpp_peer"
        subprocess.run(["c++", "-std=c++17", "-O1", "-o", cls.peer, SOURCE / "tests" / "launch" / "llama_cpp_peer.cpp",
                        "-I", there / "include", "-I", there / "ggml" / "include", "-L", libraries, "-lllama", "-lggml",
                        "-lggml-base", f"-Wl,-rpath,{libraries}"], check=True)

    def theirs(self, model, *arguments, text=""):
        answer = subprocess.run([self.peer, model, *map(str, arguments)], input=text.encode(), capture_output=True,
                                check=False, timeout=300)
        self.assertEqual(answer.returncode, 0, answer.stderr.decode(errors="replace")[-3000:])
        return answer.stdout

    def distance(self, fixture, model):
        tokens = stored(fixture / "logits.safetensors", "tokens", "q")
        self.theirs(model, "logits", self.folder / "logits", *tokens)
        found = array.array("f", (self.folder / "logits").read_bytes())
        wanted = stored(fixture / "logits.safetensors", "logits", "f")
        self.assertEqual(len(found), len(wanted))
        config = json.loads((fixture / "config.json").read_text())
        rows = config.get("sliding_window") or len(tokens)  # it has no windows: said in a note
        return max(abs(a - b) for a, b in list(zip(found, wanted))[:rows * len(wanted) // len(tokens)])

    def test_its_logits_are_those_of_transformers(self):
        refused = set()
        for fixture in sorted(path for path in FIXTURES.iterdir() if path.is_dir()):
            with self.subTest(family=fixture.name):
                out = self.folder / f"{fixture.name}.gguf"
                answer = capstan("convert", "--from", fixture, "--to", out, "--format", "gguf")
                if answer.returncode:
                    refused.add(fixture.name)
                    continue
                distance = self.distance(fixture, out)
                print(f"llama.cpp: {fixture.name} {distance:.2g}")
                # Its GELU is looked up in a table of 16 bits, and by the tanh form also where the model says erf.
                exact = "gelu" not in (fixture / "config.json").read_text() and fixture.name != "bloom"
                self.assertLess(distance, 1e-4 if exact else 0.005)
        self.assertEqual(refused, NOT_THERE)

    def test_stretched_rotation_is_that_of_transformers(self):
        old = {"rope_theta": 10000.0, "original_max_position_embeddings": 16}
        for name, fixture, rope in (
                ("linear", "llama", {**old, "rope_type": "linear", "factor": 4.0}),
                ("yarn", "llama", {**old, "rope_type": "yarn", "factor": 4.0}),
                ("yarn-attention", "qwen2", {**old, "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}),
                ("yarn-falcon", "falcon_40b", {**old, "rope_type": "yarn", "factor": 8.0})):
            with self.subTest(scaling=name):
                model = self.folder / name
                shutil.copytree(FIXTURES / fixture, model)
                config = json.loads((model / "config.json").read_text())
                config.pop("rope_scaling", None)
                (model / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
                out = self.convert(model, f"{name}.gguf", "gguf")
                usual = self.distance(model, out)
                wanted = peer(ROWS, model)[0]["logits"]
                found = array.array("f", (self.folder / "logits").read_bytes())
                distance = max(abs(a - b) for a, b in zip(found, wanted))
                print(f"llama.cpp: {name} {distance:.2g}, to the fixture's {usual:.2g}")
                self.assertLess(distance, 1e-4 if "falcon" not in name else 0.005)
                self.assertGreater(usual, 0.005)  # and it is not for nothing

    def test_sixteen_bits_cost_little(self):
        for dtype, most in (("f16", 0.02), ("bf16", 0.2)):
            out = self.convert(FIXTURES / "llama", f"llama-{dtype}.gguf", "gguf", "--dtype", dtype)
            distance = self.distance(FIXTURES / "llama", out)
            print(f"llama.cpp: llama {dtype} {distance:.2g}")
            self.assertLess(distance, most)

    def same_tokens(self, tokenizer, *settings):
        """A model trained with this tokenizer: text becomes the same ids. Returns the run and the GGUF file."""
        corpus = self.folder / f"corpus-{tokenizer.stem}"
        answer = capstan("corpus", "build", "--out", corpus, "--tokenizer", tokenizer, self.text)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        run = self.folder / f"run-{tokenizer.stem}"
        code, output = train(1, self.config, f"data.corpora={corpus}", f"run.dir={run}", *settings)
        self.assertEqual(code, 0, output)
        model = self.convert(run, f"{tokenizer.stem}.gguf", "gguf")
        theirs = self.theirs(model, "ids", text="\0".join(TEXTS)).decode().splitlines()
        self.assertEqual(len(theirs), len(TEXTS))
        for text, ids in zip(TEXTS, theirs):
            (self.folder / "text").write_text(text, newline="")
            mine = capstan("tokenizer", "encode", "--tokenizer", corpus, self.folder / "text").stdout.split()
            self.assertEqual(ids.split(), mine, text)
        return run, model

    def same_text(self, tokenizer, *settings):
        """And goes on with the same ones."""
        run, model = self.same_tokens(tokenizer, *settings)
        prompt = "The "
        ids = self.theirs(model, "ids", text=prompt).split()
        ids = self.theirs(model, "greedy", 20, *(one.decode() for one in ids)).split()
        (self.folder / "ids").write_bytes(b" ".join(ids))
        said = capstan("tokenizer", "decode", "--tokenizer", tokenizer, self.folder / "ids").stdout
        mine = capstan("generate", "--run", run, "--prompt", prompt, "--tokens", "20", "--temperature", "0").stdout
        self.assertEqual(said.split("<|endoftext|>")[0].strip(), mine.strip())

    def test_it_tokenizes_and_goes_on_as_we_do(self):
        llama = ("model.positions=rotary", "model.norm=rms", "model.bias=false", "model.activation=swiglu",
                 "model.tied=false", "model.kv_heads=1")
        for pattern in ("gpt2", "llama3", "qwen2", "o200k", "tekken", "qwen35"):
            with self.subTest(pattern=pattern):
                bpe = self.folder / f"bpe-{pattern}.json"
                answer = capstan("tokenizer", "train", "--vocabulary", "400", "--pattern", pattern, "--out", bpe, self.text)
                self.assertEqual(answer.returncode, 0, answer.stderr)
                if pattern == "gpt2":
                    self.same_text(bpe)
                else:
                    self.same_tokens(bpe, "train.steps=1", "schedule.warmup_steps=0")
        with self.subTest(pattern="SentencePiece"):
            self.same_text(SOURCE / "tests" / "io" / "golden" / "tokenizers" / "llama.json", *llama)


if __name__ == "__main__":
    check = subprocess.run([PYTHON, "-c", "import torch, transformers, safetensors, gguf"], capture_output=True, check=False)
    if check.returncode != 0:
        print("SKIP: no Python with torch, transformers, safetensors and gguf; CAPSTAN_PEER_PYTHON names one")
        sys.exit(77)
    unittest.main()

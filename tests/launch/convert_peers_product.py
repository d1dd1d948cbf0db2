#!/usr/bin/env python3
# label: slow
# timeout: 2400
"""capstan convert against its peers: what it writes is opened by transformers (same logits, same greedy tokens) and by
the gguf package; Megatron's own reader reads .bin and .idx where it is at hand.

CAPSTAN_PEER_PYTHON names a Python that has torch, transformers, safetensors and gguf; without one, or without any of
them, the test is skipped. CAPSTAN_MEGATRON names a checkout of Megatron-LM.
"""
import json
import os
import pathlib
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

MEGATRON = """
import sys, json
sys.path.insert(0, sys.argv[1])
from megatron.core.datasets.indexed_dataset import IndexedDataset
data = IndexedDataset(sys.argv[2])
print(json.dumps({"documents": len(data.document_indices) - 1, "first": data[0].tolist(),
                  "tokens": int(data.sequence_lengths.sum())}))
"""


def peer(script, *arguments):
    answer = subprocess.run([PYTHON, "-c", script, *map(str, arguments)], capture_output=True, encoding="utf-8",
                            check=False, timeout=1200)
    if answer.returncode != 0:
        raise AssertionError(answer.stderr[-3000:])
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]


class Peers(ProductTest):
    def convert(self, source, name, form, *more):
        out = self.folder / name
        answer = capstan("convert", "--from", source, "--to", out, "--format", form, *more)
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        return out

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
                self.assertEqual(found["config"], [])

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

    def test_megatrons_own_reader_reads_the_tokens(self):
        if "CAPSTAN_MEGATRON" not in os.environ:
            self.skipTest("CAPSTAN_MEGATRON names no checkout of Megatron-LM")
        out = self.convert(self.corpus, "tokens", "megatron")
        found = peer(MEGATRON, os.environ["CAPSTAN_MEGATRON"], out)[0]
        self.assertEqual(found["tokens"] * 2, (self.folder / "tokens.bin").stat().st_size)
        self.assertEqual(found["first"][-1], 256)


if __name__ == "__main__":
    check = subprocess.run([PYTHON, "-c", "import torch, transformers, safetensors, gguf"], capture_output=True, check=False)
    if check.returncode != 0:
        print("SKIP: no Python with torch, transformers, safetensors and gguf; CAPSTAN_PEER_PYTHON names one")
        sys.exit(77)
    unittest.main()

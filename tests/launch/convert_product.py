#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""capstan convert: a trained run out to Hugging Face, GGUF and Megatron, back again, and used; killed half-way."""
import json
import pathlib
import shutil
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import SOURCE, ProductTest, capstan, metrics, train  # noqa: E402

FIXTURES = SOURCE / "tests" / "io" / "golden" / "weights"


def header(path):
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return {name: (entry["dtype"], entry["shape"], data[8 + length:][slice(*entry["data_offsets"])])
            for name, entry in json.loads(data[8:8 + length]).items() if name != "__metadata__"}


class Convert(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.run_dir = cls.shared / "run"
        code, output = train(4, cls.config, f"data.corpora={cls.corpus}", f"run.dir={cls.run_dir}", "layout.tp=2",
                             "layout.pp=2")
        if code != 0:
            raise AssertionError(output)

    def good(self, *arguments, **options):
        answer = capstan(*arguments, **options)
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        return answer.stdout

    def refused(self, code, *arguments, **options):
        answer = capstan(*arguments, **options)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        return answer.stderr

    def convert(self, source, name, form, *more, **options):
        out = self.folder / name
        self.said = self.good("convert", "--from", source, "--to", out, "--format", form, *more, **options)
        return out

    def test_out_and_back_is_the_same_model(self):
        out = self.convert(self.run_dir, "hf", "hf")
        self.assertIn("largest difference 0,", self.said)
        config = json.loads((out / "config.json").read_text())
        self.assertEqual((config["model_type"], config["n_layer"], config["vocab_size"]), ("gpt2", 2, 257))
        stored = header(out / "model.safetensors")
        self.assertEqual(stored["transformer.h.0.attn.c_attn.weight"][1], [32, 96])
        self.assertEqual(stored["transformer.wte.weight"][1], [257, 32])
        back = self.convert(out, "back", "capstan")
        self.assertEqual(header(self.convert(back, "again", "hf") / "model.safetensors"), stored)
        report = json.loads((back / "conversion.json").read_text())
        self.assertEqual(report["largest_logit_difference"], 0.0)
        self.assertEqual(report["xxh3_source"], report["xxh3_written"])

    def test_shards_have_an_index_and_come_back(self):
        out = self.convert(self.run_dir, "hf", "hf", "--shard-size", "20KB")
        index = json.loads((out / "model.safetensors.index.json").read_text())
        self.assertGreater(len(set(index["weight_map"].values())), 2)
        self.assertEqual(index["metadata"]["total_size"],
                         sum(len(data) for name in set(index["weight_map"].values())
                             for _, _, data in header(out / name).values()))
        for name in set(index["weight_map"].values()):
            self.assertRegex(name, r"^model-\d{5}-of-\d{5}\.safetensors$")
        whole = self.convert(self.run_dir, "whole", "hf")
        again = self.convert(self.convert(out, "back", "capstan"), "again", "hf")
        self.assertEqual(header(again / "model.safetensors"), header(whole / "model.safetensors"))

    def test_a_converted_model_generates_and_evaluates_the_same(self):
        back = self.convert(self.convert(self.run_dir, "hf", "hf"), "back", "capstan")
        def text(run):
            return self.good("generate", "--run", run, "--prompt", "The ", "--tokens", "40", "--temperature", "0")
        self.assertEqual(text(back), text(self.run_dir))
        said = self.good("evaluate", "--run", back, "--samples", "16", "--corpus", self.corpus)
        loss = float(next(line.split()[1] for line in said.splitlines() if line.startswith("loss")))
        self.assertAlmostEqual(loss, metrics(self.run_dir)[-1]["validation_loss"], delta=1e-5)

    def test_a_converted_model_is_trained_on(self):
        back = self.convert(self.convert(self.run_dir, "hf", "hf"), "back", "capstan")
        before = metrics(self.run_dir)[-1]["validation_loss"]
        code, output = train(2, back / "config.toml", f"data.corpora={self.corpus}", "train.steps=4",
                             "train.global_batch=8", "schedule.warmup_steps=2", "optimizer.learning_rate=1e-4",
                             "train.evaluate_every=1", "train.evaluate_samples=16", "layout.zero=1",
                             "train.precision=bf16")
        self.assertEqual(code, 0, output)
        rows = metrics(back)
        self.assertEqual([row["step"] for row in rows], [1, 2, 3, 4])
        self.assertLess(rows[0]["learning_rate"], rows[1]["learning_rate"])  # warmed up anew
        self.assertAlmostEqual(rows[-1]["validation_loss"], before, delta=0.1)
        code, output = train(2, back / "config.toml", f"data.corpora={self.corpus}", "train.steps=6",
                             "train.global_batch=8", "train.precision=bf16")
        self.assertEqual(code, 0, output)
        self.assertEqual(metrics(back)[-1]["step"], 6)

    def test_a_copied_run_goes_on_where_it_lies(self):
        out = self.convert(self.run_dir, "hf", "hf")
        (self.folder / "runs").mkdir()
        self.good("convert", "--from", out, "--to", "runs/came", "--format", "capstan", cwd=self.folder)
        came, copy = self.folder / "runs" / "came", self.folder / "runs" / "copy"
        shutil.copytree(came, copy)
        before = sorted((path, path.stat().st_mtime_ns) for path in came.rglob("*"))
        settings = [f"data.corpora={self.corpus}", "train.steps=2", "train.global_batch=8", "schedule.warmup_steps=1"]
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        for config, where in (("../runs/copy/config.toml", elsewhere), ("config.toml", copy)):
            said = self.good("train", config, *settings, cwd=where)
            self.assertIn("step-", said)
            settings[1] = "train.steps=4"
        self.assertEqual([row["step"] for row in metrics(copy)], [1, 2, 3, 4])
        self.assertEqual(sorted((path, path.stat().st_mtime_ns) for path in came.rglob("*")), before)
        self.assertEqual(list(elsewhere.iterdir()), [])

    def test_a_tokenizer_with_more_tokens_than_rows_is_not_used(self):
        small = self.folder / "small"
        shutil.copytree(FIXTURES / "gpt2", small)
        out = self.convert(self.run_dir, "hf", "hf")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(out / name, small / name)
        run = self.convert(small, "run", "capstan")
        self.assertIn("the tokenizer has 257 tokens, the model 61", self.said)
        for source in (run, self.convert(FIXTURES / "gpt2", "bare", "capstan")):
            said = self.refused(78, "evaluate", "--run", source, "--corpus", self.corpus)
            self.assertIn("a vocabulary of 61, but the tokenizer of", said)
        self.assertIn("without a tokenizer", self.refused(78, "generate", "--run", run, "--prompt", "hi"))

    def test_half_as_many_bytes_and_a_stated_difference(self):
        out = self.convert(self.run_dir, "hf", "hf", "--dtype", "bf16")
        self.assertEqual({dtype for dtype, _, _ in header(out / "model.safetensors").values()}, {"BF16"})
        report = json.loads((out / "conversion.json").read_text())
        self.assertGreater(report["largest_logit_difference"], 0.0)
        self.assertLess(report["kl_nats"], report["kl_allowed"])
        back = self.convert(out, "back", "capstan")
        again = self.convert(back, "again", "hf")
        self.assertEqual(header(again / "model.safetensors"), header(out / "model.safetensors"))
        self.assertEqual((again / "config.json").read_bytes(), (out / "config.json").read_bytes())

    def test_a_config_says_the_type_that_the_weights_have_and_keeps_the_rest(self):
        came = self.convert(self.run_dir, "came", "hf")
        ids = {"bos_token_id": 7, "eos_token_id": [5, 9], "pad_token_id": 3}
        said = {**json.loads((came / "config.json").read_text()), **ids, "torch_dtype": "float32", "of_somebody": [1.5]}
        said.pop("dtype", None)
        (came / "config.json").write_text(json.dumps(said))

        def config(directory):
            return json.loads((directory / "config.json").read_text())
        halves = self.convert(came, "halves", "hf", "--dtype", "bf16")
        self.assertEqual(config(halves), {**said, "torch_dtype": "bfloat16"})
        run = self.convert(came, "run", "capstan", "--dtype", "bf16")
        self.assertEqual((self.convert(run, "again", "hf") / "config.json").read_bytes(),
                         (halves / "config.json").read_bytes())
        code, output = train(1, run / "config.toml", f"data.corpora={self.corpus}", "train.steps=1",
                             "train.global_batch=2", "schedule.warmup_steps=1")
        self.assertEqual(code, 0, output)
        trained = self.convert(run, "trained", "hf")
        self.assertEqual({dtype for dtype, _, _ in header(trained / "model.safetensors").values()}, {"F32"})
        self.assertEqual(config(trained), said)
        again = self.convert(self.convert(run, "again-run", "capstan"), "again-trained", "hf")
        self.assertEqual((config(again), header(again / "model.safetensors")),
                         (said, header(trained / "model.safetensors")))

    def test_a_checkpoint_is_named_and_only_what_is_read_of_it_counts(self):
        run = self.folder / "run"
        shutil.copytree(self.run_dir, run)
        step = max((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
        out = self.convert(step, "whole", "hf")
        for name in ("step-1.broken", "step-latest", "step-", "newest"):
            shutil.copytree(step, run / "checkpoints" / name)
            self.assertIn("is no checkpoint", self.refused(66, "convert", "--from", run / "checkpoints" / name, "--to",
                                                           self.folder / "x", "--format", "hf"))
        self.assertIn("--step 1", self.refused(64, "convert", "--from", step, "--step", "1", "--to", self.folder / "x",
                                               "--format", "hf"))

        def flip(prefix):
            for path in step.glob("*.safetensors"):
                data = bytearray(path.read_bytes())
                length = struct.unpack("<Q", data[:8])[0]
                for name, entry in json.loads(data[8:8 + length]).items():
                    if name.startswith(prefix):
                        data[8 + length + entry["data_offsets"][0]] ^= 1
                        path.write_bytes(data)
                        return name
            raise AssertionError(f"no tensor {prefix}")
        flip("moment1.")
        self.assertEqual(header(self.convert(run, "moment", "hf") / "model.safetensors"), header(out / "model.safetensors"))
        flip("token_embedding.")
        self.refused(65, "convert", "--from", run, "--to", self.folder / "x", "--format", "hf")
        self.assertFalse((self.folder / "x").exists())

    def test_the_tokenizer_travels(self):
        out = self.convert(self.run_dir, "hf", "hf")
        tokenizer = json.loads((out / "tokenizer.json").read_text())
        self.assertEqual(len(tokenizer["model"]["vocab"]), 256)
        self.assertEqual(tokenizer["added_tokens"][0]["id"], 256)

    def test_gguf_is_a_file_that_can_be_read(self):
        out = self.convert(self.run_dir, "model.gguf", "gguf", "--dtype", "f16")
        data = out.read_bytes()
        self.assertEqual(data[:8], b"GGUF\3\0\0\0")
        for text in (b"general.architecture", b"gpt2.block_count", b"tokenizer.ggml.tokens", b"blk.1.attn_qkv.bias"):
            self.assertIn(text, data)

    def test_megatron_files_hold_the_corpus(self):
        out = self.convert(self.corpus, "tokens", "megatron")
        data, index = (self.folder / "tokens.bin").read_bytes(), (self.folder / "tokens.idx").read_bytes()
        magic, version, code, sequences, documents = struct.unpack("<9sQBQQ", index[:34])
        self.assertEqual((magic, version, code, documents), (b"MMIDIDX\0\0", 1, 8, sequences + 1))
        lengths = struct.unpack(f"<{sequences}i", index[34:34 + 4 * sequences])
        self.assertEqual(sum(lengths) * 2, len(data))
        tokens = struct.unpack(f"<{lengths[0]}H", data[:2 * lengths[0]])
        self.assertEqual(tokens[-1], 256)
        self.assertTrue(bytes(tokens[:4]).startswith(b"The "))
        again = self.folder / "again"
        said = self.good("corpus", "build", "--out", again, "--tokenizer", "bytes", f"{out}.bin")
        counted = sum(int(line.split()[2].replace(",", "")) for line in said.splitlines()
                      if line.split()[:1] in (["train"], ["validation"]))
        self.assertEqual(counted, sum(lengths))

    def test_killed_it_leaves_nothing_under_the_name(self):
        for form in ("hf", "capstan", "gguf"):
            for place in ("convert.tensor:3:kill", "file.sync:1:kill", "convert.before_rename:1:kill"):
                with self.subTest(form=form, place=place):
                    out = self.folder / f"killed-{form}"
                    answer = capstan("convert", "--from", self.run_dir, "--to", out, "--format", form,
                                     env={"CAPSTAN_FAIL": place})
                    self.assertEqual(answer.returncode, -9, answer.stdout + answer.stderr)
                    self.assertFalse(out.exists())
            self.convert(self.run_dir, f"killed-{form}", form)  # what was left behind does not disturb
            self.assertFalse((self.folder / f"killed-{form}.partial").exists())

    def test_a_full_disk_is_an_error_and_leaves_nothing(self):
        for form in ("hf", "capstan", "gguf"):
            out = self.folder / f"full-{form}"
            self.refused(74, "convert", "--from", self.run_dir, "--to", out, "--format", form,
                         env={"CAPSTAN_FAIL": "file.write:2:enospc"})
            self.assertEqual(list(self.folder.glob(f"full-{form}*")), [])

    def test_what_is_there_is_not_overwritten(self):
        out = self.folder / "mine"
        out.mkdir()
        (out / "notes").write_text("precious")
        self.assertIn("mine", self.refused(73, "convert", "--from", self.run_dir, "--to", out, "--format", "hf"))
        self.assertEqual((out / "notes").read_text(), "precious")

    def test_pickles_are_refused_with_the_way_out(self):
        folder = self.folder / "old"
        folder.mkdir()
        (folder / "config.json").write_text((FIXTURES / "gpt2" / "config.json").read_text())
        (folder / "pytorch_model.bin").write_bytes(b"PK\3\4")
        said = self.refused(65, "convert", "--from", folder, "--to", self.folder / "out", "--format", "capstan")
        self.assertIn("pytorch_model.bin", said)
        self.assertIn("save_pretrained", said)

    def test_without_proof_it_says_so(self):
        self.convert(self.run_dir, "hf", "hf", "--no-verify")
        self.assertIn("no-verify", self.said)
        self.assertFalse((self.folder / "hf" / "conversion.json").exists())

    def test_usage(self):
        self.refused(64, "convert", "--from", self.run_dir, "--to", self.folder / "x", "--format", "onnx")
        self.refused(64, "convert", "--from", self.run_dir, "--to", self.folder / "x", "--format", "hf",
                     "--shard-size", "many")
        self.refused(66, "convert", "--from", self.folder / "none", "--to", self.folder / "x", "--format", "hf")

    def padded(self, rows):
        """The trained run as a Hugging Face directory whose embedding has more rows than the tokenizer has tokens, as
        50257 are made 50304; the rows without a token win every softmax."""
        out = self.convert(self.run_dir, "padded", "hf")
        stored, name = header(out / "model.safetensors"), "transformer.wte.weight"
        more = b"".join(struct.pack("<32f", *(1e3 * (-1) ** number * (place == number // 2) for place in range(32)))
                        for number in range(rows - 257))
        stored[name] = ("F32", [rows, 32], stored[name][2] + more)
        self.write_safetensors(out / "model.safetensors", stored)
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
        return out

    @staticmethod
    def write_safetensors(path, tensors):
        entries, at = {}, 0
        for name, (dtype, shape, data) in tensors.items():
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))

    def test_rows_that_the_tokenizer_has_no_tokens_for_are_never_said(self):
        padded = self.padded(320)
        run = self.convert(padded, "run", "capstan")

        def text(directory, *more):
            return self.good("generate", "--run", directory, "--prompt", "The ", "--tokens", "40", *more)
        self.assertEqual(text(run, "--temperature", "0"), text(self.run_dir, "--temperature", "0"))
        for more in ([], ["--top-k", "3"], ["--top-p", "0.5", "--temperature", "3"]):
            self.assertEqual(text(run, *more), text(self.run_dir, *more))
        again = self.convert(run, "again", "hf")
        self.assertEqual(header(again / "model.safetensors"), header(padded / "model.safetensors"))
        self.assertEqual((again / "config.json").read_bytes(), (padded / "config.json").read_bytes())
        (run / "hugging_face" / "config.json").unlink()  # written anew it says the same rows
        anew = self.convert(run, "anew", "hf")
        self.assertEqual(json.loads((anew / "config.json").read_text())["vocab_size"], 320)
        self.assertEqual(header(anew / "model.safetensors"), header(padded / "model.safetensors"))
        data = self.convert(run, "padded.gguf", "gguf").read_bytes()
        self.assertIn(b"[PAD319]", data)
        code, output = train(2, run / "config.toml", f"data.corpora={self.corpus}", "train.steps=2", "layout.tp=2",
                             "train.global_batch=8", "schedule.warmup_steps=1")
        self.assertEqual(code, 0, output)

    def test_ids_that_the_tokenizer_left_out_are_never_said(self):
        padded = self.padded(340)  # of these 257 to 320 would win
        names = {**{f"w{number}": number for number in range(257)}, "<|endoftext|>": 330}
        (padded / "tokenizer.json").write_text(json.dumps({
            "version": "1.0", "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
            "decoder": None, "model": {"type": "WordLevel", "vocab": names, "unk_token": "w0"},
            "added_tokens": [{"id": 330, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                              "rstrip": False, "normalized": False, "special": True}]}))
        run = self.convert(padded, "run", "capstan")
        for temperature in ("0", "1"):
            said = self.good("generate", "--run", run, "--prompt", "w84", "--tokens", "20", "--temperature", temperature)
            self.assertRegex(said, r"^w84 ?w\d+")

    def test_every_family_goes_through_a_run_directory(self):
        for fixture in sorted(path for path in FIXTURES.iterdir() if path.is_dir()):
            with self.subTest(family=fixture.name):
                run = self.convert(fixture, f"{fixture.name}-run", "capstan")
                out = self.convert(run, f"{fixture.name}-hf", "hf")
                self.assertEqual((out / "config.json").read_bytes(), (fixture / "config.json").read_bytes())
                before = {name: entry for path in fixture.glob("model*.safetensors")
                          for name, entry in header(path).items()}
                self.assertEqual(header(out / "model.safetensors"), before)


if __name__ == "__main__":
    unittest.main()

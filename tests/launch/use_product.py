#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""What one does with a run: generate, evaluate, inspect, doctor."""
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, SOURCE, TIMEOUT, ProductTest, capstan, metrics, train  # noqa: E402


class Use(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.run_dir = cls.shared / "run"
        code, output = train(2, cls.config, f"data.corpora={cls.corpus}", f"run.dir={cls.run_dir}")
        if code != 0:
            raise AssertionError(output)

    def good(self, *arguments):
        answer = capstan(*arguments)
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        return answer.stdout

    def test_generate_is_a_function_of_its_seed(self):
        def write(seed, *more):
            return self.good("generate", "--run", self.run_dir, "--prompt", "The ", "--tokens", "80", "--seed", seed,
                             *more)
        self.assertEqual(write("1"), write("1"))
        self.assertNotEqual(write("1"), write("2"))
        self.assertEqual(write("1", "--temperature", "0"), write("2", "--temperature", "0"))
        self.assertEqual(write("1", "--top-k", "1"), write("2", "--temperature", "0"))
        self.assertTrue(write("3", "--top-p", "0.5").startswith("The "))

    def test_generated_words_keep_their_spaces(self):
        """A SentencePiece tokenizer drops the space that a text begins with: of the text, not of each token."""
        tokenizer = SOURCE / "tests" / "io" / "golden" / "tokenizers" / "llama.json"
        corpus, run = self.folder / "corpus", self.folder / "run"
        self.good("corpus", "build", "--out", corpus, "--tokenizer", tokenizer, self.text)
        code, output = train(1, self.config, f"data.corpora={corpus}", f"run.dir={run}")
        self.assertEqual(code, 0, output)
        for prompt in ("The", "Straße 你", ""):
            text = self.good("generate", "--run", run, "--prompt", prompt, "--tokens", "60", "--temperature", "0.3")
            self.assertTrue(text.startswith(prompt))
            self.assertGreater(text[len(prompt):].strip().count(" "), 2, text)

    def test_evaluate_agrees_with_the_training_run(self):
        last = metrics(self.run_dir)[-1]
        text = self.good("evaluate", "--run", self.run_dir)
        nats, bits = last["validation_loss"], last["validation_bits_per_byte"]
        found = [float(number) for number in re.findall(r"\d+\.\d+", text)]
        self.assertTrue(any(math.isclose(number, nats, rel_tol=0.05) for number in found), (nats, text))
        self.assertTrue(any(math.isclose(number, bits, rel_tol=0.05) for number in found), (bits, text))

    def test_inspect_needs_neither_corpus_nor_mpi(self):
        text = self.good("inspect", SOURCE / "configs/runs/gpt2-124m.toml", "train.global_batch=8",
                         "train.microbatch=4")
        self.assertRegex(text, r"124[,.]?\d")
        for word in ("parameter", "gradient", "moment", "activation", "scratch", "arena", "digest"):
            self.assertIn(word, text.lower())

    def test_doctor_finds_what_is_here(self):
        text = self.good("doctor")
        for word in ("MPI", "HDF5", "oneDNN"):
            self.assertIn(word, text)

    def test_what_is_not_there_is_said(self):
        for verb in ("generate", "evaluate"):
            answer = capstan(verb, "--run", self.folder / "none")
            self.assertEqual(answer.returncode, 66, answer.stderr)
            self.assertIn("none", answer.stderr)

    def test_the_docs_name_what_a_run_leaves(self):
        page = (SOURCE / "docs/training.md").read_text(encoding="utf-8")
        known = set(re.findall(r"`([^`]+)`", page))
        columns = {name for row in metrics(self.run_dir) for name in row} - {"digits"}
        self.assertIn("noise_scale", columns)  # two data ranks
        self.assertEqual(sorted(columns - known), [])
        files = {path.name + "/" * path.is_dir() for path in self.run_dir.iterdir()}
        self.assertEqual(sorted(name for name in files if not any(text.startswith(name) for text in known)), [])

    def printed_to(self, stdout, *arguments, **options):
        return subprocess.run([str(BINARY), *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, timeout=TIMEOUT, encoding="utf-8", env=ENVIRONMENT, check=False,
                              **options)

    def test_output_that_is_lost_is_an_error(self):
        tokenizer = self.corpus / "tokenizer.json"
        plan = SOURCE / "configs/runs/quickstart.toml"
        (self.folder / "law.csv").write_text(
            "n,d,loss\n" + "".join(f"{n},{d},{1.5 + 40 / n**0.5 + 300 / d**0.5 + (n + d) % 7e-3}\n"
                                   for n in (1000, 2000, 4000, 8000) for d in (100000, 200000, 400000)))
        with open("/dev/full", "w", encoding="utf-8") as full:
            for words in (("generate", "--run", self.run_dir, "--tokens", "5"), ("evaluate", "--run", self.run_dir),
                          ("inspect", plan, "model.vocabulary=257"), ("config",), ("config", "--markdown"),
                          ("config", "--presets"), ("config", plan), ("sweep", "--keys"),
                          ("records", self.run_dir), ("records", self.run_dir, "--csv", "-"),
                          ("fit", self.folder / "law.csv", "--bootstrap", "0", "--no-profiles", "--no-backtest"),
                          ("tokenizer", "info", tokenizer), ("corpus", "info", self.corpus),
                          ("corpus", "verify", self.corpus), ("corpus", "text", self.corpus),
                          ("corpus", "place", self.corpus, "--sample", "0", "--context", "32"), ("doctor",),
                          ("--help",), ("--version",)):
                with self.subTest(" ".join(map(str, words[:2]))):
                    answer = self.printed_to(full, *words)
                    self.assertEqual(answer.returncode, 74, answer.stderr)
                    self.assertIn("standard output", answer.stderr)

    def test_a_reader_that_has_gone_is_no_news(self):
        for ignored, code in ((False, -signal.SIGPIPE), (True, 74)):
            reader, writer = os.pipe()
            os.close(reader)
            answer = self.printed_to(
                writer, "config", "--markdown",
                preexec_fn=lambda ignored=ignored: signal.signal(signal.SIGPIPE,
                                                                 signal.SIG_IGN if ignored else signal.SIG_DFL))
            os.close(writer)
            self.assertEqual((answer.returncode, answer.stderr), (code, ""))

    def test_special_tokens_are_named_in_one_way(self):
        train_one = ("tokenizer", "train", "--vocabulary", "300", "--out", self.folder / "t.json")
        build = ("corpus", "build", "--out", self.folder / "corpus", "--train-tokenizer", "300")
        for words, file in ((train_one, "t.json"), (build, "corpus/tokenizer.json")):
            self.good(*words, "--special", "<|a|>,<|b|>", "--special", "<|c|>", self.text)
            names = [token["content"] for token in json.loads((self.folder / file).read_text())["added_tokens"]]
            self.assertEqual(names, ["<|a|>", "<|b|>", "<|c|>", "<|endoftext|>"])
            other = [self.folder / "other" if word in (self.folder / "t.json", self.folder / "corpus") else word
                     for word in words]
            answer = capstan(*other, "--special", "a,b", self.text)
            self.assertEqual(answer.returncode, 65, answer.stderr)
            self.assertIn("already a byte token", answer.stderr)

    def test_numbers_that_make_no_sense_are_refused_in_words(self):
        for words in (("report", "x", "--budget", "-3"), ("fit", "x", "--budget", "abc"), ("inspect", "x", "--rank", "-1"),
                      ("fit", "x", "--delta", "0"), ("inspect", "x", "--rank", "1e3")):
            answer = capstan(*words)
            self.assertEqual(answer.returncode, 64, answer.stderr)
            self.assertRegex(answer.stderr, r"wanted a .*number .*, got '")
            self.assertLess(len(answer.stderr), 200)


if __name__ == "__main__":
    unittest.main()

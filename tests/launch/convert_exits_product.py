#!/usr/bin/env python3
# label: cpu
# timeout: 300
"""capstan convert where a name, a file or the command line is not as it should be: which exit code, what is said, and
that two at once do not take each other's files away. (Malformed contents: convert_hostile_product.py.)"""
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, SOURCE, TIMEOUT, build_corpus, capstan, write_text  # noqa: E402

GOLDEN = SOURCE / "tests" / "io" / "golden" / "weights" / "gpt2"
NOBODY = 65534


class Exits(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="capstan-exits-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def convert(self, code, source, target, form, *more, **options):
        """What it said, on either stream."""
        answer = capstan("convert", "--from", source, "--to", target, "--format", form, *more, **options)
        said = answer.stdout + answer.stderr
        self.assertEqual(answer.returncode, code, said)
        self.assertNotIn("our own fault", said)
        return said

    def loop(self):
        loop = self.folder / "loop"
        if not loop.is_symlink():
            os.symlink("loop", loop)
        return loop

    def left(self):
        return sorted(path.name for path in self.folder.iterdir() if path.name.startswith("out"))

    def test_names_that_cannot_be_written(self):
        (self.folder / "file").touch()
        names = [self.loop(), self.loop() / "out", self.folder / "file" / "out", self.folder / ("n" * 300),
                 self.folder / ("n" * 250), self.folder / "file", "/", "."]
        for form in ("hf", "capstan", "gguf"):
            for name in names:
                with self.subTest(form=form, name=str(name)[-40:]):
                    self.assertIn(str(name), self.convert(73, GOLDEN, name, form))
            self.assertIn("--to", self.convert(64, GOLDEN, "", form))
        self.assertIn("--from", self.convert(64, "", self.folder / "out", "hf"))
        self.assertEqual(self.left(), [])
        self.convert(0, GOLDEN, f"{self.folder}/out.gguf/", "gguf")

    def test_a_directory_that_cannot_be_synced_is_not_left(self):
        for form in ("hf", "capstan"):
            said = self.convert(74, GOLDEN, self.folder / "out", form, env={"CAPSTAN_FAIL": "directory.sync:1:enospc"})
            self.assertIn("No space left", said)
            self.assertEqual(self.left(), [])

    def test_names_that_cannot_be_read(self):
        for form in ("hf", "megatron"):
            said = self.convert(65, self.loop(), self.folder / "out", form)
            self.assertIn("Too many levels of symbolic links", said)
        self.assertIn("loop", said)
        self.convert(66, self.folder / ("n" * 300), self.folder / "out", "hf")
        self.convert(66, self.folder / "none", self.folder / "out", "hf")

    def test_a_tokenizer_that_is_a_link_to_itself(self):
        run = self.folder / "run"
        self.convert(0, GOLDEN, run, "capstan")
        os.symlink("tokenizer.json", run / "tokenizer.json")
        answer = capstan("generate", "--run", run, "--prompt", "The ")
        self.assertEqual(answer.returncode, 65, answer.stderr)
        self.assertIn("tokenizer.json", answer.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "SKIP: only root can become nobody")
    def test_directories_that_may_not_be_read(self):
        def as_nobody():
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        self.folder.chmod(0o755)
        model, shut = self.folder / "shut" / "model", self.folder / "shut"
        shutil.copytree(GOLDEN, model)
        shut.chmod(0o700)
        try:
            said = self.convert(66, model, self.folder / "out", "hf", preexec_fn=as_nobody)
        except subprocess.TimeoutExpired:  # a SubprocessError too, as is a failure to become nobody
            raise
        except (PermissionError, subprocess.SubprocessError):
            self.skipTest("SKIP: root may not become nobody here, or the program lies where nobody may not run it")
        self.assertIn(str(model), said)
        self.assertIn("Permission denied", said)
        self.assertIn(str(shut / "out"), self.convert(73, GOLDEN, shut / "out", "hf", preexec_fn=as_nobody))
        shut.chmod(0o755)
        (model / "model.safetensors").chmod(0o600)
        self.assertIn("model.safetensors",
                      self.convert(66, model, self.folder / "out", "hf", preexec_fn=as_nobody))

    def test_the_command_line(self):
        for more in (["--shard-size", "1.2.3GB"], ["--shard-size", "1e"], ["--shard-size", "-1GB"],
                     ["--shard-size", ".GB"], ["--memory", "1GB2"], ["--threads", "-3"], ["--step", "-5"],
                     ["--step", "-1"]):
            with self.subTest(more=more):
                self.assertIn(more[0], self.convert(64, GOLDEN, self.folder / "out", "hf", *more))

    def deep(self, layers):
        """The small model, with its first layer as each of many."""
        folder = self.folder / "deep"
        folder.mkdir()
        config = json.loads((GOLDEN / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "n_layer": layers}))
        data = (GOLDEN / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header, body, at = {}, [], 0
        for name, entry in json.loads(data[8:8 + length]).items():
            if name == "__metadata__" or ".h.1." in name:
                continue
            part = data[8 + length:][slice(*entry["data_offsets"])]
            for layer in range(layers if ".h.0." in name else 1):
                header[name.replace(".h.0.", f".h.{layer}.")] = {**entry, "data_offsets": [at, at + len(part)]}
                body.append(part)
                at += len(part)
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))
        return folder

    def test_more_shards_than_a_process_may_open(self):
        few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))}
        out = self.folder / "out"
        self.convert(0, self.deep(70), out, "hf", "--shard-size", "1", **few)
        self.assertEqual(len(list(out.glob("model-*.safetensors"))), 844)
        self.convert(0, out, self.folder / "whole", "hf", "--no-verify", **few)
        self.assertTrue((self.folder / "whole" / "model.safetensors").exists())

    def test_damaged_checkpoints_are_named(self):
        run = self.folder / "run"
        self.convert(0, GOLDEN, run, "capstan")
        step = run / "checkpoints" / "step-0"
        weights = step / "rank-00000.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        said = self.convert(65, run, self.folder / "out", "hf")
        self.assertRegex(said, r"step-0/rank-00000.safetensors: the bytes of tensor .* the file is damaged")
        answer = capstan("generate", "--run", run, "--prompt", "The ")  # hashes all of it before it reads any
        self.assertEqual(answer.returncode, 65)
        self.assertIn("step-0 is damaged", answer.stderr)
        self.assertIn("rank-00000.safetensors", answer.stderr)
        (step / "manifest.json").write_text("{")
        self.assertIn("manifest.json", self.convert(65, run, self.folder / "out", "hf"))
        self.assertIn("manifest.json", self.convert(65, step, self.folder / "out", "hf"))
        (step / "manifest.json").unlink()
        self.assertIn("manifest.json", self.convert(65, run, self.folder / "out", "hf"))
        self.assertIn("manifest.json", self.convert(66, step, self.folder / "out", "hf"))
        shutil.rmtree(step)
        self.assertIn("no usable checkpoint", self.convert(66, run, self.folder / "out", "hf"))
        self.assertEqual(self.left(), [])

    def test_two_at_once(self):
        corpus = build_corpus(self.folder / "corpus", write_text(self.folder / "text", documents=3))
        for form in ("hf", "capstan", "gguf", "megatron"):
            with self.subTest(form=form):
                source, out = corpus if form == "megatron" else GOLDEN, self.folder / f"out-{form}"
                command = [BINARY, "convert", "--from", source, "--to", out, "--format", form]
                with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      env={**ENVIRONMENT, "CAPSTAN_FAIL": "file.write:1:stop"}) as first:
                    try:
                        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                        said = self.convert(73, source, out, form)
                        self.assertIn(f"out-{form}.partial", said)
                        self.assertIn("another program is writing", said)
                        first.send_signal(signal.SIGCONT)
                        output, _ = first.communicate(timeout=TIMEOUT)
                    finally:
                        if first.poll() is None:
                            first.kill()
                    self.assertEqual(first.returncode, 0, output)
        self.assertEqual(self.left(), ["out-capstan", "out-gguf", "out-hf", "out-megatron.bin", "out-megatron.idx"])


if __name__ == "__main__":
    unittest.main()

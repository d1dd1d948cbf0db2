#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""Corpora under faults, from outside: disks that fill up while one is built (tmpfs, ext4 on a loop device), builds that are
killed, shards that are missing on one rank only or change under a training, inputs that hold nothing. Each with its exit
code and the words of its message. What needs root (mounts) is skipped visibly without it.
"""
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import (BINARY, ENVIRONMENT, TIMEOUT, Job, ProductTest, capstan, made_up_text, metrics, numbers,  # noqa: E402
                     train)


def command(*arguments):
    return subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)


def flipped(good):
    """One bit of every chunk of tokens, and what else lies there."""
    bad = bytearray(good)
    for place in range(20000, len(bad) - 20000, 30000):
        bad[place] ^= 4
    return bytes(bad)


def stopped(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"


def files_of(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


class Faults(ProductTest):
    documents = 400

    def jsonl(self, name="a.jsonl", documents=3000):
        path = self.folder / name
        with path.open("w", encoding="utf-8") as out:
            for number, text in enumerate(made_up_text(documents, 3)):
                out.write(json.dumps({"text": text, "id": number}) + "\n")
        return path

    def mount(self, *arguments):
        place = self.folder / "disk"
        place.mkdir()
        answer = command("mount", *arguments, place)
        if answer.returncode != 0:
            print(f"SKIP: cannot mount here: {answer.stderr.strip()}")
            self.skipTest("cannot mount here (needs root)")
        self.addCleanup(command, "umount", "-l", place)
        return place

    def build(self, out, *arguments, code=0, says=(), env=None):
        answer = capstan("corpus", "build", "--out", out, *arguments, env=env)
        said = answer.stdout + answer.stderr
        self.assertEqual(answer.returncode, code, said)
        for word in says:
            self.assertIn(word, said)
        return said

    def fill_up(self, disk, grow):
        """A build on a disk that is too small, then again when there is room: the bytes of an undisturbed one."""
        source, options = self.jsonl(), ("--shard-tokens", 300000, "--drop-duplicates", "--keep-metadata", "id")
        self.build(self.folder / "whole", *options, source)
        self.build(disk / "c", *options, source, code=74, says=["run"])
        left = {name for name in files_of(disk / "c") if name.endswith((".h5", ".zst"))}
        self.assertTrue(left, "not even one shard was finished: the disk is too small for the test")
        for name in left:
            self.assertEqual((disk / "c" / name).read_bytes(), (self.folder / "whole" / name).read_bytes())
        self.assertFalse((disk / "c" / "manifest.json").exists())
        answer = capstan("corpus", "info", disk / "c")
        self.assertEqual(answer.returncode, 66, answer.stderr)
        self.assertIn("never finished", answer.stderr)
        grow(disk)
        self.build(disk / "c", *options, source, says=["that an earlier run had finished"])
        self.assertEqual(files_of(disk / "c"), files_of(self.folder / "whole"))

    def test_a_full_tmpfs(self):
        disk = self.mount("-t", "tmpfs", "-o", "size=3m", "tmpfs")

        def grow(place):
            self.assertEqual(command("mount", "-o", "remount,size=64m", place).returncode, 0)
        self.fill_up(disk, grow)

    def test_a_full_ext4(self):
        image = self.folder / "image"
        image.write_bytes(b"")
        os.truncate(image, 24 << 20)
        answer = command("mkfs.ext4", "-q", "-F", "-m", "0", image)
        if answer.returncode != 0:
            print(f"SKIP: no ext4 here: {answer.stderr.strip()}")
            self.skipTest("no mkfs.ext4")
        disk = self.mount("-o", "loop", image)
        room = os.statvfs(disk)
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (room.f_bavail * room.f_frsize - (3 << 20)))
        self.fill_up(disk, lambda _: ballast.unlink())

    def test_kill_nine_from_outside(self):
        source = self.jsonl(documents=6000)
        options = ("--shard-tokens", 200000, "--threads", 4, "--drop-duplicates", source)
        begin = time.monotonic()
        self.build(self.folder / "whole", *options)
        seconds = time.monotonic() - begin
        wait, kills, went_on = random.Random(), 0, 0
        for attempt in range(4):
            out = self.folder / f"c{attempt}"
            for _ in range(15):
                with subprocess.Popen([str(BINARY), "corpus", "build", "--out", str(out), *map(str, options)],
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT) as process:
                    time.sleep(wait.uniform(0.1, 0.8) * seconds)
                    process.send_signal(signal.SIGKILL)
                    said = process.stdout.read().decode()
                kills += process.returncode == -signal.SIGKILL
                went_on += "that an earlier run had finished" in said
                if process.returncode in (0, 73):
                    break
            if not (out / "manifest.json").exists():
                went_on += "that an earlier run had finished" in self.build(out, *options)
            self.assertEqual(files_of(out), files_of(self.folder / "whole"))
        self.assertGreaterEqual(kills, 1)

    def test_a_shard_that_is_missing_on_one_rank_only(self):
        if command("unshare", "-m", "true").returncode != 0:
            print("SKIP: no mount namespaces here (needs root)")
            self.skipTest("needs root")
        partial = self.folder / "partial"
        command("cp", "-r", self.corpus, partial)
        for what, harm, codes in (("missing", lambda path: path.unlink(), (66,)),
                                  ("truncated", lambda path: os.truncate(path, path.stat().st_size - 1), (65,))):
            with self.subTest(what):
                shard = sorted(partial.glob("train-*.h5"))[0]
                harm(shard)
                run = self.folder / f"run-{what}"
                ours = [str(BINARY), "train", str(self.config), *self.settings(run)]
                theirs = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$1" && shift 1 && exec "$@"', str(partial),
                          str(self.corpus), *ours]
                answer = subprocess.run(["mpirun", "-n", "1", *ours, ":", "-n", "1", *theirs], capture_output=True,
                                        text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, env=ENVIRONMENT, check=False)
                said = answer.stdout + answer.stderr
                self.assertIn(answer.returncode, codes, said)
                self.assertIn(shard.name, said)
                self.assertEqual(said.count(f"{shard.name}:"), 1, said)
                self.assertFalse((run / "checkpoints").exists() and any((run / "checkpoints").iterdir()))
                shard.write_bytes((self.corpus / shard.name).read_bytes())

    def test_damaged_shards_before_a_training(self):
        corpus = self.folder / "corpus"
        command("cp", "-r", self.corpus, corpus)
        shard = sorted(corpus.glob("train-*.h5"))[0]
        good = shard.read_bytes()
        for what, bad, says in (("truncated", good[:-1], "(truncated)"), ("appended", good + b"x", "the file has"),
                                ("emptied", b"", "(truncated)"), ("zeroed", bytes(len(good)), "HDF5 cannot open it"),
                                ("flipped", flipped(good), "is corrupt: its xxh3 is")):
            with self.subTest(what):
                shard.write_bytes(bad)
                run = self.folder / what
                code, said = train(2, self.config, f"data.corpora={corpus}", f"run.dir={run}")
                self.assertEqual(code, 65, said)
                self.assertIn(f"{shard.name}: ", said)
                self.assertIn(says, said)
                self.assertEqual(metrics(run), [])
        shard.unlink()
        code, said = train(2, self.config, f"data.corpora={corpus}", f"run.dir={self.folder / 'missing'}")
        self.assertEqual(code, 66, said)
        self.assertIn(f"{shard.name}: this file is missing", said)

    def change_while_training(self, name, change, code, says=()):
        """Rank 0 stops in its fifth microbatch, the shard changes, and it goes on. Returns the run directory."""
        corpus, run = self.folder / f"corpus-{name}", self.folder / f"run-{name}"
        command("cp", "-r", self.large, corpus)
        shard = sorted(corpus.glob("train-*.h5"))[0]
        settings = (f"data.corpora={corpus}", f"run.dir={run}", "train.steps=60", "train.evaluate_every=0")
        with Job(2, self.config, *settings, env={"CAPSTAN_FAIL": "train.microbatch:5:stop@0"}) as job:
            limit = time.monotonic() + TIMEOUT
            while not (halted := [pid for pid in job.rank_pids() if stopped(pid)]):
                self.assertLess(time.monotonic(), limit, job.text())
                self.assertIsNone(job.process.poll(), job.text())
                time.sleep(0.02)
            change(shard, shard.read_bytes())
            os.kill(halted[0], signal.SIGCONT)
            self.assertEqual(job.wait(), code, job.text())
            said = job.text()
        for word in says:
            self.assertIn(word, said)
        if code != 0:
            self.assertIn(f"{shard.name}: ", said)
            self.assertLess(len(metrics(run)), 60)
        return run

    def test_shards_that_change_while_training(self):
        self.large = self.folder / "large"
        self.build(self.large, self.jsonl(documents=6000))
        code, said = train(2, self.config, f"data.corpora={self.large}", f"run.dir={self.folder / 'whole'}",
                           "train.steps=60", "train.evaluate_every=0")
        self.assertEqual(code, 0, said)

        def rename(shard, _):
            other = shard.with_suffix(".new")
            other.write_bytes(b"something else")
            other.rename(shard)

        # What is read is what the manifest vouches for, or an error that names the shard.
        self.change_while_training("flipped", lambda shard, good: shard.write_bytes(flipped(good)), 65, ["is corrupt"])
        self.change_while_training("zeroed", lambda shard, good: shard.write_bytes(bytes(len(good))), 65)
        self.change_while_training("truncated", lambda shard, good: os.truncate(shard, len(good) // 4), 65)
        for name, change in (("appended", lambda shard, good: shard.write_bytes(good + b"x" * 999)),
                             ("replaced", rename), ("removed", lambda shard, _: shard.unlink())):
            run = self.change_while_training(name, change, 0)  # the open file stays what it was
            self.assertEqual(numbers(metrics(run)), numbers(metrics(self.folder / "whole")))

    def test_invalid_lines(self):
        source = self.folder / "lines.jsonl"
        for line, says in ((b'{"text": "good"', "lines.jsonl:3:"), (b'["text"]', "lines.jsonl:3:"),
                           (b'{"other": "x"}', '"text"'), (b'{"text": 5}', '"text"'), (b'{"text": "\xff"}', "not valid JSON")):
            source.write_bytes(b'{"text": "one"}\n{"text": "two"}\n' + line + b'\n{"text": "three"}\n')
            self.build(self.folder / "c", source, code=65, says=["lines.jsonl:3:", says, "--skip-bad"])
            self.assertFalse((self.folder / "c" / "manifest.json").exists())
        self.build(self.folder / "c", "--skip-bad", 1, source, says=["lines.jsonl:3:"])

    def test_caps_that_leave_too_little_are_refused_before_the_start(self):
        run = self.folder / "run"
        code, said = train(2, self.config, *self.settings(run), "data.max_epochs=0.01")
        self.assertEqual(code, 78, said)
        self.assertIn("data.max_epochs leaves", said)
        self.assertRegex(said, r"exhausted at sample \d+ of 192")
        self.assertEqual(metrics(run), [])

    def test_a_corpus_replaced_between_two_runs(self):
        corpus = self.folder / "corpus"
        command("cp", "-r", self.corpus, corpus)
        shard = sorted(corpus.glob("train-*.h5"))[0]
        other = self.folder / "other"
        self.build(other, self.jsonl(documents=200))
        shard.write_bytes(sorted(other.glob("train-*.h5"))[0].read_bytes())
        code, said = train(2, self.config, f"data.corpora={corpus}", f"run.dir={self.folder / 'run'}")
        self.assertEqual(code, 65, said)
        self.assertIn(shard.name, said)

    def test_inputs_that_hold_nothing(self):
        empty = self.folder / "empty.jsonl"
        empty.write_text("\n\n{\"text\": \"\"}\n", encoding="utf-8")
        self.build(self.folder / "c", empty, code=65, says=["0 bytes of text"])
        blank = self.folder / "blank.txt"
        blank.write_text("\n\n\n", encoding="utf-8")
        self.build(self.folder / "c", "--split-documents", "blank", blank, code=65, says=["0 bytes of text"])
        hollow = self.folder / "hollow"
        hollow.mkdir()
        self.build(self.folder / "c", hollow, code=65, says=["hollow", "found none"])
        self.assertFalse((self.folder / "c").exists())

    def test_standard_input(self):
        source = self.jsonl(documents=500)
        self.build(self.folder / "file", source)
        with source.open("rb") as stream:
            answer = subprocess.run([str(BINARY), "corpus", "build", "--out", str(self.folder / "pipe"), "--format",
                                     "jsonl", "-"], stdin=stream, capture_output=True, text=True, check=False)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual(files_of(self.folder / "pipe"), files_of(self.folder / "file"))

    def test_a_tokenizer_trained_on_the_way(self):
        source = self.jsonl(documents=1500)
        options = ("--train-tokenizer", 1000, "--special", "<|a|>,<|b|>", source)
        self.build(self.folder / "one", *options, "--threads", 1)
        self.build(self.folder / "two", *options, "--threads", 3)
        self.assertEqual(files_of(self.folder / "one"), files_of(self.folder / "two"))
        manifest = json.loads((self.folder / "one" / "manifest.json").read_text(encoding="utf-8"))
        self.assertGreater(manifest["vocabulary"], 400)  # this text has no more pairs; special tokens are among them
        self.assertLessEqual(manifest["vocabulary"], 1000)
        self.assertLess(manifest["splits"]["train"]["tokens"], manifest["splits"]["train"]["bytes"] / 2)
        answer = capstan("corpus", "text", self.folder / "one", "--split", "validation")
        texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
        self.assertTrue(answer.stdout)
        for text in texts:
            if text[:80] in answer.stdout:
                self.assertIn(text, answer.stdout)
        self.build(self.folder / "c", *options, "--shard-tokens", 50000, code=-signal.SIGKILL,
                   env={"CAPSTAN_FAIL": "journal.append:4:kill"})
        saved = (self.folder / "c" / "tokenizer.json").stat()
        said = self.build(self.folder / "c", *options, "--shard-tokens", 50000, says=["had finished"])
        self.assertNotIn("begun anew", said)
        self.assertEqual(saved.st_size, (self.folder / "c" / "tokenizer.json").stat().st_size)

    def test_a_megatron_dataset(self):
        texts = [text.encode() for text in made_up_text(300, 5)]
        prefix = self.folder / "set_text_document"
        ids = [struct.pack(f"<{len(text) + 1}H", *text, 256) for text in texts]
        prefix.with_suffix(".bin").write_bytes(b"".join(ids))
        lengths = [len(text) + 1 for text in texts]
        pointers = [2 * sum(lengths[:i]) for i in range(len(lengths))]
        count = len(lengths)
        prefix.with_suffix(".idx").write_bytes(
            b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, count, count + 1) + struct.pack(f"<{count}i", *lengths) +
            struct.pack(f"<{count}q", *pointers) + struct.pack(f"<{count + 1}q", *range(count + 1)))
        self.build(self.folder / "c", "--format", "megatron", "--tokenizer", "bytes", prefix)
        manifest = json.loads((self.folder / "c" / "manifest.json").read_text(encoding="utf-8"))
        splits = manifest["splits"].values()
        self.assertEqual(sum(split["tokens"] for split in splits), sum(lengths))
        self.assertEqual(sum(split["documents"] for split in splits), count)
        data = bytearray(prefix.with_suffix(".bin").read_bytes())
        data[2000:2002] = struct.pack("<H", 300)
        prefix.with_suffix(".bin").write_bytes(data)
        self.build(self.folder / "d", prefix.with_suffix(".bin"), code=65,
                   says=["token 1000 (byte 2000) has id 300", "set_text_document.bin"])


if __name__ == "__main__":
    unittest.main()

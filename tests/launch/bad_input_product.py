#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""Mistakes of users, disks and peers: each ends with the exit code that was promised and a message that teaches."""
import pathlib
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import (  # noqa: E402
    BINARY, ENVIRONMENT, TIMEOUT, ProductTest, capstan, checkpoints, metrics, numbers, train)

FAR = TIMEOUT * 3 / 4  # seconds: a refusal takes a few, also on a busy machine, unless somebody waits for somebody
SHORT = ("train.steps=8", "checkpoint.every=4", "train.evaluate_every=0")


def flip(path, place, mask=0x10):
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


class Settings(ProductTest):
    def refused(self, code, words, *settings, ranks=1):
        run = self.folder / "run"
        got, output = train(ranks, self.config, *self.settings(run, *settings))
        self.assertEqual(got, code, output)
        for word in words:
            self.assertIn(word, output)
        self.assertFalse((run / "checkpoints").exists() and checkpoints(run))

    def test_unknown_key_names_the_nearest(self):
        self.refused(78, ["model.widht", "model.width"], "model.widht=64")

    def test_wrong_type(self):
        self.refused(78, ["model.layers"], "model.layers=many")

    def test_all_mistakes_at_once(self):
        self.refused(78, ["model.layers", "train.stepps", "optimizer.beta1"], "model.layers=-1", "train.stepps=3",
                     "optimizer.beta1=2")

    def test_a_mistake_in_a_file_has_line_and_column(self):
        config = self.folder / "bad.toml"
        config.write_text("[model]\nlayers = 2\nwidht = 32\n", encoding="utf-8")
        got, output = train(1, config, *self.settings(self.folder / "run"))
        self.assertEqual(got, 78, output)
        self.assertRegex(output, r"bad\.toml:3:\d+")

    def test_heads_that_do_not_divide(self):
        self.refused(78, ["heads"], "model.heads=3")

    def test_a_batch_that_does_not_divide(self):
        self.refused(78, ["global_batch"], ranks=3)

    def test_a_world_that_does_not_fit(self):
        self.refused(78, ["layout.dp"], "layout.dp=3", "train.global_batch=12", ranks=2)

    def test_no_such_config(self):
        for ranks in (1, 3):
            got, output = train(ranks, self.folder / "none.toml")
            self.assertEqual(got, 66, output)
            self.assertEqual(output.count("none.toml"), 1, output)

    def test_no_such_corpus(self):
        for ranks in (1, 2):
            got, output = train(ranks, self.config, f"data.corpora={self.folder}/none", f"run.dir={self.folder}/run")
            self.assertEqual(got, 66, output)
            self.assertEqual(output.count("error: "), 1, output)

    def test_many_ranks_say_a_mistake_once(self):
        settings = self.settings(self.folder / "run", "train.global_batch=4")
        got, output = train(12, self.config, *settings)
        self.assertEqual(got, 78, output)
        self.assertEqual(output.count("error: "), 1, output)
        self.assertIn("rank 0]: error: 1 mistake", output)

    def test_what_only_some_ranks_lack_is_said_by_the_first_of_them(self):
        """As on a node without the corpus: nobody waits for it, and rank 0, which has it, does not keep it from being
        said."""
        elsewhere = '[ "$OMPI_COMM_WORLD_RANK" = 0 ] || cd "$0"; exec "$@"'
        began = time.monotonic()
        answer = subprocess.run(["mpirun", "-n", "4", "sh", "-c", elsewhere, str(self.folder), str(BINARY.resolve()),
                                 "train", str(self.config), "train.global_batch=16", "data.corpora=corpus",
                                 f"run.dir={self.folder}/run"],
                                capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL,
                                env=ENVIRONMENT, check=False, cwd=self.shared)
        output = answer.stdout + answer.stderr
        self.assertLess(time.monotonic() - began, FAR, output)
        self.assertEqual(answer.returncode, 66, output)
        self.assertEqual(output.count("error: "), 1, output)
        self.assertRegex(output, r"rank 1\]: error: .*\(on ranks 1-3\)")
        self.assertFalse((self.folder / "run").exists())

    def offered(self, output):
        """The settings of each layout that a refusal for want of memory names."""
        self.assertEqual(output.count("error: "), 1, output)
        lines = output.partition("nearest that fits")[2].splitlines()[1:]
        return [line.split() for line in lines[:lines.index("To begin all the same, say what a host has: "
                                                            "train.host_memory_gib=N")]]

    def test_a_layout_that_cannot_fit_is_refused_with_those_that_do(self):
        run = self.folder / "run"
        for ranks, limit in ((1, 0.04), (2, 0.06)):
            with self.subTest(ranks=ranks):
                model = self.settings(run, "model.layers=4", "model.width=128", "model.context=256", "train.steps=1",
                                      "schedule.warmup_steps=0", "train.microbatch=4", "train.global_batch=8",
                                      f"train.host_memory_gib={limit}")
                got, output = train(ranks, self.config, *model)
                self.assertEqual(got, 78, output)
                self.assertRegex(output, r"rank.* needs? [\d.]+ MiB .*granted by train.host_memory_gib")
                self.assertFalse(run.exists(), "a run that is refused changes nothing")
                near = self.offered(output)
                self.assertGreater(len(near), 1, output)
                for settings in near:
                    got, output = train(ranks, self.config, *model, *settings, f"run.dir={self.folder}/{len(settings)}")
                    self.assertEqual(got, 0, output)
                    shutil.rmtree(self.folder / str(len(settings)))

    def test_a_long_search_for_layouts_is_no_hang(self):
        """The first plans of rank 0 take a second each, together longer than nothing may move."""
        for ranks, limit in ((1, 0.04), (2, 0.06)):
            got, output = train(ranks, self.config, *self.settings(
                self.folder / "run", "model.layers=4", "model.width=128", "model.context=256", "train.global_batch=8",
                f"train.host_memory_gib={limit}", "train.hang_seconds=2", "train.microbatch=4"),
                env={"CAPSTAN_FAIL": ",".join(f"train.offer:{hit}:sleep" for hit in range(1, 6))})
            self.assertEqual(got, 78, output)
            self.assertGreater(len(self.offered(output)), 1, output)

    def test_a_model_that_no_machine_holds_is_refused_at_once(self):
        for ranks in (1, 2):
            began = time.monotonic()
            got, output = train(ranks, self.config, *self.settings(
                self.folder / "run", "model.layers=96", "model.width=12288", "model.heads=96", "train.microbatch=1"))
            self.assertEqual(got, 78, output)
            self.assertLess(time.monotonic() - began, FAR, output)
            self.assertRegex(output, r"need.* TiB .* are left there")
            self.assertRegex(output, r"at least \d+ such hosts")
            self.assertEqual(output.count("error: "), 1, output)

    def test_unknown_verb_and_option(self):
        self.assertEqual(capstan("trane").returncode, 64)
        self.assertEqual(capstan("corpus", "build", "--nonsense").returncode, 64)

    def test_ranks_that_were_told_different_things(self):
        settings = self.settings(self.folder / "run")
        one = [str(BINARY), "train", str(self.config), *settings]
        answer = subprocess.run(["mpirun", "-n", "1", *one, ":", "-n", "1", *one, "optimizer.clip=0.5"],
                                capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL,
                                env=ENVIRONMENT, check=False)
        self.assertEqual(answer.returncode, 78, answer.stdout + answer.stderr)
        self.assertIn("config of rank 1 differs", answer.stdout + answer.stderr)


class Data(ProductTest):
    def damaged(self, name, how, codes=(65,)):
        corpus = self.folder / name
        shutil.copytree(self.corpus, corpus)
        shard = next(path for path in sorted(corpus.glob("*.h5")) if "train" in path.name)
        how(shard)
        got, output = train(2, self.config, f"data.corpora={corpus}", f"run.dir={self.folder / (name + '-run')}")
        self.assertIn(got, codes, f"{name}: {output}")
        self.assertIn(shard.name, output)
        verified = capstan("corpus", "verify", corpus)
        self.assertIn(verified.returncode, codes, name)

    def tokens_at(self, shard):
        """Where the tokens of the first document lie in the file: a page well inside the largest dataset."""
        needle = (self.text / "0003.txt").read_bytes()[:40]
        wide = b"".join(bytes((byte, 0)) for byte in needle)
        data = shard.read_bytes()
        for number in range(3, 60):
            needle = (self.text / f"{number:04}.txt").read_bytes()[:40]
            wide = b"".join(bytes((byte, 0)) for byte in needle)
            if wide in data:
                return data.index(wide)
        self.skipTest("the tokens are not stored plainly")
        return 0

    def test_a_flipped_bit(self):
        self.damaged("flipped", lambda shard: flip(shard, self.tokens_at(shard)))

    def test_a_zeroed_page(self):
        def zero(shard):
            place, data = self.tokens_at(shard), bytearray(shard.read_bytes())
            data[place : place + 4096] = bytes(4096)
            shard.write_bytes(data)
        self.damaged("zeroed", zero)

    def test_a_truncated_shard(self):
        self.damaged("truncated", lambda shard: shard.write_bytes(shard.read_bytes()[:-5000]))

    def test_a_lengthened_shard(self):
        self.damaged("lengthened", lambda shard: shard.write_bytes(shard.read_bytes() + b"x" * 100))

    def test_a_missing_shard(self):
        self.damaged("missing", lambda shard: shard.unlink(), codes=(65, 66))

    def test_a_spoilt_manifest(self):
        corpus = self.folder / "corpus"
        shutil.copytree(self.corpus, corpus)
        flip(corpus / "manifest.json", 30, 0x01)
        got, output = train(1, self.config, f"data.corpora={corpus}", f"run.dir={self.folder}/run")
        self.assertEqual(got, 65, output)
        self.assertIn("manifest", output)


class Checkpoints(ProductTest):
    def test_a_damaged_checkpoint_is_passed_over_and_said(self):
        whole = self.trained("whole", *SHORT)
        for name, spoil in (("tensor", lambda path: flip(path, path.stat().st_size // 2)),
                            ("short", lambda path: path.write_bytes(path.read_bytes()[:-10])),
                            ("gone", lambda path: path.unlink())):
            with self.subTest(name):
                run = self.trained(name, *SHORT)
                newest = sorted((run / "checkpoints").glob("step-*"))[-1]
                spoil(max(newest.glob("*.safetensors"), key=lambda path: path.stat().st_size))
                got, output = train(2, self.config, *self.settings(run, *SHORT))
                self.assertEqual(got, 0, output)
                self.assertIn(newest.name, output)
                self.assertEqual(numbers(metrics(run)), numbers(metrics(whole)))

    def test_a_half_written_checkpoint_is_no_checkpoint(self):
        run = self.trained("run", *SHORT)
        whole = numbers(metrics(run))
        newest = sorted((run / "checkpoints").glob("step-*"))[-1]
        newest.rename(newest.with_name(newest.name + ".partial"))
        self.trained("run", *SHORT)
        self.assertEqual(numbers(metrics(run)), whole)

    def test_another_corpus_on_resume_is_said(self):
        run = self.trained("run", "train.steps=4")
        other = self.folder / "other"
        other.mkdir()
        (other / "a.txt").write_text("Quite another text. " * 4000, encoding="utf-8")
        answer = capstan("corpus", "build", "--out", self.folder / "corpus", "--tokenizer", "bytes", other)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        got, output = train(2, self.config, f"data.corpora={self.folder}/corpus", f"run.dir={run}", "train.steps=6")
        self.assertEqual(got, 0, output)
        self.assertIn("the order of the data changes", output)

    def test_another_model_is_refused_on_resume(self):
        run = self.trained("run", "train.steps=4")
        got, output = train(2, self.config, *self.settings(run, "model.width=64"))
        self.assertEqual(got, 78, output)
        self.assertIn("model.width", output)


if __name__ == "__main__":
    unittest.main()

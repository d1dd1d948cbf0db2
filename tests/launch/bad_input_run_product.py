#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""Bad run directories, damaged shards by chunk, ranks that fail alone, and numbers that are not finite: the exit code,
words that say what and where, an end within seconds, and nothing on disk the worse for it.
"""
import pathlib
import re
import shutil
import sys
import time
import unittest

import h5py

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import capstan, checkpoints, metrics, train  # noqa: E402
from product_support import ONE_THREAD, RepeatTest, checkpoint_path  # noqa: E402

SHORT = (*ONE_THREAD, "train.steps=8", "checkpoint.every=4", "train.evaluate_every=0")
END = 60  # seconds: far more than a peer's failure takes to end a job, far less than a hang


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class RunDirectories(RepeatTest):
    def refused(self, code, words, *settings, run=None, ranks=2, env=None):
        began = time.monotonic()
        got, output = train(ranks, self.config, *self.settings(run or self.folder / "run", *SHORT, *settings), env=env)
        self.assertEqual(got, code, output)
        self.assertLess(time.monotonic() - began, END)
        for word in words:
            self.assertRegex(output, word)
        return output

    def test_a_run_directory_that_cannot_be_made(self):
        (self.folder / "file").write_text("in the way", encoding="utf-8")
        self.refused(73, ["run directory", "run.dir"], run=self.folder / "file" / "run")
        self.refused(73, ["run directory", "run.dir"], run="/proc/nowhere/run")

    def test_three_ranks_for_a_batch_of_eight(self):
        output = self.refused(78, ["global_batch", "nearest: 12"], ranks=3)
        self.assertEqual(output.count("mistake in the configuration"), 1, "said once, not by every rank")

    def test_when_every_checkpoint_is_damaged_nothing_is_overwritten(self):
        run = self.trained("run", *SHORT)
        for step in checkpoints(run):
            path = checkpoint_path(run, step) / "rank-00001.safetensors"
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        before = snapshot(run)
        self.refused(65, ["step-4 is damaged", "step-8 is damaged", "rank-00001", "none of them can be used"], run=run)
        self.assertEqual(snapshot(run), before)
        for verb in ("generate", "evaluate"):
            answer = capstan(verb, "--run", run)
            self.assertIn(answer.returncode, (65, 66), answer.stderr)
            self.assertIn("step-8", answer.stderr)

    def test_a_damaged_newest_checkpoint_is_passed_over_by_generate_too(self):
        run = self.trained("run", *SHORT)
        (checkpoint_path(run, 8) / "manifest.json").write_text("{}", encoding="utf-8")
        answer = capstan("generate", "--run", run, "--tokens", "5", "--temperature", "0")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertRegex(answer.stderr, "step-8 is damaged.*using step-4")

    def test_another_precision_on_resume(self):
        run = self.trained("run", *SHORT, "train.steps=4")
        before = snapshot(run)
        self.refused(78, ["train.precision", '"fp32" -> "bf16"'], "train.precision=bf16", run=run)
        self.assertEqual(snapshot(run), before)

    def test_a_failure_of_one_rank_ends_all_and_is_the_one_seen(self):
        for rank in (0, 1):
            output = self.refused(74, [rf"rank {rank}\]: error: .*failpoint train.microbatch fired"],
                                  run=self.folder / f"run-{rank}",
                                  env={"CAPSTAN_FAIL": f"train.microbatch:3:throw@{rank}"})
            self.assertEqual(len(re.findall(r"error: ", output)), 1, output)

    def test_a_disk_that_is_full_for_the_log(self):
        output = self.refused(74, ["metrics.jsonl", "No space left"], env={"CAPSTAN_FAIL": "run_log.write:6:enospc"})
        self.assertIn("rank 0", output)
        run = self.trained("run", *SHORT)
        self.assert_same_run(run, self.trained("whole", *SHORT))


class Shards(RepeatTest):
    """Each damage lies in the second chunk of the training shard: found by rank, named by file and chunk."""

    def damaged(self, name, how):
        corpus = self.folder / name
        shutil.copytree(self.corpus, corpus)
        shard = corpus / "train-00000.h5"
        with h5py.File(shard, "r") as file:
            chunk = file["tokens"].id.get_chunk_info(1)
        data = bytearray(shard.read_bytes())
        how(data, chunk)
        shard.write_bytes(data)
        got, output = train(2, self.config, f"data.corpora={corpus}", f"run.dir={self.folder / 'run'}", *SHORT)
        self.assertEqual(got, 65, output)
        self.assertRegex(output, r"train-00000\.h5: .*chunk 1\b")
        verified = capstan("corpus", "verify", corpus)
        self.assertEqual(verified.returncode, 65, verified.stdout)
        self.assertRegex(verified.stdout + verified.stderr, r"train-00000\.h5: .*chunk 1\b")

    def test_a_flipped_bit(self):
        def flip(data, chunk):
            data[chunk.byte_offset + 77] ^= 4
        self.damaged("flipped", flip)

    def test_a_zeroed_chunk(self):
        def zero(data, chunk):
            data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
        self.damaged("zeroed", zero)

    def test_another_tokenizer_than_the_corpus_was_made_with(self):
        corpus = self.folder / "corpus"
        shutil.copytree(self.corpus, corpus)
        text = (corpus / "tokenizer.json").read_text(encoding="utf-8")
        (corpus / "tokenizer.json").write_text(text.replace("257", "256").replace("256}", "255}"), encoding="utf-8")
        got, output = train(2, self.config, f"data.corpora={corpus}", f"run.dir={self.folder / 'run'}", *SHORT)
        self.assertEqual(got, 65, output)
        self.assertIn("tokenizer", output)


class NotFinite(RepeatTest):
    def spoilt(self, steps, rank):
        return {"CAPSTAN_FAIL": ",".join(f"train.microbatch:{step}:nan@{rank}" for step in steps)}

    def test_a_skipped_step_leaves_the_weights_alone_and_later_steps_go_on(self):
        run = self.trained("run", *SHORT, "train.steps=5", "checkpoint.every=1", "checkpoint.keep=5",
                           env=self.spoilt([3], 1))
        weights = [(checkpoint_path(run, step) / "rank-00000.safetensors").read_bytes() for step in (2, 3, 4)]
        self.assertEqual(weights[0], weights[1])
        self.assertNotEqual(weights[1], weights[2])
        self.assertEqual([row.get("skipped", 0) for row in metrics(run)], [0, 0, 1, 0, 0])

    def test_a_run_that_ended_with_79_goes_on_from_its_last_checkpoint(self):
        run, settings = self.folder / "run", (*SHORT, "train.steps=12", "train.maximum_bad_steps=3")
        began = time.monotonic()
        code, output = train(2, self.config, *self.settings(run, *settings), env=self.spoilt(range(6, 13), 1))
        self.assertEqual(code, 79, output)
        self.assertLess(time.monotonic() - began, END)
        self.assertRegex(output, r"error: 3 steps in a row were not finite, the last at step 8 \(the loss on rank 1\)")
        self.assertEqual([row["step"] for row in metrics(run) if row.get("skipped")], [6, 7, 8])
        self.assertEqual(checkpoints(run), [4])
        self.trained("run", *settings)
        self.assert_same_run(run, self.trained("whole", *settings))

    def test_bad_steps_before_a_stop_are_still_counted_after_it(self):
        run, settings = self.folder / "run", (*SHORT, "train.maximum_bad_steps=3")
        env = self.spoilt([3, 4], 0)
        env["CAPSTAN_FAIL"] += ",train.microbatch:4:usr1@1"
        self.trained("run", *settings, code=75, env=env)
        last = metrics(run)[-1]["step"]
        code, output = train(2, self.config, *self.settings(run, *settings), env=self.spoilt([1, 2, 3], 0))
        self.assertEqual(code, 79, output)
        self.assertIn(f"the last at step {last + (1 if last == 4 else 3)} ", output)


if __name__ == "__main__":
    unittest.main()

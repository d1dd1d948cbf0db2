#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""Training in fp16 on the reference kernels: the loss scale is logged, halved when gradients overflow without that
counting against the data, kept in checkpoints, and the rest is as in other precisions.
"""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import capstan, metrics, numbers, train  # noqa: E402
from product_support import ONE_THREAD, RepeatTest, checkpoint_path  # noqa: E402

SETTINGS = (*ONE_THREAD, "train.precision=fp16", "train.device=reference", "train.steps=10", "train.evaluate_every=0",
            "train.evaluate_samples=4", "train.microbatch=2", "train.maximum_bad_steps=3", "model.width=16")
LARGEST = 2 ** 30


def state_of(run):
    manifest = json.loads((checkpoint_path(run) / "manifest.json").read_text(encoding="utf-8"))
    state = manifest["state"]
    return json.loads(state) if isinstance(state, str) else state


class HalfPrecision(RepeatTest):
    def test_it_learns_with_a_growing_scale_and_goes_on_with_it(self):
        settings = (*SETTINGS, "train.initial_loss_scale=1024", "train.loss_scale_window=3", "train.dropout=0.1")
        whole = self.trained("whole", *settings)
        rows = metrics(whole)
        self.assertEqual([row["loss_scale"] for row in rows], [1024] * 3 + [2048] * 3 + [4096] * 3 + [8192])
        self.assertLess(rows[-1]["loss"], rows[0]["loss"])
        self.assertEqual((state_of(whole)["loss_scale"], state_of(whole)["good_steps"]), (8192, 1))

        run = self.trained("run", *settings, code=75, env={"CAPSTAN_FAIL": "train.microbatch:11:usr1@1"})
        stopped = metrics(run)[-1]["step"]
        self.assertLess(stopped, 9)
        self.assertNotEqual(stopped % 3, 0, "the count of good steps would be 0")
        self.trained("run", *settings)
        self.assert_same_run(run, whole)
        self.assertEqual(numbers(metrics(run), "loss_scale"), numbers(metrics(whole), "loss_scale"))
        answer = capstan("generate", "--run", run, "--prompt", "The ", "--tokens", 5, "--temperature", "0")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertGreater(len(answer.stdout), 5)

    def test_overflow_is_not_the_datas_fault(self):
        run = self.folder / "run"
        code, output = train(2, self.config, *self.settings(run, *SETTINGS, f"train.initial_loss_scale={LARGEST}",
                                                            "train.steps=25"))
        self.assertEqual(code, 0, output)
        self.assertIn(f"gradients overflow fp16 at loss scale {LARGEST}", output)
        self.assertNotIn("not finite", output)
        rows = metrics(run)
        skipped = [row["step"] for row in rows if "skipped" in row]
        self.assertGreater(len(skipped), 3, "nothing overflowed")
        self.assertEqual(skipped, list(range(1, len(skipped) + 1)))
        self.assertEqual([row["loss_scale"] for row in rows[:len(skipped) + 1]],
                         [LARGEST / 2 ** i for i in range(len(skipped) + 1)])
        state = state_of(run)
        self.assertEqual((state["bad_steps"], state["updates"]), (0, 25 - len(skipped)))

    def test_at_the_least_scale_the_run_ends(self):
        run = self.folder / "run"
        code, output = train(2, self.config, *self.settings(run, *SETTINGS, f"train.initial_loss_scale={LARGEST}",
                                                            f"train.minimum_loss_scale={LARGEST}"))
        self.assertEqual(code, 79, output)
        self.assertIn("3 steps in a row were not finite", output)

    def test_a_loss_that_is_not_finite_is_blamed_on_its_rank(self):
        run = self.folder / "run"
        code, output = train(2, self.config, *self.settings(run, *SETTINGS),
                             env={"CAPSTAN_FAIL": "train.microbatch:5:nan@1"})
        self.assertEqual(code, 0, output)
        self.assertIn("the loss on rank 1 is not finite", output)
        self.assertEqual(state_of(run)["bad_steps"], 1)

    def test_other_precisions_log_no_scale(self):
        run = self.trained("run", *SETTINGS, "train.precision=bf16")
        self.assertNotIn("loss_scale", metrics(run)[-1])


if __name__ == "__main__":
    unittest.main()

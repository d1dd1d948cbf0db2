#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""Training with a step queued before the outcome of the one in front of it is taken (train.steps_ahead): the same
digits, weights, moments and state as without, through evaluations, saves, stops, skipped steps and fp16 overflows.
"""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import checkpoints, metrics, train  # noqa: E402
from product_support import ONE_THREAD, RepeatTest, checkpoint_path  # noqa: E402

TIMES = {"step_seconds", "tokens_per_second", "mfu", "hfu", "data_wait_seconds"}
SETTINGS = (*ONE_THREAD, "train.steps=15", "checkpoint.every=4", "train.evaluate_every=5", "train.dropout=0.1")
HALF = (*SETTINGS, "train.precision=fp16", "train.device=reference", "train.microbatch=2", "model.width=16",
        f"train.initial_loss_scale={2 ** 26}", "train.loss_scale_window=3", "train.evaluate_samples=4")


def digits(run):
    return [{key: value for key, value in row["digits"].items() if key not in TIMES} for row in metrics(run)]


def state_of(run):
    state = json.loads((checkpoint_path(run) / "manifest.json").read_text(encoding="utf-8"))["state"]
    state = json.loads(state) if isinstance(state, str) else state
    return {key: value for key, value in state.items() if key != "config"}


class Ahead(RepeatTest):
    def ran(self, ahead, *settings, name=None, code=0, env=None, ranks=2):
        run = self.folder / (name or f"ahead-{ahead}")
        got, output = train(ranks, self.config, *self.settings(run, *settings, f"train.steps_ahead={ahead}"), env=env)
        self.assertEqual(got, code, output)
        return run, [line for line in output.splitlines() if line.startswith(("warning", "scale"))]

    def assert_same(self, run, whole):
        for mine, theirs in zip(digits(run), digits(whole)):
            self.assertEqual(mine, theirs)
        self.assertEqual(len(digits(run)), len(digits(whole)))
        self.assertEqual(checkpoints(run), checkpoints(whole))
        self.assert_same_weights(run, whole)
        self.assertEqual(state_of(run), state_of(whole))

    def both(self, *settings, code=0, env=None, ranks=2):
        """Runs both; returns the lines that the run ahead said of its steps."""
        (whole, wanted), (run, got) = (self.ran(ahead, *settings, code=code, env=env, ranks=ranks) for ahead in (0, 1))
        self.assertEqual(got, wanted)
        self.assert_same(run, whole)
        return run, got

    def test_evaluations_and_saves(self):
        for ranks in (1, 2):
            self.folder = self.shared / f"plain-{ranks}"
            self.folder.mkdir()
            run, _ = self.both(*SETTINGS, ranks=ranks)
            self.assertEqual([row["step"] for row in metrics(run) if "validation_loss" in row], [5, 10, 15])
            self.assertEqual(checkpoints(run), [12, 15])
            self.assertEqual(any("noise_scale" in row for row in metrics(run)), ranks == 2)

    def test_a_stop_is_met_by_all_ranks_and_the_run_goes_on(self):
        whole, _ = self.ran(0, *SETTINGS)
        steps = []
        for hit in (5, 6, 8):  # the request comes up to three steps before the save that it may meet
            with self.subTest(hit):
                env = {"CAPSTAN_FAIL": f"train.microbatch:{hit}:term@1"}
                name = f"stopped-{hit}"
                run, _ = self.ran(1, *SETTINGS, name=name, code=75, env=env)
                steps.append(metrics(run)[-1]["step"])
                self.assertEqual(checkpoints(run)[-1], steps[-1])
                self.assertEqual(state_of(run)["step"], steps[-1])
                self.ran(1, *SETTINGS, name=name)
                self.assert_same_run(run, whole)
        # A vote is of the step after the one in which the signal came; one more may be under way when it is read.
        self.assertEqual(steps, [7, 8, 10])

    def test_a_loss_that_is_not_finite(self):
        _, said = self.both(*SETTINGS, env={"CAPSTAN_FAIL": "train.microbatch:7:nan@1"})
        self.assertEqual(len(said), 1)
        self.assertIn("step 7: the loss on rank 1 is not finite", said[0])

    def test_a_gradient_that_is_not_finite(self):
        spoilt = "train.gradients:6:nan@1,train.gradients:7:nan@0,train.gradients:12:nan@1"  # 12: nothing runs ahead
        _, said = self.both(*SETTINGS, env={"CAPSTAN_FAIL": spoilt})
        self.assertEqual(len(said), 3)
        for line, (step, rank, row) in zip(said, ((6, 1, 1), (7, 0, 2), (12, 1, 1))):
            self.assertIn(f"step {step}: the gradient of rank {rank} is not finite", line)
            self.assertIn(f"({row} in a row", line)

    def test_too_many_of_them(self):
        spoilt = ",".join(f"train.microbatch:{step}:nan@0" for step in range(6, 16))
        for ahead in (0, 1):
            run = self.folder / f"ahead-{ahead}"
            code, output = train(2, self.config, *self.settings(run, *SETTINGS, "train.maximum_bad_steps=2",
                                                                f"train.steps_ahead={ahead}"),
                                 env={"CAPSTAN_FAIL": spoilt})
            self.assertEqual(code, 79, output)
            self.assertIn("2 steps in a row were not finite, the last at step 7", output)
            self.assertEqual(len(metrics(run)), 7)

    def test_overflow_in_fp16(self):
        run, said = self.both(*HALF)
        rows = metrics(run)
        skipped = [row["step"] for row in rows if "skipped" in row]
        self.assertGreater(len(skipped), 2)
        self.assertLess(len(skipped), 12)
        self.assertEqual(len(said), len(skipped))
        for step, line in zip(skipped, said):
            scale = int(rows[step - 1]["loss_scale"])
            self.assertIn(f"step {step}: gradients overflow fp16 at loss scale {scale}; the step was skipped, the scale "
                          f"is lowered to {scale // 2}", line)
        self.assertEqual(state_of(run)["updates"], 15 - len(skipped))


if __name__ == "__main__":
    unittest.main()

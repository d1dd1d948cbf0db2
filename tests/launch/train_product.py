#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""`capstan train` as a user meets it: real text, real mpirun, real signals, and numbers that repeat."""
import math
import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Job, ProductTest, capstan, checkpoints, metrics, numbers, train, wait_for_step  # noqa: E402

FIELDS = ("step", "tokens", "loss", "learning_rate", "grad_norm", "step_seconds", "tokens_per_second", "mfu",
          "data_wait_seconds")
LONG = ("train.steps=4000", "checkpoint.every=2000", "train.evaluate_every=100000", "schedule.kind=constant")


class Train(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = cls.shared / "whole"
        code, output = train(2, cls.config, f"data.corpora={cls.corpus}", f"run.dir={cls.whole}")
        if code != 0:
            raise AssertionError(output)
        cls.output = output

    def test_every_step_is_logged_and_the_loss_falls(self):
        rows = metrics(self.whole)
        self.assertEqual([row["step"] for row in rows], list(range(1, 25)))
        for row in rows:
            for field in FIELDS:
                self.assertIn(field, row)
            self.assertEqual(row["tokens"], row["step"] * 8 * 32)
        self.assertLess(rows[-1]["loss"], rows[0]["loss"] - 0.5)
        self.assertAlmostEqual(rows[0]["loss"], 5.55, delta=0.3)  # ln 257
        evaluated = [row["step"] for row in rows if "validation_loss" in row]
        self.assertEqual(evaluated, [12, 24])
        self.assertIn("validation_bits_per_byte", rows[-1])

    def test_the_run_directory_holds_what_was_promised(self):
        self.assertTrue((self.whole / "config.toml").is_file())
        self.assertTrue((self.whole / "metrics.jsonl").is_file())
        self.assertEqual(checkpoints(self.whole)[-1], 24)

    def test_a_repeated_run_gives_the_same_digits(self):
        self.assertEqual(numbers(metrics(self.trained("again"))), numbers(metrics(self.whole)))

    def test_another_seed_gives_others(self):
        self.assertNotEqual(numbers(metrics(self.trained("seed", "train.seed=8"))), numbers(metrics(self.whole)))

    def test_a_finished_run_is_left_alone(self):
        run = self.trained("run")
        before = (run / "metrics.jsonl").read_bytes()
        self.assertEqual(self.trained("run"), run)
        self.assertEqual((run / "metrics.jsonl").read_bytes(), before)

    def test_a_longer_run_goes_on_from_a_shorter_one(self):
        settings = ("schedule.kind=constant",)
        whole = self.trained("whole", *settings)
        run = self.trained("run", "train.steps=16", *settings)
        self.trained("run", *settings)
        self.assertEqual(numbers(metrics(run)), numbers(metrics(whole)))

    def test_recomputation_gives_the_same_digits(self):
        for kind in ("selective", "full", "1"):
            run = self.trained(f"recompute-{kind}", f"layout.recompute={kind}")
            self.assertEqual(numbers(metrics(run)), numbers(metrics(self.whole)), kind)

    def test_ordered_reduction_gives_the_same_digits_for_1_2_and_4_ranks(self):
        settings = ("train.reduction=ordered", "train.microbatch=2")
        runs = [numbers(metrics(self.trained(f"dp-{ranks}", *settings, ranks=ranks))) for ranks in (1, 2, 4)]
        self.assertEqual(runs[0], runs[1])
        self.assertEqual(runs[0], runs[2])

    def test_an_ordered_run_goes_on_with_another_number_of_ranks(self):
        settings = ("train.reduction=ordered", "train.microbatch=2", "schedule.kind=constant")
        whole = self.trained("whole", *settings)
        run = self.trained("run", *settings, "train.steps=8")
        self.trained("run", *settings, ranks=4)
        self.assertEqual(numbers(metrics(run)), numbers(metrics(whole)))

    def stop_by(self, how):
        """Starts a long run, stops it by `how`, sees exit code 75 and a checkpoint of the very step it stopped at."""
        run = self.folder / "run"
        with Job(2, self.config, *self.settings(run, *LONG)) as job:
            wait_for_step(job, run, 3)
            how(job)
            self.assertEqual(job.wait(), 75, job.text())
        last = metrics(run)[-1]["step"]
        self.assertEqual(checkpoints(run)[-1], last)
        return run, last

    def test_usr1_to_mpirun_checkpoints_and_the_run_goes_on_to_the_same_digits(self):
        run, last = self.stop_by(lambda job: os.kill(job.process.pid, signal.SIGUSR1))
        until = (*LONG[1:], f"train.steps={last + 6}")
        self.trained("run", *until)
        self.assertEqual(len(metrics(run)), last + 6)
        self.assertEqual(numbers(metrics(run)), numbers(metrics(self.trained("whole", *until))))

    def test_a_signal_to_one_rank_stops_all(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            with self.subTest(signal=number.name):
                self.folder = self.shared / f"{self._testMethodName}-{number.name}"
                self.folder.mkdir()
                self.stop_by(lambda job, number=number: os.kill(job.rank_pids()[-1], number))

    def test_a_killed_rank_ends_the_job_and_the_run_repeats_its_digits(self):
        run = self.folder / "run"
        code, output = train(2, self.config, *self.settings(run, "checkpoint.every=4"),
                             env={"CAPSTAN_FAIL": "train.microbatch:14:kill@1"})
        self.assertEqual(code, 137, output)
        self.assertIn(checkpoints(run)[-1], (8, 12))  # 8 is finished before 12 begins, which the disk may not have yet
        self.trained("run", "checkpoint.every=4")
        self.assertEqual(numbers(metrics(run)), numbers(metrics(self.whole)))
        self.assertTrue((run / "metrics.1.jsonl").exists())

    def test_a_step_that_is_not_finite_is_skipped_by_all_and_blamed_on_its_rank(self):
        run = self.folder / "run"
        code, output = train(2, self.config, *self.settings(run), env={"CAPSTAN_FAIL": "train.microbatch:5:nan@1"})
        self.assertEqual(code, 0, output)
        self.assertRegex(output, r"step 5\b.*rank 1\b.*skipped")
        rows = metrics(run)
        self.assertEqual([row["step"] for row in rows if row.get("skipped")], [5])
        self.assertEqual(len(rows), 24)
        self.assertTrue(all(math.isfinite(row["loss"]) for row in rows if row["step"] != 5))
        self.assertEqual(numbers(rows[:4]), numbers(metrics(self.whole)[:4]))

    def test_a_gradient_that_overflows_is_blamed_on_its_rank_though_every_loss_is_finite(self):
        run = self.folder / "run"
        spoilt = "train.gradients:5:nan@1"  # of step 5 and of its repetition, which finds the rank
        code, output = train(2, self.config, *self.settings(run), env={"CAPSTAN_FAIL": spoilt})
        self.assertEqual(code, 0, output)
        self.assertRegex(output, r"step 5: the gradient of rank 1 is not finite; the step was skipped")
        rows = metrics(run)
        self.assertEqual([row["step"] for row in rows if row.get("skipped")], [5])
        self.assertTrue(math.isfinite(rows[4]["loss"]))

    def test_a_second_job_in_the_same_run_directory_is_refused(self):
        run = self.folder / "run"
        with Job(2, self.config, *self.settings(run, *LONG)) as job:
            wait_for_step(job, run, 3)
            answer = capstan("train", self.config, *self.settings(run))
            self.assertEqual(answer.returncode, 73, answer.stdout + answer.stderr)
            self.assertRegex(answer.stderr, r"another job trains in .*process \d+ of")
            os.kill(job.process.pid, signal.SIGUSR1)
            self.assertEqual(job.wait(), 75, job.text())
        self.trained("run", *LONG, f"train.steps={checkpoints(run)[-1] + 1}")

    def test_too_many_such_steps_end_the_run(self):
        spoilt = ",".join(f"train.microbatch:{step}:nan@0" for step in range(6, 20))
        run = self.folder / "run"
        code, output = train(2, self.config, *self.settings(run, "train.maximum_bad_steps=3"),
                             env={"CAPSTAN_FAIL": spoilt})
        self.assertEqual(code, 79, output)
        self.assertIn("rank 0", output)
        self.assertIn("step 8", output)

    def test_it_runs_alone_without_mpirun(self):
        run = self.folder / "run"
        answer = capstan("train", self.config, *self.settings(run, "train.steps=4"))
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        self.assertEqual(len(metrics(run)), 4)


if __name__ == "__main__":
    unittest.main()

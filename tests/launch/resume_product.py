#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""Runs killed at any moment: what is on disk always loads, and the run ends with the weights and moments, byte for
byte, and the log, digit for digit, of one that nobody disturbed.
"""
import json
import os
import pathlib
import random
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Job, checkpoints, metrics, numbers, train  # noqa: E402
from product_support import ONE_THREAD, RepeatTest, checkpoint_path, tensors  # noqa: E402

SETTINGS = (*ONE_THREAD, "train.steps=60", "checkpoint.every=5", "train.evaluate_every=20", "train.dropout=0.1")
SAVE_POINTS = ("checkpoint.manifest", "checkpoint.before_rename", "checkpoint.after_rename", "checkpoint.prune")


class Resume(RepeatTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = cls.shared / "whole"
        code, output = train(2, cls.config, f"data.corpora={cls.corpus}", f"run.dir={cls.whole}", *SETTINGS)
        if code != 0:
            raise AssertionError(output)

    def ends_as_undisturbed(self, name):
        run = self.trained(name, *SETTINGS)
        self.assert_same_run(run, self.whole)
        self.assertEqual([path.name for path in (run / "checkpoints").glob("*.partial")], [])

    def killed(self, run, seconds, whom):
        """Runs for so long at most once the ranks have met, then kills. True when the run had come to its end before.

        A rank that dies while it still connects to Open MPI's launcher leaves the launcher waiting for ever (seen under
        load: "PMIX ERROR: UNREACHABLE"): that is not ours to survive."""
        (run / "run.lock").unlink(missing_ok=True)
        with Job(2, self.config, *self.settings(run, *SETTINGS)) as job:
            limit = time.monotonic() + 60
            while not (run / "run.lock").exists() and job.process.poll() is None and time.monotonic() < limit:
                time.sleep(0.01)
            time.sleep(seconds)
            try:
                os.kill(whom(job), signal.SIGKILL)
            except (ProcessLookupError, IndexError):
                pass  # not started yet, or done
            code = job.wait()
            self.assertIn(code, (0, 137, 255, -signal.SIGKILL), job.text())
            return code == 0

    def test_killed_at_random_moments(self):
        source = random.Random(20)
        run = self.folder / "run"
        for _ in range(8):
            if self.killed(run, source.uniform(0.0, 1.7), lambda job: source.choice(job.rank_pids())):
                break
            if (run / "metrics.jsonl").exists():
                for step in checkpoints(run):
                    self.assertGreater(len(tensors(run, step)), 0)
        self.ends_as_undisturbed("run")

    def test_the_launcher_killed(self):
        run = self.folder / "run"
        self.killed(run, 1.0, lambda job: job.process.pid)
        time.sleep(2)  # its ranks notice within a second
        self.ends_as_undisturbed("run")

    def test_killed_at_each_point_of_a_save(self):
        for point in SAVE_POINTS:
            with self.subTest(point):
                run = self.folder / point
                code, output = train(2, self.config, *self.settings(run, *SETTINGS),
                                     env={"CAPSTAN_FAIL": f"{point}:1:kill@0"})
                self.assertEqual(code, 137, output)
                self.ends_as_undisturbed(point)

    def test_the_log_never_runs_behind_the_checkpoint(self):
        """A killed run may have logged more steps than it saved, never fewer; what it logged too much is kept aside."""
        run = self.folder / "run"
        train(2, self.config, *self.settings(run, *SETTINGS), env={"CAPSTAN_FAIL": "train.microbatch:14:kill@1"})
        saved, logged = checkpoints(run)[-1], [row["step"] for row in metrics(run)]
        self.assertEqual(saved, 10)
        self.assertEqual(logged, list(range(1, logged[-1] + 1)))
        self.assertGreaterEqual(logged[-1], saved)
        self.ends_as_undisturbed("run")
        aside = (run / "metrics.1.jsonl").read_text(encoding="utf-8").splitlines()
        self.assertEqual([json.loads(line)["step"] for line in aside], list(range(11, logged[-1] + 1)))

    def test_a_finished_run_that_is_started_again_changes_nothing(self):
        run = self.trained("run", *SETTINGS)
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "config.toml"}
        self.trained("run", *SETTINGS)
        self.assertEqual({path: path.stat().st_mtime_ns for path in before}, before)

    def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one(self):
        settings = (*SETTINGS, "schedule.kind=constant")
        whole = self.trained("whole", *settings)
        run = self.trained("run", *settings, "train.steps=17")
        self.assertEqual(checkpoints(run)[-1], 17)
        self.trained("run", *settings)
        self.assert_same_run(run, whole)

    def test_old_checkpoints_are_deleted_but_for_two(self):
        self.assertEqual(checkpoints(self.whole), [55, 60])
        run = self.trained("run", *SETTINGS, "checkpoint.keep=3")
        self.assertEqual(checkpoints(run), [50, 55, 60])
        self.assertEqual(numbers(metrics(run)), numbers(metrics(self.whole)))
        self.assertTrue(checkpoint_path(run).is_dir())


if __name__ == "__main__":
    unittest.main()

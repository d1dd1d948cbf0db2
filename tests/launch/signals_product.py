#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""Runs stopped by a signal: exit code 75, a checkpoint of the very step, and the same command goes on to the same bits."""
import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, TIMEOUT, Job, checkpoints, metrics, train, wait_for_step  # noqa: E402
from product_support import ONE_THREAD, RepeatTest  # noqa: E402

PAUSE = {"CAPSTAN_FAIL": "train.microbatch:6:sleep"}  # a second in which a signal surely meets step 6


class Signals(RepeatTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = {}
        for ranks, more in ((1, ("train.microbatch=8",)), (2, ())):
            cls.whole[ranks] = cls.shared / f"whole-{ranks}"
            code, output = train(ranks, cls.config, f"data.corpora={cls.corpus}", f"run.dir={cls.whole[ranks]}",
                                 *ONE_THREAD, *more)
            if code != 0:
                raise AssertionError(output)

    def given(self, ranks):
        """Settings under which a rank has one microbatch a step, so that failpoints count steps."""
        return (*ONE_THREAD, *(("train.microbatch=8",) if ranks == 1 else ()))

    def goes_on(self, name, ranks):
        run = self.folder / name
        self.assertEqual(checkpoints(run)[-1], metrics(run)[-1]["step"])
        self.trained(name, *self.given(ranks), ranks=ranks)
        self.assert_same_run(run, self.whole[ranks])

    def test_a_signal_in_a_step_stops_all_ranks_after_that_step(self):
        for ranks in (1, 2):
            for action in ("term", "usr1"):
                with self.subTest(ranks=ranks, action=action):
                    name = f"{action}-{ranks}"
                    run = self.trained(name, *self.given(ranks), ranks=ranks, code=75,
                                       env={"CAPSTAN_FAIL": f"train.microbatch:5:{action}@{ranks - 1}"})
                    self.assertIn(metrics(run)[-1]["step"], (5, 6))  # 6: the next step's own sum carries the request
                    self.goes_on(name, ranks)

    def stopped_by(self, ranks, how):
        run = self.folder / f"run-{ranks}"
        with Job(ranks, self.config, *self.settings(run, *self.given(ranks)), env=PAUSE) as job:
            wait_for_step(job, run, 5)
            how(job)
            self.assertEqual(job.wait(), 75, job.text())
            self.assertIn("Start the same command again", job.text())
        self.assertIn(metrics(run)[-1]["step"], (6, 7))
        self.goes_on(run.name, ranks)

    def test_a_signal_from_outside_to_one_rank(self):
        for ranks in (1, 2):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                with self.subTest(ranks=ranks, signal=number.name):
                    self.folder = self.shared / f"outside-{ranks}-{number.name}"
                    self.folder.mkdir()
                    self.stopped_by(ranks, lambda job, number=number: os.kill(job.rank_pids()[0], number))

    def test_usr1_to_mpirun(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                self.stopped_by(ranks, lambda job: os.kill(job.process.pid, signal.SIGUSR1))

    def test_several_signals_at_once(self):
        def all_at_once(job):
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
                for pid in job.rank_pids():
                    os.kill(pid, number)
        self.stopped_by(2, all_at_once)

    def test_a_signal_while_a_checkpoint_is_written(self):
        # Training goes on while the checkpoint of step 8 is written, so the signal finds it some steps later; the pause
        # is there so that it finds it before the end.
        run = self.trained("run", *self.given(2), code=75,
                           env={"CAPSTAN_FAIL": "file.write:2:term@1,train.microbatch:12:sleep"})
        self.assertIn(metrics(run)[-1]["step"], range(8, 24))
        self.goes_on("run", 2)

    def test_a_signal_before_the_first_step(self):
        """The checkpoint folder appears, then the first step: a signal in between must not be lost, or kill."""
        run = self.folder / "run"
        with Job(2, self.config, *self.settings(run, *self.given(2)),
                 env={"CAPSTAN_FAIL": "train.microbatch:1:sleep"}) as job:
            while not (run / "metrics.jsonl").exists():
                self.assertIsNone(job.process.poll(), job.text())
            os.kill(job.process.pid, signal.SIGUSR1)
            self.assertEqual(job.wait(), 75, job.text())
        self.assertIn(metrics(run)[-1]["step"], (1, 2))
        self.goes_on("run", 2)

    def test_a_signal_while_the_run_starts_ends_all_ranks_at_once(self):
        """To one rank, at each of the places where ranks look for one: also amid 96 MiB of weights that are drawn, of
        which the first rank has more, and while those of a checkpoint are read."""
        model = ("model.layers=2", "model.width=1024", "model.heads=4", "layout.pp=2", "schedule.warmup_steps=0", "train.steps=2",
                 "train.evaluate_every=0", "train.global_batch=2", "train.microbatch=1", *ONE_THREAD)
        run = self.folder / "run"
        for hit, rank in ((1, 1), (3, 0), (5, 0), (6, 1)):
            with self.subTest(hit=hit, rank=rank):
                got, output = train(2, self.config, *self.settings(run, *model),
                                    env={"CAPSTAN_FAIL": f"train.start:{hit}:{'usr1' if hit % 2 else 'term'}@{rank}"})
                self.assertEqual(got, 75, output)
                self.assertEqual(output.count("stopped  on request before the first step"), 1, output)
                self.assertNotIn("error", output)
                self.assertFalse((run / "metrics.jsonl").exists())
                self.assertEqual(checkpoints(run), [])
        self.trained("run", *model)
        got, output = train(2, self.config, *self.settings(run, *model, "train.steps=3"),
                            env={"CAPSTAN_FAIL": "train.start:20:term@1"})  # amid the reading of its tensors
        self.assertEqual(got, 75, output)
        self.assertEqual(checkpoints(run), [2])
        self.trained("run", *model, "train.steps=3")

    def test_a_signal_in_the_last_step_finds_a_run_that_is_done(self):
        run = self.trained("run", *self.given(2), env={"CAPSTAN_FAIL": "train.microbatch:24:term@0"})
        self.assert_same_run(run, self.whole[2])

    def test_alone_without_mpirun(self):
        run = self.folder / "run"
        command = [str(BINARY), "train", str(self.config), *self.settings(run, *self.given(1))]
        answer = subprocess.run(command, env={**ENVIRONMENT, "CAPSTAN_FAIL": "train.microbatch:9:term"}, timeout=TIMEOUT,
                                capture_output=True, text=True, check=False)
        self.assertEqual(answer.returncode, 75, answer.stdout + answer.stderr)
        self.goes_on("run", 1)


if __name__ == "__main__":
    unittest.main()

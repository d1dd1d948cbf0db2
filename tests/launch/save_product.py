#!/usr/bin/env python3
# label: mpi
# timeout: 900
"""Saves that are cut short, of whole jobs: a rank killed at the k-th write or rename, a disk that is full. What is on
the disk always loads, as the old checkpoint or the new one, and the run that goes on repeats its digits.
"""
import pathlib
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ProductTest, capstan, checkpoints, metrics, numbers, train  # noqa: E402

STEPS = ("train.steps=8", "checkpoint.every=4", "train.evaluate_every=0", "schedule.kind=constant")


class Save(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole, cls.half = cls.shared / "whole", cls.shared / "half"
        for run, steps in ((cls.whole, STEPS), (cls.half, ("train.steps=4", *STEPS[1:]))):
            code, output = train(2, cls.config, f"data.corpora={cls.corpus}", f"run.dir={run}", *steps)
            if code != 0:
                raise AssertionError(output)
        cls.digits = numbers(metrics(cls.whole))

    def cut_short(self, name, fail, codes):
        """Goes on from step 4 with a failure armed. Returns None when the run got through before it fired."""
        run = self.folder / name
        shutil.copytree(self.half, run)
        code, output = train(2, self.config, *self.settings(run, *STEPS), env={"CAPSTAN_FAIL": fail})
        if code == 0:
            self.assertEqual(checkpoints(run)[-1], 8, output)
            return None
        self.assertIn(code, codes, output)
        self.assertIn(4, checkpoints(run), f"{fail}: the good checkpoint is gone\n{output}")
        if checkpoints(run)[-1] == 8:
            answer = capstan("evaluate", "--run", run, "--step", "8")
            self.assertEqual(answer.returncode, 0, f"{fail}: half a checkpoint\n{answer.stderr}")
        self.trained(name, *STEPS)
        self.assertEqual(numbers(metrics(run)), self.digits, fail)
        return output

    def every(self, point, action, codes):
        """Fails at the 1st, 2nd, 3rd, 5th, 8th ... hit, on each rank in turn, until the run has no such hit left."""
        fired = {0: 0, 1: 0}
        for rank in (0, 1):
            count, following = 1, 2
            while count < 150:
                said = self.cut_short(f"{point}-{count}-{rank}", f"{point}:{count}:{action}@{rank}", codes)
                if said is None:
                    break
                fired[rank] += 1
                count, following = following, count + following
        self.assertGreater(fired[0], 1, f"{point} never fired on rank 0")
        return fired

    def test_killed_at_writes(self):
        self.every("file.write", "kill", (137,))

    def test_killed_at_renames(self):
        self.every("file.rename", "kill", (137,))

    def test_the_disk_fills_up_at_any_write(self):
        self.every("file.write", "enospc", (73, 74))


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""A disk (a small tmpfs) that fills up while a checkpoint is saved: exit 74, the last good checkpoint is there, a second
try on the full disk harms nothing, and with room again the run ends as if nothing had been.
"""
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import capstan, checkpoints, metrics, train  # noqa: E402
from product_support import ONE_THREAD, RepeatTest  # noqa: E402

SETTINGS = (*ONE_THREAD, "train.evaluate_every=0")  # 24 steps; a checkpoint of 440 KB every 8


def mount(*arguments):
    return subprocess.run(["mount", "-t", "tmpfs", *arguments], capture_output=True, text=True, check=False)


class DiskFull(RepeatTest):
    def setUp(self):
        super().setUp()
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        answer = mount("-o", "size=1200k", "tmpfs", str(self.disk))
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.addCleanup(lambda: subprocess.run(["umount", "-l", str(self.disk)], check=False))

    def test_the_last_good_checkpoint_survives(self):
        run = self.disk / "run"
        for _ in range(2):
            code, output = train(2, self.config, *self.settings(run, *SETTINGS))
            self.assertEqual(code, 74, output)
            self.assertIn("No space left", output)
            self.assertEqual(checkpoints(run), [8, 16])
        answer = capstan("evaluate", "--run", run, "--step", "16")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        answer = mount("-o", "remount,size=4m", "tmpfs", str(self.disk))
        self.assertEqual(answer.returncode, 0, answer.stderr)
        code, output = train(2, self.config, *self.settings(run, *SETTINGS))
        self.assertEqual(code, 0, output)
        self.assertEqual(len(metrics(run)), 24)
        self.assert_same_run(run, self.trained("whole", *SETTINGS))


def mounting_is_permitted():
    with tempfile.TemporaryDirectory() as folder:
        if mount("-o", "size=64k", "tmpfs", folder).returncode != 0:
            return False
        subprocess.run(["umount", folder], check=False)
        return True


if __name__ == "__main__":
    if not mounting_is_permitted():
        print("SKIP a small tmpfs cannot be mounted here (needs root)")
        sys.exit(77)
    unittest.main()

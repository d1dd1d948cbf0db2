#!/usr/bin/env python3
# label: slow
# timeout: 900
"""launch/quickstart on a small text of its own: to the end, stopped by signals and resumed, and run again when done."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, SOURCE, checkpoints, metrics, write_text  # noqa: E402


class Quickstart(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="capstan-quickstart-")
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name)
        write_text(self.home / "tale", 300)
        self.run_dir = self.home / "quickstart-tale" / "run"

    def start(self, steps):
        small = ["model.layers=2", "model.width=64", "model.heads=2", "model.context=64"]
        command = [SOURCE / "launch/quickstart", "--steps", steps, "--text", self.home / "tale", *small]
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", start_new_session=True,
                                env={**ENVIRONMENT, "CAPSTAN_HOME": str(self.home), "CAPSTAN_BINARY": str(BINARY)})

    def finish(self, job, code):
        output, _ = job.communicate(timeout=300)
        self.assertEqual(job.returncode, code, output)
        return output

    def test_from_text_to_sample_and_again(self):
        output = self.finish(self.start(60), 0)
        for words in ("step", "loss.svg", "a sample", "bits per byte", "words of the corpus", str(self.run_dir)):
            self.assertIn(words, output)
        self.assertTrue((self.run_dir / "loss.svg").is_file())
        self.assertEqual(metrics(self.run_dir)[-1]["step"], 60)
        before = {path: path.stat().st_mtime_ns for path in (self.run_dir / "checkpoints").rglob("*")}
        again = self.finish(self.start(60), 0)
        self.assertRegex(again, r"done|finished|complete")
        self.assertEqual({path: path.stat().st_mtime_ns for path in (self.run_dir / "checkpoints").rglob("*")}, before)

    def test_ctrl_c_and_term_stop_after_a_checkpoint_and_it_goes_on(self):
        steps = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            job = self.start(100000)
            limit = time.monotonic() + 120
            while time.monotonic() < limit and (metrics(self.run_dir) or [{"step": 0}])[-1]["step"] < steps + 5:
                time.sleep(0.05)
            # Ctrl-C reaches the whole process group of the terminal; TERM the script alone.
            if number == signal.SIGINT:
                os.killpg(job.pid, number)
            else:
                job.send_signal(number)
            output = self.finish(job, 75)
            self.assertIn("go on with", output)
            last = metrics(self.run_dir)[-1]["step"]
            self.assertGreater(last, steps)
            self.assertEqual(checkpoints(self.run_dir)[-1], last)
            steps = last
        self.assertEqual([row["step"] for row in metrics(self.run_dir)], list(range(1, steps + 1)))


if __name__ == "__main__":
    unittest.main()

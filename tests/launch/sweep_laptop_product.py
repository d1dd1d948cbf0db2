#!/usr/bin/env python3
# label: slow
# timeout: 1500
"""The laptop's sweep as its file has it, with budgets a hundred times smaller: killed in the search, in the ladder and in
the held-out run, it ends with the table, the prediction and the law of one that was left alone.
"""
import csv
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, SOURCE, ProductTest, capstan, metrics  # noqa: E402

PATIENCE = 600  # seconds for a whole sweep, on a busy machine
SMALL = ["sweep.budgets.flops=[3e9, 1e10, 3e10, 1e11]", "sweep.learning_rate.search_flops=1e10",
         "sweep.learning_rate.candidates=[1e-3, 2e-3]",  # too small: the search has to go beyond them
         "sweep.noise.flops=1e10", "sweep.held_out.flops=3e11", "checkpoint.every=40", "train.evaluate_samples=64"]
OF_THE_CLOCK = {"attempts", "seconds", "forecast_seconds", "tokens_per_second", "finished_at"}


class LaptopSweep(ProductTest):
    documents = 600

    def start(self, out, log):
        command = [BINARY, "sweep", SOURCE / "configs/sweeps/laptop.toml", f"sweep.dir={out}", f"sweep.text={self.text}",
                   f"data.corpora={self.folder / 'corpus'}", *SMALL]
        return subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True)

    def to_the_end(self, out):
        with open(self.folder / f"{out.name}.log", "w+", encoding="utf-8") as log:
            sweep = self.start(out, log)
            self.addCleanup(lambda: sweep.poll() is None and os.killpg(sweep.pid, signal.SIGKILL))
            code = sweep.wait(PATIENCE)
            log.seek(0)
            said = log.read()
        self.assertEqual(code, 0, said)
        return said

    def killed(self, out, when, group):
        """Starts the sweep and kills it without warning once `when` holds: it alone, or with its runs."""
        with open(self.folder / "killed.log", "w+", encoding="utf-8") as log:
            sweep = self.start(out, log)
            limit = time.monotonic() + PATIENCE
            while sweep.poll() is None and not when() and time.monotonic() < limit:
                time.sleep(0.02)
            log.seek(0)
            self.assertIsNone(sweep.poll(), f"it ended before it could be killed:\n{log.read()}")
            (os.killpg if group else os.kill)(sweep.pid, signal.SIGKILL)
            sweep.wait()

    @staticmethod
    def table(out):
        answer = capstan("records", out, "--csv", "-")
        if answer.returncode != 0:
            return {}
        return {row["run"]: {key: value for key, value in row.items() if key not in OF_THE_CLOCK}
                for row in csv.DictReader(io.StringIO(answer.stdout))}

    def test_killed_three_times_it_ends_with_the_same_table(self):
        whole, broken = self.folder / "whole", self.folder / "broken"
        said = self.to_the_end(whole)
        wanted = self.table(whole)
        searched = {name for name, row in wanted.items() if row["kind"] == "search"}
        self.assertGreater(len(searched), 4, said)  # the candidates of two sizes, and what lies beyond them
        self.assertNotIn("the edge of", said)

        training = lambda kind: any(len(metrics(run)) > 5 for run in (broken / "runs").glob(kind))  # noqa: E731
        self.killed(broken, lambda: len(self.table(broken)) >= 5, group=False)
        self.killed(broken, lambda: len(self.table(broken)) >= len(searched) + 8, group=True)
        self.killed(broken, lambda: training("held-out-*"), group=True)
        again = self.to_the_end(broken)
        self.assertIn(f"{len(wanted)} runs, {len(wanted) - 1} recorded", again)

        got = self.table(broken)
        self.assertEqual(sorted(got), sorted(wanted))
        for name, row in wanted.items():
            for key, value in row.items():
                self.assertEqual(got[name][key], value, f"{name}: {key}")
        self.assertEqual((broken / "prediction.json").read_text(), (whole / "prediction.json").read_text())
        law = re.compile(r"^law .*", re.M)
        self.assertEqual(law.findall(again), law.findall(said))
        self.assertRegex(again, r"held out at 3e11 FLOP, [0-9x]+: predicted")


if __name__ == "__main__":
    unittest.main()

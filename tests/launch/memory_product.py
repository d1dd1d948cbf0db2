#!/usr/bin/env python3
# label: slow
# timeout: 600
"""Process memory is what was announced: above a run of a tiny model, a rank holds the arena and the printed list of what
lies outside it, within 2%. In a step, and at its highest with evaluation and checkpoints behind it.
"""
import pathlib
import re
import shutil
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Job, ProductTest, wait_for_step  # noqa: E402

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
BIG = ("model.layers=6", "model.width=512", "model.heads=8", "model.context=128")
TINY = ("model.layers=1", "model.width=16", "model.heads=1", "model.context=128")


def announced(text):
    """(persistent + transient, all amounts) of the line about memory."""
    line = next(line for line in text.splitlines() if line.startswith("memory "))
    amounts = [float(amount) * UNITS[unit] for amount, unit in re.findall(r"([\d.]+) ([KMG]?i?B)\b", line)]
    return sum(amounts[:2]), sum(amounts)


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {key: int(value) * 1024 for key, value in re.findall(r"(Vm\w+|Rss\w+):\s+(\d+) kB", text)}


class Memory(ProductTest):
    def measured(self, name, ranks, *settings):
        """Announced bytes of a rank, and per rank (in step 7, highest so far)."""
        run = self.folder / name
        with Job(ranks, self.config, *self.settings(run, "train.threads=1", "train.steps=9", "checkpoint.every=4",
                                                    "train.evaluate_every=3", *settings),
                 env={"CAPSTAN_FAIL": "train.microbatch:7:sleep"}) as job:
            wait_for_step(job, run, 6)
            time.sleep(0.5)
            memory = [status(pid) for pid in job.rank_pids()]
            text = job.text()
        shutil.rmtree(run)
        self.assertEqual(len(memory), ranks, text)
        return announced(text), memory

    def compare(self, ranks, *settings):
        (small, _), base = self.measured(f"tiny-{ranks}", ranks, *TINY, *settings)
        (_, large), memory = self.measured(f"big-{ranks}", ranks, *BIG, *settings)
        self.assertGreater(large, 300 << 20)
        for kind in ("VmRSS", "VmHWM"):
            for before, after in zip(base, memory):
                grown = after[kind] - (before[kind] - small)
                print(f"{ranks} ranks {settings} {kind}: announced {large / 2**20:.1f} MiB, above the baseline of "
                      f"{(before[kind] - small) / 2**20:.1f} MiB there are {grown / 2**20:.1f} MiB")
                self.assertLess(abs(grown - large), 0.02 * large, kind)

    def test_one_rank(self):
        self.compare(1, "train.microbatch=8")

    def test_one_rank_in_bf16(self):
        self.compare(1, "train.microbatch=8", "train.precision=bf16", "layout.recompute=full")

    def test_two_ranks(self):
        self.compare(2)


if __name__ == "__main__":
    unittest.main()

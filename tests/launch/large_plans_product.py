#!/usr/bin/env python3
# label: slow
# timeout: 600
"""Plans of the largest jobs are made and proved in seconds, on one core without their memory: a model of a trillion
parameters on 3,072 ranks within 30 s. Prints what each took; a loaded machine shows in the wall clock and not in the
processor's time, which is what is held against the limit."""
import pathlib
import re
import resource
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ProductTest, capstan  # noqa: E402

COMMON = ("model.vocabulary=50257", "train.precision=bf16", "train.microbatch=1")

JOBS = {  # name: parameters and ranks it must say, seconds it may take, model and layout
    "175B on 1,024": (174_600_000_000, 1024, 10,
                      "model.preset=gpt3-175b layout.pp=8 layout.tp=8 layout.dp=16 layout.sequence_parallel=true "
                      "layout.recompute=selective train.global_batch=1536"),
    "1T on 3,072": (1_008_000_000_000, 3072, 30,
                    "model.layers=128 model.width=25600 model.heads=160 model.context=2048 layout.pp=64 layout.tp=8 "
                    "layout.dp=6 layout.sequence_parallel=true layout.recompute=full train.global_batch=3072"),
    "175B on 9,216, each layer a stage": (174_600_000_000, 9216, 60,
                                          "model.preset=gpt3-175b layout.pp=96 layout.tp=96 "
                                          "layout.schedule=zero-bubble train.global_batch=960"),
}


class LargePlans(ProductTest):
    documents = 2

    def test_they_are_proved_in_time(self):
        config = self.folder / "run.toml"
        config.write_text("", encoding="utf-8")
        for name, (parameters, ranks, limit, settings) in JOBS.items():
            with self.subTest(name=name):
                before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
                said = capstan("inspect", config, *COMMON, *settings.split())
                wall, after = time.monotonic() - since, resource.getrusage(resource.RUSAGE_CHILDREN)
                busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                print(f"{name}: {wall:.1f} s, of the processor {busy:.1f} s, limit {limit} s; at most "
                      f"{after.ru_maxrss / 1024:.0f} MiB so far", flush=True)
                self.assertEqual(said.returncode, 0, said.stderr)
                self.assertIn(f", {ranks} ranks;", said.stdout)
                self.assertIn("nothing stands still", said.stdout)
                count = int(re.search(r"model +(\d+) parameters", said.stdout).group(1))
                self.assertLess(abs(count / parameters - 1), 0.01)
                self.assertLess(busy, limit)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""capstan bench: every kind of op of a step in the table, shares that add up, ceilings beside them, refusals."""
import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ProductTest, capstan  # noqa: E402

QUICK = ("--rounds", "1", "--seconds", "1e-6")
SMALL = ("model.vocabulary=257", "model.context=32", "train.global_batch=4", "train.microbatch=2", "train.threads=1")
ROW = re.compile(r"^ *([0-9.]+)% +([0-9.]+)% +([0-9]+) +([0-9.]+) +([0-9.]+) +([0-9.]+) +([0-9.]+)  (\w+) +(\S.{25}) (.*)$",
                 re.MULTILINE)


class Bench(ProductTest):
    def table(self, *arguments):
        answer = capstan("bench", "kernels", *arguments)
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        return answer.stdout, [[cell.strip() for cell in row] for row in ROW.findall(answer.stdout)]

    def test_kernels_hold_every_kind_of_op(self):
        for precision in ("fp32", "bf16"):
            text, rows = self.table("tiny", "--device", "cpu", *SMALL, f"train.precision={precision}", *QUICK)
            self.assertRegex(text, r"ceilings of this run: products [1-9][0-9.]* GFLOP/s.*copies [0-9.]*[1-9]")
            shares = [float(row[0]) for row in rows]
            self.assertEqual(shares, sorted(shares, reverse=True))
            self.assertAlmostEqual(sum(shares), 100.0, delta=0.06 * len(shares))
            self.assertEqual({row[7] for row in rows} & {"forward", "backward", "update"}, {"forward", "backward", "update"})
            for op in ("linear", "attention", "adamw", "cross-entropy"):
                self.assertTrue(any(row[8].startswith(op) for row in rows), f"{op} is missing:\n{text}")
            self.assertNotIn("not measured", text)

    def test_calls_count_layers_and_microbatches(self):
        _, one = self.table("tiny", "--device", "cpu", *SMALL, "model.layers=1", *QUICK)
        _, three = self.table("tiny", "--device", "cpu", *SMALL, "model.layers=3", *QUICK)
        calls = [sum(int(row[2]) for row in rows if row[8] == "attention") for rows in (one, three)]
        self.assertEqual(calls, [2, 6])

    def test_reads_a_file_and_refuses_what_is_none(self):
        config = self.shared / "bench.toml"
        config.write_text('[model]\npreset = "tiny"\nvocabulary = 257\ncontext = 16\n[train]\nglobal_batch = 1\n')
        _, rows = self.table(str(config), "--device", "reference", *QUICK)
        self.assertTrue(rows)
        self.assertEqual(capstan("bench", "kernels", "no-such-model").returncode, 66)
        answer = capstan("bench", "kernels", "tiny")
        self.assertEqual(answer.returncode, 78)
        self.assertIn("model.vocabulary", answer.stderr)

    def test_step_says_what_it_measured(self):
        config = self.shared / "step.toml"
        config.write_text('[model]\npreset = "tiny"\nvocabulary = 257\ncontext = 16\n[train]\nglobal_batch = 1\n'
                          'device = "cpu"\nthreads = 1\n')
        answer = capstan("bench", "step", str(config), "--rounds", "1", "--warmup", "0")
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        for line in ("tokens/s", "GFLOP/s", "ceiling", "share"):
            self.assertRegex(answer.stdout, rf"(?m)^{line} +[0-9.]+")
        self.assertIn("time by op", answer.stdout)


if __name__ == "__main__":
    unittest.main()

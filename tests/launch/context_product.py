#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""Context parallelism under a real mpirun: losses, norms and evaluation are those of one rank, a run goes on from one
layout under another, and a context that cannot be divided is refused."""
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, TIMEOUT, ProductTest, metrics, train  # noqa: E402

SETTINGS = ("train.dropout=0.1", "model.kv_heads=1", "data.document_mask=true", "train.evaluate_samples=13",
            "train.evaluate_every=4", "train.steps=8", "checkpoint.every=4", "optimizer.learning_rate=0.001")
LAYOUTS = {
    "cp2-tp2": (4, "layout.cp=2", "layout.tp=2"),
    "cp4": (4, "layout.cp=4"),
    "cp2-dp2-zero3": (4, "layout.cp=2", "layout.dp=2", "layout.zero=3", "train.microbatch=2"),
    "cp2-pp2": (4, "layout.cp=2", "layout.pp=2", "train.microbatch=2"),
}


class Context(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.shared / "one"
        code, output = train(1, cls.config, f"data.corpora={cls.corpus}", f"run.dir={cls.one}", *SETTINGS)
        if code != 0:
            raise AssertionError(output)

    def assert_close(self, run, whole):
        rows, wanted = metrics(run), metrics(whole)
        self.assertEqual([row["step"] for row in rows], [row["step"] for row in wanted])
        for mine, theirs in zip(rows, wanted):
            for key, limit in (("loss", 1e-5), ("grad_norm", 1e-3), ("validation_loss", 1e-5),
                               ("validation_bits_per_byte", 1e-5)):
                self.assertEqual(key in mine, key in theirs)
                if key in theirs:
                    self.assertLess(abs(mine[key] - theirs[key]), limit * theirs[key], (key, theirs["step"]))

    def test_losses_are_those_of_one_rank(self):
        for name, (ranks, *layout) in LAYOUTS.items():
            with self.subTest(name):
                self.assert_close(self.trained(name, *SETTINGS, *layout, ranks=ranks), self.one)

    def test_a_run_goes_on_under_another_layout(self):
        run = self.trained("run", *SETTINGS, "layout.cp=2", ranks=2, code=75,
                           env={"CAPSTAN_FAIL": "train.microbatch:6:usr1@1"})
        self.trained("run", *SETTINGS, "layout.tp=2", ranks=2)
        self.assert_close(run, self.one)

    def test_evaluate_agrees_with_the_training_run(self):
        run = self.trained("run", *SETTINGS, "layout.cp=2", ranks=2)
        answer = subprocess.run(["mpirun", "-n", "2", str(BINARY), "evaluate", "--run", str(run), "--samples", "13"],
                                capture_output=True, encoding="utf-8", timeout=TIMEOUT, env=ENVIRONMENT, check=False,
                                stdin=subprocess.DEVNULL)
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        self.assertIn(f"{metrics(run)[-1]['validation_loss']:.5f}"[:6], answer.stdout)

    def test_a_context_that_cannot_be_divided_is_refused(self):
        code, output = train(4, self.config, *self.settings(self.folder / "run", "layout.cp=4", "model.context=36"))
        self.assertEqual(code, 78, output)
        self.assertIn("nearest: 32 or 40", output)


if __name__ == "__main__":
    unittest.main()

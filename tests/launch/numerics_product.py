#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""What must repeat bit for bit, and what only to rounding: losses, norms and learning rates as text, weights and moments
as bytes, dropout on.
"""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import capstan, metrics, train  # noqa: E402
from product_support import ONE_THREAD, RepeatTest, tensors  # noqa: E402

SETTINGS = (*ONE_THREAD, "train.steps=10", "train.evaluate_every=0", "train.dropout=0.1", "train.microbatch=2")
ORDERED = (*SETTINGS, "train.reduction=ordered")
LLAMA = ("model.positions=rotary", "model.norm=rms", "model.activation=swiglu", "model.bias=false", "model.tied=false",
         "model.heads=4", "model.kv_heads=2")


class Numerics(RepeatTest):
    def test_a_run_repeats(self):
        for precision in ("fp32", "bf16"):
            for ranks in (1, 2):
                with self.subTest(precision=precision, ranks=ranks):
                    settings = (*SETTINGS, f"train.precision={precision}")
                    runs = [self.trained(f"{precision}-{ranks}-{time}", *settings, ranks=ranks) for time in (1, 2)]
                    self.assert_same_run(*runs)
                    self.assertLess(metrics(runs[0])[-1]["loss"], metrics(runs[0])[0]["loss"])

    def test_two_seeds_differ(self):
        runs = [self.trained(f"seed-{seed}", *SETTINGS, f"train.seed={seed}") for seed in (1, 2)]
        self.assertNotEqual(metrics(runs[0])[0]["loss"], metrics(runs[1])[0]["loss"])

    def test_dropout_is_there(self):
        with_it = self.trained("with", *SETTINGS)
        without = self.trained("without", *SETTINGS, "train.dropout=0")
        self.assertNotEqual(metrics(with_it)[0]["loss"], metrics(without)[0]["loss"])

    def test_recomputation_changes_no_bit(self):
        for precision, model in (("fp32", ()), ("bf16", LLAMA)):
            settings = (*SETTINGS, *model, f"train.precision={precision}")
            plain = self.trained(f"{precision}-none", *settings)
            for kind in ("selective", "full", "1"):
                with self.subTest(precision=precision, recompute=kind):
                    run = self.trained(f"{precision}-{kind}", *settings, f"layout.recompute={kind}")
                    self.assert_same_run(run, plain)

    def test_ordered_sums_do_not_depend_on_the_ranks(self):
        for precision, model in (("fp32", ()), ("bf16", LLAMA)):
            settings = (*ORDERED, *model, f"train.precision={precision}")
            one = self.trained(f"{precision}-1", *settings, ranks=1)
            for ranks in (2, 4):
                with self.subTest(precision=precision, ranks=ranks):
                    run = self.trained(f"{precision}-{ranks}", *settings, ranks=ranks)
                    self.assert_same_run(run, one)

    def test_ordered_runs_go_on_with_other_ranks_in_mid_run(self):
        one = self.trained("one", *ORDERED, ranks=1)
        run = self.trained("run", *ORDERED, ranks=4, code=75, env={"CAPSTAN_FAIL": "train.microbatch:3:usr1@2"})
        self.trained("run", *ORDERED, ranks=2)
        self.assert_same_run(run, one)

    def test_ordered_sums_want_powers_of_two(self):
        code, output = train(1, self.config, *self.settings(self.folder / "run", *ORDERED, "train.global_batch=6"))
        self.assertEqual(code, 78, output)
        self.assertIn("powers of two", output)

    def test_fast_sums_agree_to_rounding(self):
        runs = {ranks: self.trained(f"dp-{ranks}", *SETTINGS, ranks=ranks) for ranks in (1, 2, 4)}
        for ranks in (2, 4):
            for mine, theirs in zip(metrics(runs[ranks]), metrics(runs[1])):
                self.assertEqual(mine["step"], theirs["step"])
                self.assertLess(abs(mine["loss"] - theirs["loss"]), 1e-5 * theirs["loss"])
                self.assertLess(abs(mine["grad_norm"] - theirs["grad_norm"]), 1e-3 * theirs["grad_norm"])
        self.assertEqual(sorted(tensors(runs[1])), sorted(tensors(runs[4])))

    def test_evaluation_does_not_depend_on_the_ranks(self):
        losses = [metrics(self.trained(f"dp-{ranks}", *SETTINGS, "train.evaluate_samples=13", ranks=ranks))[-1]
                  for ranks in (1, 2)]
        for key in ("validation_loss", "validation_bits_per_byte"):
            self.assertLess(abs(losses[0][key] - losses[1][key]), 1e-5 * losses[0][key], key)

    def test_text_written_token_by_token_is_that_of_a_prompt_read_whole(self):
        """Greedy text does not depend on how much of it came from the cache and how much from reading the prompt, also
        past the end of the context."""
        def write(prompt, tokens):
            answer = capstan("generate", "--run", run, "--temperature", "0", "--prompt", prompt, "--tokens", tokens)
            self.assertEqual(answer.returncode, 0, answer.stderr)
            return answer.stdout.rstrip("\n")
        for model in ((), LLAMA):
            run = self.trained(f"run-{len(model)}", *SETTINGS, *model, "train.steps=60", "train.dropout=0")
            whole = write("The ", 20)
            self.assertEqual(len(whole), 24)
            for given in range(5, 24, 3):
                self.assertEqual(write(whole[:given], 24 - given), whole)
            self.assertEqual(len(write("The ", 100)), 104)


if __name__ == "__main__":
    unittest.main()

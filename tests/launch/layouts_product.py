#!/usr/bin/env python3
# label: mpi
# timeout: 900
"""Layouts over real processes: a dozen of them lose what one rank loses; a run goes on under other layouts as if nothing
had happened; schedules out of a file; what cannot be is refused with what can; inspect proves large jobs.
"""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ProductTest, capstan, checkpoints, metrics, train  # noqa: E402
from product_support import ONE_THREAD  # noqa: E402

SETTINGS = (*ONE_THREAD, "train.steps=6", "checkpoint.every=2", "train.microbatch=1", "train.global_batch=8",
            "train.evaluate_every=3", "model.layers=4", "model.heads=4", "model.width=32", "model.context=32")

LAYOUTS = {
    2: ("layout.pp=2", "layout.tp=2 layout.sequence_parallel=true", "layout.dp=2 layout.zero=3"),
    4: ("layout.pp=4 layout.schedule=zero-bubble", "layout.pp=2 layout.tp=2 layout.recompute=full",
        "layout.pp=2 layout.schedule=interleaved layout.interleave=2 layout.dp=2 layout.zero=1",
        "layout.tp=4", "layout.dp=4 layout.zero=2 layout.recompute=selective",
        "layout.pp=2 layout.schedule=gpipe layout.tp=2 layout.sequence_parallel=true",
        "layout.dp=4 layout.zero=3 layout.zero_ranks=2"),
    8: ("layout.pp=2 layout.tp=2 layout.dp=2 layout.zero=3", "layout.pp=4 layout.tp=2 layout.schedule=zero-bubble",
        "layout.pp=2 layout.dp=4 layout.zero=2 layout.schedule=interleaved layout.interleave=2"),
}


def losses(run):
    return [(row["loss"], row.get("validation_loss", 0.0)) for row in metrics(run)]


class Layouts(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = cls.shared / "whole"
        code, output = train(1, cls.config, f"data.corpora={cls.corpus}", f"run.dir={cls.whole}", *SETTINGS)
        if code != 0:
            raise AssertionError(output)

    def alike(self, run, limit=1e-5):
        mine, theirs = losses(run), losses(self.whole)
        self.assertEqual(len(mine), len(theirs))
        for got, wanted in zip(mine, theirs):
            for a, b in zip(got, wanted):
                self.assertLessEqual(abs(a - b), limit * abs(b), f"{got} {wanted}")

    def test_a_dozen(self):
        for ranks, layouts in LAYOUTS.items():
            for number, layout in enumerate(layouts):
                with self.subTest(ranks=ranks, layout=layout):
                    run = self.folder / f"{ranks}-{number}"
                    code, output = train(ranks, self.config, *self.settings(run, *SETTINGS, *layout.split()))
                    self.assertEqual(code, 0, output)
                    self.alike(run)

    def test_a_run_is_evaluated_on_any_ranks(self):
        """Under its own layout where there are the ranks for it, as whole models where not, or under one that is named."""
        run = self.folder / "run"
        code, output = train(4, self.config, *self.settings(run, *SETTINGS, "layout.tp=2", "layout.pp=2",
                                                    "train.reduction=ordered"))
        self.assertEqual(code, 0, output)
        wanted = losses(run)[-1][1]
        for ranks, words, note in ((4, (), False), (3, (), True), (1, (), True), (2, ("layout.pp=2",), False),
                                   (3, ("layout.dp=3", "layout.zero=2"), False),
                                   (4, ("layout.cp=2", "layout.dp=2"), False)):
            with self.subTest(ranks=ranks, words=words):
                answer = capstan("evaluate", "--run", run, *words, "--samples", "16", ranks=ranks)
                self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
                loss = next(line.split()[1] for line in answer.stdout.splitlines() if line.startswith("loss"))
                self.assertLess(abs(float(loss) - wanted), 1e-5 * wanted)
                self.assertEqual("each holds the whole model" in answer.stdout, note, answer.stdout)
        self.assertEqual(capstan("evaluate", "--run", run, "train.steps=1").returncode, 64)
        self.assertEqual(capstan("evaluate", "--run", run, "layout.tp=3", ranks=3).returncode, 78)
        answer = capstan("evaluate", "--run", run, "--corpus", self.folder / "none", ranks=2)
        self.assertEqual((answer.returncode, answer.stderr.count("error:")), (66, 1), answer.stderr)
        self.assertNotIn("MPI_ABORT", answer.stderr)

    def test_goes_on_under_other_layouts(self):
        run = self.folder / "run"
        # The learning rate must not know where the run is stopped.
        constant = ("schedule.kind=constant", "schedule.warmup_steps=1")
        stops = ((4, "train.steps=2", ("layout.tp=2", "layout.pp=2")),
                 (4, "train.steps=4", ("layout.dp=4", "layout.zero=3")),
                 (4, "train.steps=6", ("layout.tp=4",)))
        for ranks, steps, layout in stops:
            code, output = train(ranks, self.config,
                                 *self.settings(run, *SETTINGS, *constant, steps, *layout))
            self.assertEqual(code, 0, output)
        whole = self.folder / "constant"
        code, output = train(1, self.config, *self.settings(whole, *SETTINGS, *constant))
        self.assertEqual(code, 0, output)
        mine, theirs = losses(run), losses(whole)
        self.assertEqual(len(mine), 6)
        for (a, _), (b, _) in zip(mine, theirs):
            self.assertLessEqual(abs(a - b), 1e-5 * b)
        self.assertEqual(checkpoints(run)[-1], 6)

    def test_a_schedule_from_a_file(self):
        table = self.folder / "table.txt"
        forwards = " ".join(f"F{m}" for m in range(4))
        backwards = " ".join(f"B{m}" for m in range(4))
        table.write_text(f"# two stages, four microbatches\n{forwards} {backwards}\n{forwards} {backwards}\n",
                         encoding="utf-8")
        settings = ("layout.pp=2", "train.microbatch=2", f"layout.schedule={table}")
        run, plain = self.folder / "run", self.folder / "plain"
        for folder, more in ((run, settings), (plain, ("layout.pp=2", "train.microbatch=2"))):
            code, output = train(2, self.config, *self.settings(folder, *SETTINGS, *more))
            self.assertEqual(code, 0, output)
        self.assertEqual(losses(run), losses(plain), "a schedule shows in no bit")
        for wrong, words in (("F0 B0 F1 B1 F2 B2 F3 B3\nF0 F1 B0 B1 F2 B2 F3 B3\n",
                              (f"stands still: {table}:1: stage 0, action 1 (B0) waits for B0 on stage 1",)),
                             ("", ("a line of actions for each of 2 stages (layout.pp), got 0",)),
                             ("# none\n", ("a line of actions for each of 2 stages (layout.pp), got 0",)),
                             (f"{forwards} {backwards}\n{forwards} B0 B1 B3\n",
                              (f"{table}:2: stage 1", "never comes to B2"))):
            table.write_text(wrong, encoding="utf-8")
            answer = capstan("inspect", self.config, *SETTINGS, *settings, "model.vocabulary=256", "layout.dp=1")
            self.assertEqual(answer.returncode, 78, answer.stderr)
            for word in words:
                self.assertIn(word, answer.stderr)

    def test_what_cannot_be_is_refused(self):
        for layout, word in (("layout.pp=5", "layout.pp = 4"), ("layout.tp=3", "nearest"),
                             ("layout.pp=2 layout.interleave=2 layout.schedule=1f1b", "interleaved"),
                             ("layout.zero=2 train.reduction=ordered", "ordered"),
                             ("layout.zero=3 layout.zero_ranks=2", "2 does not divide 1; nearest: 1"),
                             ("layout.ep=2", "mixture-of-experts"), ("layout.schedule=1f2b", "zero-bubble"),
                             ("layout.schedule=mytable", '"./mytable"')):
            code, output = train(1, self.config, *self.settings(self.folder / "no", *SETTINGS, *layout.split()))
            self.assertEqual(code, 78, output)
            self.assertIn(word, output)

    def test_inspect_proves_a_large_job(self):
        config = self.folder / "large.toml"
        config.write_text('[model]\npreset = "gpt3-175b"\n', encoding="utf-8")
        said = capstan("inspect", config, "model.vocabulary=50257", "layout.pp=8",
                       "layout.tp=8", "layout.dp=16", "layout.sequence_parallel=true", "layout.recompute=selective",
                       "train.global_batch=1536", "train.microbatch=1", "train.precision=bf16", "--rank", "1000")
        self.assertEqual(said.returncode, 0, said.stderr)
        for words in ("1024 ranks", "dp 13, pp 7, cp 0, tp 0", "stage 7", "nothing stands still", "over pp", "over tp"):
            self.assertIn(words, said.stdout)

    def test_inspect_knows_replicas(self):
        said = capstan("inspect", self.config, *SETTINGS, "model.vocabulary=256", "layout.dp=8", "layout.zero=3",
                       "layout.zero_ranks=4", "layout.tp=2", "--rank", "11")
        self.assertEqual(said.returncode, 0, said.stderr)
        for words in ("dp 4 x rep 2 x pp 1", "16 ranks", "seen from rank 11: dp 1, rep 1, pp 0, cp 0, tp 1",
                      "once in each of 2 replicas of 4 data ranks", "rep P->R", "a step, over rep"):
            self.assertIn(words, said.stdout)


if __name__ == "__main__":
    unittest.main()

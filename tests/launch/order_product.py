#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""The order of the data: one, two and four ranks, through two kills and a change of the number of ranks, read the same
samples as a run on one rank that nobody disturbed; and a run whose context grows goes on where its ledger says.
"""
import json
import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ProductTest, build_corpus, capstan, metrics, numbers, train, write_text  # noqa: E402
from product_support import ONE_THREAD  # noqa: E402

# Ordered sums: equal samples in equal order give equal digits on any number of ranks.
SETTINGS = (*ONE_THREAD, "train.steps=24", "checkpoint.every=4", "train.reduction=ordered", "train.microbatch=2",
            "train.global_batch=8", "train.evaluate_every=0", "model.positions=rotary")


def data_of(run):
    return json.loads((pathlib.Path(run) / "data.json").read_text(encoding="utf-8"))


class Order(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.second = build_corpus(cls.shared / "second", write_text(cls.shared / "more", 150, seed=5), "--validation", 0.1)
        cls.whole = cls.shared / "whole"
        code, output = train(1, cls.config, *cls.blend(cls.whole), *SETTINGS)
        if code != 0:
            raise AssertionError(output)

    @classmethod
    def blend(cls, run):
        return [f'data.corpora=["{cls.corpus}", "{cls.second}"]', "data.weights=[1, 2]", f"run.dir={run}"]

    def same_as_whole(self, run):
        self.assertEqual(numbers(metrics(run)), numbers(metrics(self.whole)))
        got, wanted = data_of(run), data_of(self.whole)
        self.assertEqual(got["ledger"], wanted["ledger"])
        for mine, theirs in zip(got["corpora"], wanted["corpora"]):
            self.assertEqual(mine, theirs)
        self.assertEqual(got["blank_tokens"], wanted["blank_tokens"])

    def test_ranks_alone(self):
        for ranks in (2, 4):
            run = self.folder / f"run{ranks}"
            code, output = train(ranks, self.config, *self.blend(run), *SETTINGS)
            self.assertEqual(code, 0, output)
            self.same_as_whole(run)

    def test_two_kills_and_a_change_of_ranks(self):
        run = self.folder / "run"
        for ranks, point in ((2, "train.microbatch:15:kill@1"), (4, "train.microbatch:7:kill@2")):
            code, output = train(ranks, self.config, *self.blend(run), *SETTINGS, env={"CAPSTAN_FAIL": point})
            self.assertEqual(code, 137, output)
        code, output = train(2, self.config, *self.blend(run), *SETTINGS)
        self.assertEqual(code, 0, output)
        self.same_as_whole(run)

    def test_another_seed_is_another_order(self):
        run = self.folder / "run"
        code, output = train(1, self.config, *self.blend(run), *SETTINGS, "train.seed=8", "train.steps=4")
        self.assertEqual(code, 0, output)
        self.assertNotEqual(numbers(metrics(run), "loss")[0], numbers(metrics(self.whole), "loss")[0])

    def test_the_report_adds_up(self):
        data = data_of(self.whole)
        self.assertEqual(data["samples"], 24 * 8)
        self.assertEqual(sum(row["samples_read"] for row in data["corpora"]), 24 * 8)
        self.assertEqual([row["samples_read"] for row in data["corpora"]], [64, 128])
        self.assertEqual([row["samples_planned"] for row in data["corpora"]], [64, 128])
        self.assertGreater(data["blank_tokens"], 0)  # the second corpus holds out more

    def test_the_context_grows_and_nothing_is_read_twice(self):
        run = self.folder / "run"
        first = (*SETTINGS, "data.block=64", "train.steps=8")
        code, output = train(2, self.config, *self.blend(run), *first)
        self.assertEqual(code, 0, output)
        longer = (*SETTINGS, "data.block=64", "train.steps=16", "model.context=64")
        code, output = train(2, self.config, *self.blend(run), *longer)
        self.assertEqual(code, 0, output)
        self.assertIn("the order of the data changes at sample 64", output)
        segments = data_of(run)["ledger"]["segments"]
        self.assertEqual([(one["first"], one["stride"]) for one in segments], [(0, 32), (64, 64)])
        for one, (source, samples) in zip(segments[1]["sources"], ((0, 21), (1, 43))):
            self.assertEqual(one["start"]["offset"], one["tokens"])
            self.assertEqual(one["samples"] + segments[1]["sources"][1 - source]["samples"], 64)
            self.assertAlmostEqual(one["samples"], samples, delta=1)
        code, output = train(2, self.config, *self.blend(run), *longer, "train.steps=20")
        self.assertEqual(code, 0, output)
        self.assertEqual(data_of(run)["ledger"]["segments"], segments)

    def test_learned_positions_have_one_length(self):
        run = self.folder / "run"
        settings = (*SETTINGS, "model.positions=learned", "train.steps=4")
        self.assertEqual(train(1, self.config, *self.blend(run), *settings)[0], 0)
        code, output = train(1, self.config, *self.blend(run), *settings, "model.context=64", "train.steps=6")
        self.assertEqual(code, 78, output)
        self.assertIn("model.positions is learned", output)

    def test_what_cannot_be_is_refused_with_numbers(self):
        run = self.folder / "run"
        code, output = train(1, self.config, *self.blend(run), *SETTINGS, "data.max_epochs=0.01")
        self.assertEqual(code, 78, output)
        self.assertIn("data.max_epochs leaves", output)
        for setting, said in (("data.weights=[1,2,3]", "one number for each of the 2 corpora"),
                              ("data.epochs=1", "leave one of them out"),
                              ("data.objective=masked", "an encoder"),
                              ("data.block=33", "multiple of the context")):
            code, output = train(1, self.config, *self.blend(run), *SETTINGS, setting)
            self.assertEqual(code, 78, output)
            self.assertIn(said, output)

    def test_packing_is_repeated_through_a_stop(self):
        settings = (*SETTINGS, "data.packing=best-fit", "model.context=128", "schedule.kind=constant")
        whole, run = self.folder / "whole", self.folder / "run"
        for ranks, path, steps in ((1, whole, 12), (4, run, 8), (2, run, 12)):
            code, output = train(ranks, self.config, *self.blend(path), *settings, f"train.steps={steps}")
            self.assertEqual(code, 0, output)
        self.assertEqual(numbers(metrics(run)), numbers(metrics(whole)))
        self.assertEqual(data_of(run)["corpora"], data_of(whole)["corpora"])

    def test_a_sample_can_be_looked_up(self):
        answer = capstan("corpus", "place", self.corpus, "--sample", 123456789012, "--context", 32, "--seed", 7, "--text")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        told = re.match(r"sample 123,456,789,012 \(context 32, seed 7\): token ([\d,]+) of ([\d,]+) in epoch \d+, token "
                        r"([\d,]+) of (train-\d+\.h5)\n", answer.stdout)
        self.assertTrue(told, answer.stdout)
        token, total = (int(number.replace(",", "")) for number in told.groups()[:2])
        self.assertLess(token, total)
        text = "".join(path.read_text(encoding="utf-8") for path in sorted(self.text.iterdir()))
        line = answer.stdout.splitlines()[1].strip()
        self.assertGreater(len(line), 5)
        self.assertIn(line, text)
        for bad in (("--context", 0), ("--context", 10**8)):
            self.assertIn(capstan("corpus", "place", self.corpus, "--sample", 1, *bad).returncode, (64, 78))

    def test_inspect_tells_the_blend(self):
        answer = capstan("inspect", self.config, *self.blend(self.folder / "run"), *SETTINGS, "layout.dp=1")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertIn("66.67% of the samples", answer.stdout)
        self.assertIn("epochs at the end", answer.stdout)


if __name__ == "__main__":
    unittest.main()

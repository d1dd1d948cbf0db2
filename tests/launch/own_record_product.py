#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""The record that a run outside a sweep keeps of itself: there once it has ended, never twice, also after a crash."""
import json
import pathlib
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ProductTest, capstan, metrics, train  # noqa: E402
from product_support import ONE_THREAD  # noqa: E402

SETTINGS = (*ONE_THREAD, "train.steps=6", "train.evaluate_every=0", "checkpoint.every=3", "schedule.kind=constant")


class OwnRecord(ProductTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        help_text = capstan("records", "--help")
        if "not built in" in help_text.stdout:
            raise unittest.SkipTest("this binary has no lab")

    def rows(self, table):
        answer = capstan("records", table, "--json", "-")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return json.loads(answer.stdout)["records"]

    def test_a_run_that_ends_is_recorded_once(self):
        run = self.trained("books", *SETTINGS)
        (row,) = self.rows(run)
        self.assertEqual((row["run"], row["status"], row["kind"], row["directory"]), ("books@6", "done", "single", "."))
        last = metrics(run)[-1]
        self.assertEqual(row["loss"], last["validation_loss"])
        self.assertEqual((row["steps"], row["tokens"], row["ranks"]), (6, last["tokens"], 2))
        self.assertGreater(row["flops_token_half"], 0)
        table = run / "records.h5"
        before = table.read_bytes(), table.stat().st_mtime_ns
        self.trained("books", *SETTINGS)
        self.assertEqual((table.read_bytes(), table.stat().st_mtime_ns), before)
        self.trained("books", *SETTINGS, "train.steps=9")
        self.assertEqual([row["run"] for row in self.rows(run)], ["books@6", "books@9"])

    def test_a_run_killed_before_its_row_gets_it_when_started_again(self):
        whole = self.trained("whole", *SETTINGS, ranks=1)
        count = 0
        while True:  # at every write from the end of the training on
            count += 1
            run = self.folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            code, _ = train(1, self.config, *self.settings(run, *SETTINGS),
                            env={"CAPSTAN_FAIL": f"file.rename:{count}:kill"})
            if code == 0:
                break
            self.trained("run", *SETTINGS, ranks=1)
            (row,) = self.rows(run)
            self.assertEqual(row["run"], "run@6")
            self.assertEqual(row["loss"], self.rows(whole)[0]["loss"])
        self.assertGreater(count, 3)

    def test_runs_share_a_table(self):
        table = self.folder / "all.h5"
        for folder in ("a/run", "b/run", "a/run"):
            self.trained(folder, *SETTINGS, f"run.records={table}", ranks=1)
        rows = self.rows(table)
        self.assertEqual([(row["run"], row["directory"]) for row in rows], [("run@6", "a/run"), ("run-2@6", "b/run")])
        self.assertFalse((self.folder / "a/run/records.h5").exists())

    def test_none_is_none(self):
        run = self.trained("run", *SETTINGS, "run.records=none", ranks=1)
        self.assertFalse((run / "records.h5").exists())

    def test_a_table_that_cannot_be_written_does_not_fail_the_run(self):
        run = self.folder / "run"
        code, output = train(1, self.config,
                             *self.settings(run, *SETTINGS, f"run.records={self.config}/records.h5"))
        self.assertEqual(code, 0, output)
        self.assertIn("the run is not in the table of records", output)

    def test_a_run_that_diverges_is_recorded_as_diverged(self):
        run = self.trained("run", *SETTINGS, "train.maximum_bad_steps=1", code=79,
                           env={"CAPSTAN_FAIL": "train.microbatch:3:nan@1"})
        (row,) = self.rows(run)
        self.assertEqual((row["status"], row["exit_code"]), ("diverged", 79))
        self.assertIn("not finite", row["reason"])
        self.trained("run", *SETTINGS)
        self.assertEqual([row["status"] for row in self.rows(run)], ["diverged", "done"])


if __name__ == "__main__":
    unittest.main()

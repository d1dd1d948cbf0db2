#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""A sweep from its file to its table: runs that fail, sweeps that are killed, cooldowns branched from one long run,
Slurm scripts, mistakes in the file, and what comes out of the table.
"""
import csv
import io
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, TIMEOUT, ProductTest, capstan, metrics  # noqa: E402
import unittest  # noqa: E402

SWEEP = """
[model]
context = 32
positions = "alibi"
norm = "rms"
bias = false

[schedule]
minimum_ratio = 0.0

[train]
evaluate_samples = 32

[sweep]
warmup_share = 0.1
jobs = 2

[sweep.sizes]
shapes = ["8x1", "16x1", "24x2"]
head_size = 8

[sweep.budgets]
tokens = [5e3, 1e4, 2e4, 4e4]

[sweep.learning_rate]
value = 0.01

[sweep.batch]
sequences = 8
"""


class Sweep(ProductTest):
    config_text = SWEEP

    def sweep_file(self, text=SWEEP):
        path = self.folder / "sweep.toml"
        path.write_text(text, encoding="utf-8")
        return path

    def arguments(self, *more, text=SWEEP):
        return ["sweep", self.sweep_file(text), f"data.corpora={self.corpus}", f"sweep.dir={self.folder / 'out'}", *more]

    def swept(self, *more, text=SWEEP, code=0, env=None):
        answer = capstan(*self.arguments(*more, text=text), env=env)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        return answer.stdout + answer.stderr

    def table(self):
        answer = capstan("records", self.folder / "out", "--csv", "-")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return {row["run"]: row for row in csv.DictReader(io.StringIO(answer.stdout))}

    def outcome(self):
        """What must not depend on how often a sweep was interrupted."""
        keep = ("kind", "status", "n_total", "tokens", "flops_half", "loss", "bits_per_byte", "train_loss", "steps")
        return {name: tuple(row[key] for key in keep) for name, row in self.table().items()}

    def start(self, *more, text=SWEEP, env=None):
        self.log = tempfile.TemporaryFile()
        self.addCleanup(self.log.close)
        return subprocess.Popen([str(BINARY), *map(str, self.arguments(*more, text=text))], stdout=self.log,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                env={**ENVIRONMENT, **(env or {})})

    def said(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", errors="replace")

    @staticmethod
    def pids_of(directory):
        """Processes that train in this directory."""
        found = []
        for line in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = line.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "train" in words and any(word.startswith(str(directory) + "/") for word in words):
                found.append(int(line.parent.name))
        return found

    def test_two_of_twelve_fail_and_the_rest_is_fitted(self):
        victim = "16x1-d4e4-s1"
        text = SWEEP + ('\n[sweep.overrides]\n"24x2-d2e4-*" = ["optimizer.learning_rate=900", "optimizer.clip=0"]\n'
                        f'"{victim}" = ["train.steps=100000"]\n')
        sweep = self.start(text=text)
        killed, limit = set(), time.monotonic() + TIMEOUT
        while sweep.poll() is None and time.monotonic() < limit:
            for pid in self.pids_of(self.folder / "out/runs" / victim):
                if pid not in killed and len(metrics(self.folder / "out/runs" / victim)) > 3:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.02)
        self.assertEqual(sweep.wait(5), 0, self.said())
        table, said = self.table(), self.said()
        self.assertEqual(len(table), 12, said)
        self.assertEqual(len(killed), 2, said)
        self.assertEqual({name for name, row in table.items() if row["status"] != "done"}, {victim, "24x2-d2e4-s1"}, said)
        self.assertEqual(table[victim]["status"], "failed")
        self.assertIn("signal 9", table[victim]["reason"])
        self.assertEqual(table[victim]["attempts"], "2")
        self.assertEqual(table["24x2-d2e4-s1"]["status"], "diverged")
        self.assertIn("not done:", said)
        self.assertRegex(said, r"law +L = [0-9.]+ \+ .* over 10 runs")
        for row in table.values():
            if row["status"] == "done":
                self.assertAlmostEqual(float(row["flops_half"]) / float(row["flops_token_half"]), float(row["tokens"]))
                self.assertEqual(int(row["n_embedding"]) + int(row["n_positions"]) + int(row["n_head"]) +
                                 int(row["n_blocks"]), int(row["n_total"]))
                self.assertEqual(float(row["tokens"]), int(row["steps"]) * int(row["batch_tokens"]))

    def test_killed_and_restarted_it_ends_with_the_same_table(self):
        self.swept("--no-calibration")
        whole = self.outcome()
        out = self.folder / "out"
        out.rename(self.folder / "whole")
        for wait in (0.9, 1.6):
            sweep = self.start("--no-calibration")
            time.sleep(wait)
            sweep.kill()
            sweep.wait()
        recorded = len(self.table()) if (out / "records.h5").exists() else 0
        again = self.swept("--no-calibration")
        self.assertIn(f"12 runs, {recorded} recorded", again)
        self.assertEqual(self.outcome(), whole)
        before = (out / "records.h5").read_bytes()
        self.assertIn("12 recorded", self.swept("--no-calibration"))
        self.assertEqual((out / "records.h5").read_bytes(), before)

    def test_a_request_to_stop_checkpoints_every_run(self):
        sweep = self.start("--no-calibration", "sweep.budgets.tokens=[5e6]")
        limit = time.monotonic() + TIMEOUT
        while time.monotonic() < limit and not any(
                len(metrics(run)) > 3 for run in (self.folder / "out/runs").glob("*")):
            time.sleep(0.05)
        sweep.send_signal(signal.SIGTERM)
        self.assertEqual(sweep.wait(TIMEOUT), 75, self.said())
        self.assertTrue(list((self.folder / "out/runs").glob("*/checkpoints/step-*")), self.said())
        self.assertEqual(self.pids_of(self.folder / "out"), [])

    def files(self):
        """Bytes of all files of the sweep."""
        return {str(path): path.read_bytes() for path in (self.folder / "out").rglob("*") if path.is_file()}

    def test_a_dry_run_and_a_refused_sweep_leave_a_sweep_as_it_is(self):
        text = SWEEP + '\n[sweep.overrides]\n"16x1-*" = ["optimizer.learning_rate=900", "optimizer.clip=0"]\n'
        one = ('sweep.sizes.shapes=["8x1", "16x1"]', "sweep.budgets.tokens=5e3")
        self.swept(*one, "--no-calibration", text=text)
        self.assertEqual(sorted(row["status"] for row in self.table().values()), ["diverged", "done"])
        before = self.files()
        self.swept(*one, "--dry-run")  # measures, and keeps that
        calibrated = self.files()
        self.assertEqual(calibrated.keys() - before.keys(), {str(self.folder / "out/calibration.json")})
        said = self.swept(*one, "--dry-run", "--retry-failed", "train.seed=5", "sweep.seeds=[2, 3]")
        self.assertIn("forecast", said)
        self.assertIn("have changed since", said)
        self.assertIn("131072x96", self.swept('sweep.sizes.shapes=["24x2", "131072x96"]', code=78))
        after = self.files()
        self.assertEqual(after.keys(), calibrated.keys())
        self.assertEqual([name for name in after if {**before, **calibrated}[name] != after[name]], [])

    def test_one_sweep_at_a_time_works_in_a_folder_from_its_calibration_on(self):
        many = ('sweep.sizes.shapes=["64x4", "72x4"]', "sweep.jobs=1")
        sweep = self.start(*many, env={"CAPSTAN_FAIL": "train.start:1:stop"})  # the first trial comes to no end
        limit = time.monotonic() + TIMEOUT
        while time.monotonic() < limit and not list((self.folder / "out").glob("calibration/*/log.txt")):
            time.sleep(0.01)
        self.assertIn("another sweep works in", self.swept(*many, code=73))
        looked = self.swept(*many, "--dry-run")
        self.assertIn("only looks", looked)
        self.assertIn("64x4", looked)
        self.assertFalse((self.folder / "out/overrides.txt").exists())
        self.assertIsNone(sweep.poll(), self.said())
        sweep.send_signal(signal.SIGINT)
        self.assertEqual(sweep.wait(TIMEOUT), 75, self.said())
        self.assertRegex(self.said(), "stopped .*while calibrating.*start the same command again")

    def test_budgets_that_the_ladder_left_behind_are_noted(self):
        text = SWEEP.replace("tokens = [5e3, 1e4, 2e4, 4e4]", "flops = [1e8, 3e8]")
        said = self.swept("--dry-run", "--no-calibration", "sweep.noise.flops=3e10", "sweep.noise.seeds=2", text=text)
        self.assertIn("sweep.noise.flops is 3e10 FLOP, 100 times the ladder's largest budget", said)
        said = self.swept("--dry-run", "--no-calibration", "sweep.noise.flops=3e8", "sweep.noise.seeds=2", text=text)
        self.assertNotIn("times the ladder", said)

    def test_a_cooldown_is_the_end_of_one_run_of_that_schedule(self):
        text = SWEEP.replace("warmup_share = 0.1", "warmup_share = 0.1\ncooldown_share = 0.25")
        text = text.replace('"8x1", "16x1", ', "")
        self.swept("--no-calibration", text=text)
        table = self.table()
        self.assertEqual(sorted(row["kind"] for row in table.values()), ["cooldown"] * 4 + ["trunk"] * 4)
        last = table["24x2-d4e4-s1"]
        self.assertEqual(last["parent"], "24x2-trunk-s1-b117")
        self.assertEqual((last["steps"], last["cooldown_step"], last["schedule"]), ("156", "117", "wsd"))
        # From the same file, in one go: warm-up, constant rate, cooldown.
        settings = self.folder / "out/runs/24x2-d4e4-s1/config.toml"
        answer = capstan("train", settings, f"run.dir={self.folder / 'one'}")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        one, branched = metrics(self.folder / "one"), metrics(self.folder / "out/runs/24x2-d4e4-s1")
        self.assertEqual([row["digits"]["loss"] for row in one[117:]], [row["digits"]["loss"] for row in branched])
        self.assertEqual(one[-1]["validation_loss"], float(last["loss"]))
        rates = [row["learning_rate"] for row in branched]
        self.assertEqual(rates[0], 0.01)
        self.assertLess(rates[-1], 0.001)
        # The long run made its 117 steps once, whatever the number of horizons.
        self.assertEqual(len(metrics(self.folder / "out/runs/24x2-trunk-s1")), 117)

    def test_a_search_sets_the_rate_and_a_held_out_budget_is_predicted_before_it_is_trained(self):
        text = SWEEP.replace("tokens = [5e3, 1e4, 2e4, 4e4]", "flops = [1e8, 3e8]").replace(
            "value = 0.01", 'rule = "search"\ncandidates = [1e-3, 1e-2, 1e-1]\nsearch_flops = 1e8')
        said = self.swept("sweep.held_out.flops=6e8", "sweep.noise.flops=1e8", "sweep.noise.seeds=2", text=text)
        table = self.table()
        kinds = sorted(row["kind"] for row in table.values())
        searched = kinds.count("search")
        self.assertEqual(kinds[:-searched], ["held-out"] + ["ladder"] * 6 + ["noise"], said)
        self.assertIn(searched, range(6, 13), said)  # two sizes, beyond the candidates where the best is at an edge
        rates = {row["learning_rate"] for row in table.values() if row["kind"] == "ladder"}
        self.assertTrue(rates.isdisjoint({"0.001", "0.1"}), rates)
        written = json.loads((self.folder / "out/prediction.json").read_text())
        self.assertEqual(f"{table['held-out-c6e8']['width']}x{table['held-out-c6e8']['layers']}", written["shape"])
        runs = self.folder / "out/runs/held-out-c6e8"
        self.assertLess((self.folder / "out/prediction.json").stat().st_mtime, (runs / "metrics.jsonl").stat().st_mtime)
        self.assertIn("held out at 6e8 FLOP", said)

    def test_slurm_scripts_are_shell_and_name_every_run(self):
        text = SWEEP.replace("warmup_share = 0.1", "warmup_share = 0.1\ncooldown_share = 0.25")
        self.swept("--slurm", text=text)
        folder = self.folder / "out/slurm"
        subprocess.run(["bash", "-n", folder / "submit.sh"], check=True)
        stub = self.folder / "sbatch"
        stub.write_text(f"#!/bin/bash\necho \"$@\" >> {self.folder}/calls\ncat > {self.folder}/job-$RANDOM.sh\necho 1$RANDOM\n")
        stub.chmod(0o755)
        answer = subprocess.run([folder / "submit.sh", "--partition=x"], env={**ENVIRONMENT, "SBATCH": str(stub)},
                                capture_output=True, encoding="utf-8", check=False)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        calls = (self.folder / "calls").read_text().splitlines()
        names = "".join(path.read_text() for path in sorted(folder.glob("wave-*.txt"))).split()
        self.assertEqual(len(names), 24)
        self.assertEqual(len(set(names)), 24)
        self.assertNotIn("--dependency", calls[0])
        for call in calls[1:]:
            self.assertIn("--dependency=afterany:", call)
        for script in self.folder.glob("job-*.sh"):
            subprocess.run(["bash", "-n", script], check=True)
        # Runs of the arrays, in the order of the waves, make the same table.
        for name in names[:4]:
            self.swept("--run", name, text=text)
        self.assertEqual(sorted(self.table()), sorted(names[:4]))
        self.swept("--run", names[-1], text=text, code=66)
        self.swept("--run", "nobody", text=text, code=64)

    def test_all_mistakes_of_a_file_are_told_at_once(self):
        text = SWEEP.replace("jobs = 2", 'jobs = "two"\nsede = 3').replace('"8x1"', '"8by1"').replace(
            "context = 32", "context = 32\nlayer = 3").replace("value = 0.01", 'rule = "serach"')
        said = self.swept(text=text, code=78)
        lines = text.splitlines()
        for wanted, words in (("jobs =", "sweep.jobs: wanted an integer"), ("sede", "did you mean sweep.seeds"),
                              ("rule =", 'did you mean "search"'), ("layer =", "did you mean model.layers")):
            number = next(i for i, line in enumerate(lines, 1) if line.startswith(wanted))
            self.assertRegex(said, rf"sweep.toml:{number}:\d+: [^\n]*{words}")
        self.swept("sweep.sizes.shapes=[]", code=78)
        self.assertIn("no such sweep file", capstan("sweep", "nowhere.toml").stderr)
        said = self.swept('sweep.sizes.shapes=["8by1"]', code=78)
        self.assertIn("WIDTHxLAYERS", said)

    def test_what_cannot_fit_is_refused_before_anything_starts(self):
        said = self.swept('sweep.sizes.shapes=["8x1", "131072x96"]', "--no-calibration", code=78)
        self.assertRegex(said, r"run 131072x96-\S+ needs .*TiB and this machine has")
        self.assertEqual(list((self.folder / "out/runs").iterdir()), [])

    def test_single_runs_join_a_table_once(self):
        run = self.folder / "alone"
        config = self.folder / "run.toml"
        config.write_text(SWEEP.split("[sweep]")[0], encoding="utf-8")
        answer = capstan("train", config, f"data.corpora={self.corpus}", f"run.dir={run}", "train.steps=6",
                         "train.global_batch=4", "schedule.warmup_steps=0")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        table = self.folder / "mine.h5"
        for _ in range(2):
            answer = capstan("records", table, "--add", run, "--json", "-")
            self.assertEqual(answer.returncode, 0, answer.stderr)
        records = json.loads(answer.stdout)["records"]
        self.assertEqual(len(records), 1)
        self.assertEqual(records[0]["loss"], metrics(run)[-1]["validation_loss"])
        self.assertEqual(records[0]["kind"], "single")
        self.assertEqual(json.loads(answer.stdout)["fields"]["loss"]["unit"], "nats/token")

    def test_runs_of_several_ranks_go_through_mpirun(self):
        self.swept("--no-calibration", "sweep.ranks=2", "sweep.jobs=1", 'sweep.sizes.shapes="8x1"', "sweep.budgets.tokens=5e3")
        row, = self.table().values()
        self.assertEqual((row["status"], row["ranks"], row["tokens"]), ("done", "2", "5120"))

    def test_a_fit_without_convergence_ends_with_79(self):
        # Losses that a law of this kind cannot follow at all: hundreds of orders of magnitude, in no order.
        source = random.Random(0)
        rows = ["n,d,loss"] + [f"{n},{d},{10 ** source.uniform(-200, 200)!r}" for n in (1e3, 1e4, 1e5, 1e6)
                               for d in (1e5, 1e6, 1e7)]
        table = self.folder / "hard.csv"
        table.write_text("\n".join(rows) + "\n", encoding="utf-8")
        answer = capstan("fit", table, "--bootstrap", "0", "--no-profiles", "--no-backtest", "--loss-function",
                         "l2")
        self.assertEqual(answer.returncode, 79, answer.stdout + answer.stderr)
        self.assertIn("did not converge", answer.stderr)
        self.assertNotRegex(answer.stdout, r"alpha +[0-9]")


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
# label: mpi
# timeout: 600
"""Jobs in which a rank stops or dies: they end within the limit, with the right code, and say in one table which rank it
was and what the others wait in. What is only slow, or stopped for a while, is left alone.
"""
import os
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Job, ProductTest, capstan, checkpoints, metrics, wait_for_step  # noqa: E402

LIMIT = 4  # seconds, train.hang_seconds of these jobs
START = 8  # seconds, train.start_seconds of those that do not come to their steps
SPARE = 10  # seconds that a job may take to end after that


def rank_pids(job):
    """Process of each rank."""
    found = {}
    for pid in job.rank_pids():
        variables = pathlib.Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
        rank = next(v for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK="))
        found[int(rank.partition(b"=")[2])] = pid
    return found


def wait_until_stopped(pid):
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} did not stop")


OVER_DATA_RANKS = r"train \w+: (all-reduce|reduce-scatter|all-gather) dp"


class Hang(ProductTest):
    def start(self, ranks, *more, fail=None, wrapper=()):
        self.run = self.folder / "run"
        settings = self.settings(self.run, "train.threads=1", f"train.hang_seconds={LIMIT}", "train.steps=400",
                                 "train.evaluate_every=0", f"train.microbatch={8 // ranks}", *more)
        return Job(ranks, self.config, *settings, env={"CAPSTAN_FAIL": fail} if fail else None,
                   wrapper=wrapper)

    def ends_with(self, job, code, since):
        self.assertEqual(job.wait(LIMIT + SPARE + 30), code, job.text())
        self.assertLess(time.monotonic() - since, LIMIT + SPARE, job.text())
        return job.text()

    def hangs(self, ranks, fail, stopped, waits, *more):
        """A rank stops itself at a failpoint. Returns what was said about it."""
        with self.start(ranks, *more, fail=f"{fail}:stop@{stopped}") as job:
            limit = time.monotonic() + 60
            while stopped not in rank_pids(job) and time.monotonic() < limit:
                time.sleep(0.02)
            wait_until_stopped(rank_pids(job)[stopped])
            text = self.ends_with(job, 76, time.monotonic())
        said = [line for line in text.splitlines() if "nothing has moved for" in line]
        self.assertEqual(len(said), 1, text)
        self.assertRegex(said[0], rf"rank {stopped} on \S+ \(process \d+, stopped by a signal\) does not answer")
        self.assertRegex(said[0], waits)
        self.assertRegex(text, rf"(?m)^  {stopped} .*SILENT, stopped by a signal")
        return text

    def test_ranks_that_never_start_are_named(self):
        """The launcher's processes are there, but one is stopped and one held up before the program begins."""
        wrapper = self.folder / "wrapper"
        wrapper.write_text('#!/bin/sh\ncase $OMPI_COMM_WORLD_RANK in\n1) kill -STOP $$ ;;\n2) exec sleep 300 ;;\nesac\n'
                           'exec "$@"\n', encoding="utf-8")
        wrapper.chmod(0o755)
        since = time.monotonic()
        with self.start(3, "train.global_batch=6", "train.microbatch=2", f"train.start_seconds={START}",
                        wrapper=[wrapper]) as job:
            text = self.ends_with(job, 76, since + START - LIMIT)
        self.assertRegex(text, r"capstan\[rank 0\]: not all 3 ranks have come in \d+\.\d s: rank 0 on \S+ \(process \d+\) "
                               r"still waits in MPI_Init; of this host has not come: rank 1 \(process \d+, \w+, stopped by "
                               r"a signal\), rank 2 \(process \d+, \w+, which has not started this program\)")
        self.assertEqual(text.count("not all 3 ranks"), 1, text)

    def test_a_rank_that_is_stopped_while_it_starts(self):
        """Wherever it stands then: in MPI, behind it, or where heartbeats are there already."""
        with self.start(2, f"train.start_seconds={START}") as job:
            limit = time.monotonic() + 60
            while len(rank_pids(job)) < 2 and time.monotonic() < limit:
                time.sleep(0.005)
            os.kill(rank_pids(job)[0], signal.SIGSTOP)
            text = self.ends_with(job, 76, time.monotonic() + START - LIMIT)
        self.assertRegex(text, r"rank 0 (on \S+ )?\(process \d+, (this program, )?stopped by a signal\)")

    def test_a_rank_stops_and_the_others_wait_in_a_collective(self):
        text = self.hangs(2, "train.microbatch:6", 1, "rank 0 waits in " + OVER_DATA_RANKS)
        self.assertIn("capstan[rank 0]: nothing has moved", text)
        self.assertRegex(text, r"(?m)^  0 .*waits .* 6  train .*\(its call \d+\)$")

    def test_rank_0_stops_and_the_next_one_speaks(self):
        text = self.hangs(2, "train.microbatch:6", 0, "rank 1 waits in " + OVER_DATA_RANKS)
        self.assertIn("capstan[rank 1]: nothing has moved", text)

    def test_one_of_four_stops(self):
        self.hangs(4, "train.microbatch:6", 2, r"ranks 0-1,3 wait in (train (begin|update)|step)")

    def test_a_stage_stops_and_the_next_waits_in_a_receive(self):
        self.hangs(2, "train.microbatch:6", 0, r"rank 1 waits in train forward, microbatch \d, .*receive pp path \d",
                   "layout.pp=2")

    def test_a_stage_stops_and_the_one_before_waits_for_its_gradient(self):
        self.hangs(2, "train.microbatch:6", 1, r"rank 0 waits in train backward, microbatch \d.*: receive pp path \d",
                   "layout.pp=2")

    def test_a_rank_is_stopped_while_it_waits_itself(self):
        with self.start(2, fail="train.microbatch:50:sleep@1") as job:
            wait_for_step(job, self.run, 48)  # rank 0 is about to wait for rank 1, which sleeps in step 50
            time.sleep(0.5)
            os.kill(rank_pids(job)[0], signal.SIGSTOP)
            text = self.ends_with(job, 76, time.monotonic())
        self.assertRegex(text, r"rank 0 on \S+ \(process \d+, stopped by a signal\) does not answer, in " + OVER_DATA_RANKS)
        self.assertIn("capstan[rank 1]: nothing has moved", text)

    def test_the_record_tells_afterwards(self):
        self.hangs(2, "train.microbatch:6", 1, "rank 0 waits")
        limit = time.monotonic() + 20  # the launcher's last kill may come after its own end
        while True:
            answer = capstan("doctor", "--run", self.run)
            self.assertEqual(answer.returncode, 0, answer.stderr)
            if "the last job" in answer.stdout or time.monotonic() > limit:
                break
            time.sleep(0.2)
        self.assertRegex(answer.stdout, r"the last job of 2 ranks, .* last seen")
        for rank in (0, 1):
            self.assertRegex(answer.stdout, rf"(?m)^  {rank} +\S+ +GONE .* 6  (train |step: )")

    def test_a_killed_rank_ends_the_job_and_the_others_say_where_they_stand(self):
        for killed in (0, 1):
            with self.subTest(killed=killed):
                self.folder = self.shared / f"killed-{killed}"
                self.folder.mkdir()
                with self.start(2) as job:
                    wait_for_step(job, self.run, 20)
                    os.kill(rank_pids(job)[killed], signal.SIGKILL)
                    text = self.ends_with(job, 137, time.monotonic())
                self.assertRegex(text, rf"capstan\[rank {1 - killed}\]: rank {killed} on \S+ \(process \d+\) is gone")
                self.assertRegex(text, rf"(?m)^  {killed} .* GONE .* s +\d+  \w+")
                self.assertRegex(text, rf"(?m)^  {1 - killed} .* waits .* s +\d+  \w+.*\(its call \d+\)")

    def test_a_launcher_that_does_not_end_the_job(self):
        """Stopped, it neither ends the ranks nor passes on what they say: they end by themselves, and then it is ended."""
        with self.start(2, "train.steps=100000") as job:
            wait_for_step(job, self.run, 20)
            pids = rank_pids(job)
            os.kill(job.process.pid, signal.SIGSTOP)
            os.kill(pids[1], signal.SIGKILL)
            self.assertEqual(job.wait(60), -signal.SIGKILL, job.text())
            self.assertFalse(pathlib.Path("/proc", str(pids[0]), "fd").exists() and job.rank_pids(), "rank 0 still runs")

    def quiet(self, job, code=0):
        self.assertEqual(job.wait(), code, job.text())
        self.assertNotRegex(job.text(), "nothing has moved|is gone|GONE|SILENT")

    def test_what_is_stopped_for_a_while_goes_on(self):
        for whom in ((1,), (0, 1)):  # all of them for longer than the limit: their clocks stood still too
            with self.subTest(ranks=whom):
                self.folder = self.shared / f"paused-{len(whom)}"
                self.folder.mkdir()
                with self.start(2) as job:
                    wait_for_step(job, self.run, 20)
                    for rank, pid in rank_pids(job).items():
                        if rank in whom:
                            os.kill(pid, signal.SIGSTOP)
                    time.sleep(LIMIT / 2 if len(whom) == 1 else LIMIT + 3)
                    for rank, pid in rank_pids(job).items():
                        if rank in whom:
                            os.kill(pid, signal.SIGCONT)
                    self.quiet(job)
                self.assertEqual(metrics(self.run)[-1]["step"], 400)

    def test_a_pause_within_a_long_limit(self):
        for limit in (60, 0):
            with self.subTest(limit=limit):
                self.folder = self.shared / f"long-{limit}"
                self.folder.mkdir()
                with self.start(2, f"train.hang_seconds={limit}") as job:
                    wait_for_step(job, self.run, 20)
                    pid = rank_pids(job)[1]
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(9)
                    os.kill(pid, signal.SIGCONT)
                    self.quiet(job)
                self.assertEqual(metrics(self.run)[-1]["step"], 400)

    def test_slow_checkpoints_and_evaluations_are_no_hang(self):
        slow = ",".join(f"{name}:{hit}:sleep" for name in ("file.write", "checkpoint.before_rename", "train.evaluate")
                        for hit in (1, 2))
        with self.start(2, "train.steps=20", "checkpoint.every=5", "train.evaluate_every=5", "train.hang_seconds=3",
                        fail=slow) as job:
            self.quiet(job)
        self.assertEqual(checkpoints(self.run)[-1], 20)

    def test_a_failure_of_its_own_is_no_lost_rank(self):
        with self.start(2, "checkpoint.every=5", fail="checkpoint.manifest:1:throw") as job:
            self.quiet(job, 74)

    def test_a_job_of_one_rank(self):
        with self.start(1, "train.microbatch=8", "train.steps=20") as job:
            self.quiet(job)


if __name__ == "__main__":
    unittest.main()

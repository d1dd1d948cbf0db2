#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""Several hosts, made on this machine: each is a network namespace with a name of its own, joined by a bridge, so that
mpirun starts its daemons there through an agent and ranks of different hosts have nothing but TCP between them. A
training over them is that of one host; the ranks' places are printed; heartbeats cross hosts, and a host that falls off
the network is named.
"""
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, ENVIRONMENT, Job, ProductTest, metrics, train, wait_for_step  # noqa: E402

TAG = f"cap{os.getpid() % 100000}"


def sh(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def must(*command):
    answer = sh(*command)
    if answer.returncode != 0:
        raise OSError(f"{' '.join(command)}: {answer.stderr.strip()}")


class Hosts:
    """Network namespaces that stand for hosts. Leaving a `with` takes them down."""

    def __init__(self, count, folder):
        self.count, self.folder = count, folder
        self.net = f"10.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"

    def __enter__(self):
        try:
            must("ip", "link", "add", f"{TAG}b", "type", "bridge")
            must("ip", "link", "set", f"{TAG}b", "up")
            for host in range(self.count):
                self.add(host)
            self.write_agent()
        except OSError:
            self.__exit__()
            raise
        return self

    def add(self, host):
        name, cable = f"{TAG}-{host}", f"{TAG}v{host}"
        must("ip", "netns", "add", name)
        must("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        must("ip", "link", "set", cable, "master", f"{TAG}b", "up")
        must("ip", "-n", name, "addr", "add", f"{self.net}.{host + 1}/24", "dev", "eth0")
        must("ip", "-n", name, "link", "set", "eth0", "up")
        must("ip", "-n", name, "link", "set", "lo", "up")

    def enter(self, host):
        """What runs a command as if it were on that host."""
        return ["ip", "netns", "exec", f"{TAG}-{host}", "unshare", "--uts", "sh", "-c",
                f'hostname node-{host}; exec "$@"', "sh"]

    def write_agent(self):
        """What mpirun calls instead of ssh: the address, then the words of a command line."""
        self.agent = self.folder / "agent"
        self.agent.write_text(
            f"#!/bin/sh\naddress=$1; shift\nhost=$((${{address##*.}} - 1))\n"
            f"exec ip netns exec {TAG}-$host unshare --uts sh -c \"hostname node-$host; $*\"\n", encoding="utf-8")
        self.agent.chmod(0o755)

    def mpirun(self, ranks_each):
        where = ",".join(f"{self.net}.{host + 1}:{ranks_each}" for host in range(self.count))
        return [*self.enter(0), "mpirun", "-n", str(ranks_each * self.count), "-H", where, "--mca", "plm_rsh_agent",
                str(self.agent), "--mca", "btl", "tcp,self,vader", "--mca", "btl_tcp_if_include", "eth0", "--mca",
                "oob_tcp_if_include", "eth0", "--mca", "pml", "ob1", *self.passed_on()]

    @staticmethod
    def passed_on():
        return [word for name in ("CAPSTAN_FAIL", "OMP_NUM_THREADS") for word in ("-x", name)]

    def cut_off(self, host):
        must("ip", "link", "set", f"{TAG}v{host}", "down")

    def __exit__(self, *_):
        """Whoever still runs on a host keeps its namespace, and the cable's name, in use."""
        for host in range(self.count):
            for pid in sh("ip", "netns", "pids", f"{TAG}-{host}").stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            sh("ip", "link", "del", f"{TAG}v{host}")
            sh("ip", "netns", "del", f"{TAG}-{host}")
        sh("ip", "link", "del", f"{TAG}b")


class JobOnHosts(Job):
    def __init__(self, hosts, ranks_each, config, *settings, env=None):
        self.output = open(hosts.folder / "output", "w+b")
        self.process = subprocess.Popen(
            [*hosts.mpirun(ranks_each), str(BINARY), "train", str(config), *map(str, settings)],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**ENVIRONMENT, "CAPSTAN_FAIL": "none:1:nan", **(env or {})})


def why_not():
    """Why this machine cannot play several hosts, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "unshare"):
        if sh("which", program).returncode != 0:
            return f"there is no program {program}"
    try:
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path("/tmp")
            hosts = Hosts(0, folder)
            hosts.write_agent = lambda: None
            stack.enter_context(hosts)
            hosts.count = 1
            hosts.add(0)
            must(*hosts.enter(0), "true")
    except OSError as error:
        return str(error)
    return ""


class SeveralHosts(ProductTest):
    ONE_THREAD = ("train.threads=1", "train.steps=12", "train.evaluate_every=6", "checkpoint.every=6")

    def settings_of(self, name, *more):
        self.run = self.folder / name
        return self.settings(self.run, *self.ONE_THREAD, *more)

    def same_as_on_one_host(self, count, *layout):
        """Trains on one host and on `count` of one rank each; returns what the latter said."""
        code, output = train(count, self.config, *self.settings_of("one", *layout))
        self.assertEqual(code, 0, output)
        self.assertRegex(output, rf"(?m)^hosts    1 host: \S+ has 0-{count - 1}$")
        alone = metrics(self.run)
        with Hosts(count, self.folder) as hosts:
            with JobOnHosts(hosts, 1, self.config, *self.settings_of("several", *layout)) as job:
                self.assertEqual(job.wait(), 0, job.text())
                text = job.text()
        self.assertRegex(text, r"(?m)^layout .*; mpi$")  # by calls, not through shared memory
        self.assertNotRegex(text, "warning")
        together = metrics(self.run)
        self.assertEqual([row["step"] for row in together], [row["step"] for row in alone])
        for one, several in zip(alone, together):
            self.assertAlmostEqual(one["loss"], several["loss"], delta=1e-5 * one["loss"])
            self.assertAlmostEqual(one["grad_norm"], several["grad_norm"], delta=1e-4 * one["grad_norm"])
        return text

    def test_two_hosts_train_as_one(self):
        text = self.same_as_on_one_host(2)
        self.assertRegex(text, r"(?m)^hosts    2 hosts: node-0 has 0; node-1 has 1$")
        self.assertRegex(text, r"(?m)^hosts    dp crosses hosts$")

    def test_four_hosts_with_a_pipeline_and_divided_state(self):
        text = self.same_as_on_one_host(4, "layout.pp=2", "layout.zero=2", "train.microbatch=2")
        self.assertRegex(text, r"(?m)^hosts    4 hosts: .*node-3 has 3$")
        self.assertRegex(text, r"(?m)^hosts    dp, pp cross hosts$")

    def test_axes_are_told_apart(self):
        with Hosts(2, self.folder) as hosts:
            with JobOnHosts(hosts, 2, self.config, *self.settings_of("run", "layout.tp=2")) as job:
                self.assertEqual(job.wait(), 0, job.text())
                self.assertRegex(job.text(), r"(?m)^hosts    2 hosts: node-0 has 0-1; node-1 has 2-3$")
                self.assertRegex(job.text(), r"(?m)^hosts    tp stays inside a host; dp crosses hosts$")

    def hangs(self, job, who, codes=(76,)):
        since = time.monotonic()
        self.assertIn(job.wait(60), codes, job.text())
        self.assertLess(time.monotonic() - since, 40, job.text())
        self.assertRegex(job.text(), who)

    def test_a_rank_of_another_host_stops(self):
        with Hosts(2, self.folder) as hosts:
            settings = self.settings_of("run", "train.steps=400", "train.hang_seconds=4")
            with JobOnHosts(hosts, 1, self.config, *settings, env={"CAPSTAN_FAIL": "train.microbatch:6:stop@1"}) as job:
                wait_for_step(job, self.run, 5)
                self.hangs(job, r"rank 1 on node-1 \(process \d+\) does not answer, in .*; rank 0 waits in (train \w+|step): "
                                r"(all-reduce|reduce-scatter|all-gather) (dp|over all ranks)")

    def test_a_host_falls_off_the_network(self):
        with Hosts(2, self.folder) as hosts:
            settings = self.settings_of("run", "train.steps=100000", "train.evaluate_every=0", "checkpoint.every=0",
                                        "train.hang_seconds=4")
            with JobOnHosts(hosts, 1, self.config, *settings) as job:
                wait_for_step(job, self.run, 20)
                hosts.cut_off(1)
                # Open MPI waits for its daemon on the lost host; it is killed, which a shell shows as 137.
                self.hangs(job, r"rank 1 on node-1 \(process \d+\) does not answer", codes=(76, -signal.SIGKILL))


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print(f"SKIP: several hosts on this machine: {reason}")
        sys.exit(77)
    unittest.main()

#!/usr/bin/env python3
"""Whether communication over dp travels beside the computation: two ranks in two network namespaces whose link is capped
(tc tbf) so that communication takes about half as long as computation. Per row, in the same rounds:
  computation    the step without a cap and without overlap
  communication  what the cap adds to it without overlap
  step           with the cap and with overlap, as a multiple of the longer of the two
Needs root, network namespaces and tc.   tests/bench/overlap.py [--capstan BIN] [--zero 0 1 2 3] [--rounds 3]
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "launch"))
import hosts_product as hosts_of  # noqa: E402
from hosts_product import Hosts, must, sh, why_not  # noqa: E402

CONFIG = """
[model]
layers = 6
width = 384
heads = 6
context = 256
positions = "rotary"
[train]
steps = {steps}
global_batch = 8
microbatch = 4
threads = 1
log_every = 1
[data]
corpora = ["{corpus}"]
[schedule]
warmup_steps = 1
[checkpoint]
every = 0
"""


def cap(hosts, megabits):
    for host in range(hosts.count):
        cable = f"{hosts_of.TAG}v{host}"
        sh("tc", "qdisc", "del", "dev", cable, "root")
        sh("ip", "netns", "exec", f"{hosts_of.TAG}-{host}", "tc", "qdisc", "del", "dev", "eth0", "root")
        if megabits:
            must("ip", "netns", "exec", f"{hosts_of.TAG}-{host}", "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate",
                 f"{megabits}mbit", "burst", "256kb", "latency", "50ms")


def train(arguments, hosts, folder, name, zero, overlap):
    run = folder / name
    subprocess.run(["rm", "-rf", str(run)], check=True)
    done = subprocess.run(
        [*hosts.mpirun(1), str(arguments.capstan), "train", str(folder / "overlap.toml"), f"run.dir={run}", "layout.dp=2",
         f"layout.zero={zero}", f"layout.overlap={overlap}"],
        capture_output=True, text=True, env={**hosts_of.ENVIRONMENT, "CAPSTAN_FAIL": "none:1:nan", "OMP_NUM_THREADS": "1"},
        check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step_seconds"] for line in lines if "step_seconds" in line]
    return statistics.median(steps[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capstan", type=pathlib.Path, default=hosts_of.BINARY)
    parser.add_argument("--zero", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--megabits", type=int, default=0, help="of the link; 0: so that ZeRO 1 communicates half the time")
    arguments = parser.parse_args()
    if why_not():
        raise SystemExit(why_not())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        text = folder / "text"
        text.write_bytes(b"".join(bytes(97 + (i * i + j) % 26 for j in range(79)) + b"\n" for i in range(20000)))
        subprocess.run([str(arguments.capstan), "corpus", "build", "--out", str(folder / "corpus"), "--tokenizer", "bytes",
                        str(text)], check=True, capture_output=True)
        (folder / "overlap.toml").write_text(CONFIG.format(steps=arguments.steps, corpus=folder / "corpus"))
        with Hosts(2, folder) as hosts:
            measure(arguments, hosts, folder)


def measure(arguments, hosts, folder):
    megabits = arguments.megabits
    if megabits == 0:
        cap(hosts, 0)
        free = train(arguments, hosts, folder, "free", 1, "off")
        cap(hosts, 400)
        slow = train(arguments, hosts, folder, "slow", 1, "off") - free
        megabits = max(20, round(400 * slow / (free / 2)))
    print(f"link {megabits} Mbit/s, {arguments.rounds} rounds of {arguments.steps} steps, medians")
    print(f"{'zero':>4} {'computation':>12} {'communication':>14} {'one after another':>18} {'overlapped':>11} {'multiple':>9}")
    for zero in arguments.zero:
        rows = []
        for _ in range(arguments.rounds):
            cap(hosts, 0)
            free = train(arguments, hosts, folder, "free", zero, "off")
            cap(hosts, megabits)
            one_after_another = train(arguments, hosts, folder, "off", zero, "off")
            beside = train(arguments, hosts, folder, "on", zero, "on")
            rows.append((free, one_after_another - free, one_after_another, beside,
                         beside / max(free, one_after_another - free)))
        middle = [statistics.median(column) for column in zip(*rows)]
        print(f"{zero:>4} {middle[0]:>10.3f} s {middle[1]:>12.3f} s {middle[2]:>16.3f} s {middle[3]:>9.3f} s {middle[4]:>9.2f}",
              flush=True)


if __name__ == "__main__":
    main()

"""What the product tests share: the program, text to train on, runs under mpirun, and their metrics.

Text is made up here (a small grammar over a few hundred words, seeded), so that tests need no network and no files.
"""
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import tempfile
import time
import unittest

SOURCE = pathlib.Path(os.environ.get("CAPSTAN_SOURCE") or pathlib.Path(__file__).resolve().parents[2])
BINARY = pathlib.Path(os.environ.get("CAPSTAN_BINARY") or SOURCE / "build" / "capstan")
TIMEOUT = 120  # seconds after which a process counts as hung

ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMP_NUM_THREADS": "1"}

CONFIG = """
[model]
layers = 2
width = 32
heads = 2
context = 32

[optimizer]
learning_rate = 3e-3

[schedule]
warmup_steps = 4

[train]
steps = 24
global_batch = 8
microbatch = 4
evaluate_every = 12
evaluate_samples = 16
seed = 7

[checkpoint]
every = 8
"""


def made_up_text(documents, seed=1):
    """Documents of a few hundred to a few thousand bytes each."""
    source = random.Random(seed)
    sounds = ["ba", "ke", "lo", "mi", "nu", "ra", "si", "to", "ve", "wo", "sh", "an", "er", "in", "ou", "st"]
    nouns, verbs = (["".join(source.choice(sounds) for _ in range(source.randint(1, 3))) for _ in range(150)]
                    for _ in range(2))
    for _ in range(documents):
        sentences = [f"The {source.choice(nouns)} {source.choice(verbs)} a {source.choice(nouns)}."
                     for _ in range(source.randint(10, 60))]
        yield " ".join(sentences) + "\n"


def write_text(folder, documents=120, seed=1):
    folder.mkdir(parents=True)
    for number, text in enumerate(made_up_text(documents, seed)):
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
    return folder


def capstan(*arguments, env=None, ranks=0, **options):
    """Runs the program alone, or under mpirun. Returns the finished process with its output as text."""
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 0 else []
    return subprocess.run([*launcher, str(BINARY), *map(str, arguments)], capture_output=True, timeout=TIMEOUT, encoding="utf-8",
                          errors="replace", stdin=subprocess.DEVNULL, env={**ENVIRONMENT, **(env or {})}, check=False,
                          **options)


def build_corpus(out, text, *more):
    answer = capstan("corpus", "build", "--out", out, "--tokenizer", "bytes", *more, text)
    if answer.returncode != 0:
        raise AssertionError(f"corpus build ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}")
    return out


class Job:
    """`capstan train` under mpirun, in the background. Leaving a `with` ends what is still running.
    wrapper: what each rank starts instead, with the program and its arguments behind it."""

    def __init__(self, ranks, config, *settings, env=None, wrapper=()):
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            ["mpirun", "-n", str(ranks), *map(str, wrapper), str(BINARY), "train", str(config), *map(str, settings)],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**ENVIRONMENT, **(env or {})})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.output.close()

    def rank_pids(self):
        """Processes of the ranks, in no order: children of mpirun that run the program."""
        pids = []
        for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
                program = os.readlink(status.parent / "exe")
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and program == str(BINARY.resolve()):
                pids.append(int(status.parent.name))
        return sorted(pids)

    def wait(self, timeout=TIMEOUT):
        """Exit code. A job that hangs is ended and reported with what it said."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {timeout} s. It said:\n{self.text()}") from None

    def text(self):
        self.output.seek(0)
        return self.output.read().decode("utf-8", errors="replace")

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def train(ranks, config, *settings, env=None):
    """Runs a job to its end. Returns (exit code, output)."""
    with Job(ranks, config, *settings, env=env) as job:
        return job.wait(), job.text()


def metrics(run):
    """The steps of metrics.jsonl as parsed, each with the unparsed digits of its numbers under "digits"."""
    path = pathlib.Path(run) / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.endswith("}"):
            rows.append({**json.loads(line), "digits": dict(re.findall(r'"(\w+)":\s*([^,}\s]+)', line))})
    return rows


def wait_for_step(job, run, step):
    """Waits until a running job has logged this step."""
    limit = time.monotonic() + TIMEOUT
    while time.monotonic() < limit:
        rows = metrics(run)
        if rows and rows[-1]["step"] >= step:
            return
        if job.process.poll() is not None:
            raise AssertionError(f"ended with {job.process.returncode} before step {step}:\n{job.text()}")
        time.sleep(0.02)
    job.kill()
    raise AssertionError(f"step {step} did not come within {TIMEOUT} s:\n{job.text()}")


def checkpoints(run):
    """Steps of the complete checkpoints of a run, in order."""
    folders = pathlib.Path(run, "checkpoints").glob("step-*")
    return sorted(int(match.group(1)) for match in (re.fullmatch(r"step-0*(\d+)", path.name) for path in folders)
                  if match)


def numbers(rows, *keys):
    """What must repeat to the last digit: step, loss, norm and learning rate as they were written."""
    keys = keys or ("step", "loss", "grad_norm", "learning_rate")
    return [tuple(row["digits"].get(key) for key in keys) for row in rows]


class ProductTest(unittest.TestCase):
    """A folder that all tests of the class share, with text, corpus and config made once, and one folder a test."""

    documents = 120
    config_text = CONFIG

    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory(prefix="capstan-product-")
        cls.addClassCleanup(holder.cleanup)
        cls.shared = pathlib.Path(holder.name)
        cls.text = write_text(cls.shared / "text", cls.documents)
        cls.corpus = build_corpus(cls.shared / "corpus", cls.text)
        cls.config = cls.shared / "run.toml"
        cls.config.write_text(cls.config_text, encoding="utf-8")

    def setUp(self):
        self.folder = self.shared / self._testMethodName
        self.folder.mkdir()

    def settings(self, run, *more):
        return [f"data.corpora={self.corpus}", f"run.dir={run}", *more]

    def trained(self, name, *more, ranks=2, code=0, env=None):
        """Runs a training in this test's folder; checks its exit code; returns its run directory."""
        run = self.folder / name
        got, output = train(ranks, self.config, *self.settings(run, *more), env=env)
        self.assertEqual(got, code, output)
        return run

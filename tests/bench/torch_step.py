#!/usr/bin/env python3
"""Training speed of the same GPT in PyTorch on this machine's processors: the peer beside `capstan bench step`.

    torch_step.py [--capstan BINARY] [--python EXE]... [--rows REGEX] [--rounds 5] [--steps 6] [--list]

With --capstan the same rows are measured by `capstan bench step` too, in the same rounds. Each --python is an interpreter that has torch (the distribution's, a virtual environment with a newer one). A row is a
model, batch, sequence length, dtype, ranks, and eager or compiled. Every round measures every row once, in a process of
its own, so that a drift of the clock meets all alike; the result is the median over the rounds. One JSON object a line:
first each measurement, at the end each row's median ("rounds" tells how many it is of).

The environment is the tuned one: one OpenMP pool for everything (OpenBLAS's OpenMP build where that is what torch
uses), the widest kernels of this processor, and memory that is not given back to the kernel after each step. --stock
leaves the environment alone. AdamW is the fused one where this torch has it for processors.

The model: pre-norm, learned positions, tanh GELU, biases, tied head, cross-entropy, no dropout. Tokens are random.
"""
import argparse
import itertools
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

MODELS = {"10m": {"layers": 6, "heads": 6, "width": 384, "vocabulary": 4096, "context": 256},
          "124m": {"layers": 12, "heads": 12, "width": 768, "vocabulary": 50257, "context": 1024}}
SHAPES = [("10m", 8, 256), ("124m", 4, 64), ("124m", 4, 256)]
OPENBLAS_OPENMP = pathlib.Path("/usr/lib/x86_64-linux-gnu/openblas-openmp")


def rows():
    for (model, batch, seq), dtype, ranks, mode in itertools.product(SHAPES, ("fp32", "bf16"), (1, 2),
                                                                     ("eager", "compile")):
        name = f"{model}-b{batch}-t{seq}-{dtype}-{'2x1' if ranks == 2 else '1x2'}-{mode}"
        yield {"name": name, "model": model, "batch": batch, "seq": seq, "dtype": dtype, "ranks": ranks,
               "threads": 2 // ranks, "mode": mode}


# ---- one measurement, in a process of its own ------------------------------------------------------------------------

def model_class():
    import math

    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def attention(self, x):
            batch, seq, width = x.shape
            q, k, v = (part.view(batch, seq, self.heads, width // self.heads).transpose(1, 2)
                       for part in self.qkv(x).split(width, dim=2))
            if hasattr(functional, "scaled_dot_product_attention"):
                y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
                future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
                y = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
            return self.out(y.transpose(1, 2).reshape(batch, seq, width))

        def forward(self, x):
            x = x + self.attention(self.attention_norm(x))
            return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self, layers, heads, width, vocabulary, context):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, 0, 0.02)

        def forward(self, inputs, targets):
            x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.norm(x), self.tokens.weight)
            return functional.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))

    return Gpt


def adamw(parameters):
    import torch
    for choice in ({"fused": True}, {"foreach": False}):
        try:
            return torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **choice), str(choice)
        except (RuntimeError, TypeError, ValueError):
            continue
    raise RuntimeError("this torch has no AdamW for processors")


def measure(row, rank):
    import torch
    torch.set_num_threads(row["threads"])
    torch.manual_seed(1)
    config = MODELS[row["model"]]
    model = model_class()(**config)
    if row["ranks"] > 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]})
        torch.distributed.init_process_group("gloo", rank=rank, world_size=row["ranks"])
        model = torch.nn.parallel.DistributedDataParallel(model)
    run = torch.compile(model) if row["mode"] == "compile" else model
    optimizer, kind = adamw(model.parameters())
    generator = torch.Generator().manual_seed(7 + rank)
    batch, times = row["batch"] // row["ranks"], []
    for step in range(row["steps"] + row["warmup"]):
        data = (torch.rand(batch, row["seq"] + 1, generator=generator) ** 3 * config["vocabulary"]).long()
        inputs, targets = data[:, :-1].contiguous(), data[:, 1:].contiguous()
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=row["dtype"] == "bf16"):
            loss = run(inputs, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = loss.item()
        if step >= row["warmup"]:  # the first compile, or touch their memory
            times.append(time.perf_counter() - start)
    if row["ranks"] > 1:
        torch.distributed.destroy_process_group()
    if rank == 0:
        seconds = statistics.median(times)
        print(json.dumps({"torch": torch.__version__, "adamw": kind, "loss": round(loss, 4),
                          "step_seconds": round(seconds, 5),
                          "tokens_per_second": round(row["batch"] * row["seq"] / seconds, 1)}), flush=True)


# ---- the rounds ------------------------------------------------------------------------------------------------------

def library_folders(python):
    """Folders of shared libraries that lie beside this interpreter's torch but that nothing tells the loader of."""
    found = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                           capture_output=True, text=True, check=True).stdout.strip()
    return [str(folder) for folder in sorted(pathlib.Path(found).glob("nvidia/*/lib"))]


def environment(row, python, stock):
    env = dict(os.environ, OMP_NUM_THREADS=str(row["threads"]), CUDA_VISIBLE_DEVICES="", GLOO_SOCKET_IFNAME="lo")
    folders = library_folders(python)
    if not stock:
        wide = "avx512f" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        env.update({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"})
        if wide:
            env.update({"OPENBLAS_CORETYPE": "SKYLAKEX", "ATEN_CPU_CAPABILITY": "avx512"})
        if OPENBLAS_OPENMP.is_dir():
            folders.insert(0, str(OPENBLAS_OPENMP))
    if folders:
        env["LD_LIBRARY_PATH"] = ":".join(folders + env.get("LD_LIBRARY_PATH", "").split(":")).rstrip(":")
    return env


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def one_round(row, python, stock):
    """Runs one row once: its ranks as processes. Returns the object that rank 0 prints, or the error."""
    env = environment(row, python, stock)
    env.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())})
    command = [python, "-B", __file__, "--measure", json.dumps(row)]
    ranks = [subprocess.Popen([*command, "--rank", str(rank)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) for rank in range(row["ranks"])]
    outputs = [process.communicate() for process in ranks]
    if any(process.returncode for process in ranks):
        return {"error": next(err for process, (_, err) in zip(ranks, outputs) if process.returncode)[-500:]}
    return json.loads(outputs[0][0].splitlines()[-1])


def capstan_round(row, binary):
    """The same row by `capstan bench step`. Returns what one_round returns, and the ceiling of the same run."""
    preset = {"10m": "small-10m", "124m": "gpt2-124m"}[row["model"]]
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as config:
        config.write(f'[model]\npreset = "{preset}"\ncontext = {row["seq"]}\n'
                     f'[train]\nglobal_batch = {row["batch"]}\nsteps = 100\nprecision = "{row["dtype"]}"\n')
        config.flush()
        command = [binary, "bench", "step", config.name, f'model.vocabulary={MODELS[row["model"]]["vocabulary"]}',
                   "--rounds", str(row["steps"]), "--warmup", "2"]
        if row["ranks"] > 1:
            command = ["mpirun", "-n", str(row["ranks"]), *command]
        env = dict(os.environ, OMP_NUM_THREADS=str(row["threads"]), OMPI_ALLOW_RUN_AS_ROOT="1",
                   OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr or done.stdout)[-500:]}
    figures = dict(re.findall(r"^(tokens/s|GFLOP/s|ceiling)\s+([0-9.]+)", done.stdout, re.MULTILINE))
    return {"torch": "capstan", "tokens_per_second": float(figures["tokens/s"]),
            "gflops": float(figures["GFLOP/s"]), "ceiling": float(figures["ceiling"])}


def has_compile(python):
    code = "import torch; print(hasattr(torch, 'compile'))"
    env = environment({"threads": 1}, python, True)
    return subprocess.run([python, "-c", code], env=env, capture_output=True, text=True,
                          check=False).stdout.strip() == "True"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capstan", metavar="BINARY", help="measure this binary in the same rounds")
    parser.add_argument("--python", action="append", help="an interpreter that has torch; without it and --capstan: this one")
    parser.add_argument("--rows", default="", help="only rows whose name matches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a measurement")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--stock", action="store_true", help="leave the environment as it is")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(json.loads(arguments.measure), arguments.rank)
        return
    chosen = [dict(row, steps=arguments.steps, warmup=arguments.warmup) for row in rows() if re.search(arguments.rows, row["name"])]
    if arguments.list:
        print("\n".join(row["name"] for row in chosen))
        return
    pythons = arguments.python or ([] if arguments.capstan else [sys.executable])
    jobs = [(row, python) for python in pythons for row in chosen if row["mode"] == "eager" or has_compile(python)]
    if arguments.capstan:
        distinct = {row["name"].rsplit("-", 1)[0]: row for row in chosen}
        jobs = [(dict(row, name=name, mode="capstan"), arguments.capstan) for name, row in distinct.items()] + jobs
    jobs.sort(key=lambda job: job[0]["name"])  # a row's measurements one after the other
    results = {}
    for number in range(arguments.rounds):
        for row, python in jobs:
            if row["mode"] == "capstan":
                found = capstan_round(row, python)
            else:
                found = one_round(row, python, arguments.stock)
            print(json.dumps({"round": number, "row": row["name"], "python": python, **found}), flush=True)
            results.setdefault((row["name"], python), []).append(found)
    for (name, python), found in results.items():
        good = [item for item in found if "error" not in item]
        if good:
            speeds = [item["tokens_per_second"] for item in good]
            print(json.dumps({"row": name, "python": python, "torch": good[0]["torch"], "rounds": len(good),
                              "tokens_per_second": statistics.median(speeds), "least": min(speeds),
                              "most": max(speeds),
                              **{key: statistics.median(item[key] for item in good)
                                 for key in ("gflops", "ceiling") if key in good[0]}}), flush=True)
    sys.exit(0 if all("error" not in item for found in results.values() for item in found) else 1)


if __name__ == "__main__":
    main()

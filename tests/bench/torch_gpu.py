#!/usr/bin/env python3
"""Training speed on one GPU: `capstan bench step` and PyTorch, the same models on the same device in the same rounds.

    torch_gpu.py --capstan build/capstan [--python EXE] [--rows REGEX] [--rounds 5] [--json FILE] [--table FILE]
    torch_gpu.py --list
    torch_gpu.py --capstan build/capstan --device cpu --tiny     two small models on processors: that all of it works

Every round measures every row, capstan and each way of PyTorch one after the other, each in a process of its own, so
that a drift of the clock meets all alike; a result is the median of the rounds with the least and the most. PyTorch is
compiled (torch.compile over model and loss), its attention is scaled_dot_product_attention held to the flash and cuDNN
kernels, AdamW is the fused one, gradients are clipped by their norm, and precision is one of
  autocast   fp32 parameters, products in bf16 (torch.autocast)
  masters    bf16 parameters and gradients, fp32 masters and moments, as capstan holds them
so that the faster one of the two is what capstan is held against. Tokens are random; no dropout; no recomputation.

MFU is model FLOPs (a multiply-add is two, causal attention counted as the half it needs) over the published dense peak.
One JSON object a line goes to standard output: each measurement, then each row's median; the table is Markdown.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

GPT2 = {"kind": "gpt", "vocabulary": 50257}
LLAMA = {"kind": "llama", "vocabulary": 32000}
MODELS = {
    "gpt2-124m": {**GPT2, "layers": 12, "width": 768, "heads": 12, "hidden": 3072},
    "gpt2-1558m": {**GPT2, "layers": 48, "width": 1600, "heads": 25, "hidden": 6400},
    "llama-1.3b": {**LLAMA, "layers": 24, "width": 2048, "heads": 16, "hidden": 5504},
    "llama2-7b": {**LLAMA, "layers": 32, "width": 4096, "heads": 32, "hidden": 11008},
}
ROWS = [  # model, layers (0: all), sequences a step, their length
    ("gpt2-124m", 0, 32, 1024), ("gpt2-1558m", 0, 8, 1024), ("llama-1.3b", 0, 8, 2048), ("llama-1.3b", 0, 4, 4096),
    ("llama2-7b", 6, 4, 2048), ("llama2-7b", 6, 2, 4096)]
TINY = [("gpt2-124m", 1, 2, 32), ("llama2-7b", 1, 2, 32)]  # and narrow
PEAKS = [("GB200", "", 2500), ("B200", "", 2250), ("GH200", "", 989.4), ("H200", "NVL", 835), ("H200", "", 989.4),
         ("H100", "PCIe", 756), ("H100", "NVL", 835), ("H100", "", 989.4), ("A100", "", 312)]  # TFLOP/s, dense bf16


def rows(tiny):
    for name, layers, batch, seq in TINY if tiny else ROWS:
        model = dict(MODELS[name], seq=seq)
        if layers:
            model["layers"] = layers
        if tiny:
            model.update(width=64, heads=4, hidden=256 if model["kind"] == "gpt" else 172, vocabulary=512)
        cut = "" if not layers else f"-{layers}l"
        yield {"name": f"{name}{cut}-b{batch}-t{seq}", "preset": name, "model": model, "batch": batch, "seq": seq}


def parameters_in_products(model):
    width, hidden = model["width"], model["hidden"]
    mlp = 2 * width * hidden if model["kind"] == "gpt" else 3 * width * hidden
    return model["layers"] * (4 * width * width + mlp) + model["vocabulary"] * width


def flops_per_token(model):
    attention = 2 * model["seq"] * model["width"] * model["layers"]  # two products, half of them masked
    return 3 * (2 * parameters_in_products(model) + attention)


def peak_of(device):
    """FLOP/s in bf16, or None for a device that is not known here."""
    for word, variant, tera in PEAKS:
        if re.search(rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])", device) and variant in device:
            return tera * 1e12
    return None


# ---- one measurement of PyTorch, in a process of its own --------------------------------------------------------------

def decoder_class():
    import torch
    from torch import nn
    from torch.nn import functional

    def turned(x, cos, sin):
        low, high = x.chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

    class Block(nn.Module):
        def __init__(self, model):
            super().__init__()
            width, gpt = model["width"], model["kind"] == "gpt"
            norm = (lambda: nn.LayerNorm(width)) if gpt else (lambda: nn.RMSNorm(width, eps=1e-5))
            self.heads, self.gpt = model["heads"], gpt
            self.attention_norm, self.mlp_norm = norm(), norm()
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=gpt), nn.Linear(width, width, bias=gpt)
            self.up = nn.Linear(width, model["hidden"] * (1 if gpt else 2), bias=gpt)  # gate and up in one product
            self.down = nn.Linear(model["hidden"], width, bias=gpt)

        def attention(self, x, cos, sin):
            batch, seq, width = x.shape
            q, k, v = (part.view(batch, seq, self.heads, width // self.heads).transpose(1, 2)
                       for part in self.qkv(x).split(width, dim=2))
            if cos is not None:
                q, k = turned(q, cos, sin), turned(k, cos, sin)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(batch, seq, width))

        def mlp(self, x):
            if self.gpt:
                return self.down(functional.gelu(self.up(x), approximate="tanh"))
            gate, up = self.up(x).chunk(2, dim=-1)
            return self.down(functional.silu(gate) * up)

        def forward(self, x, cos, sin):
            x = x + self.attention(self.attention_norm(x), cos, sin)
            return x + self.mlp(self.mlp_norm(x))

    class Decoder(nn.Module):
        def __init__(self, model):
            super().__init__()
            width, size = model["width"], model["width"] // model["heads"]
            padded = (model["vocabulary"] + 127) // 128 * 128  # a whole number of tiles
            self.gpt, self.vocabulary = model["kind"] == "gpt", model["vocabulary"]
            self.tokens = nn.Embedding(padded, width)
            self.blocks = nn.ModuleList(Block(model) for _ in range(model["layers"]))
            self.norm = nn.LayerNorm(width) if self.gpt else nn.RMSNorm(width, eps=1e-5)
            self.head = nn.Linear(width, padded, bias=False)
            if self.gpt:
                self.positions = nn.Embedding(model["seq"], width)
                self.head.weight = self.tokens.weight
            else:
                angles = torch.outer(torch.arange(model["seq"]).float(),
                                     10000.0 ** (-torch.arange(0, size, 2).float() / size))
                self.register_buffer("cos", angles.cos(), persistent=False)
                self.register_buffer("sin", angles.sin(), persistent=False)
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, 0, 0.02)

        def forward(self, inputs, targets):
            x, cos, sin = self.tokens(inputs), None, None
            if self.gpt:
                x = x + self.positions.weight[: inputs.shape[1]]
            else:
                cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
            for block in self.blocks:
                x = block(x, cos, sin)
            logits = self.head(self.norm(x))
            return functional.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))

    return Decoder


class Masters:
    """fp32 masters of bf16 parameters: the fused AdamW works on them."""

    def __init__(self, parameters):
        import torch
        self.torch, self.working = torch, list(parameters)
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in self.working]

    def before(self):
        for master, working in zip(self.masters, self.working):
            if master.grad is None:
                master.grad = self.torch.empty_like(master)
        self.torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in self.working])

    def after(self):
        with self.torch.no_grad():
            self.torch._foreach_copy_(self.working, self.masters)


def measure(row):
    import contextlib

    import torch
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    device, cuda = row["device"], row["device"] == "cuda"
    model = decoder_class()(row["model"]).to(device)
    masters = None
    if row["mode"] == "masters":
        model = model.to(torch.bfloat16)
        masters = Masters(model.parameters())
    trained = masters.masters if masters else list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if row["compile"] else model
    flash = contextlib.nullcontext
    if cuda:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        flash = lambda: sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION])  # noqa: E731
    wait = torch.cuda.synchronize if cuda else lambda: None
    batches = [(torch.rand(row["batch"], row["seq"] + 1, device=device) ** 3 * row["model"]["vocabulary"]).long()
               for _ in range(4)]
    times, loss = [], None
    for step in range(row["warmup"] + row["steps"]):
        data = batches[step % len(batches)]
        inputs, targets = data[:, :-1].contiguous(), data[:, 1:].contiguous()
        wait()
        start = time.perf_counter()
        with flash(), torch.autocast(device, dtype=torch.bfloat16, enabled=masters is None):
            loss = run(inputs, targets)
        loss.backward()
        if masters:
            masters.before()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        if masters:
            masters.after()
        model.zero_grad(set_to_none=True)
        wait()
        if step >= row["warmup"]:  # the first compile and choose kernels
            times.append(time.perf_counter() - start)
    print(json.dumps({
        "loss": round(loss.item(), 4), "torch": torch.__version__,
        "device_name": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        "tokens_per_second": row["batch"] * row["seq"] / statistics.median(times)}), flush=True)


# ---- the rounds ------------------------------------------------------------------------------------------------------

def failure(done):
    return {"error": (done.stderr or done.stdout).strip()[-700:]}


def torch_round(row, mode, arguments):
    job = dict(row, mode=mode, device=arguments.device, compile=not arguments.eager, steps=arguments.steps,
               warmup=arguments.warmup)
    done = subprocess.run([arguments.python, "-B", __file__, "--measure", json.dumps(job)], capture_output=True,
                          text=True, check=False)
    return failure(done) if done.returncode else json.loads(done.stdout.splitlines()[-1])


def config_of(row, arguments):
    model = row["model"]
    shape = "".join(f"{key} = {model[key]}\n" for key in ("layers", "width", "heads", "hidden", "vocabulary"))
    if model["kind"] == "llama":
        shape += f"kv_heads = {model['heads']}\n"
    return (f'[model]\npreset = "{row["preset"]}"\ncontext = {row["seq"]}\n{shape}'
            f'[train]\nglobal_batch = {row["batch"]}\nmicrobatch = {row["batch"]}\nsteps = 100\nprecision = "bf16"\n'
            f'device = "{arguments.device}"\n[data]\ndocument_mask = false\n')


def capstan_round(row, arguments):
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as config:
        config.write(config_of(row, arguments))
        config.flush()
        done = subprocess.run([arguments.capstan, "bench", "step", config.name, "--rounds", str(arguments.steps),
                               "--warmup", str(arguments.warmup)], capture_output=True, text=True, check=False,
                              env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"))
    if done.returncode:
        return failure(done)
    figures = dict(re.findall(r"^(tokens/s|GFLOP/s|ceiling)\s+([0-9.]+)", done.stdout, re.MULTILINE))
    if len(figures) < 3:
        return {"error": "not the output of bench step: " + done.stdout[-300:]}
    return {"tokens_per_second": float(figures["tokens/s"]), "gflops": float(figures["GFLOP/s"]),
            "ceiling_gflops": float(figures["ceiling"]), "profile": done.stdout}


def summary(found):
    """Median and spread of the rounds that worked; the last error when none did."""
    good = [item for item in found if "error" not in item]
    if not good:
        return {"error": found[-1]["error"]}
    speeds = [item["tokens_per_second"] for item in good]
    result = {"rounds": len(good), "tokens_per_second": statistics.median(speeds), "least": min(speeds),
              "most": max(speeds)}
    for key in ("torch", "device_name", "memory_gib"):
        if good[0].get(key) is not None:
            result[key] = good[0][key]
    for key in ("gflops", "ceiling_gflops"):
        if key in good[0]:
            result[key] = statistics.median(item[key] for item in good)
    return result


def speed_text(result):
    if "error" in result:
        return "failed: " + result["error"].splitlines()[-1][:60]
    return f"{result['tokens_per_second']:.0f} ({result['least']:.0f}-{result['most']:.0f})"


def share_text(result, row, ceiling):
    if "error" in result or not ceiling:
        return "-"
    return f"{100 * result['tokens_per_second'] * flops_per_token(row['model']) / ceiling:.1f}%"


def table(chosen, results, modes, peak):
    ways = ["capstan", *modes]
    head = ["model, batch, sequence", *(f"{way}, tokens/s" for way in ways), *(f"MFU {way}" for way in ways),
            "measured product ceiling, TFLOP/s", "capstan's share of it", "against the best"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in chosen:
        found = {way: results.get((row["name"], way), {"error": "not run"}) for way in ways}
        ours, ceiling = found["capstan"], found["capstan"].get("ceiling_gflops")
        theirs = [found[mode]["tokens_per_second"] for mode in modes if "error" not in found[mode]]
        ratio = f"{ours['tokens_per_second'] / max(theirs):.2f}" if theirs and "error" not in ours else "-"
        cells = [row["name"], *(speed_text(found[way]) for way in ways),
                 *(share_text(found[way], row, peak) for way in ways), f"{ceiling / 1e3:.1f}" if ceiling else "-",
                 share_text(ours, row, ceiling * 1e9 if ceiling else None), ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_rounds(chosen, arguments, modes):
    found = {}
    for number in range(arguments.rounds):
        for row in chosen:
            jobs = [("capstan", lambda r: capstan_round(r, arguments))] if arguments.capstan else []
            jobs += [(mode, lambda r, m=mode: torch_round(r, m, arguments)) for mode in modes]
            for way, job in jobs:
                one = job(row)
                found.setdefault((row["name"], way), []).append(one)
                print(json.dumps({"round": number, "row": row["name"], "way": way, **one}), flush=True)
    return {key: summary(items) for key, items in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capstan", metavar="BINARY", help="measure this binary in the same rounds")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch; default: this one")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--modes", nargs="*", choices=("autocast", "masters"), default=["autocast", "masters"])
    parser.add_argument("--rows", default="", help="only rows whose name matches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a measurement")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--tiny", action="store_true", help="two small models: that all of it works")
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--json", type=pathlib.Path, help="all results, for programs")
    parser.add_argument("--table", type=pathlib.Path, help="the table, for docs/benchmarks.md")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(json.loads(arguments.measure))
        return 0
    chosen = [row for row in rows(arguments.tiny) if re.search(arguments.rows, row["name"])]
    if arguments.list:
        print("\n".join(row["name"] for row in chosen))
        return 0
    results = run_rounds(chosen, arguments, arguments.modes)
    names = {item["device_name"] for item in results.values() if "device_name" in item}
    peak = next((peak_of(name) for name in sorted(names)), None)
    merged = [{"row": name, "way": way, **result} for (name, way), result in results.items()]
    for item in merged:
        print(json.dumps(item), flush=True)
    text = table(chosen, results, arguments.modes, peak)
    told = f"{', '.join(sorted(names)) or 'unknown device'}; " + (
        f"published dense peak {peak * 1e-12:.1f} TFLOP/s" if peak else "its published peak is not known here")
    print(f"\n{told}\n\n{text}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"devices": sorted(names), "peak": peak, "results": merged}, indent=1) + "\n",
                                  encoding="utf-8")
    if arguments.table:
        arguments.table.write_text(f"{told}\n\n{text}\n", encoding="utf-8")
    return 1 if any("error" in result for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

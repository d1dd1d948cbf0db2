#!/usr/bin/env python3
# label: slow
# timeout: 900
"""tests/bench/torch_gpu.py end to end on processors: every way of every small row is measured, the count of FLOPs is
capstan's, and the table and the JSON hold what was measured. CAPSTAN_TORCH_PYTHON: an interpreter that has PyTorch."""
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(os.environ.get("CAPSTAN_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
BINARY = os.environ.get("CAPSTAN_BINARY", str(SOURCE / "build" / "capstan"))
SCRIPT = SOURCE / "tests" / "bench" / "torch_gpu.py"


def require(condition, what):
    if not condition:
        sys.exit(what)


def the_script():
    spec = importlib.util.spec_from_file_location("torch_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_peaks(script):
    for name, tera in (("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 80GB HBM3", 989.4),
                       ("NVIDIA H200", 989.4), ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500)):
        require(script.peak_of(name) == tera * 1e12, f"peak of {name}: {script.peak_of(name)}")
    for name in ("NVIDIA RTX A1000", "cpu", "NVIDIA GeForce RTX 4090"):
        require(script.peak_of(name) is None, f"{name} has no peak")


def main():
    script = the_script()
    check_peaks(script)
    python = os.environ.get("CAPSTAN_TORCH_PYTHON", sys.executable)
    has = "import torch; torch.nn.RMSNorm; torch.nn.functional.scaled_dot_product_attention"
    if subprocess.run([python, "-c", has], capture_output=True, check=False).returncode != 0:
        print(f"SKIP: {python} has no PyTorch of 2.4 or later; CAPSTAN_TORCH_PYTHON names one that has")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        done = subprocess.run(
            [sys.executable, "-B", SCRIPT, "--capstan", BINARY, "--python", python, "--device", "cpu", "--tiny", "--eager",
             "--rounds", "1", "--steps", "1", "--warmup", "1", "--json", out / "all.json", "--table", out / "table.md"],
            capture_output=True, text=True, check=False)
        require(done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:])
        results = json.loads((out / "all.json").read_text(encoding="utf-8"))["results"]
        table = (out / "table.md").read_text(encoding="utf-8")
    shapes = {row["name"]: row for row in script.rows(True)}
    require({(item["row"], item["way"]) for item in results} ==
            {(name, way) for name in shapes for way in ("capstan", "autocast", "masters")}, f"measured: {results}")
    for item in results:
        require(item["least"] <= item["tokens_per_second"] <= item["most"] and item["least"] > 0, f"{item}")
        require(item["row"] in table, f"{item['row']} is not in the table")
        if item["way"] != "capstan":
            continue
        counted = item["gflops"] * 1e9 / item["tokens_per_second"]
        ratio = counted / script.flops_per_token(shapes[item["row"]]["model"])
        require(0.9 < ratio < 1.5, f"{item['row']}: capstan counts {ratio:.2f} times the FLOPs of the script")
    print("ok")


if __name__ == "__main__":
    main()

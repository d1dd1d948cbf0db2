#!/usr/bin/env python3
# label: slow
# timeout: 4000
"""Fuzzes the readers of weight files with libFuzzer under the address and undefined-behaviour sanitizers.

CAPSTAN_FUZZ_SECONDS says how long each of the four targets runs (120); names as arguments choose among them. Skipped
where clang++ is missing. Seeds are the fixtures; what is found is left in build/fuzz and is a failure.
"""
import concurrent.futures
import os
import pathlib
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import SOURCE, capstan  # noqa: E402

BUILD = pathlib.Path(os.environ.get("CAPSTAN_BUILD") or SOURCE / "build")
WORK = BUILD / "fuzz"
SECONDS = int(os.environ.get("CAPSTAN_FUZZ_SECONDS", "120"))
TARGETS = {"safetensors": 1, "index": 2, "config": 3, "gguf": 4}
FLAGS = ["-std=c++20", "-O1", "-g", "-w", "-fno-sanitize-recover=undefined"]
GOLDEN = SOURCE / "tests" / "io" / "golden" / "weights"
# What reads: instrumented. The rest is linked as the build made it.
READERS = ["safetensors.cpp", "json_events.cpp", "weights/safetensors_directory.cpp", "weights/families.cpp",
           "weights/family_rows.cpp", "weights/family_config.cpp", "weights/family_config_writer.cpp",
           "weights/model_settings.cpp", "weights/tensor_map.cpp", "weights/gguf.cpp", "weights/config_member.cpp",
           "weights/config_members.cpp", "weights/rope_members.cpp", "weights/layer_kinds.cpp",
           "weights/window_rule.cpp", "printable.cpp"]


def run(*command):
    answer = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            encoding="utf-8", errors="replace", check=False)
    return answer.returncode, answer.stdout


def linked_libraries():
    """The libraries of a test of floor io, as the build links them: all that follows its object file."""
    code, text = run("ninja", "-C", BUILD, "-t", "commands", "io_safetensors_test")
    link = text.strip().splitlines()[-1].split("&&")[1].split()
    at = link.index("-o") + 2
    return [str(BUILD / part) if part.endswith(".a") and not part.startswith("/") else part for part in link[at:]
            if "gtest" not in part and "gmock" not in part]


def compile_readers(clang):
    includes = [f"-I{BUILD}/floors/{floor}" for floor in ("io", "core", "kernels")] + [f"-I{SOURCE}"]
    jobs = {WORK / (pathlib.Path(name).stem + ".o"): SOURCE / "io" / name for name in READERS}
    def compile_one(job):
        target, source = job
        return run(clang, *FLAGS, "-fsanitize=fuzzer-no-link,address,undefined", *includes, "-c", source, "-o", target)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for code, text in pool.map(compile_one, jobs.items()):
            if code != 0:
                raise SystemExit(text)
    return [str(path) for path in jobs], includes


def write_seeds(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    if name == "safetensors":
        found = list(GOLDEN.glob("*/model*.safetensors"))[:4]
    elif name == "index":
        found = list(GOLDEN.glob("*/*.index.json"))
    elif name == "config":
        found = list(GOLDEN.glob("*/config.json"))
    else:
        for family in ("gpt2", "llama"):
            out = folder / f"{family}.gguf"
            out.unlink(missing_ok=True)
            answer = capstan("convert", "--from", GOLDEN / family, "--to", out, "--format", "gguf")
            if answer.returncode != 0:
                raise SystemExit(f"no seed for gguf: {answer.stderr}")
        found = []
    for path in found:
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    if not list(folder.iterdir()):
        raise SystemExit(f"no seeds for {name}")


def fuzz(clang, name, number, objects, includes, libraries):
    program, folder = WORK / f"fuzz_{name}", WORK / name
    write_seeds(name, folder / "seeds")
    (folder / "found").mkdir(exist_ok=True)
    code, text = run(clang, *FLAGS, "-fsanitize=fuzzer,address,undefined", f"-DCAPSTAN_FUZZ={number}", *includes,
                     SOURCE / "tests" / "fuzz" / "weights_fuzz.cpp", *objects, "-o", program, *libraries)
    if code != 0:
        raise SystemExit(text)
    code, text = run(program, f"-max_total_time={SECONDS}", "-timeout=20", "-rss_limit_mb=2500", "-print_final_stats=1",
                     "-verbosity=0", f"-artifact_prefix={folder}/found/", folder / "found", folder / "seeds")
    runs = [line for line in text.splitlines() if "number_of_executed_units" in line]
    print(f"{name}: {'FOUND' if code else 'nothing found'}; {' '.join(runs)}")
    if code:
        print(text[-6000:])
    return code != 0


def main():
    clang = shutil.which("clang++")
    if clang is None:
        print("SKIP: no clang++ (Debian, Ubuntu: apt-get install clang libfuzzer-14-dev)")
        return 77
    WORK.mkdir(parents=True, exist_ok=True)
    objects, includes = compile_readers(clang)
    libraries = linked_libraries()
    chosen = {name: TARGETS[name] for name in sys.argv[1:] or TARGETS}
    failures = [name for name, number in chosen.items() if fuzz(clang, name, number, objects, includes, libraries)]
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

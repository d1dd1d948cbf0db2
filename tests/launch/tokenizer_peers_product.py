#!/usr/bin/env python3
# label: slow
# timeout: 2400
"""Tokenizers against their peers on fuzzed text: Hugging Face `tokenizers`, SentencePiece and tiktoken, pinned, in a
virtual environment under the build directory. Both ways: their files read by us, our tokenizer.json read by them.

About sixty tokenizers are trained by the peers (every model and mix of components), and those that are in use are taken
from pip packages that carry them; a package that cannot be had is named and left out. Without the peers the test is
skipped. CAPSTAN_PEER_FILES names a directory with more files, CAPSTAN_PEER_TEXTS how many texts (200),
CAPSTAN_PEER_SEED which.
"""
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile

from harness import BINARY, SOURCE, capstan

BUILD = pathlib.Path(os.environ.get("CAPSTAN_BUILD") or SOURCE / "build")
WORK = BUILD / "peers"
PYTHON = WORK / "venv" / "bin" / "python"
GOLDENS = SOURCE / "tests" / "io" / "tokenizer_goldens.py"
PEERS = ["tokenizers==0.23.3", "sentencepiece==0.2.3", "tiktoken==0.14.0"]
TIKTOKEN = "litellm/litellm_core_utils/tokenizers/"
# Packages that carry tokenizers in use: file in the package, and the name that tells its kind.
FILES = {
    "openai-whisper==20250625": {"whisper/assets/gpt2.tiktoken": "gpt2.tiktoken",
                                 "whisper/assets/multilingual.tiktoken": "multilingual.tiktoken"},
    "litellm==1.109.1": {TIKTOKEN + "9b5ad71b2ce5302211f9c61530b329a4922fc6a4": "openai_cl100k_base.tiktoken",
                         TIKTOKEN + "ec7223a39ce59f226a68acc30dc1af2788490e15": "openai_p50k_base.tiktoken",
                         TIKTOKEN + "fb374d419588a4632f3f557e76b4b70aebbca790": "openai_o200k_base.tiktoken",
                         TIKTOKEN + "deepseek_tokenizer.json": "deepseek.json",
                         TIKTOKEN + "anthropic_tokenizer.json": "claude.json"},
    "llama-models==0.3.0": {"llama_models/llama3/tokenizer.model": "llama3.model",
                            "llama_models/llama4/tokenizer.model": "llama4.model"},
    "dashscope==2.0.2": {"dashscope/resources/qwen.tiktoken": "qwen.tiktoken"},
    "mistral-common==1.13.1": {
        "mistral_common/data/tokenizer.model.v1": "mistral_v1.model",
        "mistral_common/data/mistral_instruct_tokenizer_240216.model.v2": "mistral_v2.model",
        "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3": "mistral_v3.model",
        "mistral_common/data/mistral_instruct_tokenizer_241114.model.v7": "mistral_v7.model",
        "mistral_common/data/tekken_240911.json": "tekken.json"},
    "open_clip_torch==3.3.0": {"open_clip/bpe_simple_vocab_16e6.txt.gz": "bpe_simple_vocab_16e6.txt.gz"},
}


def skip(reason):
    print(f"SKIP: {reason}")
    sys.exit(77)


def run(*command, **options):
    return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          encoding="utf-8", errors="replace", check=False, **options)


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip() and "notice" not in line]
    return lines[-1] if lines else "no output"


def make_environment():
    if not PYTHON.exists():
        try:
            venv.create(WORK / "venv", with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            skip(f"no virtual environment can be made: {error}")
    answer = run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS, timeout=600)
    if answer.returncode:
        skip(f"pip cannot install {' '.join(PEERS)}: {last_line(answer.stdout)}")


def take(package, files, into):
    """The files of a package, without what it depends on."""
    folder = WORK / "packages" / package
    if not folder.is_dir() or not any(folder.iterdir()):
        answer = run(PYTHON, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest",
                     folder, package, timeout=600)
        if answer.returncode:
            return last_line(answer.stdout)
    archive = next(folder.iterdir())
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as packed:
            contents = {name: packed.read(name) for name in files if name in packed.namelist()}
    else:
        with tarfile.open(archive) as packed:
            inside = {member.name.split("/", 1)[-1]: member for member in packed.getmembers() if member.isfile()}
            contents = {name: packed.extractfile(inside[name]).read() for name in files if name in inside}
    for name, content in contents.items():
        (into / files[name]).write_bytes(content)
    lacking = sorted(set(files) - set(contents))
    return f"it lacks {', '.join(lacking)}" if lacking else ""


def real_files():
    real = WORK / "real"
    shutil.rmtree(real, ignore_errors=True)
    real.mkdir()
    for package, files in FILES.items():
        problem = take(package, files, real)
        print(f"{package}: {problem or ', '.join(files.values())}", flush=True)
    more = os.environ.get("CAPSTAN_PEER_FILES")
    for path in pathlib.Path(more).iterdir() if more else ():
        shutil.copy(path, real)
    return real


def end_of(path):
    """Options for files that do not say which token ends documents."""
    names = {"deepseek.json": "<｜end▁of▁sentence｜>", "claude.json": "<EOT>"}
    return ["--end-of-document", names[path.name]] if path.name in names else []


def written_by_us(cases, real):
    """Every file through `capstan tokenizer convert`. Returns what went wrong."""
    written = cases / "written"
    written.mkdir()
    wrong = []
    files = [path for folder in (cases, real) for path in sorted(folder.iterdir())
             if path.suffix in (".json", ".model", ".tiktoken", ".txt") and path.name != "cases.json"]
    for path in files:
        answer = capstan("tokenizer", "convert", path, "--out", written / (path.name + ".json"), *end_of(path))
        if answer.returncode:
            wrong.append(f"convert {path.name} ended with {answer.returncode}: {answer.stderr}")
    return wrong


CHECK_BYTES = """
import pathlib, sys, base64, tiktoken
ranks, text, ids = (pathlib.Path(name) for name in sys.argv[1:4])
pairs = [line.split() for line in ranks.read_text("utf-8").splitlines() if line]
encoding = tiktoken.Encoding("x", pat_str=".", special_tokens={},
                             mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in pairs if token != "="})
sys.exit(encoding.decode_bytes([int(one) for one in ids.read_text().split()]) != text.read_bytes())
"""


def bytes_come_back(real):
    """tiktoken does not take what is no UTF-8; its decoder must give back the bytes that we encoded."""
    text = WORK / "noise.bin"
    text.write_bytes(random.Random(3).randbytes(1 << 18) + "Straße 你好 👍🏽 ".encode() * 50)
    wrong = []
    for path in sorted(real.glob("*.tiktoken")):
        answer = capstan("tokenizer", "encode", "--tokenizer", path, text)
        ids = WORK / "noise.ids"
        ids.write_text(answer.stdout)
        if answer.returncode or run(PYTHON, "-c", CHECK_BYTES, path, text, ids).returncode:
            wrong.append(f"{path.name}: the bytes do not come back; {answer.stderr}")
    return wrong


def main():
    test = BUILD / "tests" / "io_tokenizer_golden_test"
    if not test.exists() or not BINARY.exists():
        skip(f"needs {test} and {BINARY}")
    WORK.mkdir(parents=True, exist_ok=True)
    make_environment()
    real = real_files()
    cases = WORK / "cases"
    shutil.rmtree(cases, ignore_errors=True)
    made = run(PYTHON, "-B", GOLDENS, "--out", cases, "--texts", os.environ.get("CAPSTAN_PEER_TEXTS", "200"), "--seed",
               os.environ.get("CAPSTAN_PEER_SEED", "11"), "--real", real)
    print(made.stdout, flush=True)
    if made.returncode:
        raise SystemExit("the peers could not make their ids")
    ours = run(test, env={**os.environ, "CAPSTAN_TOKENIZER_CASES": str(cases)})
    wrong = re.findall(r"^\[  FAILED  \] (\S+) \(", ours.stdout, re.MULTILINE)
    print(ours.stdout[-6000:], flush=True)
    if ours.returncode and not wrong:
        wrong.append(f"{test.name} ended with {ours.returncode}")
    wrong += written_by_us(cases, real) + bytes_come_back(real)
    compared = run(PYTHON, "-B", GOLDENS, "--compare", cases)
    print(compared.stdout, flush=True)
    if compared.returncode:
        wrong.append("Hugging Face gives other ids for files that we wrote")
    for line in wrong:
        print(f"FAILED: {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

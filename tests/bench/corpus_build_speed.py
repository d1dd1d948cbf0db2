#!/usr/bin/env python3
"""Speed of `capstan corpus build` beside a preprocessing script in the way of Megatron-LM's tools/preprocess_data.py:
multiprocessing over lines of JSONL, the `tokenizers` package, PREFIX.bin and PREFIX.idx out. Both read the same file and
the same tokenizer.json in the same run, one after the other, round by round.

    tests/bench/corpus_build_speed.py --binary build/capstan --tokenizer tokenizer.json --text book.txt \
        --bytes 1000000000 --cores 2 --rounds 3 --python VENV/bin/python

Without --tokenizer a byte-level BPE of --vocabulary tokens is trained by capstan on the text first. The text is made of
--text (files of real text) by repeating it and mutating it: sentences are reordered and some words are spelt anew, so
that no document comes twice and caches of words do not get all of the work.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

PREPROCESS = r'''
import json, multiprocessing, struct, sys, time
import numpy
from tokenizers import Tokenizer

source, tokenizer_file, prefix, workers, end_name = sys.argv[1:6]

def begin():
    global tokenizer, end
    tokenizer = Tokenizer.from_file(tokenizer_file)
    end = tokenizer.token_to_id(end_name)

def encode(line):
    text = json.loads(line)["text"]
    ids = tokenizer.encode(text).ids
    ids.append(end)
    return numpy.array(ids, dtype=numpy.uint16 if tokenizer.get_vocab_size() <= 65536 else numpy.int32), len(line)

if __name__ == "__main__":
    lengths, width, code = [], 2, 8
    with open(source, encoding="utf-8") as lines, open(prefix + ".bin", "wb") as out:
        with multiprocessing.Pool(int(workers), initializer=begin) as pool:
            for ids, _ in pool.imap(encode, lines, 32):
                out.write(ids.tobytes(order="C"))
                lengths.append(len(ids))
                width = ids.itemsize
    pointers = numpy.zeros(len(lengths), dtype=numpy.int64)
    numpy.cumsum(numpy.array(lengths[:-1], dtype=numpy.int64) * width, out=pointers[1:])
    with open(prefix + ".idx", "wb") as index:
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8 if width == 2 else 4, len(lengths), len(lengths) + 1))
        index.write(numpy.array(lengths, dtype=numpy.int32).tobytes())
        index.write(pointers.tobytes())
        index.write(numpy.arange(len(lengths) + 1, dtype=numpy.int64).tobytes())
'''


def mutated_lines(text, size, seed=1):
    """JSONL of documents of about 4 kB."""
    source = random.Random(seed)
    sentences = [part + "." for part in text.replace("\n\n", "\n").split(".") if part.strip()]
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    written = 0
    while written < size:
        length, parts = source.randint(500, 8000), []
        while sum(map(len, parts)) < length:
            start = source.randrange(len(sentences))
            parts.extend(sentences[start : start + source.randint(1, 6)])
        words = "".join(parts).split(" ")
        for _ in range(len(words) // 50):
            words[source.randrange(len(words))] = "".join(source.choices(letters, k=source.randint(2, 9)))
        line = json.dumps({"text": " ".join(words)}, ensure_ascii=False) + "\n"
        written += len(line.encode())
        yield line


def timed(command, env=None):
    begin = time.monotonic()
    answer = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if answer.returncode != 0:
        sys.exit(f"{command}\nended with {answer.returncode}:\n{answer.stdout}{answer.stderr}")
    return time.monotonic() - begin


def end_of_document(path):
    added = json.loads(pathlib.Path(path).read_text(encoding="utf-8")).get("added_tokens", [])
    names = [token["content"] for token in added if token.get("special")]
    return "<|endoftext|>" if "<|endoftext|>" in names else names[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="build/capstan")
    parser.add_argument("--text", nargs="+", required=True, help="files of real text")
    parser.add_argument("--tokenizer", help="tokenizer.json; default: trained here")
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with numpy and tokenizers")
    parser.add_argument("--work", help="directory for files; default: a temporary one")
    options = parser.parse_args()
    work = pathlib.Path(options.work or tempfile.mkdtemp(prefix="capstan-build-speed."))
    work.mkdir(parents=True, exist_ok=True)
    text = "\n".join(pathlib.Path(name).read_text(encoding="utf-8", errors="replace") for name in options.text)
    source = work / "text.jsonl"
    with source.open("w", encoding="utf-8") as out:
        out.writelines(mutated_lines(text, options.bytes))
    size = source.stat().st_size
    pin = ["taskset", "-c", ",".join(map(str, range(options.cores)))]
    tokenizer = options.tokenizer
    if not tokenizer:
        shutil.rmtree(work / "trained", ignore_errors=True)
        seconds = timed([*pin, options.binary, "corpus", "build", "--out", str(work / "trained"), "--train-tokenizer",
                         str(options.vocabulary), *options.text])
        print(f"training a tokenizer of {options.vocabulary} tokens on {len(text)} characters: {seconds:.1f} s")
        tokenizer = str(work / "trained" / "tokenizer.json")
    script = work / "preprocess.py"
    script.write_text(PREPROCESS, encoding="utf-8")
    ours, theirs = [], []
    for number in range(options.rounds):
        shutil.rmtree(work / "corpus", ignore_errors=True)
        ours.append(timed([*pin, options.binary, "corpus", "build", "--out", str(work / "corpus"), "--tokenizer",
                           tokenizer, "--threads", str(options.cores), str(source)]))
        theirs.append(timed([*pin, options.python, str(script), str(source), tokenizer, str(work / "megatron"),
                             str(options.cores), end_of_document(tokenizer)],
                            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}))
        print(f"round {number + 1}: capstan {size / ours[-1] / 1e6:.1f} MB/s, preprocess script "
              f"{size / theirs[-1] / 1e6:.1f} MB/s")
    mine, other = statistics.median(ours), statistics.median(theirs)
    manifest = json.loads((work / "corpus" / "manifest.json").read_text(encoding="utf-8"))
    tokens = sum(split["tokens"] for split in manifest["splits"].values())
    theirs_tokens = (work / "megatron.bin").stat().st_size // (2 if manifest["vocabulary"] <= 65536 else 4)
    print(f"{size} bytes on {options.cores} cores, medians: capstan {size / mine / 1e6:.1f} MB/s, preprocess script "
          f"{size / other / 1e6:.1f} MB/s, ratio {other / mine:.2f}; tokens {tokens} and {theirs_tokens}")
    if not options.work:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

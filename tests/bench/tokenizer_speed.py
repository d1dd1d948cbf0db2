#!/usr/bin/env python3
"""Tokenizers side by side: `capstan tokenizer` beside Hugging Face `tokenizers` and `tiktoken`, on the same text.

    tokenizer_speed.py --capstan BINARY --text DIR-OR-FILE... [--rounds 5] [--work DIR] [--rows REGEX]

Needs `pip install tokenizers tiktoken` in the Python that runs it. Trains a 32k vocabulary with GPT-2's expression and
one of 100k with cl100k's by capstan; the peers get the very same vocabulary (tokenizers reads the file, tiktoken is given
its pieces as ranks), and their ids are compared before anything is timed.

Rows: encoding on one core and on two; training 32k on one core and on two. Every round measures every program once in
every row, each in a process of its own, one after the other, so that a drift of the clock or other work on the machine
meets all alike; the figure is the median over rounds. Encoding is timed inside the processes, without start-up, reading
and building of the vocabulary: one pass over the whole text, with empty caches. tokenizers gets it as documents by
encode_batch_fast (ids without offsets, the faster of its ways), tiktoken by encode_ordinary on one core and
encode_ordinary_batch on two, capstan as one file. Training is timed from the first byte read to the merges made. Beside
the rate on the clock stands the rate by processor time, which other work disturbs less.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

PATTERNS = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"""
              r"""\s*[\r\n]+|\s+(?!\S)|\s""",
}
VOCABULARIES = {"gpt2": 32000, "cl100k": 100000}
DOCUMENT = 64 << 10


def byte_of_symbol():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in plain}
    rest = [byte for byte in range(256) if byte not in plain]
    return {**table, **{chr(256 + i): byte for i, byte in enumerate(rest)}}


def ranks_of(tokenizer_json):
    symbols = byte_of_symbol()
    vocabulary = json.loads(pathlib.Path(tokenizer_json).read_text(encoding="utf-8"))["model"]["vocab"]
    return {bytes(symbols[c] for c in piece): rank for piece, rank in vocabulary.items()}


def documents(path):
    """The text in pieces that end where a cut changes no tokens."""
    text, pieces, begin = pathlib.Path(path).read_bytes().decode("utf-8"), [], 0
    cut = re.compile(r"[A-Za-z0-9]\n(?=[A-Za-z0-9])")
    while len(text) - begin > DOCUMENT:
        found = cut.search(text, begin + DOCUMENT)
        if not found:
            break
        pieces.append(text[begin:found.end()])
        begin = found.end()
    return pieces + [text[begin:]]


# ---- one measurement of a peer, in a process of its own ---------------------------------------------------------------

def clocked(work):
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


def peer_encode(peer, pattern, tokenizer_json, text, threads):
    pieces = documents(text)
    if peer == "tokenizers":
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(tokenizer_json)
        tokens, wall, processor = clocked(lambda: tokenizer.encode_batch_fast(pieces, add_special_tokens=False))
        ids = [token for piece in tokens for token in piece.ids]
    else:
        import tiktoken
        encoding = tiktoken.Encoding("bench", pat_str=PATTERNS[pattern], mergeable_ranks=ranks_of(tokenizer_json),
                                     special_tokens={})
        encode = ((lambda: [encoding.encode_ordinary(piece) for piece in pieces]) if threads == 1
                  else (lambda: encoding.encode_ordinary_batch(pieces, num_threads=threads)))
        tokens, wall, processor = clocked(encode)
        ids = [token for piece in tokens for token in piece]
    return {"wall": wall, "processor": processor, "tokens": len(ids), "ids": ids}


def peer_train(text, vocabulary):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    _, wall, processor = clocked(lambda: tokenizer.train_from_iterator(documents(text), trainer))
    return {"wall": wall, "processor": processor,
            "merges": json.loads(tokenizer.to_str())["model"]["merges"]}


def child(arguments):
    if arguments.child == "train":
        result = peer_train(arguments.text[0], arguments.vocabulary)
        result["merges"] = len(result["merges"])
    else:
        result = peer_encode(arguments.peer, arguments.pattern, arguments.tokenizer, arguments.text[0],
                             arguments.threads)
        ids = result.pop("ids")
        if arguments.ids:
            pathlib.Path(arguments.ids).write_text(" ".join(map(str, ids)) + "\n", encoding="utf-8")
    print(json.dumps(result))


# ---- the rounds ------------------------------------------------------------------------------------------------------

class Bench:
    def __init__(self, arguments):
        self.capstan, self.rounds = arguments.capstan, arguments.rounds
        self.work = pathlib.Path(arguments.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.text = self.gather(arguments.text)
        self.bytes = self.text.stat().st_size

    def gather(self, inputs):
        files = []
        for name in map(pathlib.Path, inputs):
            files += sorted(f for f in name.rglob("*") if f.is_file()) if name.is_dir() else [name]
        text = self.work / "text.txt"
        with open(text, "wb") as out:
            for file in files:
                data = file.read_bytes()
                try:
                    data.decode("utf-8")
                except UnicodeDecodeError:
                    continue
                out.write(data.replace(b"\r", b""))
        return text

    def run(self, command, threads):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "RAYON_RS_NUM_THREADS": str(threads),
                       "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}
        before = os.times()
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        after = os.times()
        processor = after.children_user + after.children_system - before.children_user - before.children_system
        return done.stdout, processor

    def peer(self, threads, *options):
        out, _ = self.run([sys.executable, __file__, *map(str, options)], threads)
        return json.loads(out)

    def tokenizer(self, pattern):
        return self.work / f"{pattern}.json"

    def train(self, pattern, threads, out):
        text, processor = self.run([str(x) for x in (
            self.capstan, "tokenizer", "train", "--vocabulary", VOCABULARIES[pattern] + 1, "--pattern", pattern,
            "--longest-piece", 0, "--threads", threads, "--out", out, self.text)], threads)
        counting, merging = map(float, re.search(r"\(([\d.]+) s for counting, ([\d.]+) s for merging\)", text).groups())
        return {"wall": counting + merging, "processor": processor}

    def encode(self, pattern, threads):
        text, _ = self.run([str(x) for x in (self.capstan, "tokenizer", "encode", "--tokenizer",
                                             self.tokenizer(pattern), "--count-only", "--threads", threads,
                                             self.text)], threads)
        found = re.search(r"(\d+) tokens, .*?, ([\d.]+) s \(([\d.]+) s of processor time\)", text)
        return {"wall": float(found[2]), "processor": float(found[3]), "tokens": int(found[1])}

    def check_ids(self, pattern):
        ours, _ = self.run([self.capstan, "tokenizer", "encode", "--tokenizer", str(self.tokenizer(pattern)),
                            str(self.text)], 1)
        for peer in ("tokenizers", "tiktoken"):
            ids = self.work / f"{peer}.ids"
            self.peer(2, "--child", "encode", "--peer", peer, "--pattern", pattern, "--tokenizer",
                      self.tokenizer(pattern), "--threads", 1, "--ids", ids, "--text", self.text)
            same = ids.read_text(encoding="utf-8") == ours
            print(json.dumps({"check": f"{pattern} ids", "peer": peer, "tokens": ours.count(" ") + 1, "same": same}),
                  flush=True)
            if not same:
                raise SystemExit(f"{peer} gives other ids for {pattern}: there is nothing to compare")

    def rows(self):
        for pattern in VOCABULARIES:
            for threads in (1, 2):
                common = ("--child", "encode", "--pattern", pattern, "--tokenizer", self.tokenizer(pattern),
                          "--threads", threads, "--text", self.text)
                yield f"encode-{pattern}-{threads}", {
                    "capstan": lambda p=pattern, t=threads: self.encode(p, t),
                    "tokenizers": lambda t=threads, c=common: self.peer(t, *c, "--peer", "tokenizers"),
                    "tiktoken": lambda t=threads, c=common: self.peer(t, *c, "--peer", "tiktoken")}
        for threads in (1, 2):
            yield f"train-gpt2-{threads}", {
                "capstan": lambda t=threads: self.train("gpt2", t, self.work / "again.json"),
                "tokenizers": lambda t=threads: self.peer(t, "--child", "train", "--vocabulary", VOCABULARIES["gpt2"],
                                                          "--text", self.text)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capstan", default="build/capstan")
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", default="/tmp/tokenizer-speed")
    parser.add_argument("--rows", default="")
    parser.add_argument("--child", choices=["encode", "train"], help=argparse.SUPPRESS)
    for name in ("--peer", "--pattern", "--tokenizer", "--ids"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--threads", "--vocabulary"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments)

    import tiktoken
    import tokenizers
    bench = Bench(arguments)
    print(json.dumps({"bytes": bench.bytes, "tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__,
                      "processors": os.cpu_count(), "load": os.getloadavg()}), flush=True)
    for pattern in VOCABULARIES:
        bench.train(pattern, 2, bench.tokenizer(pattern))
        bench.check_ids(pattern)
    rows = [(name, programs) for name, programs in bench.rows() if re.search(arguments.rows, name)]
    results = {name: {program: [] for program in programs} for name, programs in rows}
    for number in range(arguments.rounds):
        for name, programs in rows:
            for program, measure in programs.items():
                result = measure()
                results[name][program].append(result)
                print(json.dumps({"round": number, "row": name, "program": program, **result,
                                  "load": os.getloadavg()[0]}), flush=True)
    for name, programs in results.items():
        line = {"row": name, "rounds": arguments.rounds}
        for program, runs in programs.items():
            for clock in ("wall", "processor"):
                line[f"{program}_{clock}_MB/s"] = round(
                    bench.bytes / 1e6 / statistics.median(run[clock] for run in runs), 2)
        for clock in ("wall", "processor"):
            best = max(value for key, value in line.items()
                       if key.endswith(f"_{clock}_MB/s") and not key.startswith("capstan"))
            line[f"ratio_{clock}"] = round(line[f"capstan_{clock}_MB/s"] / best, 2)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

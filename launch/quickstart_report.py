#!/usr/bin/env python3
"""What the quickstart's model has learnt, in two figures.

    quickstart_report.py --run DIR --validation FILE --text DIR --sample FILE

Bits per byte of the validation text, as the run's last evaluation measured them, beside what `xz -9` needs for the same
text; and how many of the words of the sample are words of the corpus.
"""
import argparse
import json
import lzma
import pathlib
import re
import sys

WORD = re.compile(r"[A-Za-z]+")


def last_bits_per_byte(run):
    last = None
    with open(run / "metrics.jsonl", encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            if isinstance(row, dict) and isinstance(row.get("validation_bits_per_byte"), (int, float)):
                last = row["validation_bits_per_byte"], row["step"]
    return last


def words_of(text):
    return {word.lower() for word in WORD.findall(text)}


def vocabulary(folder):
    words = set()
    for path in folder.rglob("*"):
        if path.is_file():
            words |= words_of(path.read_text(encoding="utf-8", errors="replace"))
    return words


def compression(run, validation):
    data = validation.read_bytes()
    if not data:
        return "the validation text is empty: nothing to compare"
    squeezed = 8 * len(lzma.compress(data, preset=9)) / len(data)
    measured = last_bits_per_byte(run)
    if measured is None:
        return f"xz -9 makes {squeezed:.3f} bits per byte of the validation text; the run has not evaluated yet"
    bits, step = measured
    verdict = "the model is ahead" if bits < squeezed else "xz is ahead: train for longer"
    return (f"validation text: {bits:.3f} bits per byte at step {step}; xz -9 makes {squeezed:.3f} of the same "
            f"{len(data)} bytes ({verdict})")


def spelling(text, sample):
    written = [word.lower() for word in WORD.findall(sample.read_text(encoding="utf-8", errors="replace"))]
    if not written:
        return "the sample holds no words"
    known = vocabulary(text)
    strange = sorted({word for word in written if word not in known})
    share = sum(word in known for word in written) / len(written)
    line = f"{100 * share:.0f}% of the {len(written)} words in the sample are words of the corpus"
    if strange:
        line += f"; it made up: {', '.join(strange[:8])}" + (" ..." if len(strange) > 8 else "")
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "validation", "text", "sample"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    try:
        print(compression(arguments.run, arguments.validation))
        print(spelling(arguments.text, arguments.sample))
    except OSError as problem:
        sys.exit(f"quickstart_report: {problem}")


if __name__ == "__main__":
    main()

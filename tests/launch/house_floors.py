#!/usr/bin/env python3
# label: plan
"""The rules of the house that a compiler does not see. A floor includes only itself and floors below it; only launch/
prints or exits; headers say `#pragma once`; nothing says "to be done". Give a folder to check another tree than this.
"""
import os
import pathlib
import re
import sys

BELOW = {
    "kernels": [],
    "core": ["kernels"],
    "parallel": ["kernels", "core"],
    "io": ["kernels", "core"],
    "cluster": ["kernels", "core", "parallel", "io"],
    "launch": ["kernels", "core", "parallel", "io", "cluster"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')
PRINTS = re.compile(r"\bstd::(cout|cerr|clog)\b|\b(printf|puts|putchar|fprintf|perror)\s*\(|"
                    r"\bfmt::print\b|\bstd::print")
EXITS = re.compile(r"(?<![\w.>])(std::)?(exit|_exit|quick_exit)\s*\(|"
                   r"\bstd::(abort|terminate)\s*\(|(?<!\w)::abort\s*\(")
OPEN_ENDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|not (yet )?implemented", re.IGNORECASE)
# Where a process must be ended on purpose: a failpoint acts as a crash would, an MPI job is brought down as one.
MAY_EXIT = {"core/failpoint.cpp", "parallel/mpi_communicator.cpp"}


def without_comments_and_strings(text):
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))

    return re.sub(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.DOTALL)


def check(root):
    problems = []
    count = 0
    for floor, below in BELOW.items():
        for path in sorted((root / floor).rglob("*")):
            if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
                continue
            count += 1
            name = path.relative_to(root).as_posix()
            text = path.read_text(encoding="utf-8")
            for number, line in enumerate(text.splitlines(), 1):
                include = INCLUDE.match(line)
                if include:
                    top = include.group(1).split("/")[0]
                    if "../" in include.group(1):
                        problems.append(f"{name}:{number}: include by full path from the root, not {include.group(1)}")
                    elif top in BELOW and top != floor and top not in below:
                        included = include.group(1)
                        problems.append(f"{name}:{number}: floor {floor} includes {included}, which is above it")
                if OPEN_ENDS.search(line):
                    problems.append(f"{name}:{number}: an open end: {line.strip()}")
            for number, line in enumerate(without_comments_and_strings(text).splitlines(), 1):
                if floor != "launch" and PRINTS.search(line):
                    problems.append(f"{name}:{number}: only launch/ prints: {line.strip()}")
                if floor != "launch" and name not in MAY_EXIT and EXITS.search(line):
                    problems.append(f"{name}:{number}: only launch/ ends the process: {line.strip()}")
            if path.suffix in (".h", ".cuh") and "#pragma once" not in text:
                problems.append(f"{name}: a header without #pragma once")
    for folder in ("launch", "tests/bench"):  # what people start by its path
        for path in sorted((root / folder).glob("*")):
            if path.is_file() and path.read_bytes()[:2] == b"#!" and not os.access(path, os.X_OK):
                problems.append(f"{path.relative_to(root).as_posix()}: a script without its execute bit")
    return count, problems


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    if len(sys.argv) < 2:
        root = root.parents[2]
    count, problems = check(root)
    if count == 0:
        problems.append(f"found no source file under {root}")
    print("\n".join(problems) if problems else f"{count} files keep the rules of the house")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

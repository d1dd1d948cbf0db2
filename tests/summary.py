#!/usr/bin/env python3
"""Totals by label from ctest's JUnit file; names what was skipped and what failed; repeats ctest's closing lines.

    summary.py TESTS.xml TESTS.log TESTS.json

Exits 1 when a test failed or none passed, so that a run which tested nothing cannot look green.
"""
import json
import re
import sys
import xml.etree.ElementTree as ElementTree


def labels_by_test(listing):
    """From `ctest --show-only=json-v1`: the JUnit file of older ctests has no labels."""
    with open(listing, encoding="utf-8") as file:
        tests = json.load(file)["tests"]
    return {test["name"]: [label for item in test.get("properties", []) if item["name"] == "LABELS"
                           for label in item["value"]] for test in tests}


def outcome_of(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "passed"


def reason_of(case):
    """The line in which a skipping test says why: GoogleTest prints it before '[  SKIPPED ]', scripts print SKIP."""
    lines = (case.findtext("system-out") or "").splitlines()
    for line in lines:
        if line.startswith("SKIP"):
            return line[4:].lstrip(": ")
    for before, line in zip(lines, lines[1:]):
        if line.startswith("[  SKIPPED ]"):
            return before.strip()
    return "no reason printed"


def main():
    tests, log, listing = sys.argv[1:4]
    labels = labels_by_test(listing)
    cases = list(ElementTree.parse(tests).getroot().iter("testcase"))
    totals = {}
    for case in cases:
        for label in labels.get(case.get("name")) or ["(no label)"]:
            row = totals.setdefault(label, {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
            row[outcome_of(case)] += 1
            row["seconds"] += float(case.get("time") or 0)
    print("\nlabel        passed  failed skipped   seconds")
    for label, row in sorted(totals.items()):
        print(f"{label:12} {row['passed']:6} {row['failed']:7} {row['skipped']:7} {row['seconds']:9.1f}")
    for outcome in ("skipped", "failed"):
        chosen = [case for case in cases if outcome_of(case) == outcome]
        if chosen:
            print(f"\n{outcome}:")
        for case in chosen:
            print(f"  {case.get('name')}" + (f": {reason_of(case)}" if outcome == "skipped" else ""))
    print()
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            if re.match(r"\d+% tests passed|Total Test time", line):
                print(line.rstrip())
    if any(outcome_of(case) == "failed" for case in cases) or not any(outcome_of(case) == "passed" for case in cases):
        sys.exit(1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes known_splitter_unicode.cpp: the class of every code point, as ranges, from Unicode 16.0.

    pip install unicodedata2==16.0.0 && io/tokenizer/known_splitter_unicode.py > io/tokenizer/known_splitter_unicode.cpp

The version is that of Hugging Face `tokenizers` 0.22-0.23 and of tiktoken 0.12-0.14. It is pinned here, and not left to
a library of the system, so that a text gives the same tokens on every machine.
"""
import unicodedata2

CLASSES = {"Lu": "upper", "Lt": "upper", "Ll": "lower", "Lm": "caseless", "Lo": "caseless", "Mn": "mark", "Mc": "mark",
           "Me": "mark", "Nd": "number", "Nl": "number", "No": "number"}
ORDER = ["other", "mark", "upper", "lower", "caseless", "number", "space", "newline"]  # as CharacterClass
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F,
               0x3000}

HEAD = """// Written by known_splitter_unicode.py from Unicode %s; do not edit.

#include "io/tokenizer/known_splitter_unicode.h"

#include <cstring>

namespace capstan {
namespace {

// (first code point << 3) + class, of each range.
// clang-format off
constexpr uint32_t kRanges[] = {
"""
TAIL = """};
// clang-format on

}  // namespace

CharacterClasses::CharacterClasses() : classes_(kCodePoints) {
  constexpr size_t count = sizeof kRanges / sizeof *kRanges;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t begin = kRanges[i] >> 3, end = i + 1 < count ? kRanges[i + 1] >> 3 : kCodePoints;
    std::memset(classes_.data() + begin, static_cast<int>(kRanges[i] & 7), end - begin);
  }
}

const CharacterClasses& character_classes() {
  static const CharacterClasses classes;
  return classes;
}

}  // namespace capstan
"""


def class_of(code):
    if code in (0x0A, 0x0D):
        return "newline"
    if code in WHITE_SPACE:
        return "space"
    return CLASSES.get(unicodedata2.category(chr(code)), "other")


def main():
    ranges, last = [], None
    for code in range(0x110000):
        kind = class_of(code)
        if kind != last:
            ranges.append(f"{code << 3 | ORDER.index(kind):#x},")
            last = kind
    print(HEAD % unicodedata2.unidata_version, end="")
    line = "   "
    for entry in ranges:
        if len(line) + 1 + len(entry) > 120:
            print(line)
            line = "   "
        line += " " + entry
    print(line)
    print(TAIL, end="")


if __name__ == "__main__":
    main()

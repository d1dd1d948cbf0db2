#!/usr/bin/env python3
"""Obtains English prose from packages of the distribution, as plain UTF-8 text, one document per file.

    quickstart_text.py --out DIR --downloads DIR [--minimum-bytes N]

Packages (manuals, handbooks, dictionaries of computing) are downloaded and unpacked, not installed. Markup, tables and
programs are taken out, the lines of a paragraph joined, dictionary entries gathered into documents of about 24 KiB and
books cut at paragraphs into documents of that size. DIR appears whole, at the end, or not at all; DIR/../SOURCES.txt
then says what came from which package.
"""
import argparse
import gzip
import html.parser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unicodedata

DOCUMENT_BYTES = 24 * 1024

# (package or a pattern of its name, reader, where the text lies in it), taken in this order; those after SPARE only
# while text is wanting.
PACKAGES = [
    ("dict-foldoc", "dictionary", "usr/share/dictd/foldoc.dict.dz"),
    ("dict-jargon", "dictionary", "usr/share/dictd/jargon.dict.dz"),
    ("dict-devil", "dictionary", "usr/share/dictd/devil.dict.dz"),
    ("debian-reference-en", "book", "usr/share/debian-reference/debian-reference.en.txt.gz"),
    ("debian-policy", "book", "usr/share/doc/debian-policy/policy.txt.gz"),
    ("developers-reference", "book", "usr/share/developers-reference/developers-reference.txt.gz"),
    ("maint-guide", "book", "usr/share/doc/maint-guide/maint-guide.en.txt.gz"),
    ("debian-faq", "book", "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz"),
    ("harden-doc", "html", "usr/share/doc/harden-doc/html/en-US/*.html"),
    ("aptitude-doc-en", "html", "usr/share/doc/aptitude/html/en/*.html"),
    ("git-doc", "asciidoc", "usr/share/doc/git-doc/*.txt"),
    ("postgresql-doc-[0-9]+", "html", "usr/share/doc/postgresql-doc-*/html/*.html"),
    ("SPARE", "", ""),
    ("dict-gcide", "dictionary", "usr/share/dictd/gcide.dict.dz"),
    ("fortunes", "fortunes", "usr/share/games/fortunes/*"),
]
SPARE = next(place for place, row in enumerate(PACKAGES) if row[0] == "SPARE")

TYPOGRAPHY = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2010": "-",
    "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "--", "\u2026": "...", "\u00a0": " ", "\u00ad": "",
    "\u2022": "-", "\u00b7": "-", "\ufeff": "", "\u2212": "-", "\u200b": ""})


class Refusal(Exception):
    """Something the user has to know; the message is the whole story."""


# ---- markup out ------------------------------------------------------------------------------------------------------

class HtmlText(html.parser.HTMLParser):
    """The text of a page: blocks become paragraphs; navigation, tables and programs are left out."""

    BLOCKS = {"p", "div", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "blockquote", "br",
              "section"}
    SILENT = {"script", "style", "head", "nav", "pre", "table", "footer"}
    SILENT_CLASSES = {"navheader", "navfooter", "docnav", "toc", "list-of-tables", "list-of-figures", "screen",
                      "programlisting", "legalnotice", "variablelist-toc"}
    VOID = {"br", "img", "hr", "meta", "link", "input", "area", "base", "col", "wbr"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts = []
        self.depth = 0
        self.silent_from = None

    def handle_starttag(self, tag, attrs):
        if tag in self.BLOCKS:
            self.parts.append("\n\n")
        if tag in self.VOID:
            return
        self.depth += 1
        classes = set((dict(attrs).get("class") or "").split())
        if self.silent_from is None and (tag in self.SILENT or classes & self.SILENT_CLASSES):
            self.silent_from = self.depth

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if tag in self.BLOCKS:
            self.parts.append("\n\n")
        if self.silent_from == self.depth:
            self.silent_from = None
        self.depth = max(0, self.depth - 1)

    def handle_data(self, data):
        if self.silent_from is None:
            self.parts.append(re.sub(r"\s+", " ", data))


def from_html(text):
    parser = HtmlText()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


def from_asciidoc(text):
    text = re.sub(r"(?ms)^(-{4,}|\.{4,}|={5,}|\*{4,})\n.*?^\1$", "", text)  # listings and the like
    text = re.sub(r"(?m)^(include::|ifdef::|ifndef::|endif::|//|:\w+:|\[[^\]\n]*\]$|[-=~^+]{3,}$).*$", "", text)
    text = re.sub(r"link(?:git)?:([\w./-]+)\[(\w*)\]", r"\1(\2)", text)
    text = re.sub(r"(?m)^\+$", "", text)
    text = re.sub(r"(?m)^=+ +| +=+$", "", text)
    text = re.sub(r"[`+]([^`+\n]+)[`+]", r"\1", text)
    return re.sub(r"(?m)^(\s*)[*.-]+ ", r"\1", text).replace("{empty}", "").replace("::\n", ":\n\n")


def from_dictionary(text):
    """dictd's text: an entry begins at the left margin, its body is indented. Yields entries."""
    text = re.sub(r"(?s)\A.*?(?=\n\n\S)", "", text)  # the notes about the database itself
    text = re.sub(r"\{([^{}]*?)\}", lambda match: re.sub(r"\s+", " ", match.group(1)), text)  # cross references
    text = re.sub(r"(?m)^\s*\((\d{4}-\d\d-\d\d)\)\s*$", "", text)
    text = re.sub(r"\[(1913 Webster|WordNet [\d.]+|PJC|Jargon File)\.?\]", "", text)
    text = re.sub(r"(?m)^( +)<[\w ,/-]{3,40}> ", r"\1", text)
    return re.split(r"\n\n(?=\S)", text)


# ---- prose from lines ------------------------------------------------------------------------------------------------

def is_prose(lines):
    """A block of lines that read on from one to the next, and not a table, a program, a poem or a drawing."""
    text = " ".join(line.strip() for line in lines)
    letters = sum(character.isalpha() or character == " " for character in text)
    if letters < 0.75 * len(text) or any(re.search(r"\S {3,}\S|\||[-=_~+#*]{4,}", line.strip()) for line in lines):
        return False
    return len(lines) == 1 or sum(len(line.strip()) for line in lines[:-1]) >= 38 * (len(lines) - 1)


def paragraphs(text):
    """Paragraphs of prose, each on one line; what is not prose is dropped."""
    text = unicodedata.normalize("NFC", text.translate(TYPOGRAPHY)).expandtabs(4)
    text = re.sub(r"[^\n\x20-\x7e\u00a1-\u024f\u0370-\u03ff]", "", text)
    for block in re.split(r"\n[ ]*(?:\n[ ]*)+", text):
        lines = [line.rstrip() for line in block.split("\n") if line.strip()]
        if lines and is_prose(lines):
            paragraph = re.sub(r" {2,}", " ", " ".join(line.strip() for line in lines)).replace("_", "")
            if len(paragraph) > 1 and not re.match(r"(www|https?:)\S*$", paragraph):
                yield paragraph


def entry_text(entry):
    """A dictionary entry: its headwords on a line, then its paragraphs; empty where it only points elsewhere."""
    head, _, body = entry.partition("\n\n" if re.match(r"\S[^\n]*(\n\S[^\n]*)*\n\n", entry) else "\n")
    if not body or len(head) > 160 or max(map(len, head.split("\n"))) > 50:  # the first line is prose already
        rows = list(paragraphs(entry))
    else:
        rows = [", ".join(head.translate(TYPOGRAPHY).split("\n")), *paragraphs(body)]
    return "\n\n".join(rows) if len(rows) > 1 and sum(map(len, rows[1:])) > 40 or len(rows) == 1 < len(head) else ""


def gathered(pieces):
    """Documents of about DOCUMENT_BYTES out of smaller pieces, in order; a piece is never cut."""
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= DOCUMENT_BYTES:
            yield "\n\n".join(parts) + "\n"
            parts, size = [], 0
    if size > 200:
        yield "\n\n".join(parts) + "\n"


def cut(text):
    """A paragraph once only: books repeat their notices."""
    seen = set()
    for paragraph in paragraphs(text):
        if len(paragraph) < 80 or paragraph not in seen:
            seen.add(paragraph)
            yield paragraph


def documents(reader, files):
    """(name, text) of each document that the files of a package make."""
    for path in files:
        data = path.read_bytes()
        if path.suffix in (".gz", ".dz"):
            data = gzip.decompress(data)
        text = data.decode("utf-8", errors="replace").replace("\ufffd", "")
        stem = path.name.split(".")[0]
        if reader == "dictionary":
            made = gathered(filter(None, map(entry_text, from_dictionary(text))))
        elif reader == "fortunes":
            made = gathered(filter(None, ("\n\n".join(paragraphs(item)) for item in text.split("\n%\n"))))
        else:
            plain = {"html": from_html, "asciidoc": from_asciidoc, "book": str}[reader](text)
            made = gathered(cut(plain))
        for number, document in enumerate(made):
            yield f"{stem}-{number:03}", document


# ---- packages --------------------------------------------------------------------------------------------------------

def say(text):
    print(f"  {text}", flush=True)


def apt(*arguments, folder):
    return subprocess.run(["apt-get", "-q", *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)


def refresh_lists():
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        subprocess.run([*as_root, "apt-get", "-q", "update"], stdin=subprocess.DEVNULL, capture_output=True,
                       check=False)
    except FileNotFoundError:
        pass  # no sudo: the downloads that fail will say so


def named(package):
    """The package's name in this distribution: of several that fit a pattern, the newest."""
    if not re.search(r"[\[\]+*]", package):
        return package
    answer = subprocess.run(["apt-cache", "search", "--names-only", f"^{package}$"], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, check=False)
    names = [line.split(" ")[0] for line in answer.stdout.splitlines()]
    return max(names, key=lambda name: int(name.rpartition("-")[2]), default=package)


def downloaded(package, folder):
    return next(iter(sorted(folder.glob(f"{package}_*.deb"))), None)


def fetch(packages, folder):
    """Downloads the packages that are not there yet. One that cannot be had is left out; the others still come."""
    missing = [package for package in packages if not downloaded(package, folder)]
    if not missing:
        return
    say(f"downloading {', '.join(missing)}")
    if apt("download", *missing, folder=folder).returncode == 0:
        return
    refresh_lists()
    for package in missing:
        if not downloaded(package, folder):
            answer = apt("download", package, folder=folder)
            if answer.returncode != 0:
                why = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
                say(f"without {package}: {why}")


def take(row, downloads, out):
    """Unpacks one package and writes its documents. Returns (documents, bytes)."""
    package, reader, pattern = row
    archive = downloaded(package, downloads)
    if archive is None:
        return 0, 0
    unpacked = downloads / package
    shutil.rmtree(unpacked, ignore_errors=True)
    subprocess.run(["dpkg", "-x", archive, unpacked], check=True, stdin=subprocess.DEVNULL)
    files = sorted(path for path in unpacked.glob(pattern)
                   if path.is_file() and not path.is_symlink() and path.suffix not in (".dat", ".u8"))
    count = size = 0
    (out / package).mkdir(parents=True)
    for name, text in documents(reader, files):
        data = text.encode("utf-8")
        (out / package / f"{name}.txt").write_bytes(data)
        count, size = count + 1, size + len(data)
    shutil.rmtree(unpacked, ignore_errors=True)
    return count, size


def obtain(out, downloads, minimum):
    downloads.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    total, sources = 0, []
    rows = [(named(package), reader, pattern) for package, reader, pattern in PACKAGES]
    fetch([row[0] for row in rows[:SPARE]], downloads)
    for place, row in enumerate(rows):
        if place == SPARE or (place > SPARE and total >= minimum):
            continue
        if place > SPARE:
            fetch([row[0]], downloads)
        count, size = take(row, downloads, partial)
        total += size
        if count:
            archive = downloaded(row[0], downloads).name
            sources.append(f"{size:10} bytes in {count:4} documents from {archive}")
    if total < minimum:
        raise Refusal(f"only {total} bytes of text could be had, {minimum} are wanted.\n"
                      "Is the package registry reachable (apt-get download dict-foldoc)? On Ubuntu, is the component "
                      "'universe' on?")
    out.with_name("SOURCES.txt").write_text("\n".join(sources) + "\n", encoding="utf-8")
    partial.rename(out)
    say(f"{total / 1e6:.1f} MB of text in {out}; SOURCES.txt beside it names the packages")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--downloads", type=pathlib.Path, required=True)
    parser.add_argument("--minimum-bytes", type=int, default=10_000_000)
    arguments = parser.parse_args()
    if arguments.out.exists():
        say(f"text is here already: {arguments.out}")
        return
    try:
        obtain(arguments.out.resolve(), arguments.downloads.resolve(), arguments.minimum_bytes)
    except (Refusal, OSError, subprocess.CalledProcessError) as problem:
        print(f"quickstart_text: {problem}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draws the loss curve of a run: as text in the terminal, and as a picture (SVG) in the run directory.

    plot_loss.py RUN_DIRECTORY [--out FILE.svg] [--quiet]

Reads metrics.jsonl. Grey: training loss of each step; blue: its running mean; red: validation loss, where evaluated.
"""
import argparse
import json
import math
import pathlib
import sys


def read_metrics(path):
    """The lines of metrics.jsonl that are whole: the last one may be cut short in a run that is still going."""
    lines = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def series(lines, key):
    points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), (int, float))]
    return [(step, value) for step, value in points if math.isfinite(value)]


def running_mean(points):
    """Mean over a window of a fortieth of the curve, so that short and long runs look alike."""
    window = max(1, len(points) // 40)
    smooth, total = [], 0.0
    for place, (step, value) in enumerate(points):
        total += value
        if place >= window:
            total -= points[place - window][1]
        smooth.append((step, total / min(place + 1, window)))
    return smooth


def ticks(low, high, count):
    """About `count` round numbers from low to high."""
    raw = (high - low) / max(1, count) or 1.0
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [first * step + place * step for place in range(int((high - first * step) / step + 1e-9) + 1)]


def bounds(*curves):
    points = [point for curve in curves for point in curve]
    low, high = min(value for _, value in points), max(value for _, value in points)
    margin = 0.05 * (high - low) or 0.5
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    return first, max(last, first + 1), low - margin, high + margin


def text_plot(train, validation, width=64, height=14):
    first, last, low, high = bounds(train, validation)
    grid = [[" "] * width for _ in range(height)]
    for curve, mark in ((train, "."), (validation, "o")):
        for step, value in curve:
            column = round((step - first) / (last - first) * (width - 1))
            row = round((high - value) / (high - low) * (height - 1))
            grid[row][column] = mark
    rows = [f"{high - (high - low) * row / (height - 1):8.3f} |" + "".join(cells).rstrip()
            for row, cells in enumerate(grid)]
    rows.append(" " * 9 + "+" + "-" * width)
    rows.append(" " * 10 + f"step {first}" + f"{last}".rjust(width - len(f"step {first}")))
    legend = "  . training loss (running mean), nats a token" + ("   o validation loss" if validation else "")
    return "\n".join(rows + [" " * 8 + legend])


class Svg:
    """A picture of 800 x 480 with axes from (80, 30) to (780, 420)."""

    LEFT, TOP, RIGHT, BOTTOM = 80, 30, 780, 420

    def __init__(self, first, last, low, high):
        self.first, self.last, self.low, self.high = first, last, low, high
        self.items = []

    def place(self, step, value):
        x = self.LEFT + (step - self.first) / (self.last - self.first) * (self.RIGHT - self.LEFT)
        y = self.BOTTOM - (value - self.low) / (self.high - self.low) * (self.BOTTOM - self.TOP)
        return x, y

    def text(self, x, y, words, anchor="middle", more=""):
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.items.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{words}</text>')

    def line(self, x1, y1, x2, y2, colour):
        self.items.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>')

    def axes(self, title):
        for value in ticks(self.low, self.high, 7):
            _, y = self.place(self.first, value)
            self.line(self.LEFT, y, self.RIGHT, y, "#dddddd")
            self.text(self.LEFT - 8, y + 4, f"{value:.4g}", "end")
        for step in ticks(self.first, self.last, 8):
            x, _ = self.place(step, self.low)
            self.line(x, self.BOTTOM, x, self.BOTTOM + 5, "#444444")
            self.text(x, self.BOTTOM + 20, f"{step:.10g}")
        self.line(self.LEFT, self.TOP, self.LEFT, self.BOTTOM, "#444444")
        self.line(self.LEFT, self.BOTTOM, self.RIGHT, self.BOTTOM, "#444444")
        self.text((self.LEFT + self.RIGHT) / 2, 18, title, more='font-weight="bold"')
        self.text((self.LEFT + self.RIGHT) / 2, self.BOTTOM + 44, "step")
        self.text(20, (self.TOP + self.BOTTOM) / 2, "loss, nats a token",
                  more=f'transform="rotate(-90 20 {(self.TOP + self.BOTTOM) / 2})"')

    def curve(self, points, colour, width):
        path = " ".join("{:.1f},{:.1f}".format(*self.place(*point)) for point in points)
        self.items.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def dots(self, points, colour):
        for point in points:
            x, y = self.place(*point)
            self.items.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def legend(self, entries):
        for place, (colour, words) in enumerate(entries):
            y = self.TOP + 18 + 18 * place
            self.items.append(f'<rect x="600" y="{y - 9}" width="14" height="10" fill="{colour}"/>')
            self.text(620, y, words, "start")

    def page(self):
        return ('<svg xmlns="http://www.w3.org/2000/svg" width="800" height="480" font-family="sans-serif" '
                'font-size="12">\n<rect width="800" height="480" fill="white"/>\n' + "\n".join(self.items) +
                "\n</svg>\n")


def picture(train, validation, title):
    smooth = running_mean(train)
    shown = train[:: max(1, len(train) // 2000)]
    svg = Svg(*bounds(shown, validation))
    svg.axes(title)
    svg.curve(shown, "#bbbbbb", 1)
    svg.curve(smooth[:: max(1, len(smooth) // 2000)], "#1f5fa8", 2)
    entries = [("#bbbbbb", "training, each step"), ("#1f5fa8", "training, running mean")]
    if validation:
        svg.curve(validation, "#c0392b", 2)
        svg.dots(validation, "#c0392b")
        entries.append(("#c0392b", f"validation, last {validation[-1][1]:.4f}"))
    svg.legend(entries)
    return svg.page()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="the picture; RUN_DIRECTORY/loss.svg when left out")
    parser.add_argument("--quiet", action="store_true", help="only the picture")
    arguments = parser.parse_args()
    try:
        lines = read_metrics(arguments.run / "metrics.jsonl")
    except OSError as problem:
        sys.exit(f"plot_loss: {problem}")
    train, validation = series(lines, "loss"), series(lines, "validation_loss")
    if not train:
        sys.exit(f"plot_loss: no step is in {arguments.run / 'metrics.jsonl'} yet")
    out = arguments.out or arguments.run / "loss.svg"
    out.write_text(picture(train, validation, f"{arguments.run.name}: loss"), encoding="utf-8")
    if not arguments.quiet:
        print(text_plot(running_mean(train), validation))
        print(f"the same as a picture: {out}")


if __name__ == "__main__":
    main()

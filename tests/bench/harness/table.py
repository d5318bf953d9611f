"""From values to the table: medians, ratios to nginx round by round, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness.rounds import Column
from harness.scenarios import Kind, Scenario

UNIT_PROXY = "nginx"
OURS = "iocproxy"
MISSED = "✗"


def ratios(column: Column, unit: Column | None) -> list[float]:
    """Each round's value over nginx's in the same round, so that a drift of the machine cancels out."""
    if unit is None:
        return []
    return [value / base for value, base in zip(column.values, unit.values, strict=False) if base > 0]


def summary(scenario: Scenario, columns: Mapping[str, Column]) -> dict[str, Any]:
    """One row as plain data, for ``--json``."""
    unit = columns.get(UNIT_PROXY)
    proxies: dict[str, Any] = {}
    for name, column in columns.items():
        relative = ratios(column, unit)
        proxies[name] = {
            "values": column.values,
            "median": median(column.values) if column.values else None,
            "ratios": relative,
            "ratio": median(relative) if relative else None,
            "broken": column.broken,
            "absent": column.absent,
        }
    ours = proxies.get(OURS)
    figure = ours and ours["ratio" if scenario.kind is Kind.RATIO else "median"]
    return {
        "title": scenario.title,
        "unit": scenario.unit,
        "kind": scenario.kind.value,
        "must": scenario.must,
        "met": None if figure is None else figure <= scenario.must,
        "proxies": proxies,
    }


def render(rows: Mapping[str, Mapping[str, Any]], proxies: Sequence[str], *, spread: bool) -> str:
    """An aligned table in Markdown."""
    lines = [["scenario", *proxies, "must"]]
    lines.extend([row["title"], *(_cell(row, name, spread) for name in proxies), _budget(row)] for row in rows.values())
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    drawn.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(drawn)


def _cell(row: Mapping[str, Any], name: str, spread: bool) -> str:
    proxy = row["proxies"][name]
    if proxy["broken"]:
        return "broken"
    if proxy["absent"] or proxy["median"] is None:
        return "–"
    relative = row["kind"] == Kind.RATIO.value and proxy["ratio"] is not None
    absolute = f"{number(proxy['median'])} {row['unit']}"
    if not relative:
        text, values = absolute, proxy["values"]
    elif name == UNIT_PROXY:
        text, values = f"1 ({absolute})", proxy["values"]
    else:
        text, values = f"{proxy['ratio']:.2f}", proxy["ratios"]
    if spread and len(values) > 1:
        text += f" [{number(min(values))}–{number(max(values))}]"
    return text


def _budget(row: Mapping[str, Any]) -> str:
    limit = f"≤ {row['must']:g} ×" if row["kind"] == Kind.RATIO.value else f"≤ {row['must']:g} {row['unit']}"
    return f"{limit} {MISSED}" if row["met"] is False else limit


def number(value: float) -> str:
    """Three digits, as far as they mean anything."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

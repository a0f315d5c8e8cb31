"""What a ``MemoryTracker`` found, as text of 80 columns and as HTML."""

import textwrap

from ._advice import where
from ._units import count, fitted, many, share, size, span

__all__ = ["html", "text"]

WIDTH, HEIGHT = 80, 40


def text(found):
    """At most 40 lines of at most 80 columns, of ``MemoryTracker.to_dict()``."""
    sections = [
        _table(found),
        _peak(found, 5),
        _churn(found),
        _left(found, 2),
        _blocks(found, 3),
        _users(found),
        _todo(found),
    ]
    lines = [_headline(found)]
    for section in sections:
        if section:
            lines += ["", *section]
    if len(lines) > HEIGHT:
        # Where there is much to say it is said without gaps.
        lines = [line for line in lines if line]
    return "\n".join(line[:WIDTH].rstrip() for line in lines[:HEIGHT])


def _headline(found):
    parts = [span(found["seconds"])]
    if found["steps"]:
        parts.append(many(found["steps"], "step"))
    if found["source"] == "process":
        parts.append("no forebay pool was open")
    name = f" {fitted(found['name'], 40)}" if found["name"] else ""
    return f"Memory{name}: " + ", ".join(parts)


def _table(found):
    rows = []
    if found["pools"]:
        rows.append(f"{'':14}{'requested':>18}{'allocated':>18}{'reserved':>18}{'of limit':>10}")
        rows.append(f"{'':14}" + f"{'now':>9}{'peak':>9}" * 3 + f"{'':10}")
    pools = sorted(found["pools"], key=lambda pool: -pool["reserved"]["peak"])
    shown = pools if len(pools) <= 4 else pools[:3]
    for pool in shown:
        cells = ""
        for level in ("requested", "allocated", "reserved"):
            now = "closed" if pool["closed"] else _short(pool[level]["current"])
            cells += f"{now:>9}{_short(pool[level]['peak']):>9}"
        used = share(pool["reserved"]["peak"], pool["limit_bytes"])
        rows.append(f"{fitted(pool['name'], 13):14}{cells}{used:>10}")
    if len(pools) > len(shown):
        rows.append(f"and {many(len(pools) - len(shown), 'pool')} more")
    process = found["process"]
    resident, most = size(process["rss_bytes"]), size(process["peak_rss_bytes"])
    entry = size(process["entry_rss_bytes"])
    rows.append(f"process: {resident} resident, {most} at most, {entry} at the start")
    python = found["python"]
    if python is not None:
        rows.append(
            f"Python: {size(python['current_bytes'])}, {size(python['peak_bytes'])} at most, "
            f"{size(python['entry_bytes'])} at the start"
        )
        for line in python["grown"][:2]:
            rows.append(f"{_short(line['bytes']):>9} more at {fitted(where(line), 60)}")
    return rows


def _short(number):
    """A size in eight characters."""
    return size(number).replace(" ", "").replace("iB", "i") if number else "0"


def _place(holder, width):
    """A line, and the part that it allocated for."""
    block = f" ({fitted(holder['block'], 21)})" if holder.get("block") else ""
    return fitted(where(holder), width - len(block)) + block


def _holder(bytes_held, whole, holder):
    return f"{size(bytes_held):>10} {share(bytes_held, whole):>6}  {_place(holder, 60)}"


def _peak(found, most):
    peak = found["peak"]
    when = f"Peak: {size(peak['bytes'])} at {span(peak['time_s'])}"
    if found["steps"]:
        when += f", in step {peak['step']}"
    if peak["block"]:
        when += f", in {fitted(peak['block'], 24)!r}"
    rows = [when]
    if peak["holders"]:
        rows[0] += "; held by"
        held = peak["holders"][:most]
        rows += [_holder(one["bytes"], peak["bytes"], one) for one in held]
        others = peak["bytes"] - sum(one["bytes"] for one in held)
        if others > 0:
            rows.append(f"{size(others):>10} {share(others, peak['bytes']):>6}  other lines")
        if peak["unseen_bytes"]:
            rows.append(
                f"{size(peak['unseen_bytes']):>10} at most besides: from before, and from C"
            )
    return rows


def _churn(found):
    pools = found["pools"]
    if not pools:
        return []

    def of(name):
        return sum(pool[name] for pool in pools)

    allocations, seconds = of("allocations"), found["seconds"]
    rate = f" ({count(allocations / seconds)}/s)" if seconds > 0 else ""
    line = f"{many(allocations, 'allocation')}{rate}, {many(of('frees'), 'free')}"
    line += f", {share(of('hits'), of('hits') + of('misses'))} hits"
    line += f", {many(of('system_calls'), 'system call')}"
    if of("failed"):
        line += f", {count(of('failed'))} failed"
    rows = [line]
    open_pools = [pool for pool in pools if "external_fragmentation" in pool]
    if open_pools:
        worst = max(open_pools, key=lambda pool: pool["external_fragmentation"])
        rows.append(
            f"Fragmentation: {worst['external_fragmentation']:.0%} of what is free is in pieces, "
            f"{worst['internal_fragmentation']:.1%} is rounding"
            + (f" ({fitted(worst['name'], 13)})" if len(open_pools) > 1 else "")
        )
    return rows


def _left(found, most):
    live, growth, rows = found["live"], found["growth"], []
    if live["bytes"] > 0:
        rows.append(
            f"Not there at the start: {size(live['bytes'])} in {many(live['blocks'], 'block')}"
        )
        rows += [_holder(one["bytes"], live["bytes"], one) for one in live["holders"][:most]]
    per_step = growth["requested_bytes_per_step"]
    if per_step:
        rows.append(f"Growth: {size(per_step)} a step of what is requested")
    elif growth["rss_bytes_per_step"]:
        rows.append(f"Growth: {size(growth['rss_bytes_per_step'])} a step of what is resident")
    for line in growth["lines"][:1]:
        rows.append(f"{size(line['bytes_per_step']):>10} a step  {_place(line, 58)}")
    return rows


def _blocks(found, most):
    blocks = sorted(found["blocks"], key=lambda one: -one["peak_allocated_bytes"])
    if not blocks:
        return []
    rows = [f"{'Parts':30}{'peak':>11}{'change':>11}{'times':>8}{'last took':>14}"]
    for one in blocks[:most]:
        rows.append(
            f"  {fitted(one['name'], 27):28}{size(one['peak_allocated_bytes']):>11}"
            f"{size(one['delta_bytes']):>11}{count(one['times']):>8}{span(one['seconds']):>14}"
        )
    return rows


def _users(found):
    rows = []
    for one in sorted(found["caches"], key=lambda one: -one["bytes"])[:1]:
        hits = share(one["hits"], one["hits"] + one["misses"])
        rows.append(
            f"Cache {fitted(one['name'], 16)}: {size(one['bytes'])} "
            f"in {many(one['entries'], 'tensor')}, {hits} hits, {count(one['evicted'])} evicted"
        )
    for one in found["prefetchers"][:1]:
        rows.append(
            f"Prefetch {fitted(one['name'], 20)}: {count(one.get('num_items', 0))} batches, "
            f"{count(one.get('late', 0))} late, {one.get('verdict', '')}"
        )
    return rows


def _todo(found):
    rows = []
    for one in found["actions"]:
        rows += textwrap.wrap(
            one["message"],
            WIDTH - 2,
            initial_indent="- ",
            subsequent_indent="  ",
            max_lines=2,
            placeholder=" …",
        )
    return ["What to do", *rows] if rows else []


# ----- notebooks

_STYLE = (
    "<style scoped>.forebay{font:13px/1.4 system-ui,sans-serif}"
    ".forebay td,.forebay th{text-align:right;padding:1px 8px;white-space:nowrap}"
    ".forebay table{font:inherit;font-variant-numeric:tabular-nums;margin-bottom:6px}"
    ".forebay :is(td,th):first-child{text-align:left}.forebay p{margin:4px 0}"
    ".forebay caption{text-align:left;font-weight:600;padding:6px 0 2px}</style>"
)

_COLOURS = {"reserved": "#8aa6c1", "allocated": "#2f6f9f"}


def escape(text):
    """``text`` within HTML."""
    # When it is needed: a program may well have a file html.py.
    import html

    return html.escape(text)


def _cells(tag, values):
    return "<tr>" + "".join(f"<{tag}>{escape(str(one))}</{tag}>" for one in values) + "</tr>"


def _rows(caption, head, rows):
    if not rows:
        return ""
    body = "".join(_cells("td", row) for row in rows)
    return f"<table><caption>{escape(caption)}</caption>{_cells('th', head)}{body}</table>"


def _chart(timeline, width=640, height=120):
    """Allocated and reserved bytes over time, or resident ones where there were no pools."""
    levels = ["reserved", "allocated"]
    if not any(point["reserved_bytes"] for point in timeline):
        levels = ["rss"]
    highest = max((point[f"{levels[0]}_bytes"] for point in timeline), default=0)
    last = timeline[-1]["time_s"] if timeline else 0
    if not highest or not last:
        return ""
    # As many points as there are pixels.
    every = max(len(timeline) // width, 1)
    areas, names = "", []
    for level in levels:
        groups = [timeline[at : at + every] for at in range(0, len(timeline), every)]
        points = " ".join(
            f"{width * group[-1]['time_s'] / last:.1f},"
            f"{height - height * max(one[f'{level}_bytes'] for one in group) / highest:.1f}"
            for group in groups
        )
        colour = _COLOURS.get(level, "#2f6f9f")
        areas += f'<polygon fill="{colour}" points="0,{height} {points} {width},{height}"/>'
        names.append(
            f'<span style="color:{colour}">&#9632;</span> {"resident" if level == "rss" else level}'
        )
    return (
        f'<svg role="img" aria-label="bytes over time" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{areas}</svg>'
        f"<div>{' '.join(names)}, at most {size(highest)}, over {span(last)}</div>"
    )


def html(found, timeline):
    """The same for notebooks; nothing is fetched, and what comes from the program is escaped."""
    pools = [
        [pool["name"]]
        + [
            size(pool[level][moment])
            for level in ("requested", "allocated", "reserved")
            for moment in ("current", "peak")
        ]
        + [size(pool["limit_bytes"])]
        for pool in found["pools"]
    ]
    peak = found["peak"]
    holders = [
        [where(one), one["block"], size(one["bytes"]), share(one["bytes"], peak["bytes"])]
        for one in peak["holders"]
    ]
    left = [
        [where(one), one["block"], size(one["bytes"]), one["blocks"]]
        for one in found["live"]["holders"]
    ]
    parts = [
        f"<b>{escape(_headline(found))}</b>",
        _chart(timeline),
        _rows(
            "Pools",
            ["", "requested", "peak", "allocated", "peak", "reserved", "peak", "limit"],
            pools,
        ),
        _rows(f"Peak: {size(peak['bytes'])}", ["line", "part", "held", "share"], holders),
        _rows("Not there at the start", ["line", "part", "held", "blocks"], left),
        "".join(f"<p>{escape(line)}</p>" for line in _churn(found) + _users(found)),
    ]
    if found["actions"]:
        items = "".join(f"<li>{escape(one['message'])}</li>" for one in found["actions"])
        parts.append(f"<b>What to do</b><ul>{items}</ul>")
    return f'<div class="forebay">{_STYLE}{"".join(parts)}</div>'

"""Writes python/forebay/_abi.py from include/forebay.h.

    scripts/python_abi.py [--check]

The header is cbindgen's, so it is regular: a comment, then one thing. What does not look as
expected is an error, never left out. With --check nothing is written; the exit status is 1 if
the file is not what it would be.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = ROOT / "include/forebay.h"
OUT = ROOT / "python/forebay/_abi.py"

NUMBERS = {
    "int": "c_int", "char": "c_char", "size_t": "c_size_t", "float": "c_float", "double": "c_double",
    **{f"{sign}int{bits}_t": f"c_{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


class Names:
    """What the header has named so far, and what it is in Python."""

    def __init__(self):
        self.structs, self.callbacks, self.opaque, self.enums = set(), set(), set(), set()

    def type(self, text):
        """The ctypes expression for a C type."""
        words = text.replace("*", " * ").split()
        stars = words.count("*")
        words = [word for word in words if word not in ("const", "struct", "enum", "*")]
        if len(words) != 1:
            raise SystemExit(f"{HEADER.name}: what type is {text!r}?")
        base = words[0]
        if base in ("void", "char") and stars:
            # Bytes, an address, an array: whatever the caller has.
            inner, stars = ("c_char_p" if base == "char" else "c_void_p"), stars - 1
        elif base == "void":
            return "None"
        elif base in NUMBERS:
            inner = NUMBERS[base]
        elif base in self.enums:
            inner = "c_int32"
        elif base in self.structs or base in self.callbacks:
            inner = python_name(base)
        elif base == "forebay_stream":
            inner = "c_void_p"
        elif base in self.opaque and stars:
            inner, stars = "c_void_p", stars - 1
        else:
            raise SystemExit(f"{HEADER.name}: what type is {text!r}?")
        for _ in range(stars):
            inner = f"POINTER({inner})"
        return inner


def python_name(name):
    """``forebay_pool_config`` is ``PoolConfig``."""
    return "".join(part.capitalize() for part in name.removeprefix("forebay_").split("_"))


def parameters(names, text):
    """The types of a parameter list, without the parameters' names."""
    text = " ".join(text.split())
    if text == "void":
        return []
    return [names.type(re.sub(r"\w+$", "", one.strip())) for one in text.split(",")]


def callback(names, returns, takes):
    return f"CFUNCTYPE({', '.join([names.type(returns), *parameters(names, takes)])})"


def summary(comment):
    """The first sentence of a comment, on a line of a hundred."""
    sentence = re.split(r"(?<=[.:])\s", " ".join(comment), maxsplit=1)[0].rstrip(":")
    return sentence.replace("`forebay_", "`").replace('"', "'")


def generate(header):
    names, out, functions = Names(), [], []
    lines = iter(header[header.index("\n/// ") :].splitlines())
    comment = []
    for line in lines:
        if line.startswith("///"):
            comment.append(line[3:].strip())
            continue
        if match := re.fullmatch(r"#define FOREBAY_(\w+) (\w+)", line):
            value = {"UINT32_MAX": "0xFFFFFFFF", "UINT64_MAX": "0xFFFFFFFFFFFFFFFF"}.get(
                match[2], match[2]
            )
            int(value, 0)
            out.append(f"{match[1]} = {value}")
        elif match := re.fullmatch(r"enum (\w+)", line):
            names.enums.add(match[1])
            for line in lines:
                if member := re.fullmatch(r"    FOREBAY_(\w+) = (-?\d+),", line):
                    out.append(f"{member[1]} = {member[2]}")
                if line == "};":
                    break
        elif match := re.fullmatch(r"typedef struct (\w+) (\w+);", line):
            names.opaque.add(match[2])
        elif match := re.fullmatch(r"typedef struct (\w+) \*(\w+);", line):
            names.opaque.add(match[2])
        elif match := re.fullmatch(r"typedef struct (\w+) \{", line):
            fields = []
            for line in lines:
                if line.startswith("}"):
                    break
                if line.strip().startswith("///"):
                    continue
                if field := re.fullmatch(r"    (.+?)\(\*(\w+)\)\((.*)\);", line):
                    fields.append((field[2], callback(names, field[1], field[3])))
                    continue
                field = re.fullmatch(r"    ([\w ]+?[ *]+)(\w+)(?:\[(\d+)\])?;", line)
                if not field:
                    raise SystemExit(f"{HEADER.name}: what field is {line!r}?")
                kind = names.type(field[1])
                fields.append((field[2], f"{kind} * {field[3]}" if field[3] else kind))
            names.structs.add(match[1])
            out.append(f"\n\nclass {python_name(match[1])}(Structure):")
            out.append(f'    """``{match[1]}``: {summary(comment)}"""\n')
            out.append("    _fields_ = [")
            out.extend(f'        ("{name}", {kind}),' for name, kind in fields)
            out.append("    ]\n")
        elif re.match(r"typedef [^(]*\(\*", line):
            while not line.endswith(";"):
                line += " " + next(lines).strip()
            match = re.fullmatch(r"typedef (.+?)\(\*(\w+)\)\((.*)\);", line)
            names.callbacks.add(match[2])
            out.append(f"{python_name(match[2])} = {callback(names, match[1], match[3])}")
        elif "(" in line and re.match(r"(FOREBAY_NODISCARD )?(const )?(struct )?\w+ \**forebay_", line):
            while not line.endswith(";"):
                line += " " + next(lines).strip()
            line = line.removeprefix("FOREBAY_NODISCARD ")
            match = re.fullmatch(r"(.+?)(forebay_\w+)\((.*)\);", line)
            kinds = ", ".join(parameters(names, match[3]))
            functions.append(f'    "{match[2]}": ({names.type(match[1])}, [{kinds}]),')
        elif line.startswith("typedef") and not re.match(r"typedef (enum \w+|int32_t) \w+;", line):
            raise SystemExit(f"{HEADER.name}: what is {line!r}?")
        if not line.startswith(("FOREBAY_NODISCARD", "#")):
            comment = []
    declared = len(re.findall(r"\bforebay_\w+\([^;]*\);", re.sub(r"//.*", "", header)))
    if len(functions) != declared:
        raise SystemExit(f"{HEADER.name}: {declared} functions, but {len(functions)} were read")
    version = [re.search(rf"VERSION_{part} (\d+)", header)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    body = "\n".join([f"VERSION = ({', '.join(version)})", *out])
    used = sorted(set(re.findall(r"\bc_\w+|\bPOINTER\b|\bCFUNCTYPE\b", body + "".join(functions))))
    return "\n".join(
        [
            '"""The constants, structs and functions of ``forebay.h``, for ctypes.',
            "",
            "Generated by scripts/python_abi.py; what they mean is in the header.",
            '"""',
            "",
            "# fmt: off",
            "from ctypes import (",
            *(f"    {name}," for name in ["Structure", *used]),
            ")",
            "",
            re.sub(r"\n{4,}", "\n\n\n", body).strip("\n"),
            "",
            "",
            "#: What each function returns and takes.",
            "FUNCTIONS = {",
            *functions,
            "}",
            "",
        ]
    )


def main():
    text = generate(HEADER.read_text())
    if sys.argv[1:] == ["--check"]:
        if not OUT.exists() or OUT.read_text() != text:
            sys.exit(f"{OUT.relative_to(ROOT)} is not what {HEADER.name} says: scripts/python_abi.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        OUT.write_text(text)


main()

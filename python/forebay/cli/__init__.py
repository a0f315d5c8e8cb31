"""The commands of ``python -m forebay``.

A command is a module with ``add_arguments(parser)`` and ``run(args)``, which returns the exit
status. It is imported when it is the one that is wanted. Those here are programs alone; the others
belong to what they show.
"""

import argparse
import importlib
import os
import sys

from .._abi import VERSION
from .._library import ForebayError
from ..formats import FormatError

__all__ = ["DONE", "FOUND", "WRONG_USE", "UsageError", "main"]

#: Exit statuses: all done and well; something failed, or was found; the command line is wrong.
DONE, FOUND, WRONG_USE = 0, 1, 2

#: Where each command is, and what it does.
COMMANDS = {
    "replay": ("forebay.cli.replay", "replay a trace into a pool and say what it cost"),
    "plan": ("forebay.cli.plan", "place the blocks of a trace in one arena"),
    "report": ("forebay.report", "make a page of a trace"),
    "top": ("forebay.cli.top", "show the memory of a running process"),
    "doctor": ("forebay.cli.doctor", "say what this machine has, and what to do"),
    "export": ("forebay.cli.export", "write a trace for other tools"),
    "import": ("forebay.cli.import_", "read the files of other tools as a trace"),
    "merge": ("forebay.workers", "merge the statistics of workers"),
    "merge-trace": ("forebay.cli.merge_trace", "merge the traces of ranks for Perfetto"),
}

_EPILOG = """exit status: 0 done; 1 something failed, or was found; 2 wrong use
`forebay COMMAND --help` tells of each."""


class UsageError(Exception):
    """The command line is wrong in a way that its parser cannot see."""


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line."""

    def error(self, message):
        self.exit(WRONG_USE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser(wanted):
    """The parser, with the arguments of the command ``wanted`` alone."""
    parser = _Parser(
        prog="forebay",
        description="Pools of memory: what their traces tell, and what a machine has for them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=".".join(map(str, VERSION)))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, does) in COMMANDS.items():
        command = commands.add_parser(name, help=does, description=does, allow_abbrev=False)
        if name == wanted:
            imported = importlib.import_module(module)
            imported.add_arguments(command)
            command.set_defaults(run=imported.run)
    return parser


def main(argv=None) -> int:
    """Runs the command in ``argv``, by default ``sys.argv``'s. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = next((argument for argument in argv if not argument.startswith("-")), None)
    prog = f"forebay {name}" if name in COMMANDS else "forebay"
    try:
        args = _parser(name).parse_args(argv)
        status = args.run(args)
        sys.stdout.flush()
        return status
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else DONE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads has enough. What Python would still write at its end has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except UsageError as error:
        print(f"{prog}: {error} (see {prog} --help)", file=sys.stderr)
        return WRONG_USE
    except (ForebayError, FormatError, OSError) as error:
        print(f"{prog}: {_line(error)}", file=sys.stderr)
        return FOUND


def _line(error):
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"`{error.filename}`: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split())

"""`python -m benchmarks`: measure, and say what came of it."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from benchmarks.load import LoadFailed
from benchmarks.parts import PARTS, QUICK, measure
from benchmarks.processes import REDIS, ServerFailed, choose_cores
from benchmarks.report import report
from benchmarks.results import Results, environment
from benchmarks.servers import APPLICATIONS, SERVERS, competitors

CASES = [case.name for part in PARTS.values() for case in part.cases if case.name]
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESULTS = Path(__file__).parent / "results"


def main() -> int | str:
    arguments = _parser().parse_args()
    try:
        if arguments.part == "report":
            results = Results.read(arguments.json)
        else:
            results = _measure(arguments)
            results.write(arguments.json)
    except (LoadFailed, ServerFailed, OSError, ValueError) as error:
        return str(error)
    except KeyboardInterrupt:
        return "Interrupted. The servers have been stopped."
    print(report(results))
    print(f"\nResults: {arguments.json}")
    # Not before: whoever only wants figures needs no matplotlib.
    from benchmarks.plots import draw

    for file in draw(results, arguments.plots):
        print(f"Plot:    {file}")
    return 0


def _measure(arguments: argparse.Namespace) -> Results:
    if sys.platform != "linux":
        raise ServerFailed("The benchmarks need Linux: elsewhere no process is kept on one core.")
    if REDIS is None:
        print("There is no redis-server: what goes over Redis is left out.", file=sys.stderr)
    parts = dict(QUICK if arguments.quick else PARTS)
    if arguments.part != "all":
        parts = {arguments.part: parts[arguments.part]}
    for name, part in parts.items():
        cases = [
            case
            for case in part.cases
            if (not arguments.cases or case.name in arguments.cases)
            and (REDIS is not None or not case.is_over_redis)
        ]
        parts[name] = replace(part, cases=cases, rounds=arguments.rounds or part.rounds)
    chosen = competitors(arguments.servers, arguments.apps)
    if not any(part.turns(chosen) for part in parts.values()):
        raise ServerFailed("Nothing is measured of these applications on any of these servers.")
    for number in _INTERRUPTS:
        signal.signal(number, _interrupt)
    # As many open files as we may have, for us and for the processes that we start.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = choose_cores()
    measured = {name: dict(part.arguments) for name, part in parts.items()}
    return Results(environment(cores), measured, list(measure(parts, chosen, cores)))


def _interrupt(*_: object) -> None:
    """End the servers first, whoever ends us, and however often they say so."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure this package beside its peers."
    )
    parser.add_argument(
        "part",
        nargs="?",
        default="all",
        choices=["all", *PARTS, "report"],
        help="what to measure; report: show and draw what was measured before",
    )
    choices: dict[str, tuple[Collection[str], Collection[str]]] = {
        "--servers": (SERVERS, SERVERS),
        "--apps": (APPLICATIONS, APPLICATIONS),
        "--cases": (CASES, ()),
    }
    for option, (known, default) in choices.items():
        parser.add_argument(
            option,
            type=_names(known),
            default=list(default),
            help=f"comma-separated, of {', '.join(known)} (default: all)",
        )
    parser.add_argument("--rounds", type=int, help="of each part (default: enough)")
    parser.add_argument("--quick", action="store_true", help="for a look: less than five minutes")
    parser.add_argument(
        "--json",
        type=Path,
        default=RESULTS / "results.json",
        metavar="FILE",
        help="the results, written; for report: read (default: %(default)s)",
    )
    parser.add_argument(
        "--plots",
        type=Path,
        default=RESULTS,
        metavar="DIRECTORY",
        help="where the plots go (default: %(default)s)",
    )
    return parser


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        given: list[str] = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return given

    return names


if __name__ == "__main__":
    sys.exit(main())

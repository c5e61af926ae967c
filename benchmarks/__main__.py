"""`python -m benchmarks`: measure, and say what came of it."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import Failed
from benchmarks.parts import PARTS, QUICK, measure_all
from benchmarks.plots import draw
from benchmarks.processes import REDIS, choose_cores
from benchmarks.report import report
from benchmarks.results import Results, environment
from benchmarks.servers import APPLICATIONS, SERVERS, competitors

CASES = [case.name for part in PARTS.values() for case in part.cases if case.name]
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int | str:
    arguments = _parser().parse_args()
    try:
        results = _measure(arguments)
    except (Failed, OSError) as error:
        return str(error)
    except KeyboardInterrupt:
        return "Interrupted. The servers have been stopped."
    print(report(results), end="\n\n")
    for file in (results.write(arguments.results), *draw(results, arguments.results)):
        print(file)
    return 0


def _measure(arguments: argparse.Namespace) -> Results:
    if sys.platform != "linux":
        raise Failed("The benchmarks need Linux: elsewhere no process is kept on one core.")
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
        raise Failed("Nothing is measured of these applications on any of these servers.")
    for number in _INTERRUPTS:
        signal.signal(number, _interrupt)
    # As many open files as we may have, for us and for the processes that we start.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = choose_cores()
    measured = {name: dict(part.arguments) for name, part in parts.items()}
    return Results(environment(cores), measured, list(measure_all(parts, chosen, cores)))


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
        choices=["all", *PARTS],
        help="what to measure (default: %(default)s)",
    )
    for option, known in {"servers": SERVERS, "apps": APPLICATIONS, "cases": CASES}.items():
        parser.add_argument(
            f"--{option}",
            nargs="+",
            choices=list(known),
            default=[] if option == "cases" else list(known),
            help="(default: all)",
        )
    parser.add_argument("--rounds", type=int, help="of each part (default: enough)")
    parser.add_argument("--quick", action="store_true", help="for a look: less than five minutes")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(__file__).parent / "results",
        metavar="DIRECTORY",
        help="where the results and their plots go (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

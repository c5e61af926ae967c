"""`python -m benchmarks`: measure, and say what came of it."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cores import Cores
from benchmarks.load import LoadFailed
from benchmarks.parts import PARTS, QUICK, measurable, measure, steps
from benchmarks.processes import ServerFailed
from benchmarks.progress import Progress
from benchmarks.report import missed, report
from benchmarks.results import Results, environment
from benchmarks.servers import APPLICATIONS, SERVERS, competitors

CASES = [case.name for part in PARTS.values() for case in part.cases if case.name]

_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.part == "report":
        try:
            results = Results.read(arguments.json)
        except (OSError, ValueError) as error:
            return _complain(f"{error}\nMeasure first, or name the file with --json.")
    else:
        if sys.platform != "linux":
            return _complain(
                f"The benchmarks need Linux, and this is {sys.platform}: what the servers use is"
                " read from /proc and from the clocks of their processes."
            )
        try:
            results = _measure(arguments)
        except (LoadFailed, ServerFailed) as error:
            return _complain(str(error))
        except KeyboardInterrupt:
            return _complain("Interrupted. The servers have been stopped.", 130)
        results.write(arguments.json)
    print(report(results))
    print(f"\nResults: {arguments.json}")
    _draw(results, arguments.plots)
    return 1 if arguments.strict and missed(results) else 0


def _measure(arguments: argparse.Namespace) -> Results:
    parts = QUICK if arguments.quick else PARTS
    if arguments.part != "all":
        parts = {arguments.part: parts[arguments.part]}
    if arguments.rounds:
        parts = {name: replace(part, rounds=arguments.rounds) for name, part in parts.items()}
    if arguments.cases:
        parts = {
            name: replace(part, cases=cases)
            for name, part in parts.items()
            if (cases := [case for case in part.cases if case.name in arguments.cases])
        }
    all_parts, parts = parts, measurable(parts)
    if parts != all_parts:
        print("There is no redis-server: what goes over Redis is left out.", file=sys.stderr)
    chosen = competitors(arguments.servers, arguments.apps)
    count = steps(parts, chosen)
    if not count:
        raise ServerFailed("Nothing is measured of these applications on any of these servers.")
    # Whoever ends us ends the servers.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    _allow_many_connections()
    cores = Cores.choose()
    results = Results(environment(cores), {name: part.arguments for name, part in parts.items()})
    with Progress(count) as progress:
        results.samples.extend(measure(parts, chosen, cores, progress))
    return results


def _draw(results: Results, directory: Path) -> None:
    # Not before: whoever only wants figures needs no matplotlib.
    from benchmarks.plots import draw

    for file in draw(results, directory):
        print(f"Plot:    {file}")


def _allow_many_connections() -> None:
    """As many open files as we may have, for us and for the processes that we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _complain(text: str, code: int = 2) -> int:
    print(text, file=sys.stderr)
    return code


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
    parser.add_argument(
        "--servers",
        type=_names(list(SERVERS)),
        default=list(SERVERS),
        help=f"comma-separated, of {', '.join(SERVERS)}",
    )
    parser.add_argument(
        "--apps",
        type=_names(list(APPLICATIONS)),
        default=list(APPLICATIONS),
        help=f"comma-separated, of {', '.join(APPLICATIONS)}",
    )
    parser.add_argument(
        "--cases",
        type=_names(CASES),
        default=[],
        help=f"comma-separated, of {', '.join(CASES)} (default: all)",
    )
    parser.add_argument("--rounds", type=_positive, help="of each part (default: enough)")
    parser.add_argument("--quick", action="store_true", help="for a look: a few minutes")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument(
        "--json",
        type=Path,
        default=_RESULTS / "results.json",
        metavar="FILE",
        help="the results, written; for report: read (default: %(default)s)",
    )
    parser.add_argument(
        "--plots",
        type=Path,
        default=_RESULTS,
        metavar="DIRECTORY",
        help="where the plots go (default: %(default)s)",
    )
    return parser


def _names(known: list[str]) -> Any:
    def names(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return given

    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())

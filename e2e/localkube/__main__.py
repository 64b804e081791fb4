"""Command line: ``python -m e2e.localkube COMMAND``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from e2e import localkube
from e2e.localkube.plan import COMPONENTS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.localkube", description=localkube.__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("prepare", help="install packages and build the programs that are missing")
    up = commands.add_parser("up", help="start Kubernetes, or return at once when it runs already")
    up.add_argument("--fresh", action="store_true", help="end a running one first")
    commands.add_parser("down", help="end it and remove every trace")
    commands.add_parser("status", help="say whether it runs; exit status 1 when it does not")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    images = commands.add_parser("images", help="build the images, and import them when Kubernetes runs")
    images.add_argument("--push", metavar="REGISTRY", help="push them there instead of importing them")
    logs = commands.add_parser("logs", help="print the log of a component")
    logs.add_argument("component", choices=("init", *COMPONENTS))
    for tool in ("kubectl", "helm"):
        commands.add_parser(tool, help=f"run {tool} against it", add_help=False)
    return parser


def _execute(tool: Path, kubeconfig: Path, arguments: list[str]) -> None:
    """Become `tool`: its exit status and its terminal are ours."""
    os.execve(tool, [str(tool), *arguments], {**os.environ, "KUBECONFIG": str(kubeconfig)})  # noqa: S606


def _print_images(registry: str | None) -> None:
    references = localkube.push_images(registry) if registry else localkube.load_images()
    for name, reference in references.items():
        print(f"{name}={reference}")


def _print_status() -> int:
    running = localkube.status()
    if running is None:
        print("down")
        for line in localkube.leftovers():
            print(f"  left over: {line}")
        return 1
    print(f"up\n  KUBECONFIG={running.kubeconfig}\n  node {running.node_name} {running.node_ip}")
    return 0


def _dispatch(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "prepare":
            localkube.prepare()
        case "up":
            print(f"KUBECONFIG={localkube.up(fresh=arguments.fresh).kubeconfig}")
        case "down":
            localkube.down()
        case "status":
            return _print_status()
        case "kubeconfig":
            print(localkube.require_running().kubeconfig)
        case "images":
            _print_images(arguments.push)
        case "logs":
            sys.stdout.write(
                localkube.logs(arguments.component).read_text(encoding="utf-8", errors="replace")
            )
        case _:
            raise AssertionError(f"unhandled command {arguments.command}")
    return 0


def main(argv: list[str]) -> int:
    """Run one command; its exit status. Errors of ours are one message, never a traceback."""
    try:
        # Everything after `kubectl` or `helm` belongs to that tool, options included: argparse must not see it.
        if argv and argv[0] in {"kubectl", "helm"}:
            running = localkube.require_running()
            _execute(running.kubectl if argv[0] == "kubectl" else running.helm, running.kubeconfig, argv[1:])
        return _dispatch(_parser().parse_args(argv))
    except localkube.LocalKubeError as error:
        print(f"localkube: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        print("localkube: interrupted; run the same command again, or `down`", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

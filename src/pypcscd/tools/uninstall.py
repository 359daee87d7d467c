"""The command ``pypcscd uninstall``."""

import argparse
import sys
from collections.abc import Sequence

from pypcscd.tools.install.command import add_prefix_option, machine_at, require_root, say
from pypcscd.tools.install.machine import InstallError
from pypcscd.tools.install.remover import uninstall


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pypcscd uninstall",
        description="Take away what pypcscd install has put in place, and start again what ran before. Files "
        "that were changed since then are left and named; the exit status is 1 then.",
    )
    add_prefix_option(parser)
    options = parser.parse_args(arguments)
    try:
        require_root(options.prefix, "uninstall")
        is_clean = uninstall(machine_at(options.prefix), say)
    except InstallError as error:
        print(f"pypcscd uninstall: {error}", file=sys.stderr)
        return 1
    return 0 if is_clean else 1

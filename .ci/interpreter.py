"""Say in one line why this interpreter cannot carry pytest-gates: its version, or what it lacks.

    python .ci/interpreter.py [MODULE ...]

Plain syntax on purpose: an old interpreter must be able to read this far.
"""

import sys


def main(modules):
    """Exit with a message, or with 0 if all is well."""
    found = "%d.%d.%d" % sys.version_info[:3]
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return (
            "pytest-gates needs Python 3.11 to 3.13, %s is %s; name another one, for instance: "
            "make gates PYTHON=python3.12" % (sys.executable, found)
        )
    from importlib.util import find_spec

    absent = [name for name in modules if find_spec(name) is None]
    if absent:
        return (
            "%s (Python %s) lacks %s; install them there, or let make build an environment: "
            "make gates, without VENV=" % (sys.executable, found, ", ".join(absent))
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Exit with 0 if all tests that failed, of which there must be one, took too long.

    python .ci/took_too_long.py REPORT.xml COUNT

COUNT: how many tests there are, all of which must have a result: a run that was interrupted has
not. A wrong value or an error is no matter of time: then it exits with 1. What failed is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

_SIGNS = ("Timeout (>", "crashed while running")
"""What pytest-timeout writes, and pytest-xdist of a worker that was ended as it hung."""


def main(report: Path, count: int) -> int:
    """Print what failed; 0 if it is all a matter of time."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    ran = {(case.get("classname"), case.get("name")) for case in cases}
    if len(ran) < count:
        print(f"{count - len(ran)} of {count} tests have no result")
        return 1
    failed = [
        (f"{case.get('classname')}::{case.get('name')}", problem.get("message") or "")
        for case in cases
        for problem in (*case.findall("failure"), *case.findall("error"))
    ]
    for name, message in failed:
        print(f"{name}: {message.splitlines()[0] if message else 'failed'}")
    late = [name for name, message in failed if any(sign in message for sign in _SIGNS)]
    return 0 if failed and len(late) == len(failed) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))

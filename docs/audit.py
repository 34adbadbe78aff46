"""Sums up what pip-audit has found: python docs/audit.py audit/vulnerabilities.json; used by `make audit`."""

import json
import sys
from pathlib import Path
from typing import Any

UNREACHABLE = "nothing was audited: the vulnerability service cannot be reached from here"


def summary(path: Path) -> tuple[str, int]:
    """What a report says, and the exit code: 1 if it names a vulnerability.

    A package that the service does not know is skipped; if it knows none, it is not that service that answered.
    """
    if not path.is_file():
        return UNREACHABLE, 0
    packages: list[dict[str, Any]] = json.loads(path.read_text())["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in audited
        for found in package["vulns"]
    ]
    if not audited:
        return UNREACHABLE, 0
    skipped = len(packages) - len(audited)
    lines.append(f"{len(audited)} packages audited, {skipped} not known to the service, {len(lines)} vulnerabilities")
    return "\n".join(lines), int(len(lines) > 1)


if __name__ == "__main__":
    text, code = summary(Path(sys.argv[1]))
    print(text)
    sys.exit(code)

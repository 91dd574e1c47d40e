"""timm's own model tests on the classifiers of ``hardnet_suite.timm``, counted in a Markdown table.

    git clone https://github.com/huggingface/pytorch-image-models
    python benchmarks/timm_tests.py pytorch-image-models/tests/test_models.py

The functions that load pretrained weights need those of the registry: from the network, the cache or
``$HARDNET_WEIGHTS_DIR``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import pytest

import hardnet_suite.timm as registered

# timm runs some functions on the modules of this list alone, and names no modules of other packages
_MODULES = "FEAT_INTER_FILTERS = ["


class Record:
    """A plugin of pytest that keeps the outcome of each test."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], str] = {}  # (function, model) -> outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            function, _, parameters = report.nodeid.rpartition("::")[2].partition("[")
            self.outcomes[function, parameters.rstrip("]")] = report.outcome


def run(tests: Path, model: str = "hardnet") -> dict[tuple[str, str], str]:
    """Runs timm's tests in a temporary folder.

    Args:
        tests: timm's ``tests/test_models.py``.
        model: What a test's name must contain.

    Returns:
        (function, batch size and model) -> "passed", "failed" or "skipped".
    """
    text = tests.read_text(encoding="utf-8")
    if _MODULES not in text:
        raise SystemExit(f"{tests} is not timm's tests/test_models.py: it has no {_MODULES}")
    module = registered.__name__.rpartition(".")[2]
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test_models.py")
        path.write_text(text.replace(_MODULES, f"{_MODULES}{module!r}, "), encoding="utf-8")
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        options = ["-q", "--no-header", "-W", "ignore", "-p", "no:cacheprovider", "--rootdir", folder]
        pytest.main([*options, "-k", model, str(path)], plugins=[record])
    if not record.outcomes:
        raise SystemExit(f"no test of {tests} has {model} in its name")
    return record.outcomes


def table(outcomes: dict[tuple[str, str], str]) -> str:
    """How many of the runs of each function passed, failed or were skipped."""
    counts: dict[str, Counter[str]] = {}
    for (function, _), outcome in outcomes.items():
        counts.setdefault(function, Counter())[outcome] += 1
    lines = ["| function | passed | failed | skipped |", "|---|---|---|---|"]
    for function, count in counts.items():
        lines.append(f"| `{function}` | {count['passed']} | {count['failed']} | {count['skipped']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", type=Path, help="timm's tests/test_models.py")
    parser.add_argument("--model", default="hardnet", help="what a test's name must contain")
    args = parser.parse_args()
    print(table(run(args.tests, args.model)))


if __name__ == "__main__":
    main()

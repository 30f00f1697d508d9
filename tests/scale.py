"""What keeps a suite of forty methods affordable: two tiers, groups that share a worker, and a forecast from what the stories of this run cost.

Tests marked `every` are the whole product (each method on each topology, in each kind of process); they run with --every.
"""
import collections
import os

import pytest

STORY = "test_stories.py::test_story["
METHODS = 40


def pytest_addoption(parser):
    parser.addoption("--every", action="store_true", help="the whole product of methods, topologies and processes, and the planted faults")


def pytest_configure(config):
    config.addinivalue_line("markers", "every: left out without --every")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("every"):
        left_out = [item for item in items if item.get_closest_marker("every")]
        items[:] = [item for item in items if not item.get_closest_marker("every")]
        config.hook.pytest_deselected(items=left_out)
    # For --dist loadgroup: tests of a file share their fixtures, so they share a worker, but for files that say otherwise (`xdist_group`); each story stands alone.
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid if STORY in item.nodeid else item.path.name))


def _cpu():
    """CPU-seconds of this process and of those that it started and waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.started = _cpu()
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.when == "teardown":
        item.user_properties.append(("cpu_seconds", _cpu() - item.started))


def pytest_terminal_summary(terminalreporter):
    costs = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                costs[report.nodeid.partition("@")[0]] = dict(report.user_properties).get("cpu_seconds", 0)
    for line in forecast(costs):
        terminalreporter.write_line(line)


def forecast(costs: dict[str, float]) -> list[str]:
    """costs: test → CPU-seconds. What a method costs, and what the same run would cost with forty of them."""
    by_method = collections.Counter()
    for test, seconds in costs.items():
        if STORY in test:
            by_method[test.rpartition("[")[2].rstrip("]")] += seconds
    if not by_method:
        return []
    mean, total = sum(by_method.values()) / len(by_method), sum(costs.values())
    rest = total - sum(by_method.values())
    return [f"CPU-seconds of a method's story: {', '.join(f'{name} {seconds:.0f}' for name, seconds in sorted(by_method.items()))}; mean {mean:.0f}",
            f"this run: {total:.0f} CPU-seconds in {len(costs)} tests; with {METHODS} methods {rest + METHODS * mean:.0f} ({rest:.0f} + {METHODS} × {mean:.0f}), "
            f"{(rest + METHODS * mean) / 120:.0f} minutes of two cores"]

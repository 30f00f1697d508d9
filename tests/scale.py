"""What keeps a suite of forty methods affordable: two tiers, files that share a worker and stories that do not, and a forecast from what this run cost.

Tests marked `every` are the whole product (each method on each topology, in each kind of process); they run with --every.
"""
import collections
import gc
import os
import re

import pytest

STORY = "test_stories.py::test_story["
CONFIG = re.compile(r"(?:configs/)?[a-z0-9]+/(\w+)\.py(?::\w+)?$")      # the case of a test that looks at one config of a method
METHODS = 40
LONG = 3        # CPU-seconds


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """--dist loadfile, where tests of a file share a worker and its fixtures, but for the stories, which share nothing. (xdist 3.8's loadgroup groups nothing under pytest 9.2.)"""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid if STORY in nodeid else nodeid.partition("::")[0]
    return Scheduling(config, log)


def _cpu():
    """CPU-seconds of this process and of those that it started and waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    item.started = _cpu()
    done = yield
    if nextitem is None or nextitem.path != item.path or _cpu() - item.started > LONG:
        settle()
    return done


def pytest_collection_finish():
    settle()


def settle():
    """What lives now, such as modules and JAX's caches, is not looked through again by Python's collector of garbage, which a run calls whenever it lets go of its workers: a third
    of a second each time in a process that has run some files."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.when == "teardown":
        item.user_properties.append(("cpu_seconds", _cpu() - item.started))


def pytest_terminal_summary(terminalreporter):
    costs = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                costs[report.nodeid] = dict(report.user_properties).get("cpu_seconds", 0)
    for line in forecast(costs):
        terminalreporter.write_line(line)


def forecast(costs: dict[str, float]) -> list[str]:
    """costs: test → CPU-seconds. What a method costs, its story and what is asked of each of its configs, and what the same run would cost with forty of them, or all where there
    are more."""
    stories, others = collections.Counter(), collections.Counter()
    for test, seconds in costs.items():
        case = test.partition("[")[2].rstrip("]")
        if STORY in test:
            stories[case] += seconds
        elif method := CONFIG.match(case):
            others[method[1]] += seconds
    if not stories:
        return []
    count = max(METHODS, len(stories))
    means, total = [sum(seconds.values()) / len(stories) for seconds in (stories, others)], sum(costs.values())
    rest = total - sum(stories.values()) - sum(others.values())
    return [f"CPU-seconds of a method's story: {', '.join(f'{name} {seconds:.1f}' for name, seconds in sorted(stories.items()))}; mean {means[0]:.1f}; "
            f"of its configs {means[1]:.1f}",
            f"this run: {total:.0f} CPU-seconds in {len(costs)} tests; with {count} methods {rest + count * sum(means):.0f} ({rest:.0f} + {count} × {sum(means):.0f}), "
            f"{(rest + count * sum(means)) / 120:.0f} minutes of two cores"]

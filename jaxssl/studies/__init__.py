"""Studies: many runs of one config, whose keys are varied over a grid or searched; what came of them, with intervals, on one page. A trial is an ordinary workdir."""

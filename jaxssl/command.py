"""What every command line shares: overrides of the config, and a user's mistake as one sentence with its exit code."""
import sys
import traceback

from jaxssl.errors import NonFiniteError, UserError


def split_overrides(arguments: list[str]) -> dict[str, str]:
    """`--config.a.b=value` or `--config.a.b value` arguments as {"a.b": "value"}. Raises: UserError for anything else."""
    overrides, rest = {}, list(arguments)
    while rest:
        head = rest.pop(0)
        if not head.startswith("--config."):
            raise UserError(f"unknown argument {head!r}; keys of the config are written --config.key=value, and --help lists the flags")
        name, equals, value = head.removeprefix("--config.").partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--config.{name} has no value; write --config.{name}=value")
            value = rest.pop(0)
        overrides[name] = value
    return overrides


def guarded(body, debug: bool) -> int:
    """Runs `body()`; a user's mistake becomes one sentence on stderr and its exit code."""
    try:
        body()
        return 0
    except (UserError, NonFiniteError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.code

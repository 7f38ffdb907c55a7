"""Runs a command and turns every way in which it can end into an exit code and, for a user's mistake, one sentence."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence

from nas.errors import InputError, RunError

EXIT_RUN, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def run_command(main: Callable[[Sequence[str]], int]) -> None:
    """Run ``main`` with the command line's arguments and exit with its code.

    2 for input that cannot be used, 1 for a run that failed, 130 after Ctrl-C. Any other exception is a defect of ours and
    keeps its traceback.
    """
    quiet_libraries()
    try:
        code = main(sys.argv[1:])
    except InputError as error:
        code = _complain(error, EXIT_INPUT)
    except RunError as error:
        code = _complain(error, EXIT_RUN)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.stdout.flush()
    sys.exit(code)


def quiet_libraries() -> None:
    """Keep the libraries' notices from burying the display; their warnings of substance still come through."""
    # Warns at import that a machine has CUDA's compiler and no CUDA device, which is no concern of a user here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*is( an)? experimental.*")


def _complain(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code

"""``python -m nas.dashboard study=<name>``: optuna-dashboard on one study, with its artifacts, on this machine alone."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.cli import run_command
from nas.compose import compose
from nas.config.dashboard import DASHBOARD_ROOT, parse_dashboard
from nas.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from nas.runs import Run
    from nas.storage import Storage

HELP = """\
usage: python -m nas.dashboard study=<name> [key=value ...]

Starts optuna-dashboard on a study, running or finished, and prints its address; Ctrl-C ends it. What the study's trials
lack of notes and plots (older studies have none) is written first.

  study, run_dir, storage   the study's name under runs/, or its folder; a database URL with its password
  host, port                where to listen (127.0.0.1, 8080; port=0 takes a free one)

exit code: 0 ended, 2 the input cannot be used, such as a port in use
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: If the input cannot be used.
    """
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    config = parse_dashboard(compose("dashboard", DASHBOARD_ROOT, {}, arguments, study=False).plain)

    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    from nas.annotations import ARTIFACTS
    from nas.console import make_console
    from nas.runs import read_run
    from nas.serving import KeptAnswers, serve
    from nas.storage import open_storage

    console = make_console()
    with console.status("reading the study"):
        run = read_run(config.keys)
        storage = open_storage(run.storage)
        _annotate(run, storage, console)
    artifacts = run.folder / ARTIFACTS
    store = FileSystemArtifactStore(artifacts) if artifacts.is_dir() else None

    application = wsgi(storage.optuna, artifact_store=store)
    number = storage.optuna.get_study_id_from_name(run.name)
    if run.storage.file is not None and not run.storage.is_journal:
        application = KeptAnswers(application, run.storage.file)
        with console.status("making the first page"):
            first = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/api/studies/{number}", "QUERY_STRING": ""}
            application(first, lambda *_: None)

    def ready(address: str) -> None:
        same = ["optuna-dashboard", run.storage.shown, *(["--artifact-dir", str(artifacts)] if store else [])]
        console.print(f"the same without this command: {shlex.join(same)}", markup=False, soft_wrap=True)
        if config.host not in ("127.0.0.1", "localhost", "::1"):
            told = f"host={config.host}: whoever reaches this machine can read and change the study; there is no password"
            console.print(told, markup=False, soft_wrap=True)
        page = f"{address}/dashboard/studies/{number}"
        console.print(f"dashboard of {run.name}: [bold]{page}[/]   (Ctrl-C ends it)", soft_wrap=True, highlight=False)
        sys.stdout.flush()  # whoever reads this through a pipe waits for the address

    try:
        serve(application, config.host, config.port, ready)
    except OSError as error:
        raise InputError(
            f"port={config.port} of {config.host} cannot be used ({error.strerror or error}): set another port, or port=0."
        ) from None
    except KeyboardInterrupt:
        console.print("ended")
    return 0


def _annotate(run: Run, storage: Storage, console: Console) -> None:
    """Write what the study lacks; one that cannot be written is shown as it is."""
    from optuna.exceptions import OptunaError

    from nas.annotations import Annotator, annotated
    from nas.study_plots import study_plots

    device = run.record["conditions"]["device"]
    about = annotated(run.name, run.folder, run.objectives, run.constraints, run.record["data"], str(device.get("name")))
    try:
        annotator = Annotator(storage, about, lambda sentence: console.print(sentence, markup=False))
        annotator.describe()
        annotator.complete()
        annotator.plot(study_plots(run.outcomes, run.references, run.objectives, run.constraints, about.validation_images))
    except OptunaError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        console.print(f"notes and plots cannot be written ({reason}): shown as it is", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)

"""A WSGI application on an address of this machine until Ctrl-C; answers that take long to make are kept while they are true."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Lock
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

Stamp = tuple[tuple[int, int], ...]

Answer = tuple[Stamp, str, list[tuple[str, str]], bytes]
"""When the file stood so, the status, the headers and the body."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print no line per request."""


class KeptAnswers:
    """Keeps the dashboard's answer about a study, unless it is an error, for as long as the study's file does not change.

    optuna-dashboard makes it anew for each page, in a time that grows with the square of the number of trials.

    Args:
        application: optuna-dashboard, by the WSGI.
        file: The study's SQLite database.
    """

    # Of trials that it has read optuna-dashboard itself looks for news every 10 seconds.
    _SETTLED_SECONDS = 15.0
    _KEPT = re.compile(r"/api/studies/\d+")
    # The page asks again for what came after the trials that it has: kept, those answers would pile up.
    _MOST = 4

    def __init__(self, application: Any, file: Path) -> None:
        self._application, self._file = application, file
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)
        self._answers: dict[str, Answer] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") != "GET" or not self._KEPT.fullmatch(path):
            answer: Iterable[bytes] = self._application(environ, start_response)
            return answer
        key = f"{path}?{environ.get('QUERY_STRING') or 'after=0'}"
        try:
            with self._locks[key]:
                _, status, headers, body = self._kept_or_made(key, environ)
        finally:
            if key not in self._answers:
                self._locks.pop(key, None)  # whoever waits for it has it
        start_response(status, headers)
        return [body]

    def _kept_or_made(self, key: str, environ: dict[str, Any]) -> Answer:
        stamp, newest = self._stamp()
        kept = self._answers.get(key)
        if kept is not None and kept[0] == stamp:
            return kept
        began: list[Any] = []
        body = b"".join(self._application(environ, lambda status, headers, *_: began.extend((status, headers))))
        made = (stamp, began[0], began[1], body)
        settled = not self._answers or time.time() - newest > self._SETTLED_SECONDS
        if not made[1].startswith("200"):  # the next one may be another, whether the file changes or not
            self._answers.pop(key, None)
        elif settled and (key in self._answers or len(self._answers) < self._MOST):
            self._answers[key] = made
        return made

    def _stamp(self) -> tuple[Stamp, float]:
        """Return what changes when the database does, and when that was last, in seconds since 1970."""
        found = []
        for path in (self._file, Path(f"{self._file}-wal")):
            if os.path.exists(path):
                known = path.stat()
                found.append((known.st_mtime_ns, known.st_size))
        return tuple(found), max((moment / 1e9 for moment, _ in found), default=0.0)


def serve(application: Any, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        application: By the WSGI.
        host: Address to listen on.
        port: Port; 0 for a free one.
        ready: Is given the address, without a path, as soon as connections are taken.

    Raises:
        OSError: The address cannot be had.
    """
    is_6 = ":" in host
    with make_server(host, port, application, server_class=_Server6 if is_6 else _Server, handler_class=_Quiet) as server:
        ready(f"http://{f'[{host}]' if is_6 else host}:{server.server_port}")
        server.serve_forever()

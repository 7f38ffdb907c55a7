"""A WSGI application on an address of this machine until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # On Unix this would take over a port in the moment after its server ended, never one in use.
    allow_reuse_address = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print no line per request."""


def serve(application: Any, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        application: By the WSGI.
        host: Address to listen on.
        port: Port; 0 for a free one.
        ready: Is given the address as soon as connections are taken.

    Raises:
        OSError: The address cannot be had.
    """
    with make_server(host, port, application, server_class=_Server, handler_class=_Quiet) as server:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{server.server_port}/dashboard/")
        server.serve_forever()

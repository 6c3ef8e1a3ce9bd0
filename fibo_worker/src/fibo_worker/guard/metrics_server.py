"""An HTTP server for metrics that no client can make take more than a few connections, threads and seconds."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections import OrderedDict
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["MAX_CONNECTIONS", "MetricsServer"]

_logger: Final = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 8
"""Beyond it, a new connection takes the place of the oldest. A scrape does not have to wait for those that idle."""

_IDLE_TIMEOUT: Final = 5.0
"""Seconds that a client may take for its next bytes."""


class _Handler(WSGIRequestHandler):
    timeout = _IDLE_TIMEOUT

    def log_message(self, *_: Any) -> None:
        """Log no requests."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves one WSGI application from a thread of its own."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, app: WSGIApplication) -> None:
        """Listen, and serve.

        Args:
            host: The address of this machine.
            port: The port.
            app: The application.

        Raises:
            OSError: The address cannot be used.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family: int = found[0][0]
        self._open: OrderedDict[socket.socket, None] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)
        self.set_app(app)
        self._thread = threading.Thread(target=self.serve_forever, name="fibo-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def abandon(self) -> None:
        """Close the sockets that a process has inherited, without a word to the other side."""
        for inherited in (self.socket, *self._open):
            inherited.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, and drop the oldest if there are too many."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest, _ = self._open.popitem(last=False)
                self._wake(oldest)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: Any) -> None:
        """Ignore a client that went away, or took too long."""
        _logger.debug("a connection for metrics ended early: %s", sys.exc_info()[1])

    @staticmethod
    def _wake(connection: socket.socket) -> None:
        """Have the thread of a connection see its end. The thread closes it."""
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has ended by itself.

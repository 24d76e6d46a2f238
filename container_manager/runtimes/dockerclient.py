"""docker-py's low-level client, made to keep one connection, to leave no socket behind, and to wait not for ever.

As it comes, it keeps a pool of connections for each path that was ever asked, leaves the socket of a connection that
was refused to the garbage collector, and has no timeout on streams.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from docker import APIClient
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter


class Client(APIClient):
    """A client of one thread.

    Args:
        place: where the engine listens, as APIClient takes it.
        timeout_s: of its sockets; for streams too if it `is_watching`: then nothing for so long ends one.
    """

    def __init__(self, place: Mapping[str, object], *, timeout_s: float, is_watching: bool = False) -> None:
        self._silence_s = timeout_s if is_watching else None
        super().__init__(version="auto", timeout=timeout_s, **place)  # type: ignore[arg-type]

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        """See requests.Session."""
        if isinstance(adapter, UnixHTTPAdapter):
            adapter = _Adapter(f"http+unix://{adapter.socket_path}", adapter.timeout)
        super().mount(prefix, adapter)

    def send(self, request: PreparedRequest, **options: object) -> Response:
        """See requests.Session."""
        timeout_s = self._silence_s or options.get("timeout")
        return super().send(request, **{**options, "timeout": timeout_s})  # type: ignore[arg-type]


class _Adapter(UnixHTTPAdapter):
    def get_connection(self, url: str | bytes, proxies: object = None) -> UnixHTTPConnectionPool:  # noqa: ARG002
        with self.pools.lock:
            pool: UnixHTTPConnectionPool | None = self.pools.get("")
            if pool is None:
                pool = self.pools[""] = _Pool("http://localhost", self.socket_path, self.timeout, maxsize=1)
        return pool


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> UnixHTTPConnection:  # type: ignore[override]  # docker-py's own is just this
        return _Connection(self.base_url, self.socket_path)


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        self.sock = sock

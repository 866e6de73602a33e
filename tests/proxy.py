"""A TCP proxy that tests cut, stall and restore, to stand for the network between two machines."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType


class CuttingProxy:
    """Forwards connections to `port` on this machine to a server, until told otherwise.

    Use it as a context manager, or call `close`.

    Args:
        target_host: Where the server is.
        target_port: Its port.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._peers: dict[socket.socket, socket.socket] = {}
        self._silent = self._closed = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        #: Connections accepted so far.
        self.accepted = 0
        self.port = 0
        self._listen()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def sources(self) -> set[str]:
        """Addresses, host:port, from which the server sees the connections of now."""
        with self._lock:
            ends = {sock.getsockname() for sock in self._peers}
        return {f"{host}:{port}" for host, port in ends if port != self.port}

    def cut(self) -> None:
        """Close every connection and refuse new ones."""
        with self._lock:
            self._refuse()
            self._drop_all()
        self._wake()

    def drop(self) -> None:
        """Close every connection, but accept new ones."""
        with self._lock:
            self._drop_all()
        self._wake()

    def stall(self) -> None:
        """Accept, but pass nothing on, in neither direction."""
        with self._lock:
            self._silent = True
            for sock in self._peers:
                self._unwatch(sock)
        self._wake()

    def restore(self) -> None:
        """Work again. Connections that were stalled go on where they were."""
        with self._lock:
            self._silent = False
            for sock in self._peers:
                self._watch(sock)
            if self._listener is None:
                self._listen()
        self._wake()

    def close(self) -> None:
        """End it. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.cut()
        self._thread.join(5)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- with the lock held

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def _refuse(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()

    def _drop_all(self) -> None:
        for sock in list(self._peers):
            self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        peer = self._peers.pop(sock, None)
        self._unwatch(sock)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        if peer is not None and peer in self._peers:
            self._drop(peer)

    def _watch(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.register(sock, selectors.EVENT_READ)

    def _unwatch(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        self.accepted += 1
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(5)
        client.settimeout(5)
        self._peers[client], self._peers[server] = server, client
        if not self._silent:
            self._watch(client)
            self._watch(server)

    def _forward(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
            if not data:
                raise ConnectionResetError
            self._peers[sock].sendall(data)
        except (OSError, KeyError):
            self._drop(sock)

    # -- the thread

    def _wake(self) -> None:
        self._wake_write.send(b"x")

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(1.0):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._wake_read:
                    sock.recv(4096)
                    continue
                with self._lock:
                    if sock is self._listener:
                        self._accept()
                    elif sock in self._peers and not self._silent:
                        self._forward(sock)

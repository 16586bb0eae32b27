"""A web server on the loopback that answers as badly as a test wants it to."""

import contextlib
import email.utils
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cmd_lightning.data.fetch import FetchOptions, download


class Server:
    """Answers request number i (from 0) to a path by `answer(reply, i)`; `requests` holds their headers.

    `with Server(answer) as server: ... server.url + "/000000.tar"`. A test that leaves sets `closing`, which answers
    that hang wait for.
    """

    def __init__(self, answer):
        self.requests = []
        self.closing = threading.Event()
        server, lock = self, threading.Lock()

        class Reply(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            closing = self.closing

            def do_GET(self):
                with lock:
                    number = len(server.requests)
                    server.requests.append(dict(self.headers))
                self.close_connection = True
                with contextlib.suppress(OSError):  # of a client that goes away
                    answer(self, number)

            def log_message(self, *args):
                pass

            def status(self, code, **headers):
                """Status line and headers; `_` in their names stands for `-`."""
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()

            def file(self, body, *, stop=None, ranges=True, **headers):
                """Serve a file by the rules of ranges, or only its bytes before `stop`, as if the line was cut."""
                start = 0
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if asked and ranges and self.headers.get("If-Range") in (None, *headers.values()):
                    start = int(asked[1])
                    if start >= len(body):
                        return self.status(416, Content_Length=0, Content_Range=f"bytes */{len(body)}")
                    headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self.status(206 if start else 200, Content_Length=len(body) - start, **headers)
                self.wfile.write(body[start : len(body) if stop is None else max(stop, start)])

            def reset(self):
                """End the connection with a reset."""
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

            def drip(self, data):
                """A byte every 20 ms, for 5 seconds at most."""
                for byte in data[:250]:
                    if self.closing.wait(0.02):
                        break
                    self.wfile.write(bytes([byte]))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Reply)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def http_date(seconds):
    return email.utils.formatdate(seconds, usegmt=True)


def get(url, size=None, **options):
    """The bytes that `download` fetches; each call of its `put` continues where the last one ended, or begins again."""
    memory = bytearray()

    def put(at, data, total):
        assert at in (0, len(memory))
        memory[at:] = data

    size = download(url, put, FetchOptions(**{"timeout": 5.0} | options), size)
    return bytes(memory[:size])

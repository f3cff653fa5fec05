#!/usr/bin/python3
"""A workload of the shop: its servers and its calls, by its arguments. Each call prints a line of JSON.

    serve http:PORT | line:PORT | first:PORT | grpc:PORT | udp:PORT
    call  http:URL | pool:URL | line:HOST:PORT | hold:HOST:PORT | first:HOST:PORT | grpc:HOST:PORT
          | tls:HOST:PORT | udp:HOST:PORT
    start CALL      that call once, when it starts
    once            all calls once, then ends

A line server answers lines, a first server speaks before its client. `pool` and `hold` use one
connection for as long as they run. A grpc server answers with trailers.
"""
import http.client
import json
import os
import socket
import socketserver
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

EVERY = 2.0  # seconds between two calls of one kind
NAME = os.environ.get("HOSTNAME", "shop")


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{NAME} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"+" + line)


class First(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 ready\n")
        self.rfile.readline()


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(b"+" + self.request[0], self.client_address)


class Grpc(socketserver.BaseRequestHandler):
    def handle(self):
        from h2.connection import H2Connection
        from h2.config import H2Configuration
        from h2.events import StreamEnded
        c = H2Connection(config=H2Configuration(client_side=False))
        c.initiate_connection()
        self.request.sendall(c.data_to_send())
        while data := self.request.recv(65536):
            for event in c.receive_data(data):
                if isinstance(event, StreamEnded):
                    s = event.stream_id
                    c.send_headers(s, [(":status", "200"), ("content-type", "application/grpc")])
                    c.send_data(s, b"\0\0\0\0\0")
                    c.send_headers(s, [("grpc-status", "0")], end_stream=True)
            self.request.sendall(c.data_to_send())


class Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


def serve(spec):
    kind, port = spec.split(":")
    address = ("0.0.0.0", int(port))
    if kind == "http":
        server = ThreadingHTTPServer(address, Http)
        server.daemon_threads = True
    elif kind == "udp":
        server = socketserver.ThreadingUDPServer(address, Datagram)
    else:
        server = Tcp(address, {"line": Line, "first": First, "grpc": Grpc}[kind])
    threading.Thread(target=server.serve_forever, daemon=True).start()


def connect(where):
    host, port = where.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 5)


def get(connection, url):
    connection.request("GET", url.path or "/", headers={"Host": url.netloc})
    answer = connection.getresponse()
    answer.read()
    return str(answer.status)


def one_line(s):
    s.sendall(b"ping\n")
    return "ok" if s.makefile("rb").readline() == b"+ping\n" else "no answer"


def grpc(where):
    from h2.connection import H2Connection
    from h2.events import StreamEnded, TrailersReceived
    with connect(where) as s:
        c = H2Connection()
        c.initiate_connection()
        c.send_headers(1, [(":method", "POST"), (":path", "/shop.Offers/List"), (":scheme", "http"),
                           (":authority", where), ("content-type", "application/grpc"), ("te", "trailers")])
        c.send_data(1, b"\0\0\0\0\0", end_stream=True)
        s.sendall(c.data_to_send())
        status = "no trailers"
        while data := s.recv(65536):
            for event in c.receive_data(data):
                if isinstance(event, TrailersReceived):
                    trailers = {str(k, "ascii") if isinstance(k, bytes) else k: v for k, v in event.headers}
                    got = trailers.get("grpc-status", "?")
                    status = "grpc " + (got.decode() if isinstance(got, bytes) else got)
                if isinstance(event, StreamEnded):
                    return status
            s.sendall(c.data_to_send())
        return status


def call(spec, kept):
    """Makes a call, and returns what came of it. `kept` has the connections that go on."""
    kind, where = spec.split(":", 1)
    url = urlsplit(where)
    try:
        if kind == "http":
            return get(http.client.HTTPConnection(url.hostname, url.port or 80, timeout=5), url)
        if kind == "pool":
            if spec not in kept:
                kept[spec] = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=5)
            return get(kept[spec], url)
        if kind == "hold":
            if spec not in kept:
                kept[spec] = connect(where)
            return one_line(kept[spec])
        if kind == "line":
            with connect(where) as s:
                return one_line(s)
        if kind == "first":
            with connect(where) as s:
                return "ok" if s.makefile("rb").readline().startswith(b"220") else "no banner"
        if kind == "grpc":
            return grpc(where)
        if kind == "tls":
            host = where.rsplit(":", 1)[0]
            context = ssl._create_unverified_context()
            with context.wrap_socket(connect(where), server_hostname=host) as s:
                s.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return s.makefile("rb").readline().split()[1].decode()
        if kind == "udp":
            host, port = where.rsplit(":", 1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.sendto(b"ping", (host, int(port)))
                return "ok" if s.recv(64) == b"+ping" else "no answer"
        return "unknown call"
    except (OSError, ssl.SSLError, http.client.HTTPException) as error:
        kept.pop(spec, None)
        return type(error).__name__


def tell(spec, result):
    # One write: threads tell of their calls at the same time.
    sys.stdout.write(json.dumps({"call": spec, "result": result}) + "\n")
    sys.stdout.flush()


def main(args):
    calls, at_start, once = [], [], False
    while args:
        word = args.pop(0)
        if word == "serve":
            serve(args.pop(0))
        elif word == "call":
            calls.append(args.pop(0))
        elif word == "start":
            at_start.append(args.pop(0))
        elif word == "once":
            once = True
    kept = {}
    for spec in at_start:
        # The proxy may start later than the application.
        result = ""
        for _ in range(60):
            result = call(spec, kept)
            if result in ("200", "ok"):
                break
            time.sleep(1)
        tell(spec, result)
    if once:
        for spec in calls:
            tell(spec, call(spec, kept))
        return

    def go_on(spec):
        own = {}
        while True:
            tell(spec, call(spec, own))
            time.sleep(EVERY)

    for spec in calls:
        threading.Thread(target=go_on, args=(spec,), daemon=True).start()
    threading.Event().wait()


main(sys.argv[1:])

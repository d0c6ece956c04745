"""Answers every request at a Unix socket with one text: `engine.py SOCKET TEXT`."""

import http.server
import socketserver
import sys


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "a Unix socket's peer has no address"


with socketserver.UnixStreamServer(sys.argv[1], Answer) as server:
    print("listening", flush=True)
    server.serve_forever()

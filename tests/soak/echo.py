"""echo - connections that come and go, each of which must bring back every byte it took.

  echo.py serve ADDRESS PORT           says "ready", and sends back what comes
  echo.py connect ADDRESS PORT LIMIT   twenty connections, one after the other, some half open for
                                       a while; nothing may take longer than LIMIT seconds
"""
import os
import random
import socket
import socketserver
import sys
import threading

SIZES = [1, 1000, 70000, 300000]


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64


def serve(address, port):
    with Server((address, port), Echo) as server:
        print('ready', flush=True)
        server.serve_forever()


def exchange(address, port, limit):
    data = os.urandom(random.choice(SIZES))
    with socket.create_connection((address, port), limit) as s:
        def send():
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)

        # Both ways at once: neither side could hold all of it.
        sender = threading.Thread(target=send)
        sender.start()
        got = b''
        while part := s.recv(65536):
            got += part
        sender.join()
    if got != data:
        sys.exit(f'{len(data)} bytes went, and {len(got)} came that are not the same')


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        serve(sys.argv[2], int(sys.argv[3]))
    for _ in range(20):
        exchange(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))

"""Opens many connections to a port of this machine, makes one call on each, and leaves them open.

Usage: idle_connections.py PORT PATH COUNT. Prints `idle` when all are open; ends when it is killed, or after a
minute. The token is the variable BENCH_TOKEN.
"""

import os
import resource
import socket
import sys
import time

port, path, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
token = os.environ.get("BENCH_TOKEN", "")
call = (
    f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n"
    "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
).encode()
connections = []
for _ in range(count):
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(call)
    answer = connection.recv(4096)
    if not answer.startswith(b"HTTP/1.1 200"):
        sys.exit(f"not paid: {answer[:200]!r}")
    connections.append(connection)
print("idle", flush=True)
time.sleep(60)

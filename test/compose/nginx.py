#!/usr/bin/env python3
"""Holds compose/nginx.conf against instances that die with a request in hand, refuse, or are not there: nobody may be told anything untrue.

usage: nginx.py [IMAGE]    nginx of a Docker image, else the one in the PATH. Loopback only. Exit code 1: somebody was.
"""

import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CONFIGURATION = Path(__file__).parents[2] / "compose/nginx.conf"
FIRST, SECOND = "127.0.0.2", "127.0.0.3"
# nginx begins with any instance: so often at most until it was the first one.
TURNS = 100


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Names:
    """A name server that says of every name that it is both addresses."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            query, who = self.socket.recvfrom(512)
            end = query.index(b"\0", 12) + 5
            is_v4 = query[end - 4 : end - 2] == b"\0\1"
            found = [FIRST, SECOND] if is_v4 else []
            answer = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0) + query[12:end]
            for address in found:
                answer += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
            self.socket.sendto(answer, who)


class Instance:
    """Answers every request alike, or takes it and breaks off; remembers what it was sent."""

    def __init__(self, address, port, answer):
        self.answer, self.requests = answer, []
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, port))
        self.socket.listen(50)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.take, args=(connection,), daemon=True).start()

    def take(self, connection):
        with connection:
            head, body = read(connection)
            if not head:
                return
            self.requests.append((head, body))
            connection.sendall(self.answer)

    def stop(self):
        # The shutdown ends an accept that waits; a close alone would leave the port listening.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def read(connection):
    """A message of HTTP, as head and body."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = connection.recv(65536)
        if not part:
            return "", b""
        got += part
    head, body = got.split(b"\r\n\r\n", 1)
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        part = connection.recv(65536)
        if not part:
            break
        body += part
    return head.decode(), body


def says(status, body):
    return f"HTTP/1.1 {status} X\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()


DIES, AWAY = b"", None


class Stage:
    """nginx with the configuration, and a count of what was wrong."""

    def __init__(self, image):
        self.work = Path(tempfile.mkdtemp(prefix="checkout-nginx-"))
        self.listen, self.ports, names = free_port(), {}, Names()
        text = CONFIGURATION.read_text()

        def put(pattern, new, count=1):
            nonlocal text
            text, found = re.subn(pattern, new, text)
            if found < count:
                raise SystemExit(f"nginx.py: {CONFIGURATION} has no {pattern}")

        put(r"resolver 127\.0\.0\.11 ", f"resolver 127.0.0.1:{names.port} ")
        put(r"listen 8000", f"listen 127.0.0.1:{self.listen}")
        put(r"/tmp/", f"{self.work}/")
        put(r"error_log /dev/stderr", f"error_log {self.work}/error.log")
        for service in ("order", "payment", "stock"):
            self.ports[service] = free_port()
            put(rf"{service}-service:\d+", f"{service}-service:{self.ports[service]}")
        (self.work / "nginx.conf").write_text(text)
        self.work.chmod(0o777)
        nginx = ["nginx", "-c", f"{self.work}/nginx.conf", "-p", str(self.work), "-g", "daemon off;"]
        self.container = self.work.name if image else None
        if image:
            nginx = ["docker", "run", "--rm", "--name", self.container, "--network", "host", "--volume", f"{self.work}:{self.work}", image, *nginx]
        self.process = subprocess.Popen(nginx)
        self.wrong = self.right = 0
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.listen)).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("nginx.py: nginx does not start") from None
                time.sleep(0.02)

    def end(self):
        if self.container:
            subprocess.run(["docker", "stop", "--time", "2", self.container], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        self.process.terminate()
        self.process.wait()
        if self.wrong:
            print((self.work / "error.log").read_text()[-1000:])
        shutil.rmtree(self.work, ignore_errors=True)

    def ask(self, method, path, headers, body):
        with socket.create_connection(("127.0.0.1", self.listen)) as connection:
            connection.settimeout(60)
            connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {len(body)}\r\n{headers}\r\n{body}".encode())
            head, got = read(connection)
            return int(head.split()[1]), head, got.decode()

    def play(self, first, second, method, path, headers="", body=""):
        """What the client is told, and what each instance was sent, where the request came to the first one at first; or wherever, where it is away."""
        port = self.ports[{"orders": "order"}.get(path.split("/")[1], path.split("/")[1])]
        for _ in range(TURNS):
            instances = [Instance(address, port, answer) if answer is not AWAY else None for address, answer in ((FIRST, first), (SECOND, second))]
            try:
                told = self.ask(method, path, headers, body)
                sent = [instance.requests if instance else [] for instance in instances]
            finally:
                for instance in instances:
                    if instance:
                        instance.stop()
            if first is AWAY or sent[0]:
                return told, sent
        raise SystemExit(f"nginx.py: {method} {path}: the first instance was never asked")

    def check(self, what, is_right, seen):
        if is_right:
            self.right += 1
        else:
            self.wrong += 1
            print(f"WRONG  {what}: {seen}")


def scenes(stage):
    places = {"/orders/checkout/5": "/orders/find/5", "/payment/pay/7/3": "/payment/find_user/7"}
    problem = '{"type":"of its own"}'
    for status in (429, 500, 503):
        refusal = says(status, problem)
        for path, place in places.items():
            told, _ = stage.play(DIES, refusal, "POST", path)
            is_unknown = told[0] == 202 and f"Location: {place}" in told[1] and "not-known-yet" in told[2] and "application/problem+json" in told[1]
            stage.check(f"{path}: lost by one, {status} of the next is not known yet", is_unknown, told)
            told, _ = stage.play(refusal, AWAY, "POST", path)
            stage.check(f"{path}: {status} of whom it was sent to alone is told as it is", told[0] == status and told[2] == problem, told)
            told, _ = stage.play(AWAY, refusal, "POST", path)
            stage.check(f"{path}: {status} after an address at which nobody is, is told as it is", told[0] == status and told[2] == problem, told)
        told, _ = stage.play(DIES, refusal, "GET", "/orders/find/5")
        stage.check(f"a look that is lost by one: {status} of the next is told as it is", told[0] == status, told)
    for status in (200, 400, 404, 409):
        answer = says(status, problem)
        told, sent = stage.play(DIES, answer, "POST", "/payment/pay/7/3", body="x" * 20_000)
        ids = [re.findall(r"(?i)checkout-request-id: (\S+)", requests[0][0]) for requests in sent if requests]
        is_same = len(ids) == 2 and ids[0] == ids[1] != [] and all(requests[0][1] == b"x" * 20_000 for requests in sent)
        stage.check(f"lost by one, {status} of the next is told, asked whole under the same id", told[0] == status and told[2] == problem and is_same, (told, ids))
        told, sent = stage.play(DIES, answer, "POST", "/orders/checkout/5")
        has_no_id = bool(sent[1]) and "checkout-request-id" not in sent[1][0][0].lower()
        # Its first try may still come and begin the order's next saga.
        expected = status if status < 400 else 202
        stage.check(f"of a checkout, which has no id, {status} of the next is {expected}", told[0] == expected and has_no_id, (told, sent))
        told, _ = stage.play(answer, AWAY, "POST", "/orders/checkout/5")
        stage.check(f"of a checkout {status} of whom it was sent to alone is told as it is", told[0] == status and told[2] == problem, told)
    _, sent = stage.play(DIES, says(200, "fine"), "POST", "/payment/pay/7/3", headers="checkout-request-id: of-a-client\r\n")
    stage.check("a client's own id is not believed", sent[1] and not any("of-a-client" in head for requests in sent for head, _ in requests), sent)
    told, sent = stage.play(DIES, says(200, "fine"), "POST", "/orders/checkout/5", headers="idempotency-key: k\r\n")
    stage.check("a checkout with a key is not sent to a second one, and not known yet", told[0] == 202 and not sent[1], (told, sent))
    for path in places:
        told, sent = stage.play(DIES, DIES, "POST", path)
        stage.check(f"{path}: what all lose is not known yet", told[0] == 202, told)
        stage.check(f"{path}: three are asked at most", sum(map(len, sent)) <= 3, sent)
        told, _ = stage.play(DIES, AWAY, "POST", path)
        stage.check(f"{path}: what the only one loses is not known yet", told[0] == 202, told)
        told, _ = stage.play(AWAY, AWAY, "POST", path)
        stage.check(f"{path}: where nobody is, nothing was started", told[0] == 503 and "no-instance" in told[2], told)
        told, _ = stage.play(AWAY, says(200, "fine"), "POST", path)
        stage.check(f"{path}: where one is not there, the other answers", told[0] == 200, told)
    told, _ = stage.play(DIES, says(200, "fine"), "GET", "/orders/find/5")
    stage.check("a look that is lost by one is answered by the next", told[0] == 200, told)
    told, _ = stage.play(DIES, DIES, "GET", "/orders/find/5")
    stage.check("a look that all lose may be asked again", told[0] == 503, told)


def main():
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        raise SystemExit(__doc__)
    stage = Stage(sys.argv[1] if len(sys.argv) == 2 else None)
    try:
        scenes(stage)
    finally:
        stage.end()
    print(f"nginx.py: {stage.right} of {stage.right + stage.wrong} scenes as they should be")
    sys.exit(bool(stage.wrong))


main()

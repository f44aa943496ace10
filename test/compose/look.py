#!/usr/bin/env python3
"""How the platform of the project COMPOSE_PROJECT_NAME is, seen from its host, which reaches every container by its address.

look.py primary GROUP        number of the node that two sentinels hold to be the primary; nothing while no two agree
look.py leader [BUT]         name of the nats-server that leads the stream of all checkouts, unless it is BUT
look.py missing              what is not as it should be; nothing when all is whole
"""

import collections
import json
import os
import pathlib
import socket
import subprocess
import sys
import urllib.request

PROJECT = os.environ["COMPOSE_PROJECT_NAME"]
NET = os.environ["CHECKOUT_NET"]
SECRETS = pathlib.Path(__file__).parents[2] / "compose/secrets"
GROUPS = ("order", "payment", "stock")
LIMIT_S = 2


def docker(*words):
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def reply(stream):
    line = stream.readline()
    kind, rest = line[:1], line[1:].strip().decode()
    if kind == b"*":
        return [reply(stream) for _ in range(int(rest))]
    if kind == b"$":
        return stream.read(int(rest) + 2)[:-2].decode() if int(rest) >= 0 else None
    if kind in (b"+", b":"):
        return rest
    raise OSError(rest or "no reply")


def ask(address, port, login, *words):
    """One command; None when nobody answers."""
    try:
        with socket.create_connection((address, port), LIMIT_S) as connection:
            connection.settimeout(LIMIT_S)
            stream = connection.makefile("rwb")
            for command in (("AUTH", *login), words):
                stream.write(f"*{len(command)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in command))
                stream.flush()
                said = reply(stream)
            return said
    except (OSError, ValueError):
        return None


def secret(name):
    return (SECRETS / name).read_text().strip()


def seen(group):
    """Numbers of the primary, as each sentinel sees it."""
    place = GROUPS.index(group) + 1
    words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", f"redis-{group}")
    told = [ask(f"{NET}.{place}.2{number}", 26379, (secret("sentinel"),), *words) for number in (1, 2, 3)]
    return [it[0][-1] if it else None for it in told]


def primary(group):
    told = collections.Counter(filter(None, seen(group))).most_common(1)
    number, count = told[0] if told else (None, 0)
    return number if count > 1 else None


def leader(but=None):
    label = f"--filter=label=com.docker.compose.project={PROJECT}"
    for number in (1, 2, 3):
        ids = docker("ps", "-q", label, f"--filter=label=com.docker.compose.service=nats-{number}").split()
        address = ids and docker("inspect", "-f", f'{{{{with index .NetworkSettings.Networks "{PROJECT}_bus"}}}}{{{{.IPAddress}}}}{{{{end}}}}', ids[0]).strip()
        if not address:
            continue
        try:
            with urllib.request.urlopen(f"http://{address}:8222/jsz?streams=true", timeout=LIMIT_S) as page:
                told = json.load(page)
        except (OSError, ValueError):
            continue
        for account in told.get("account_details") or []:
            for stream in account.get("stream_detail") or []:
                name = stream.get("cluster", {}).get("leader")
                if stream["name"] == "CHECKOUT" and name and name != but:
                    return name
    return None


def missing():
    label = f"--filter=label=com.docker.compose.project={PROJECT}"
    for line in docker("ps", "-a", label, "--filter=label=com.docker.compose.oneoff=False", "--format", "{{.Names}} {{.Status}}").splitlines():
        has_ended_well = "-volumes-1 Exited (0)" in line
        has_no_health = "-topology-1 Up" in line
        if not (line.endswith("(healthy)") or has_ended_well or has_no_health):
            yield line
    admin = ("admin", secret("redis-admin"))
    for place, group in enumerate(GROUPS, 1):
        told = seen(group)
        if len(set(told)) > 1 or None in told:
            yield f"redis-{group}: the sentinels name {told}"
            continue
        role = ask(f"{NET}.{place}.1{told[0]}", 6379, admin, "ROLE")
        if not role or role[0] != "master" or len(role[2]) != 2:
            yield f"redis-{group}-{told[0]} is {role}"
        for number in (1, 2, 3):
            priority = ask(f"{NET}.{place}.1{number}", 6379, admin, "CONFIG", "GET", "replica-priority")
            if priority != ["replica-priority", "100"]:
                yield f"redis-{group}-{number} has not caught up: {priority}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["primary", group]:
            print(primary(group) or "")
        case ["leader", *but]:
            print(leader(*but) or "")
        case ["missing"]:
            print("\n".join(missing()), end="")
        case _:
            sys.exit(__doc__)

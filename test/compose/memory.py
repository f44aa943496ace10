#!/usr/bin/env python3
"""What `docker stats` says of each container, added up by what it is."""
import collections
import re
import sys

UNITS = {"B": 1 / 2**20, "KiB": 1 / 2**10, "MiB": 1, "GiB": 2**10}
sums, counts = collections.Counter(), collections.Counter()
for line in sys.stdin:
    name, used = line.split()[:2]
    kind = re.sub(r"^.*?-\d+-", "", name)
    kind = re.sub(r"(-service)?(-\d+)+$", "", kind)
    kind = re.sub(r"^redis-.*", "redis", kind)
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", used).groups()
    sums[kind] += float(number) * UNITS[unit]
    counts[kind] += 1
parts = ", ".join(f"{counts[kind]} × {kind} {sums[kind]:.0f}" for kind in sorted(sums))
print(f"test-compose: memory at rest {sum(sums.values()):.0f} MiB ({parts})")

"""Renders the overlays and checks them against every rule; then breaks them, once for each rule, and sees that the rule notices."""

import copy
import sys

import breaks
from model import Platform, render
from rules import RULES

OVERLAYS = ("dev", "prod", "prod-nack")


def main():
    rendered = {overlay: render(overlay) for overlay in OVERLAYS}
    found = 0
    for overlay, things in rendered.items():
        platform = Platform(overlay, things)
        for rule in RULES:
            for wrong in rule(platform):
                found += 1
                print(f"{overlay}: {rule.__name__}: {wrong}")
        print(f"{overlay}: {len(things)} objects, {len(RULES)} rules")
    if found:
        sys.exit(f"test-k8s: {found} findings")
    proven = set()
    for number, (name, overlay, what, change) in enumerate(breaks.BREAKS):
        things = copy.deepcopy(rendered[overlay])
        changed = change(things)
        things = things if changed is None else changed
        rule = next(rule for rule in RULES if rule.__name__ == name)
        if not list(rule(Platform(overlay, things))):
            sys.exit(f"test-k8s: the rule `{name}` does not notice: {what}")
        proven.add(name)
    if unproven := {rule.__name__ for rule in RULES} - proven:
        sys.exit(f"test-k8s: nothing breaks {sorted(unproven)}")
    print(f"every rule noticed what was broken for it ({len(breaks.BREAKS)} breaks)")


if __name__ == "__main__":
    main()

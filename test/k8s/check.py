"""Renders the overlays and checks them against every rule; then breaks them, once for each rule, and sees that the rule notices."""

import copy
import sys

import breaks
import charts
import deploy
import flows
import rules
from model import Platform, render
from rules import RULES

OVERLAYS = ("dev", "prod", "prod-nack")
# What is left where charts bring the servers: the rules for single objects hold of it alone, those for who speaks to whom with stand-ins for what
# the charts bring.
PARTIAL = {"charts": (rules.schema, rules.limits, rules.restricted, rules.tokens, rules.endings, rules.variables, rules.ports, rules.probes, rules.asked)}
TOGETHER = (rules.services, rules.files, flows.names, flows.flows, rules.copies)


def together(rendered, values):
    return Platform("charts", rendered["charts"] + list(charts.brought(values)))


def main():
    rendered = {overlay: render(overlay) for overlay in (*OVERLAYS, *PARTIAL)}
    found = 0
    for overlay, things in rendered.items():
        platform = Platform(overlay, things)
        applied = PARTIAL.get(overlay, RULES)
        for rule in applied:
            for wrong in rule(platform):
                found += 1
                print(f"{overlay}: {rule.__name__}: {wrong}")
        print(f"{overlay}: {len(things)} objects, {len(applied)} rules")
    for rule in TOGETHER:
        for wrong in rule(together(rendered, charts.values())):
            found += 1
            print(f"charts with k8s/helm: {rule.__name__}: {wrong}")
    for wrong in charts.findings(charts.values()):
        found += 1
        print(f"k8s/helm: {wrong}")
    for wrong in deploy.findings():
        found += 1
        print(f"k8s/deploy-cluster.sh: {wrong}")
    if found:
        sys.exit(f"test-k8s: {found} findings")
    proven = set()
    for name, overlay, what, change in breaks.BREAKS:
        things = copy.deepcopy(rendered[overlay])
        changed = change(things)
        things = things if changed is None else changed
        rule = next(rule for rule in RULES if rule.__name__ == name)
        if not list(rule(Platform(overlay, things))):
            sys.exit(f"test-k8s: the rule `{name}` does not notice: {what}")
        proven.add(name)
    if unproven := {rule.__name__ for rule in RULES} - proven:
        sys.exit(f"test-k8s: nothing breaks {sorted(unproven)}")
    for name, what, change in charts.TOGETHER:
        values = charts.values()
        change(values)
        rule = next(rule for rule in TOGETHER if rule.__name__ == name)
        if not list(rule(together(rendered, values))):
            sys.exit(f"test-k8s: the rule `{name}` does not notice, where charts bring the servers: {what}")
    for what, change in charts.BREAKS:
        values = charts.values()
        change(values)
        if not list(charts.findings(values)):
            sys.exit(f"test-k8s: the check of k8s/helm does not notice: {what}")
    print(f"every rule noticed what was broken for it ({len(breaks.BREAKS) + len(charts.TOGETHER) + len(charts.BREAKS)} breaks)")


if __name__ == "__main__":
    main()

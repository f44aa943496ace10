#!/usr/bin/env bash
# Runs the platform in the cluster of the current context: KEDA and an ingress controller from charts of a pinned version, the rest from
# k8s/overlays/prod (or the overlay that is named). Each password is drawn once. Run it again to bring a changed platform up.
#
#   k8s/deploy-cluster.sh [OVERLAY]
#
# INGRESS=no leaves the ingress controller out, for clusters that have one.
set -euo pipefail
cd "$(dirname "$0")/.."

keda_chart=${KEDA_CHART:-kedacore/keda} keda_version=2.17.2
ingress_chart=${INGRESS_CHART:-ingress-nginx/ingress-nginx} ingress_version=4.13.3
overlay=${1:-k8s/overlays/prod}

fail() { echo "deploy-cluster: $*" >&2; exit 1; }
for program in kubectl helm openssl; do command -v "$program" >/dev/null || fail "$program is missing"; done
[ -e "$overlay/kustomization.yaml" ] || { echo "usage: k8s/deploy-cluster.sh [OVERLAY]" >&2; exit 64; }
kubectl get crd httproutes.gateway.networking.k8s.io >/dev/null || fail "the cluster has no Gateway API: install its CRDs, or leave route.yaml out in an overlay of your own"

helm show chart "$keda_chart" --version "$keda_version" >/dev/null || fail "no chart $keda_chart $keda_version: \`helm repo add kedacore …\` with the repository of the KEDA charts"
helm upgrade --install keda "$keda_chart" --version "$keda_version" --namespace keda --create-namespace --wait
if [ "${INGRESS:-yes}" != no ]; then
  helm show chart "$ingress_chart" --version "$ingress_version" >/dev/null || fail "no chart $ingress_chart $ingress_version: \`helm repo add ingress-nginx …\` with its repository, or INGRESS=no"
  helm upgrade --install ingress-nginx "$ingress_chart" --version "$ingress_version" --namespace ingress-nginx --create-namespace --wait \
    --set controller.ingressClassResource.default=true
fi

kubectl apply -f k8s/base/namespace.yaml
# Those that are missing, one or all: a platform of an older version lacks what came later.
there=$(kubectl --namespace checkout get secret passwords --ignore-not-found --output go-template='{{range $key, $value := .data}}{{$key}} {{end}}')
[ -n "$there" ] || kubectl --namespace checkout create secret generic passwords --from-literal=nats-admin-name=admin
drawn=
for key in nats-admin nats-order nats-payment nats-stock nats-auditor nats-observer nats-cluster \
  redis-admin redis-order redis-payment redis-stock redis-replica redis-sentinel sentinel sentinel-service; do
  # A letter first: a password must not look like a number.
  [[ " $there" == *" $key "* ]] || drawn+="  $key: p$(openssl rand -hex 24)"$'\n'
done
# As a file, because what a program is called with is seen by others.
[ -z "$drawn" ] || kubectl --namespace checkout patch secret passwords --type merge --patch-file <(printf 'stringData:\n%s' "$drawn")

kubectl apply -k "$overlay"
for service in order payment stock; do
  kubectl --namespace checkout rollout status "deployment/$service-service" --timeout 15m
done
kubectl --namespace checkout rollout status deployment/gateway --timeout 5m

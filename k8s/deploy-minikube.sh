#!/usr/bin/env bash
# Runs the platform in minikube: NATS and the three databases from charts of a pinned version, the rest from k8s/overlays/charts.
# With `--plain` everything from k8s/overlays/dev, without Helm. Run it again to bring a changed platform up.
set -euo pipefail
cd "$(dirname "$0")/.."

nats_chart=${NATS_CHART:-nats/nats} nats_version=2.14.2
valkey_chart=${VALKEY_CHART:-valkey/valkey} valkey_version=0.11.0

fail() { echo "deploy-minikube: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing"; }
case ${1:-} in
'') plain= ;;
--plain) plain=yes ;;
*) echo "usage: k8s/deploy-minikube.sh [--plain]" >&2; exit 64 ;;
esac

need minikube && need kubectl
minikube status >/dev/null || fail "minikube does not run: minikube start --cni calico (another network may not know NetworkPolicies)"
kubectl config use-context minikube
minikube addons enable ingress
for binary in order payment stock checkout; do
  minikube image build --build-opt "build-arg=BINARY=$binary" --tag "checkout/$binary:dev" .
done

if [ -n "$plain" ]; then
  kubectl apply -k k8s/overlays/dev
else
  need helm
  kubectl apply -f k8s/base/namespace.yaml
  kubectl apply --namespace checkout -k compose/secrets
  helm show chart "$nats_chart" --version "$nats_version" >/dev/null || fail "no chart $nats_chart $nats_version: \`helm repo add nats …\` with the repository of the NATS charts"
  helm show chart "$valkey_chart" --version "$valkey_version" >/dev/null || fail "no chart $valkey_chart $valkey_version: \`helm repo add valkey …\` with the repository of the Valkey chart"
  helm upgrade --install nats "$nats_chart" --version "$nats_version" --namespace checkout --values k8s/helm/nats.yaml \
    --set-file 'configMap.merge.data.users\.conf=nats/users.conf'
  for service in order payment stock; do
    helm upgrade --install "redis-$service" "$valkey_chart" --version "$valkey_version" --namespace checkout \
      --values k8s/helm/valkey.yaml --values "k8s/helm/redis-$service.yaml"
  done
  kubectl apply -k k8s/overlays/charts
fi
# What was built has the tag that it had before.
kubectl --namespace checkout rollout restart deployment/topology deployment/{order,payment,stock}-service
for service in order payment stock; do
  kubectl --namespace checkout rollout status "deployment/$service-service" --timeout 10m
done
kubectl --namespace checkout rollout status deployment/gateway --timeout 5m
echo "ready: http://$(minikube ip)/ (or: kubectl --namespace checkout port-forward service/gateway 8000)"

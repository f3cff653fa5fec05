# Sourced by `mesh`: situations in which a Sidecar is easily wrong, with what was learned, alerted and
# written for each.

# istiod reads its MeshConfig from a file of its pod.
mesh_config() { # mesh_config TEXT: replaces the MeshConfig, in the cluster and for istiod
  k -n istio-system create configmap istio --from-literal=mesh="$1" --dry-run=client -o yaml |
    k -n istio-system apply --server-side --force-conflicts -f - >/dev/null
  local file
  for file in $(find "$RUN"/pods/istio-system_istiod-* -type f -name mesh); do printf '%s' "$1" >"$file"; done
}
from() { # from POD URL: the status of a call
  "$HERE/pexec" cases/"$1" curl -s -o /dev/null -w '%{http_code}' -m 10 "$2" || true
}
settings=$(k -n istio-system get configmap istio -o 'jsonpath={.data.mesh}')
mesh_config "$settings
discoverySelectors:
- matchExpressions: [{key: mesh, operator: DoesNotExist}]"
k apply -f "$HERE/manifests/situations.yaml" >/dev/null
k -n cases wait --for=condition=Ready pod --all --timeout=120s >/dev/null
k -n unread wait --for=condition=Ready pod --all --timeout=120s >/dev/null
sleep 15

say "situations: a WorkloadEntry, an unread namespace, a pod that calls itself, REGISTRY_ONLY"
situations() {
  echo "caller http://machine.cases $(from caller http://machine.cases)"
  echo "caller http://echo.unread $(from caller http://echo.unread)"
  echo "self http://self.cases $(from self http://self.cases)"
  echo "strict http://self.cases $(from strict http://self.cases)"
}
situations | tee calls.before
blocked=$(from strict http://ratings.bookinfo:9080/ratings/1)
[ "$blocked" != 200 ] || die "REGISTRY_ONLY refused nothing"
echo "strict http://ratings.bookinfo:9080 $blocked: refused"
[ "$(grep -c ' 200$' calls.before)" = 4 ] || die "a call was not answered"
for i in $(seq 150); do ask alerts -n cases -o json | grep -q blocked-call && break; sleep 1; done
[ "$i" -lt 150 ] || { ask status -n cases; die "no alert of the blocked call"; }
echo "blocked-call: alerted after $i s"
ask status -n cases | grep '^blocked, probably: cases/strict' || die "the status lacks the blocked call"
ask dependencies -n cases
ask alerts -n cases -o json | grep -q scope-miss && { ask alerts -n cases; die "a call to an unread namespace is no scope miss"; }

say "situations: Sidecars, applied: every call is treated as before"
k -n cases delete sidecar strict >/dev/null
snapshot
ask generate --include-unready --cluster cluster.yaml istio.yaml meshconfig.yaml -n cases --output situations
k apply -R -f situations
sleep 5
marks >logs.before
situations | tee calls.after
cmp calls.before calls.after || die "a call is answered in another way"
sleep 1
for host in machine.cases self.cases; do
  while read -r f size; do tail -c +$((size + 1)) "$f"; done <logs.before | grep -q "outbound|80||$host" || die "$host was called past the mesh"
done
echo "the calls of machine.cases and self.cases went through their clusters"
k delete -f "$HERE/manifests/situations.yaml" --wait=false >/dev/null
mesh_config "$settings"

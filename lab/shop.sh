# Sourced by `mesh`: a shop that nobody tuned Sidecarta for, at the default sampling. What was learned
# is compared edge by edge with the proxies' access logs and the applications' own.

shop() { RUN=$RUN /usr/bin/python3 -B "$HERE/shop.py" "$@"; }
shop_marks() { for f in "$RUN"/pods/shop*/{istio-proxy,app}.log; do echo "$f $(stat -c %s "$f")"; done; }
shop_edges() { # shop_edges MARKS: fails after a while where an edge is missing or false
  local i
  for i in $(seq 6); do
    ask dependencies -o json >shop.json
    shop edges "$1" shop.json >edges.txt && break
    sleep 10
  done
  cat edges.txt
  [ "$i" -lt 6 ] || { shop edges "$1" shop.json >/dev/null || die "what was learned of the shop differs from the logs"; }
}
end_agents TERM

say "a shop of $(shop objects | grep -o '"kind": "\(Deployment\|StatefulSet\|CronJob\)"' | wc -l) workloads, watched from its start with the agents' defaults"
agents
shop objects | k apply -f - >/dev/null
for n in shop shop-data; do k -n $n wait --for=condition=Available deployment --all --timeout=180s >/dev/null; done
k -n shop-data rollout status statefulset/db --timeout=120s >/dev/null
: >shop.start
# A CronJob runs each minute; agents report each 30 s what they watched.
sleep 100
shop_edges shop.start
ask status -n shop --unready | head -20

say "agents killed, 10 s away: a gap, and nothing false afterwards"
end_agents KILL
sleep 10
agents
sleep 45
shop_edges shop.start
ask status -n shop -o json >status.json
python3 - <<'Y' || die "no gap where nobody watched"
import json
front = next(w for w in json.load(open("status.json"))["workloads"] if w["workload"]["name"] == "front")["watched"]
print(f"front: watched for {front['nanoseconds'] / 1e9:.0f} s, {front['gaps']} gaps of {front['gapNanoseconds'] / 1e9:.0f} s in all")
assert front["gaps"] >= 1 and front["gapNanoseconds"] >= 10e9
Y

say "the shop's Sidecars, applied: every call has the same answer, by the same cluster"
shop_marks >shop.marks; sleep 30; shop calls shop.marks >calls.before
snapshot
for n in shop shop-data; do
  # 5: a workload is withheld. That of the Sidecar that the shop has itself is.
  ask generate --include-unready --cluster cluster.yaml istio.yaml meshconfig.yaml -n $n --output shop-sidecars || [ $? -eq 5 ] || die "generate"
  ask forecast --include-unready --cluster cluster.yaml istio.yaml meshconfig.yaml -n $n -o json >forecast-$n.json || [ $? -eq 5 ] || die "forecast"
done
k apply -R -f shop-sidecars
sleep 15
shop_marks >shop.marks; sleep 30; shop calls shop.marks >calls.after
diff calls.before calls.after && echo "$(grep -c '"http\|"tls\|"line\|"first\|"grpc\|"pool\|"hold\|"udp' calls.after) kinds of call, none changed" || die "a call changed under its Sidecar"

say "Envoy's own clusters against the forecast"
for f in "$RUN"/pods/shop*/istio-proxy.pid; do
  kill -0 "$(cat "$f")" 2>/dev/null || continue # a pod of an earlier run
  pod=$(basename "$(dirname "$f")")
  echo "$pod $("$HERE/pexec" "${pod/_//}" curl -s localhost:15000/clusters | grep -o '^outbound|[^:]*' | sort -u | wc -l)"
done >envoys.txt
shop forecast envoys.txt forecast-shop.json forecast-shop-data.json || die "Envoy's clusters are not those of the forecast"
for n in shop shop-data shop-rules; do k delete ns $n --wait=false >/dev/null; done

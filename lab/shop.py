#!/usr/bin/python3
"""The shop: a mesh that nobody tuned Sidecarta for, as one list. Prints its objects, and compares what
was learned of it with what the proxies' access logs and the applications say.

    shop.py objects
    shop.py edges MARKS DEPENDENCIES     table of edges; fails where one is missing or false
    shop.py forecast ENVOYS FORECAST...  clusters that the proxies have, and that were forecast
    shop.py calls MARKS                  what came of each call, and by which cluster, as JSON
"""
import json
import os
import re
import sys
from collections import Counter, defaultdict

SHOP = "shop.svc.cluster.local"
DATA = "shop-data.svc.cluster.local"
SERVE = "http:8080"
# Name -> (namespace, kind, node, labels and annotations beyond the usual, arguments)
WORKLOADS = {
    "front": ("shop", "Deployment", "kind-worker", {}, [
        SERVE, "call http:http://catalog.shop/", "call http:http://cart.shop/", "call http:http://menu.shop/",
        "call http:http://sale.shop/", "call grpc:offers.shop:9000", "call pool:http://stock.shop/",
        "start http:http://settings.shop/"]),
    "catalog": ("shop", "Deployment", "kind-worker2", {}, [
        SERVE, "call line:db-0.db.shop-data:5432", "call http:http://stock.shop/", "call udp:metrics.shop:8125"]),
    "cart": ("shop", "Deployment", "kind-worker", {}, [
        SERVE, "call line:cache.shop-data:6379", "call hold:db.shop-data:5432", "call pool:http://stock-old.shop/"]),
    # Two Services have its pods and port.
    "stock": ("shop", "Deployment", "kind-worker2", {}, [SERVE, "call line:db-rw.shop-data:5432"]),
    "offers": ("shop", "Deployment", "kind-worker2", {}, ["grpc:9000", SERVE, "call http:http://offers.shop/"]),
    "pay": ("shop", "Deployment", "kind-worker", {}, [
        SERVE, "call first:bank.shop:2525", "call tls:api.ext-lab.test:443", "call http:http://web.ext-lab.test/"]),
    "bank": ("shop", "Deployment", "kind-worker2", {}, ["first:2525"]),
    "settings": ("shop", "Deployment", "kind-worker2", {}, [SERVE]),
    "metrics": ("shop", "Deployment", "kind-worker", {}, ["udp:8125"]),
    "old": ("shop", "Deployment", "kind-worker", {"sidecar.istio.io/inject": "false"}, [
        SERVE, "call http:http://catalog.shop/"]),
    "strict": ("shop", "Deployment", "kind-worker2", {}, [SERVE, "call http:http://catalog.shop/", "call http:http://stock.shop/"]),
    "report": ("shop", "CronJob", "kind-worker", {"sidecar.istio.io/inject": "false"}, [
        "call http:http://settings.shop/", "call udp:metrics.shop:8125", "once"]),
    "db": ("shop-data", "StatefulSet", "kind-worker2", {}, ["line:5432"]),
    "cache": ("shop-data", "Deployment", "kind-worker", {}, ["line:6379"]),
}
# Name -> (namespace, application, ports)
HTTP = [{"name": "http", "port": 80, "targetPort": 8080}]
SERVICES = {
    "catalog": ("shop", "catalog", HTTP), "settings": ("shop", "settings", HTTP),
    # Its port declares no protocol.
    "cart": ("shop", "cart", [{"port": 80, "targetPort": 8080}]),
    "stock": ("shop", "stock", HTTP), "stock-old": ("shop", "stock", HTTP),
    "sale": ("shop", "front", HTTP),
    "offers": ("shop", "offers", HTTP + [{"name": "grpc", "port": 9000}]),
    "bank": ("shop", "bank", [{"name": "tcp-smtp", "port": 2525}]),
    "metrics": ("shop", "metrics", [{"name": "statsd", "port": 8125, "protocol": "UDP"}]),
    "db": ("shop-data", "db", [{"name": "tcp-db", "port": 5432}]),
    "db-rw": ("shop-data", "db", [{"name": "tcp-db", "port": 5432}]),
    "cache": ("shop-data", "cache", [{"name": "tcp-cache", "port": 6379}]),
}
ISTIO = [
    # A third namespace redirects sale.shop, mirrors it, and splits by a header.
    ("networking.istio.io/v1", "VirtualService", "shop-rules", "sale", {
        "hosts": [f"sale.{SHOP}"],
        "http": [{"match": [{"headers": {"x-beta": {"exact": "1"}}}],
                  "route": [{"destination": {"host": f"settings.{SHOP}"}}]},
                 {"route": [{"destination": {"host": f"catalog.{SHOP}", "subset": "all"}}],
                  "mirror": {"host": f"settings.{SHOP}"}}]}),
    ("networking.istio.io/v1", "DestinationRule", "shop", "catalog", {
        "host": f"catalog.{SHOP}", "subsets": [{"name": "all", "labels": {"app": "catalog"}}]}),
    ("networking.istio.io/v1", "ServiceEntry", "shop", "api", {
        "hosts": ["api.ext-lab.test"], "location": "MESH_EXTERNAL", "resolution": "DNS",
        "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]}),
    ("security.istio.io/v1", "PeerAuthentication", "shop", "bank", {
        "selector": {"matchLabels": {"app": "bank"}}, "mtls": {"mode": "STRICT"}}),
    # It lacks stock.shop, which is refused.
    ("networking.istio.io/v1", "Sidecar", "shop", "strict", {
        "workloadSelector": {"labels": {"app": "strict"}},
        "egress": [{"hosts": [f"./catalog.{SHOP}", "istio-system/*"]}],
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}),
]


def arguments(words):
    """`call SPEC` and `start SPEC` are two words; what is neither is a server."""
    out = []
    for word in words:
        if word == "once" or " " in word:
            out += word.split(" ", 1)
        else:
            out += ["serve", word]
    return out


def workload(name):
    namespace, kind, node, extra, words = WORKLOADS[name]
    labels = {"app": name, **extra}
    pod = {"nodeSelector": {"kubernetes.io/hostname": node},
           "containers": [{"name": "app", "image": "lab/shop:stand-in", "args": arguments(words)}]}
    meta = {"name": name, "namespace": namespace}
    if kind == "CronJob":
        job = {"template": {"metadata": {"labels": labels}, "spec": {**pod, "restartPolicy": "Never"}}}
        spec = {"schedule": "* * * * *", "successfulJobsHistoryLimit": 1, "jobTemplate": {"spec": job}}
        return {"apiVersion": "batch/v1", "kind": kind, "metadata": meta, "spec": spec}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    if kind == "StatefulSet":
        spec.update(serviceName=name, replicas=2)
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


def service(name):
    namespace, app, ports = SERVICES[name]
    spec = {"selector": {"app": app}, "ports": ports}
    if name == "db":
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def objects():
    inject = {"istio-injection": "enabled"}
    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": labels}}
             for n, labels in (("shop", inject), ("shop-data", inject), ("shop-rules", {}))]
    items += [service(name) for name in SERVICES]
    items.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "menu", "namespace": "shop"},
                  "spec": {"type": "ExternalName", "externalName": f"catalog.{SHOP}",
                           "ports": [{"name": "http", "port": 80}]}})
    items += [{"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}
              for version, kind, namespace, name, spec in ISTIO]
    items += [workload(name) for name in WORKLOADS]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def new_text(marks):
    """What was written since the marks: (container, pod) -> text, of the shop's pods."""
    sizes = dict(line.rsplit(" ", 1) for line in open(marks).read().splitlines())
    run = os.environ["RUN"]
    for folder in sorted(os.listdir(f"{run}/pods")):
        namespace, pod = folder.split("_", 1)
        if namespace not in ("shop", "shop-data"):
            continue
        for container in ("istio-proxy", "app"):
            path = f"{run}/pods/{folder}/{container}.log"
            if os.path.exists(path):
                with open(path, "rb") as f:
                    f.seek(int(sizes.get(path, 0)))
                    yield container, pod, f.read().decode("utf-8", "replace")


def owner(pod):
    return max((name for name in WORKLOADS if pod == name or pod.startswith(name + "-")), key=len)


def logs(marks):
    """What the logs tell: the clusters that each workload called, and what came of its calls."""
    clusters, results = defaultdict(Counter), defaultdict(Counter)
    for container, pod, text in new_text(marks):
        name = owner(pod)
        if container == "app":
            for line in re.findall(r'{"call": "[^"]*", "result": "[^"]*"}', text):
                told = json.loads(line)
                results[name][told["call"], told["result"]] += 1
        for found in re.finditer(r"outbound\|\d+\|[^|]*\|[^ \"|]+|PassthroughCluster|BlackHoleCluster", text):
            clusters[name][found[0]] += 1
    return clusters, results


def told_edges(marks):
    clusters, results = logs(marks)
    edges = {}
    for name, called in clusters.items():
        for cluster, n in called.items():
            parts = cluster.split("|")
            if len(parts) == 4:
                edges[name, parts[3], int(parts[1])] = n
    # No proxy tells of datagrams, of a connection that goes on, nor of what has no proxy.
    for name, told in results.items():
        for (call, result), n in told.items():
            injected = WORKLOADS[name][3].get("sidecar.istio.io/inject") != "false"
            if call.startswith("udp:") and result == "ok":
                edges[name, f"metrics.{SHOP}", 8125] = n
            elif call.startswith("hold:") and result == "ok":
                _, host, port = call.split(":")
                edges[name, f"{host}.svc.cluster.local", int(port)] = n
            elif not injected and result == "200":
                edges[name, call.split("//")[1].split("/")[0] + ".svc.cluster.local", 80] = n
    return edges


def learned_edges(path):
    exact, ambiguous, others = set(), [], []
    for d in json.load(open(path)):
        name, to = d["workload"]["name"], d["destination"]
        if d["workload"]["namespace"] not in ("shop", "shop-data"):
            continue
        if to["type"] == "service":
            exact.add((name, to["host"], to["port"]))
        elif to["type"] == "ambiguous":
            ambiguous.append((name, {(c["host"], c["port"]) for c in to["candidates"]}))
        elif to["type"] == "external" and to.get("namespace"):
            exact.add((name, to["host"], d["port"]))
        elif to["type"] != "infrastructure":
            others.append((name, d["protocol"], to.get("host") or to.get("address") or to.get("name") or to["type"], d["port"]))
    return exact, ambiguous, others


def edges(marks, dependencies):
    told = told_edges(marks)
    exact, ambiguous, others = learned_edges(dependencies)
    machinery = {(h, p) for _, h, p in exact if h.endswith((".kube-system.svc.cluster.local", ".istio-system.svc.cluster.local"))}
    wrong, counts, explained = 0, Counter(), set()
    for edge, n in sorted(told.items()):
        name, host, port = edge
        either = [c for who, c in ambiguous if who == name and (host, port) in c]
        # A call of a pod to itself passes no interface; its look-up keeps the host.
        is_own = any(app == name and host == f"{service}.{namespace}.svc.cluster.local"
                     for service, (namespace, app, _) in SERVICES.items())
        verdict = "exact" if edge in exact else "ambiguous" if either else "own" if is_own else "MISSING"
        for candidates in either:
            explained |= {(name, h, p) for h, p in candidates}
        wrong += verdict == "MISSING"
        counts[verdict] += 1
        print(f"{name:10} {host + ':' + str(port):48} {n:5} calls  {verdict}")
    for name, host, port in sorted(e for e in exact if e not in told and (e[1], e[2]) not in machinery):
        print(f"{name:10} {host + ':' + str(port):48}    no call  FALSE")
        counts["FALSE"] += 1
        wrong += 1
    for name, protocol, to, port in sorted(others, key=str):
        print(f"{name:10} {to}:{port} ({protocol}): no Service")
    print(", ".join(f"{n} {what}" for what, n in sorted(counts.items())), "of", len(told), "edges")
    return 1 if wrong or not told else 0


def calls(marks):
    clusters, results = logs(marks)
    print(json.dumps({name: {"clusters": sorted(clusters[name]),
                             "results": sorted({f"{call} {result}" for call, result in results[name]})}
                      for name in sorted(set(clusters) | set(results))
                      # What a run of a CronJob calls depends on the minute.
                      if WORKLOADS[name][1] != "CronJob"}, indent=1))
    return 0


def forecast(envoys, *paths):
    forecasts = {}
    for path in paths:
        for group in json.load(open(path))["workloads"]:
            for member in group["workloads"]:
                forecasts[member["name"]] = group
    wrong = 0
    for line in open(envoys):
        pod, has = line.split()
        group = forecasts.get(owner(pod.split("_", 1)[1]))
        if group is None:
            continue
        said = group["after"]["clusters"]
        print(f"{pod:44} {group['before']['clusters']:4} before, {said:4} forecast, {has:>4} in Envoy")
        wrong += said != int(has)
    return 1 if wrong else 0


if __name__ == "__main__":
    word, rest = sys.argv[1], sys.argv[2:]
    if word == "objects":
        print(json.dumps(objects()))
    else:
        sys.exit({"edges": edges, "forecast": forecast, "calls": calls}[word](*rest))

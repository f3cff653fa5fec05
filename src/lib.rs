//! Sidecarta learns what each workload of an Istio mesh calls, and writes its least-privilege `Sidecar`.

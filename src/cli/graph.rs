//! Dependencies as a graph: Mermaid for pull requests, DOT for Graphviz.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::{Dependency, Destination};
use crate::text;

/// Who calls what.
struct Graph {
    /// The kind of each node, by label.
    nodes: BTreeMap<String, &'static str>,
    /// Label of the caller, label of the destination, label of the edge.
    edges: Vec<(String, String, String)>,
}

fn graph(all: &[Dependency]) -> Graph {
    let mut g = Graph { nodes: BTreeMap::new(), edges: Vec::new() };
    for d in all.iter().filter(|d| !matches!(d.key.destination, Destination::Infrastructure { .. }))
    {
        let from = d.key.workload.to_string();
        let to = d.key.destination.to_string();
        g.nodes.entry(from.clone()).or_insert("workload");
        // A Service often has its workload's name: the kind distinguishes the two nodes.
        let to_label = format!("{} {to}", d.key.destination.kind());
        g.nodes.insert(to_label.clone(), d.key.destination.kind());
        g.edges.push((from, to_label, format!("{}/{}", d.key.port, d.key.protocol)));
    }
    g.edges.sort();
    g.edges.dedup();
    g
}

/// A Mermaid flowchart.
pub(super) fn mermaid(all: &[Dependency]) -> String {
    let g = graph(all);
    let id: BTreeMap<&String, usize> = g.nodes.keys().enumerate().map(|(i, n)| (n, i)).collect();
    let mut out = String::from("flowchart LR\n");
    for (label, kind) in &g.nodes {
        let n = id[label];
        let text = text::mermaid(label.strip_prefix(&format!("{kind} ")).unwrap_or(label));
        let _ = match *kind {
            "workload" => writeln!(out, "  n{n}[\"{text}\"]"),
            "service" => writeln!(out, "  n{n}([\"{text}\"])"),
            _ => writeln!(out, "  n{n}{{{{\"{kind}: {text}\"}}}}"),
        };
    }
    for (from, to, label) in &g.edges {
        let _ = writeln!(out, "  n{} -->|{label}| n{}", id[from], id[to]);
    }
    out
}

/// A DOT digraph.
pub(super) fn dot(all: &[Dependency]) -> String {
    let g = graph(all);
    let mut out = String::from("digraph dependencies {\n  rankdir=LR;\n  node [shape=box];\n");
    for (label, kind) in &g.nodes {
        let text = text::dot(label.strip_prefix(&format!("{kind} ")).unwrap_or(label));
        let shape = match *kind {
            "workload" => "box",
            "service" => "ellipse",
            _ => "hexagon",
        };
        let _ = writeln!(out, "  \"{}\" [label=\"{text}\", shape={shape}];", text::dot(label));
    }
    for (from, to, label) in &g.edges {
        let (from, to) = (text::dot(from), text::dot(to));
        let _ = writeln!(out, "  \"{from}\" -> \"{to}\" [label=\"{label}\"];");
    }
    out.push_str("}\n");
    out
}

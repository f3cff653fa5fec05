//! Shows what agents wrote with `sidecarta agent --to FILE`: who called what, and how often.
//!
//! ```text
//! cargo run -p sidecarta-model --example batch -- batches.ndjson
//! ```

#![allow(clippy::print_stdout)] // it is a program

use std::fs::File;
use std::io::{BufReader, Error};

use sidecarta_model::observed::Reader;

fn main() -> Result<(), Error> {
    let path = std::env::args().nth(1).ok_or_else(|| Error::other("usage: batch FILE"))?;
    for batch in Reader::new(BufReader::new(File::open(path)?)) {
        let batch = match batch {
            Ok(batch) => batch,
            // What comes after a batch that cannot be read can be read.
            Err(e) => {
                println!("{e}");
                continue;
            }
        };
        println!("{} of node {}, made {}", batch.id, batch.node, batch.made);
        for edge in &batch.edges {
            let pod = &batch.pods[edge.pod as usize];
            let names: Vec<&str> = edge.call.names().map(String::as_str).collect();
            println!(
                "  {}/{} -> {} {} {names:?}: {} connections, last {}",
                pod.workload.namespace,
                pod.name,
                edge.call.responder,
                edge.call.protocol,
                edge.connections,
                edge.last
            );
        }
    }
    Ok(())
}

//! Reads captures and prints their connections, and the packets that could not be used.
//!
//! ```console
//! $ cargo run -p sidecarta-capture --example read -- samples/q-formats/micro.pcap
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)] // it prints for people

use std::path::PathBuf;
use std::process::ExitCode;

use sidecarta_capture::frame::FrameBatch;
use sidecarta_capture::loss::CaptureCounters;
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::observation::{Connection, Observation};
use sidecarta_capture::source::CaptureReader;

fn main() -> ExitCode {
    let captures: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if captures.is_empty() {
        eprintln!("usage: read CAPTURE...");
        return ExitCode::FAILURE;
    }
    let mut reader = CaptureReader::open(&captures);
    let counters = read(&mut reader);
    print_counters(&counters);

    let mut is_whole = reader.errors().is_empty();
    for error in reader.errors() {
        eprintln!("error: {error}");
    }
    for report in reader.reports() {
        if let Some(damage) = &report.damage {
            eprintln!("warning: {}: {damage}", report.path);
            is_whole = false;
        }
    }
    if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints each connection as soon as it is reported.
fn read(reader: &mut CaptureReader) -> CaptureCounters {
    let mut meter = Meter::new(FlowConfig::default(), ListeningPorts::default());
    let mut sink = |observation| {
        if let Observation::Connection(connection) = observation {
            print_connection(&connection);
        }
    };
    let mut batch = FrameBatch::default();
    while reader.next_batch(&mut batch) {
        meter.batch(&batch, &mut sink);
    }
    meter.finish(&mut sink);
    meter.counters()
}

fn print_connection(connection: &Connection) {
    let Connection { initiator, responder, transport, packets, answered, .. } = connection;
    let names = &connection.names;
    let name = names.sni.as_deref().or(names.authority.as_deref()).unwrap_or("-");
    let answer = if *answered { "answered" } else { "unanswered" };
    println!("{transport:?} {initiator} -> {responder} {name} {packets} packets, {answer}");
}

/// Prints all counters that are not 0.
fn print_counters(counters: &CaptureCounters) {
    for (name, value) in counters.named() {
        if value > 0 {
            println!("{name}: {value}");
        }
    }
}

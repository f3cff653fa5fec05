//! The `sidecarta` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidecarta::cli::main()
}

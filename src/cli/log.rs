//! Options of the commands that run until a signal: the log and the address of the metrics.

use std::fmt;
use std::net::SocketAddr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

use crate::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// How to log.
#[derive(Debug, Args)]
pub(super) struct LogOptions {
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "SIDECARTA_LOG_FORMAT")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace; also by module (`warn,sidecarta=debug`)
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info,kube_client=off,kube_runtime=error",
        env = "SIDECARTA_LOG"
    )]
    log: String,
}

impl LogOptions {
    /// Begins to log to standard error.
    pub(super) fn init(&self) -> anyhow::Result<()> {
        use tracing_subscriber::field::MakeExt;
        use tracing_subscriber::filter::Targets;
        use tracing_subscriber::fmt::format::debug_fn;
        use tracing_subscriber::layer::{Layer, SubscriberExt};
        use tracing_subscriber::util::SubscriberInitExt;
        let filter: Targets =
            self.log.parse().with_context(|| format!("--log {} names no level", self.log))?;
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let layer = match self.log_format {
            LogFormat::Text => layer
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .fmt_fields(debug_fn(field).delimited(" "))
                .boxed(),
            LogFormat::Json => layer.json().boxed(),
        };
        tracing_subscriber::registry().with(layer.with_filter(filter)).init();
        Ok(())
    }
}

/// Writes a field of a log line in text form. Foreign text is escaped, so that it cannot begin a
/// line of its own.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let value = text::log_field(&value);
    if field.name() == "message" {
        write!(writer, "{value}")
    } else {
        write!(writer, "{field}={value}")
    }
}

/// Reads the address of `--listen`; `none` is `None`.
pub(super) fn listen(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    Ok(Some(text.parse().with_context(|| format!("--listen {text} is no address with a port"))?))
}

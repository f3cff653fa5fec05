//! `sidecarta forecast`.

use clap::Args;
use serde::Serialize;

use super::generate::{ChoiceOptions, ReadyOptions, SourceOptions, outcomes, read_input};
use super::output::{self, Format};
use super::{CommandOutcome, OutputOptions};
use crate::generate;
use crate::model::WorkloadId;
use crate::scope::clusters::ProxySize;

const EXAMPLE: &str = "\
Examples:
  sidecarta forecast --cluster cluster.yaml
  sidecarta forecast --cluster cluster.yaml -n bookinfo -o json

`before` is with all hosts imported, `today` under the Sidecar that applies now, `after` under the
one that would be generated; workloads that are not ready yet are included.";

/// Show clusters and endpoints per workload, before and after
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct ForecastOptions {
    #[command(flatten)]
    source: SourceOptions,
    #[command(flatten)]
    choice: ChoiceOptions,
    #[command(flatten)]
    ready: ReadyOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Serialize)]
struct Forecast {
    workloads: Vec<GroupForecast>,
    totals: ForecastSizes,
}

/// The forecast of workloads that share a Sidecar.
#[derive(Debug, Serialize)]
struct GroupForecast {
    workloads: Vec<WorkloadId>,
    #[serde(flatten)]
    sizes: ForecastSizes,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct ForecastSizes {
    before: ProxySize,
    today: ProxySize,
    after: ProxySize,
}

/// Runs `sidecarta forecast`.
pub(super) fn run(options: &ForecastOptions) -> anyhow::Result<CommandOutcome> {
    let input = read_input(&options.source, &options.source.cluster)?;
    let chosen = options.choice.chosen(&input)?;
    let mut how =
        generate::GenerateOptions { detail: true, ..generate::GenerateOptions::default() };
    options.ready.apply(&mut how);
    let all = outcomes(&input, &how, &chosen);
    let mut forecast = Forecast { workloads: Vec::new(), totals: ForecastSizes::default() };
    let counts = |o: &&generate::GroupOutcome| o.withheld.as_ref().is_none_or(|w| w.unready);
    for o in all.iter().filter(counts) {
        let Some(proof) = &o.proof else { continue };
        let sizes = ForecastSizes { before: o.before, today: o.today, after: proof.after };
        forecast.totals.before += sizes.before;
        forecast.totals.today += sizes.today;
        forecast.totals.after += sizes.after;
        forecast.workloads.push(GroupForecast { workloads: o.workloads.clone(), sizes });
    }
    match options.output.output {
        Format::Table => output::print(&table(&forecast))?,
        format => output::data(format, &forecast)?,
    }
    Ok(if input.partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}

fn table(forecast: &Forecast) -> String {
    let mut t = output::table(&[
        "WORKLOAD",
        "CLUSTERS BEFORE",
        "TODAY",
        "AFTER",
        "ENDPOINTS BEFORE",
        "TODAY",
        "AFTER",
    ]);
    let mut row = |name: String, r: &ForecastSizes| {
        let n = |n: u64| n.to_string();
        t.add_row([
            name,
            n(r.before.clusters),
            n(r.today.clusters),
            n(r.after.clusters),
            n(r.before.endpoints),
            n(r.today.endpoints),
            n(r.after.endpoints),
        ]);
    };
    for r in &forecast.workloads {
        let all: Vec<String> = r.workloads.iter().map(ToString::to_string).collect();
        row(all.join(", "), &r.sizes);
    }
    row("total".to_owned(), &forecast.totals);
    output::render(&t)
}

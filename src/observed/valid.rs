//! Whether a batch can be an agent's.
//!
//! Owns which words of a batch are names, and of what. Whoever may bring batches may write any text
//! into them. Must never look at numbers; what they mean is for whoever reads them.

use super::Observed;
use crate::cluster::Pod;
use crate::model::valid::{self, Invalid};

/// Checks every word of a batch: names of objects by the rules of Kubernetes, names on the wire by
/// what the capture layer can write.
///
/// # Errors
/// The first word that breaks a rule, and whose it is.
pub(super) fn validate(batch: &Observed) -> Result<(), String> {
    words(batch).map_err(|e| e.to_string())?;
    for pod in &batch.pods {
        of_pod(pod).map_err(|e| e.of(format_args!("a pod of the batch ({:?})", pod.name)))?;
    }
    for edge in &batch.edges {
        let mut names = edge.call.names().map(String::as_str);
        names
            .try_for_each(valid::wire_name)
            .map_err(|e| e.of(format_args!("a connection to {}", edge.call.responder)))?;
    }
    let folded = batch.watching.iter().flat_map(|w| w.folded.domains.keys());
    folded
        .map(String::as_str)
        .try_for_each(valid::wire_name)
        .map_err(|e| e.of("a folded domain"))?;
    batch
        .asked
        .iter()
        .try_for_each(|a| valid::wire_name(&a.question).map_err(|e| e.of("a question of the DNS")))
}

fn words(batch: &Observed) -> Result<(), Invalid> {
    valid::word("the node", &batch.node)?;
    // What an agent's spool holds of the next batch has no identity yet.
    if !batch.id.source.is_empty() {
        valid::word("the source", &batch.id.source)?;
    }
    batch.counters.keys().try_for_each(|name| valid::word("the counter", name))
}

fn of_pod(pod: &Pod) -> Result<(), Invalid> {
    valid::workload(&pod.workload)?;
    valid::object_name(&pod.name)?;
    if !pod.uid.is_empty() {
        valid::word("the UID", &pod.uid)?;
    }
    if !pod.node.is_empty() {
        valid::word("the node", &pod.node)?;
    }
    valid::labels(&pod.labels)?;
    valid::labels(&pod.selector)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{connection, pod};
    use super::super::{Gatherer, Observed, Reader, write};
    use crate::model::{Span, Time};

    fn batch() -> Observed {
        let mut gatherer = Gatherer::new("n1", "boot");
        gatherer.connection(&pod("web"), &connection(40_000, 80, 5), || Span::ALWAYS);
        gatherer.take(Time(9)).unwrap()
    }

    fn read(batch: &Observed) -> Result<Observed, String> {
        let mut text = Vec::new();
        write(batch, &mut text).unwrap();
        Reader::new(text.as_slice()).next().unwrap().map_err(|e| e.to_string())
    }

    #[test]
    fn a_batch_with_a_name_that_is_none_is_refused_as_a_whole() {
        assert_eq!(read(&batch()), Ok(batch()));
        let odd = "x\u{2028}kind: ClusterRoleBinding";
        type Spoil = fn(&mut Observed, &str);
        let spoils: [(&str, Spoil); 12] = [
            ("the node", |b, s| b.node = s.to_owned()),
            ("the source", |b, s| b.id.source = s.to_owned()),
            ("the counter", |b, s| {
                b.counters.insert(s.to_owned(), 1);
            }),
            ("the namespace", |b, s| b.pods[0].workload.namespace = s.to_owned()),
            ("the kind", |b, s| b.pods[0].workload.kind = s.to_owned()),
            ("the name", |b, s| b.pods[0].workload.name = s.to_owned()),
            ("the name", |b, s| b.pods[0].name = s.into()),
            ("the key of a label", |b, s| {
                b.pods[0].labels = std::sync::Arc::new([(s.to_owned(), String::new())].into());
            }),
            ("the value of a label", |b, s| {
                b.pods[0].selector = std::sync::Arc::new([("app".to_owned(), s.to_owned())].into());
            }),
            ("the name on the wire", |b, s| b.edges[0].call.sni = Some(s.to_owned())),
            ("the name on the wire", |b, s| b.edges[0].call.authority = Some(s.to_owned())),
            ("the name on the wire", |b, s| b.edges[0].call.dns = vec![s.to_owned()]),
        ];
        for (what, spoil) in spoils {
            let mut spoilt = batch();
            spoil(&mut spoilt, odd);
            let why = read(&spoilt).unwrap_err();
            assert!(why.contains(what) && why.contains("\\u{2028}"), "{what}: {why}");
        }
    }

    #[test]
    fn names_that_captures_show_and_that_are_no_hosts_are_taken() {
        let mut odd = batch();
        odd.edges[0].call.authority = Some("_srv._tcp.a.b\\032c:80".to_owned());
        assert_eq!(read(&odd), Ok(odd));
    }
}

//! DNS questions, until they are answered.
//!
//! Owns which answer belongs to which question, and how many questions of one client are
//! remembered. Must never let the questions of one client push out those of another, while there is
//! room for a handful of each.

use std::net::{IpAddr, SocketAddr};

use foldhash::HashMap;

use crate::observation::{Lookup, Nanos};

/// Questions remembered per client. A client asks a handful at a time.
const MAX_OF_CLIENT: usize = 512;
/// Questions remembered of all clients.
const MAX_QUESTIONS: usize = 8_192;
/// Answers that wait for their questions at a time.
const MAX_EARLY: usize = 256;
/// Nanoseconds for which the answer to a question is awaited. Resolvers give up after 5 s.
pub(super) const PATIENCE_NANOS: i64 = 5_000_000_000;

/// Port of the client, server, identifier of the message, name.
type QuestionKey = (u16, SocketAddr, u16, String);

#[derive(Debug)]
struct OpenQuestion {
    lookup: Lookup,
    answered: bool,
}

/// Open questions of all clients.
#[derive(Debug, Default)]
pub(super) struct DnsQuestions {
    clients: HashMap<IpAddr, HashMap<QuestionKey, OpenQuestion>>,
    count: usize,
    /// Answers whose questions were not seen yet, with their times to live in seconds. They have
    /// room of their own, since any pod can send an answer to any other.
    early: HashMap<(IpAddr, QuestionKey), (Lookup, u32)>,
}

/// What a message means for the questions.
#[derive(Debug, Default)]
pub(super) struct QuestionOutcome {
    /// The first answer to a question, with its time to live in seconds.
    pub answered: Option<(Lookup, u32)>,
    /// Questions whose answers are no longer awaited.
    pub expired: Vec<Lookup>,
    /// Number of answers that were dropped because their question was not seen.
    pub unasked: u64,
}

impl DnsQuestions {
    /// Adds a question or an answer. `must_be_asked`: an answer is valid only if its client was
    /// seen to ask. The question may be read after the answer, since it comes from another
    /// interface.
    pub(super) fn insert(
        &mut self,
        port: u16,
        id: u16,
        lookup: Lookup,
        ttl: u32,
        must_be_asked: bool,
    ) -> QuestionOutcome {
        let mut outcome = QuestionOutcome::default();
        let is_answer = lookup.rcode.is_some();
        // A capture may show the server under two addresses, before and after translation.
        let server = if must_be_asked { lookup.server } else { ([0, 0, 0, 0], 0).into() };
        let key = (port, server, id, lookup.question.clone());
        let client = lookup.client;
        if let Some(question) = self.clients.get_mut(&client).and_then(|c| c.get_mut(&key)) {
            // Otherwise it is a repeated sighting, on another interface.
            if is_answer && !question.answered {
                question.answered = true;
                question.lookup = lookup.clone();
                outcome.answered = Some((lookup, ttl));
            }
            return outcome;
        }
        if is_answer && must_be_asked {
            if self.early.len() >= MAX_EARLY {
                outcome.unasked += self.early.len() as u64;
                self.early.clear();
            }
            self.early.entry((client, key)).or_insert((lookup, ttl));
            return outcome;
        }
        self.make_room(client, &mut outcome);
        outcome.answered = if is_answer {
            Some((lookup.clone(), ttl))
        } else if self.early.is_empty() {
            None
        } else {
            self.early.remove(&(client, key.clone()))
        };
        let question = OpenQuestion { answered: outcome.answered.is_some(), lookup };
        self.clients.entry(client).or_default().insert(key, question);
        self.count += 1;
        outcome
    }

    fn make_room(&mut self, client: IpAddr, outcome: &mut QuestionOutcome) {
        if self.clients.get(&client).is_some_and(|c| c.len() >= MAX_OF_CLIENT) {
            self.drop_client(client, outcome);
        }
        if self.count >= MAX_QUESTIONS {
            let most = self.clients.iter().max_by_key(|(a, c)| (c.len(), **a)).map(|(a, _)| *a);
            if let Some(most) = most {
                self.drop_client(most, outcome);
            }
        }
    }

    fn drop_client(&mut self, client: IpAddr, outcome: &mut QuestionOutcome) {
        let all = self.clients.remove(&client).unwrap_or_default();
        self.count -= all.len();
        outcome.expired.extend(open(all.into_values()));
    }

    /// Removes the questions asked up to packet time `until`. Returns those without an answer,
    /// sorted, and the number of answers without a question.
    pub(super) fn expire(&mut self, until: Nanos) -> (Vec<Lookup>, u64) {
        let mut gone = Vec::new();
        for client in self.clients.values_mut() {
            gone.extend(client.extract_if(|_, q| q.lookup.time <= until).map(|(_, q)| q));
        }
        self.clients.retain(|_, c| !c.is_empty());
        self.count -= gone.len();
        let before = self.early.len();
        self.early.retain(|_, (lookup, _)| lookup.time > until);
        (open(gone), (before - self.early.len()) as u64)
    }

    /// Shifts all times by `step`, after the clock was set.
    pub(super) fn shift(&mut self, step: Nanos) {
        for question in self.clients.values_mut().flat_map(HashMap::values_mut) {
            question.lookup.time = question.lookup.time.saturating_add(step);
        }
        for (lookup, _) in self.early.values_mut() {
            lookup.time = lookup.time.saturating_add(step);
        }
    }
}

/// The lookups without an answer, sorted.
fn open(all: impl IntoIterator<Item = OpenQuestion>) -> Vec<Lookup> {
    let open = all.into_iter().filter(|q| !q.answered);
    let mut open: Vec<Lookup> = open.map(|q| q.lookup).collect();
    open.sort_by(|a, b| (a.time, a.client, &a.question).cmp(&(b.time, b.client, &b.question)));
    open
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::InterfaceId;

    fn lookup(client: u8, name: &str, answer: bool, server: u8) -> Lookup {
        Lookup {
            interface: InterfaceId { source: 0, index: 1 },
            client: IpAddr::from([10, 0, 0, client]),
            server: ([10, 0, 0, server], 53).into(),
            time: 5,
            question: name.to_owned(),
            canonical: None,
            addresses: Vec::new(),
            rcode: answer.then_some(0),
        }
    }

    fn insert(q: &mut DnsQuestions, port: u16, id: u16, l: Lookup) -> bool {
        q.insert(port, id, l, 30, true).answered.is_some()
    }

    #[test]
    fn an_answer_counts_where_its_client_asked_that_server_from_that_port() {
        let mut q = DnsQuestions::default();
        assert!(!insert(&mut q, 4000, 7, lookup(1, "a", false, 53)));
        for (port, id, l) in [
            (4000, 7, lookup(1, "a", true, 66)),
            (4001, 7, lookup(1, "a", true, 53)),
            (4000, 8, lookup(1, "a", true, 53)),
            (4000, 7, lookup(1, "b", true, 53)),
            (4000, 7, lookup(2, "a", true, 53)),
        ] {
            assert!(!insert(&mut q, port, id, l.clone()), "{port} {id} {l:?}");
        }
        assert!(insert(&mut q, 4000, 7, lookup(1, "a", true, 53)));
        assert!(
            !insert(&mut q, 4000, 7, lookup(1, "a", true, 53)),
            "the same on another interface"
        );
        assert_eq!(q.expire(Nanos::MAX), (Vec::new(), 5));
    }

    #[test]
    fn the_question_may_be_read_after_its_answer() {
        let mut q = DnsQuestions::default();
        assert!(!insert(&mut q, 4000, 7, lookup(1, "a", true, 53)));
        assert!(insert(&mut q, 4000, 7, lookup(1, "a", false, 53)));
        assert!(!insert(&mut q, 4000, 7, lookup(1, "a", false, 53)));
        assert_eq!(q.expire(Nanos::MAX), (Vec::new(), 0));
    }

    #[test]
    fn unasked_answers_push_out_no_question() {
        let mut q = DnsQuestions::default();
        assert!(!insert(&mut q, 4000, 7, lookup(1, "a", false, 53)));
        for n in 0..20_000u16 {
            assert!(!insert(&mut q, 4000, n, lookup(1, "evil", true, 66)));
        }
        assert!(q.early.len() <= MAX_EARLY && q.count == 1);
        assert!(insert(&mut q, 4000, 7, lookup(1, "a", true, 53)));
    }

    #[test]
    fn a_client_that_asks_without_end_pushes_out_only_its_own_questions() {
        let mut q = DnsQuestions::default();
        assert!(!insert(&mut q, 4000, 7, lookup(1, "a", false, 53)));
        let mut expired = 0;
        for n in 0..20_000u32 {
            let l = lookup(2, &format!("n{n}"), false, 53);
            expired += q.insert(4000, n as u16, l, 0, true).expired.len();
        }
        assert!(q.count <= MAX_OF_CLIENT + 1);
        assert!(insert(&mut q, 4000, 7, lookup(1, "a", true, 53)));
        assert_eq!(expired + q.expire(Nanos::MAX).0.len(), 20_000, "all questions are reported");
    }
}

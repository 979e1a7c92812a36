//! What was promised, held against the facilitator's database.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write,
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{
    database::Record,
    dialect::Status,
    validator::Reported,
    workload::{chain, miner},
};

/// A heartbeat is early if it comes sooner than this before its time. The channel begins a moment
/// before the link is up, never after, so this is the grain of the clocks.
const EARLY: Duration = Duration::from_millis(5);

/// One number: its key in JSON, its label, its value.
type Row = (&'static str, &'static str, u64);

/// What became of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Audit {
    /// What must be zero.
    promises: Vec<Row>,
    /// What happened.
    facts: Vec<Row>,
}

impl Audit {
    /// Holds what the validator `reported` of `jobs`, the names of all, against the `records`.
    pub(crate) fn of(
        jobs: &[String],
        records: &[Record],
        reported: &Reported,
        heartbeat: Duration,
        took: Duration,
    ) -> Self {
        let statuses = Statuses::of(jobs, records);
        let specs = Specs::of(records);
        let channels = Channels::of(records, heartbeat);
        let count =
            |is: fn(&Record) -> bool| records.iter().filter(|record| is(record)).count() as u64;
        let unanswered = count(|record| matches!(record, Record::Unanswered { .. }));
        // Whoever is not on the list is away for more than one round of specs.
        let not_found = count(|record| matches!(record, Record::Refused { .. }));
        let outbox = reported.stats.client.outbox;
        let acked_missing = reported
            .statuses
            .iter()
            .filter(|(uuid, status)| !statuses.stored.contains(&(uuid.as_str(), *status)))
            .count();
        let expected: usize = jobs.iter().map(|uuid| chain(uuid).len()).sum();
        let specs_missing =
            reported.specs_delivered.iter().filter(|batch| !specs.arrived.contains(batch)).count();
        let newest_missing = (0..reported.specs.min(crate::workload::MINERS)).filter(|ago| {
            let batch = reported.specs - ago;
            specs.newest.get(&*miner(batch)) != Some(&batch)
        });

        Self {
            promises: vec![
                ("jobs_incomplete", "jobs with a status missing", statuses.incomplete),
                ("statuses_out_of_order", "statuses out of order", statuses.out_of_order),
                ("statuses_twice", "statuses stored twice", statuses.twice),
                ("statuses_invented", "statuses of no job's chain", statuses.invented),
                ("acknowledged_missing", "acknowledged, but not stored", acked_missing as u64),
                ("statuses_failed", "statuses reported failed", reported.statuses_failed),
                (
                    "without_outcome",
                    "statuses without an outcome",
                    (expected as u64)
                        .saturating_sub(reported.statuses.len() as u64 + reported.statuses_failed),
                ),
                (
                    "charged_by_outages",
                    "retries charged beyond answers withheld",
                    outbox.charges.saturating_sub(unanswered),
                ),
                (
                    "second_connections",
                    "connections beside a live one",
                    reported.most_sockets.saturating_sub(1) as u64,
                ),
                ("headers_reused", "attempts with headers of another", channels.headers_reused),
                ("headers_bad", "attempts with bad headers", count(|r| *r == Record::BadHeaders)),
                ("heartbeats_early", "heartbeats before their time", channels.heartbeats_early),
                (
                    "specs_failed",
                    "specs neither delivered nor replaced",
                    reported.specs_failed
                        + reported.specs.abs_diff(
                            reported.specs_delivered.len() as u64
                                + reported.specs_replaced
                                + reported.specs_failed,
                        ),
                ),
                ("specs_missing", "specs delivered, but not stored", specs_missing as u64),
                ("specs_out_of_order", "specs after newer ones of a miner", specs.out_of_order),
                (
                    "specs_newest_missing",
                    "miners whose newest specs are missing",
                    newest_missing.count() as u64,
                ),
                (
                    "specs_not_coalesced",
                    "outages in which no specs were replaced",
                    u64::from(not_found > 0 && reported.specs_replaced == 0),
                ),
                (
                    "refused",
                    "frames that a side did not understand",
                    count(|r| matches!(r, Record::Unparsable { .. } | Record::Unknown { .. }))
                        + reported.stats.client.violations
                        + outbox.violations,
                ),
            ],
            facts: vec![
                ("jobs", "jobs", statuses.jobs),
                ("jobs_again", "jobs that arrived again", reported.jobs_again),
                ("statuses", "statuses stored", statuses.stored.len() as u64),
                (
                    "repeated",
                    "repeated, for the answer was lost",
                    count(|r| matches!(r, Record::Repeated { .. })),
                ),
                ("unanswered", "withheld by a handler that failed", unanswered),
                ("charges", "retries charged", outbox.charges),
                ("specs", "specs of miners", reported.specs),
                ("specs_arrived", "of these arrived", specs.arrived.len() as u64),
                ("specs_replaced", "replaced by newer ones", reported.specs_replaced),
                ("heartbeats", "heartbeats", channels.heartbeats),
                ("channels", "channels", channels.authenticated),
                ("most_channels", "at once, as the facilitator saw it", channels.most),
                (
                    "cut_off",
                    "closed for want of heartbeats",
                    count(|r| matches!(r, Record::CutOff { .. })),
                ),
                ("not_found", "refused: validator not found", not_found),
                ("forbidden", "refused: 403", count(|r| *r == Record::Forbidden)),
                ("starts", "processes of the facilitator", count(|r| *r == Record::Started)),
                ("seconds", "seconds", took.as_secs()),
            ],
        }
    }

    pub(crate) fn kept(&self) -> bool {
        self.promises.iter().all(|(_, _, value)| *value == 0)
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        for (title, rows) in [("must be zero", &self.promises), ("what happened", &self.facts)] {
            writeln!(table, "{title}").expect("a string takes all");
            for (_, label, value) in rows {
                writeln!(table, "  {label:42}{value:>8}").expect("a string takes all");
            }
        }
        table
    }

    /// For programs.
    pub(crate) fn line(&self, mut run: Map<String, Value>) -> String {
        for (key, _, value) in self.promises.iter().chain(&self.facts) {
            run.insert((*key).to_owned(), json!(value));
        }
        run.insert("kept".to_owned(), json!(self.kept()));
        Value::Object(run).to_string()
    }
}

#[derive(Default)]
struct Statuses<'a> {
    jobs: u64,
    stored: HashSet<(&'a str, Status)>,
    incomplete: u64,
    out_of_order: u64,
    twice: u64,
    invented: u64,
}

impl<'a> Statuses<'a> {
    fn of(jobs: &[String], records: &'a [Record]) -> Self {
        let mut this = Self::default();
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for record in records {
            match record {
                Record::Job { .. } => this.jobs += 1,
                Record::Status { uuid, status } => {
                    if !this.stored.insert((uuid, *status)) {
                        this.twice += 1;
                        continue;
                    }
                    match chain(uuid).iter().position(|expected| expected == status) {
                        Some(place) => places.entry(uuid).or_default().push(place),
                        None => this.invented += 1,
                    }
                }
                _ => {}
            }
        }
        for uuid in jobs {
            let stored = places.remove(uuid.as_str()).unwrap_or_default();
            this.incomplete += u64::from(stored.len() != chain(uuid).len());
            this.out_of_order += stored.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
        }
        // What is left belongs to jobs that nobody asked for.
        this.invented += places.values().map(|stored| stored.len() as u64).sum::<u64>();
        this
    }
}

#[derive(Default)]
struct Specs<'a> {
    arrived: HashSet<u64>,
    newest: BTreeMap<&'a str, u64>,
    out_of_order: u64,
}

impl<'a> Specs<'a> {
    fn of(records: &'a [Record]) -> Self {
        let mut this = Self::default();
        for record in records {
            let Record::Specs { miner, batch } = record else { continue };
            // What arrives again was replayed.
            if this.arrived.insert(*batch) {
                let newest = this.newest.entry(miner).or_default();
                this.out_of_order += u64::from(*batch < *newest);
                *newest = (*newest).max(*batch);
            }
        }
        this
    }
}

#[derive(Default)]
struct Channels {
    authenticated: u64,
    most: u64,
    heartbeats: u64,
    heartbeats_early: u64,
    headers_reused: u64,
}

impl Channels {
    fn of(records: &[Record], heartbeat: Duration) -> Self {
        let mut this = Self::default();
        let mut signatures = HashSet::new();
        // Of each channel that is alive, its heartbeats so far.
        let mut alive: HashMap<u64, u32> = HashMap::new();
        for record in records {
            match record {
                Record::Started => alive.clear(),
                Record::Upgraded { signature, .. } => {
                    this.headers_reused += u64::from(!signatures.insert(signature));
                }
                Record::Authenticated { channel } => {
                    this.authenticated += 1;
                    alive.insert(*channel, 0);
                    this.most = this.most.max(alive.len() as u64);
                }
                Record::Heartbeat { channel, after_ms } => {
                    this.heartbeats += 1;
                    let before = alive.entry(*channel).or_default();
                    // The first is due at once, the next one interval later, and so on: one that
                    // had waited in a queue would be ahead of that.
                    let due = heartbeat * *before;
                    let early = Duration::from_millis(*after_ms) + EARLY < due;
                    this.heartbeats_early += u64::from(early);
                    *before += 1;
                }
                Record::Ended { channel } => {
                    alive.remove(channel);
                }
                _ => {}
            }
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use bowline_tokio::Stats;

    use super::*;
    use crate::workload::uuid;

    const HEARTBEAT: Duration = Duration::from_millis(100);

    /// A run of one job and one set of specs, in which all went well, and one set replaced.
    fn good() -> (Vec<String>, Vec<Record>, Reported) {
        let job = uuid(1, 0);
        let mut records = vec![
            Record::Started,
            Record::Job { uuid: job.clone() },
            Record::Upgraded { channel: 1, signature: "a".into() },
            Record::Authenticated { channel: 1 },
            Record::Heartbeat { channel: 1, after_ms: 0 },
            Record::Heartbeat { channel: 1, after_ms: 101 },
            Record::Specs { miner: miner(2), batch: 2 },
        ];
        let statuses: Vec<_> =
            chain(&job).into_iter().map(|status| (job.clone(), status)).collect();
        for (uuid, status) in &statuses {
            records.push(Record::Status { uuid: uuid.clone(), status: *status });
        }
        let reported = Reported {
            jobs_again: 0,
            statuses,
            statuses_failed: 0,
            specs: 2,
            specs_delivered: vec![2],
            specs_replaced: 1,
            specs_failed: 0,
            most_sockets: 1,
            stats: Stats::default(),
        };
        (vec![job], records, reported)
    }

    /// What is not zero of the promises, after a change.
    fn broken(change: impl FnOnce(&mut Vec<Record>, &mut Reported)) -> Vec<(&'static str, u64)> {
        let (jobs, mut records, mut reported) = good();
        change(&mut records, &mut reported);
        let audit = Audit::of(&jobs, &records, &reported, HEARTBEAT, Duration::ZERO);
        let broken: Vec<_> = audit
            .promises
            .iter()
            .filter(|(key, _, value)| *value != 0 && *key != "specs_newest_missing")
            .map(|(key, _, value)| (*key, *value))
            .collect();
        assert!(broken.is_empty() || !audit.kept());
        broken
    }

    #[test]
    fn a_good_run_breaks_nothing() {
        assert_eq!(broken(|_, _| {}), []);
    }

    #[test]
    fn a_status_that_is_missing_is_seen_on_both_sides() {
        let missing = broken(|records, _| {
            records.pop();
        });
        assert_eq!(missing, [("jobs_incomplete", 1), ("acknowledged_missing", 1)]);
        let untold = broken(|_, reported| {
            reported.statuses.pop();
        });
        assert_eq!(untold, [("without_outcome", 1)]);
    }

    #[test]
    fn statuses_twice_or_out_of_order_are_seen() {
        assert_eq!(
            broken(|records, _| records.push(records.last().unwrap().clone())),
            [("statuses_twice", 1)]
        );
        assert_eq!(
            broken(|records, _| {
                let last = records.len() - 1;
                records.swap(last, last - 1);
            }),
            [("statuses_out_of_order", 1)]
        );
    }

    #[test]
    fn a_burst_of_heartbeats_is_seen() {
        let burst = broken(|records, _| {
            let after_ms = 110;
            records.extend(std::iter::repeat_n(Record::Heartbeat { channel: 1, after_ms }, 3));
        });
        assert_eq!(burst, [("heartbeats_early", 3)]);
    }

    #[test]
    fn charges_are_bought_by_withheld_answers_only() {
        let charged = |reported: &mut Reported| reported.stats.client.outbox.charges = 1;
        assert_eq!(broken(|_, reported| charged(reported)), [("charged_by_outages", 1)]);
        let withheld = Record::Unanswered { uuid: "u".into(), status: Status::Received };
        assert_eq!(
            broken(|records, reported| {
                charged(reported);
                records.push(withheld);
            }),
            []
        );
    }

    #[test]
    fn reused_headers_and_second_connections_are_seen() {
        let reused = Record::Upgraded { channel: 2, signature: "a".into() };
        assert_eq!(broken(|records, _| records.push(reused)), [("headers_reused", 1)]);
        assert_eq!(broken(|_, reported| reported.most_sockets = 2), [("second_connections", 1)]);
    }

    #[test]
    fn specs_must_arrive_in_order_or_be_replaced() {
        let older = Record::Specs { miner: miner(2), batch: 1 };
        assert_eq!(broken(|records, _| records.push(older)), [("specs_out_of_order", 1)]);
        let refused = Record::Refused { kind: "auth.validator_not_found".into() };
        let not_replaced = broken(|records, reported| {
            records.push(refused);
            (reported.specs, reported.specs_replaced) = (1, 0);
        });
        assert_eq!(not_replaced, [("specs_not_coalesced", 1)]);
        assert_eq!(broken(|_, reported| reported.specs = 3), [("specs_failed", 1)]);
        assert_eq!(broken(|_, reported| reported.specs_delivered[0] = 7), [("specs_missing", 1)]);
    }
}

//! The facilitator's database: a file with one record a line.
//!
//! A record is appended by one `write(2)`, unbuffered, before anything is answered. From then on it
//! is in the kernel's page cache and outlives the process. A kill in the middle of that write may
//! leave half a line, which was never answered: whoever opens the file next cuts it off.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::dialect::Status;

/// One thing that happened at the facilitator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// The process began; every channel of before is gone.
    Started,
    /// A customer wants this job done.
    Job {
        uuid: String,
    },
    /// A job went out on a channel.
    Offered {
        channel: u64,
        uuid: String,
    },
    /// The first arrival of a status.
    Status {
        uuid: String,
        status: Status,
    },
    /// A later one, answered with `job.integrity_error`.
    Repeated {
        uuid: String,
        status: Status,
    },
    /// A status that was neither stored nor answered, because its handler failed.
    Unanswered {
        uuid: String,
        status: Status,
    },
    /// A status of no job.
    Unknown {
        uuid: String,
    },
    /// A frame that is no request.
    Unparsable {
        text: String,
    },
    Specs {
        miner: String,
        batch: u64,
    },
    /// An upgrade with good headers, by the signature in them.
    Upgraded {
        channel: u64,
        signature: String,
    },
    /// An upgrade whose headers were missing, stale or forged.
    BadHeaders,
    /// An upgrade answered with 403.
    Forbidden,
    /// A channel of the validator.
    Authenticated {
        channel: u64,
    },
    /// An authentication refused with this error.
    Refused {
        kind: String,
    },
    /// A heartbeat, this long after the channel was authenticated.
    Heartbeat {
        channel: u64,
        after_ms: u64,
    },
    /// A channel was closed because it had no heartbeats.
    CutOff {
        channel: u64,
    },
    Ended {
        channel: u64,
    },
}

/// What is in a file, but for a line that was never finished.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Record>> {
    parse(&std::fs::read_to_string(path)?).map(|(records, _)| records)
}

/// The records, and how many bytes they take.
fn parse(text: &str) -> io::Result<(Vec<Record>, usize)> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let records = text[..whole].lines().map(|line| serde_json::from_str(line).map_err(Into::into));
    Ok((records.collect::<io::Result<_>>()?, whole))
}

/// The open database, with what the facilitator looks up in memory.
#[derive(Debug)]
pub(crate) struct Database {
    file: File,
    /// In the order in which they came.
    jobs: Vec<String>,
    known: HashSet<String>,
    /// Job and status together are unique.
    statuses: HashSet<(String, Status)>,
    /// Jobs that the validator has said something of.
    taken_up: HashSet<String>,
    channels: u64,
}

impl Database {
    /// Opens the file, or creates it. What is in it stays.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let (records, whole) = parse(&text)?;
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        let mut database = Self {
            file,
            jobs: Vec::new(),
            known: HashSet::new(),
            statuses: HashSet::new(),
            taken_up: HashSet::new(),
            channels: 0,
        };
        for record in records {
            database.learn(record);
        }
        Ok(database)
    }

    /// Writes a record. When this returns, the record outlives the process.
    pub(crate) fn record(&mut self, record: Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.learn(record);
        Ok(())
    }

    fn learn(&mut self, record: Record) {
        match record {
            Record::Job { uuid } => {
                self.known.insert(uuid.clone());
                self.jobs.push(uuid);
            }
            Record::Status { uuid, status } => {
                self.taken_up.insert(uuid.clone());
                self.statuses.insert((uuid, status));
            }
            Record::Upgraded { channel, .. } => self.channels = self.channels.max(channel),
            Record::Started
            | Record::Offered { .. }
            | Record::Repeated { .. }
            | Record::Unanswered { .. }
            | Record::Unknown { .. }
            | Record::Unparsable { .. }
            | Record::Specs { .. }
            | Record::BadHeaders
            | Record::Forbidden
            | Record::Authenticated { .. }
            | Record::Refused { .. }
            | Record::Heartbeat { .. }
            | Record::CutOff { .. }
            | Record::Ended { .. } => {}
        }
    }

    /// All jobs, oldest first.
    pub(crate) fn jobs(&self) -> &[String] {
        &self.jobs
    }

    pub(crate) fn has_job(&self, uuid: &str) -> bool {
        self.known.contains(uuid)
    }

    pub(crate) fn is_taken_up(&self, uuid: &str) -> bool {
        self.taken_up.contains(uuid)
    }

    pub(crate) fn has_status(&self, uuid: &str, status: Status) -> bool {
        self.statuses.contains(&(uuid.to_owned(), status))
    }

    /// A number that no channel had before.
    pub(crate) fn next_channel(&mut self) -> u64 {
        self.channels += 1;
        self.channels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_outlives_the_process_and_half_a_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        let uuid = || "u".to_owned();
        let job = Record::Job { uuid: uuid() };
        let status = Record::Status { uuid: uuid(), status: Status::Received };
        let mut database = Database::open(&path).unwrap();
        database.record(job.clone()).unwrap();
        drop(database);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"stat").unwrap();

        let mut database = Database::open(&path).unwrap();
        assert!(database.has_job("u") && !database.is_taken_up("u"));
        database.record(status.clone()).unwrap();
        assert_eq!(read(&path).unwrap(), [job, status]);
        let database = Database::open(&path).unwrap();
        assert!(database.has_status("u", Status::Received) && database.is_taken_up("u"));
        assert!(!database.has_status("u", Status::Accepted));
    }
}

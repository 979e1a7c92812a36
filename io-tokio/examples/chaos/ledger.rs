//! The server's ledger: a file with the number of every message that took effect, one a line, in
//! order.
//!
//! A line is appended by one `write(2)`, unbuffered, before the server does anything else. From
//! then on it is in the kernel's page cache and outlives the process: SIGKILL takes nothing of it.
//! (A power cut would; nobody cuts the power here.)
//!
//! Behind the number is the name of the message, if it has one. So a line is the effect and the
//! mark at once, as if by a transaction, and the ledger says which messages are done.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use bowline_core::{MessageId, OutboxId, Seq};

/// The writing end. Connections share it: appends are atomic.
#[derive(Debug)]
pub(crate) struct Ledger(File);

impl Ledger {
    /// Opens the ledger, or creates it. What is in it stays, but for a line without an end: whoever
    /// wrote it was killed in the middle, and nobody relies on it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let text = fs::read(path)?;
        let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if end < text.len() {
            file.set_len(end as u64)?;
        }
        Ok(Self(file))
    }

    pub(crate) fn record(&self, number: u64, name: Option<MessageId>) -> io::Result<()> {
        let line = match name {
            None => format!("{number}\n"),
            Some(MessageId { outbox, seq }) => format!("{number} {outbox} {seq}\n"),
        };
        (&self.0).write_all(line.as_bytes())
    }
}

/// The names in the ledger, in order. The last of each outbox is its mark.
pub(crate) fn names(path: &Path) -> io::Result<Vec<MessageId>> {
    let name = |line: &str| {
        let (_, name) = line.split_once(' ')?;
        let (outbox, seq) = name.split_once(' ')?;
        let outbox = OutboxId::new(u128::from_str_radix(outbox, 16).ok()?);
        Some(MessageId { outbox, seq: Seq::new(seq.parse().ok()?) })
    };
    Ok(fs::read_to_string(path)?.lines().filter_map(name).collect())
}

/// The reading end: follows the file while it grows.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    /// Where the lines end that were read.
    end: u64,
}

impl Tail {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, end: 0 })
    }

    /// The numbers that were recorded since the last call.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u64>> {
        self.file.seek(SeekFrom::Start(self.end))?;
        let mut text = String::new();
        self.file.read_to_string(&mut text)?;
        // A line whose end is not there yet is read again.
        let end = text.rfind('\n').map_or(0, |last| last + 1);
        self.end += end as u64;
        let number = |line: &str| line.split(' ').next().unwrap_or(line).parse();
        text[..end].lines().map(|line| number(line).map_err(io::Error::other)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_appended_to_by_whoever_opens_it_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let first = Ledger::open(&path).unwrap();
        let mut tail = Tail::open(&path).unwrap();
        first.record(1, None).unwrap();
        first.record(20, None).unwrap();
        assert_eq!(tail.read().unwrap(), [1, 20]);
        drop(first);
        Ledger::open(&path).unwrap().record(3, None).unwrap();
        assert_eq!(tail.read().unwrap(), [3]);
        assert!(tail.read().unwrap().is_empty());
    }

    #[test]
    fn a_line_that_was_not_finished_is_as_if_it_was_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        fs::write(&path, "1 2a 7\n23").unwrap();
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(tail.read().unwrap(), [1]);
        Ledger::open(&path).unwrap().record(4, None).unwrap();
        assert_eq!(tail.read().unwrap(), [4]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1 2a 7\n4\n");
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        let name = |outbox, seq| MessageId { outbox: OutboxId::new(outbox), seq: Seq::new(seq) };
        ledger.record(5, Some(name(42, 6))).unwrap();
        ledger.record(6, None).unwrap();
        ledger.record(7, Some(name(u128::MAX, u64::MAX))).unwrap();
        assert_eq!(names(&path).unwrap(), [name(42, 6), name(u128::MAX, u64::MAX)]);
        assert_eq!(Tail::open(&path).unwrap().read().unwrap(), [5, 6, 7]);
    }
}

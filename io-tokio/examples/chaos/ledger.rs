//! The server's ledger: a file with the number of every message that arrived, one a line, in the
//! order of arrival.
//!
//! A line is appended by one `write(2)`, unbuffered, before the server reads the next frame. From
//! then on it is in the kernel's page cache and outlives the process: SIGKILL takes nothing of it.
//! (A power cut would; nobody cuts the power here.)

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

/// The writing end. Connections share it: appends are atomic.
#[derive(Debug)]
pub(crate) struct Ledger(File);

impl Ledger {
    /// Opens the ledger, or creates it. What is in it stays.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self(file))
    }

    pub(crate) fn record(&self, number: u64) -> io::Result<()> {
        (&self.0).write_all(format!("{number}\n").as_bytes())
    }
}

/// The reading end: follows the file while it grows.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    /// A line whose end was not there yet.
    partial: String,
}

impl Tail {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, partial: String::new() })
    }

    /// The numbers that were recorded since the last call.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u64>> {
        self.file.read_to_string(&mut self.partial)?;
        let Some(end) = self.partial.rfind('\n') else {
            return Ok(Vec::new());
        };
        let numbers = self.partial[..end]
            .lines()
            .map(|line| line.parse().map_err(io::Error::other))
            .collect::<io::Result<_>>()?;
        self.partial.drain(..=end);
        Ok(numbers)
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
        first.record(1).unwrap();
        first.record(20).unwrap();
        assert_eq!(tail.read().unwrap(), [1, 20]);
        drop(first);
        Ledger::open(&path).unwrap().record(3).unwrap();
        assert_eq!(tail.read().unwrap(), [3]);
        assert!(tail.read().unwrap().is_empty());
    }
}

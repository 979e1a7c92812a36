//! A contender that is a program of its own, in whatever language.
//!
//! It is started as `PROGRAM URL MESSAGES RATE`. From its start on, message n exists after n / RATE
//! seconds; its text is n in decimal, padded with dots to 100 characters. When all are settled and
//! the connection is closed it prints one line of JSON and exits with code 0:
//!
//! ```json
//! {"delivered": [[0, 26000], [26002, 26999]], "failed": [[26001, 26001]], "reconnects": 17}
//! ```
//!
//! `delivered` and `failed` are the numbers that it reports so, as ranges of the first and the last;
//! `reconnects` counts the connections after its first. Its stderr is shown as it is.

use std::{ffi::OsStr, process::Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    Result, Run,
    audit::{Numbers, Reported},
    progress::Link,
};

/// Lets the program run. It is killed if this is dropped.
pub(crate) async fn run(program: &OsStr, run: Run) -> Result<Reported> {
    let Run { url, schedule, progress } = run;
    progress.link(Link::Unknown);
    let output = Command::new(program)
        .args([url, schedule.messages.to_string(), schedule.rate.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let produce = async {
        for number in 0..schedule.messages {
            schedule.due(number).await;
            progress.sent();
        }
        std::future::pending().await
    };
    let output = tokio::select! {
        output = output => output?,
        () = produce => unreachable!("it never ends"),
    };
    progress.link(Link::Done);
    if !output.status.success() {
        return Err(format!("it failed: {}", output.status).into());
    }
    reported(&output.stdout, schedule.messages)
}

/// What the line says of a run with this many messages.
fn reported(line: &[u8], messages: u64) -> Result<Reported> {
    let line: Value = serde_json::from_slice(line)?;
    Ok(Reported {
        handed: messages,
        delivered: numbers(&line["delivered"], messages).ok_or("its `delivered` makes no sense")?,
        failed: numbers(&line["failed"], messages).ok_or("its `failed` makes no sense")?,
        reconnects: line["reconnects"].as_u64().ok_or("its `reconnects` makes no sense")?,
    })
}

/// The numbers in a list of ranges, if all are below `messages`.
fn numbers(ranges: &Value, messages: u64) -> Option<Numbers> {
    let mut numbers = Numbers::default();
    for range in ranges.as_array()? {
        let [first, last] = range.as_array()?.as_slice() else { return None };
        let (first, last) = (first.as_u64()?, last.as_u64()?);
        if first > last || last >= messages {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_ranges() {
        let line = br#"{"delivered": [[0, 2], [4, 4]], "failed": [[3, 3]], "reconnects": 1}"#;
        let reported = reported(line, 5).unwrap();
        assert_eq!((reported.handed, reported.reconnects), (5, 1));
        assert_eq!((reported.delivered.len(), reported.failed.len()), (4, 1));
        assert!(reported.delivered.contains(4) && reported.failed.contains(3));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error() {
        for line in [
            "",
            "{}",
            r#"{"delivered": [[0, 5]], "failed": [], "reconnects": 0}"#,
            r#"{"delivered": [[2, 1]], "failed": [], "reconnects": 0}"#,
            r#"{"delivered": [[0]], "failed": [], "reconnects": 0}"#,
            r#"{"delivered": [], "failed": [], "reconnects": -1}"#,
        ] {
            assert!(reported(line.as_bytes(), 5).is_err(), "{line}");
        }
    }
}

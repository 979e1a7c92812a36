//! Bowline: the same messages over the same network.
//!
//! The loop is gone: messages are sent once and their receipts awaited, and that is all. Only the
//! limits differ from the defaults. Faults come about once a second here, so a backoff that waits
//! for up to half a minute, as is right for a server that is down, would sit most of the run out.

#[cfg(feature = "trace")]
use std::fs::File;
use std::{future::pending, path::PathBuf, time::Duration};

use bowline_core::{Json, Numbered};
use bowline_tokio::{Backoff, Builder, Dialect, Level, Phase, Receipt, ReceiptError};
use tokio::sync::mpsc;

use crate::{
    Result, Run,
    audit::{self, Numbers, Reported},
    progress::Link,
    workload::payload,
};

/// How long the client may take for what is left at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Lets it run; with `record`, all that happens to it is written to that file.
pub(crate) async fn run(
    run: Run,
    level: audit::Level,
    record: Option<PathBuf>,
) -> Result<Reported> {
    let url = run.url.clone();
    match level {
        audit::Level::Received => drive(run, Builder::new(url), payload, record).await,
        audit::Level::Acked => {
            let builder = Builder::with_dialect([url], Numbered::default(), ());
            let message = |number| Json::new(&payload(number)).expect("a string has a JSON form");
            drive(run, builder.level(Level::Acked), message, record).await
        }
    }
}

async fn drive<D, M>(
    run: Run,
    builder: Builder<D>,
    message: impl Fn(u64) -> M,
    record: Option<PathBuf>,
) -> Result<Reported>
where
    D: Dialect + Send + 'static,
    D::Inbound: Send + 'static,
    D::Credentials: Send + 'static,
    M: Into<D::Message>,
{
    let Run { schedule, progress, .. } = run;
    let builder = builder
        .backoff(Backoff {
            base: Duration::from_millis(100),
            cap: Duration::from_millis(500),
            ..Backoff::default()
        })
        .configure(|config| {
            config.connection.dial_limit = Duration::from_secs(5);
            config.connection.ping_interval = Duration::from_secs(1);
            config.connection.pong_limit = Duration::from_secs(2);
        });
    #[cfg(feature = "trace")]
    let builder = match &record {
        Some(file) => builder.record(File::create(file)?),
        None => builder,
    };
    // Without the feature `main` has refused to record.
    #[cfg(not(feature = "trace"))]
    drop(record);
    let (client, inbound) = builder.start().expect("the settings are valid");
    // The server says nothing but pongs and acks.
    drop(inbound);

    let mut status = client.status();
    let watch = async {
        loop {
            let now = *status.borrow_and_update();
            progress.link(match now.phase {
                Phase::Idle | Phase::Dialing | Phase::Greeting => Link::Dialing,
                Phase::Up | Phase::Suspect | Phase::Closing => Link::Up,
                Phase::Waiting { redial_at } => {
                    Link::Waiting { redial_at: client.time_of(redial_at) }
                }
                Phase::Stopped { .. } => Link::Done,
            });
            if status.changed().await.is_err() {
                // The client is done, and so is this in a moment.
                return pending::<()>().await;
            }
        }
    };

    let (keep, mut receipts) = mpsc::unbounded_channel::<(u64, Receipt)>();
    let produce = async {
        for number in 0..schedule.messages {
            schedule.due(number).await;
            progress.sent();
            match client.send(message(number)).await {
                Ok(receipt) => keep.send((number, receipt)).expect("the receiver is below"),
                Err(_) => panic!("message {number} was not taken"),
            }
        }
        drop(keep);
    };
    let settle = async {
        let (mut delivered, mut failed) = (Numbers::default(), Numbers::default());
        while let Some((number, receipt)) = receipts.recv().await {
            match receipt.await {
                Ok(()) => {
                    delivered.insert(number);
                }
                Err(ReceiptError::Failed(_)) => {
                    failed.insert(number);
                }
                Err(error) => panic!("message {number} has no outcome: {error}"),
            }
        }
        (delivered, failed)
    };
    let work = async {
        let ((), (delivered, failed)) = tokio::join!(produce, settle);
        let closed = client.close(DRAIN_LIMIT).await;
        assert!(closed.is_ok_and(|report| report.is_clean()), "every failure was awaited");
        (delivered, failed)
    };
    let (delivered, failed) = tokio::select! {
        outcome = work => outcome,
        () = watch => unreachable!("it never ends"),
    };
    let reconnects = client.stats().client.connection.links.saturating_sub(1);
    progress.link(Link::Done);
    #[cfg(feature = "trace")]
    if record.is_some() {
        client.recorded().await?;
    }
    Ok(Reported { handed: schedule.messages, delivered, failed, reconnects })
}

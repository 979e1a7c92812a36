//! The live view: a bar for each contender, drawn on stderr if that is a terminal.

use std::{
    convert::Infallible,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, interval};

use crate::{audit::Numbers, ledger::Tail, script::Fault};

const REDRAW: Duration = Duration::from_millis(100);

/// What a client's connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    Dialing,
    Up,
    Waiting {
        redial_at: Instant,
    },
    Done,
    /// It is not ours to see.
    Unknown,
}

/// Where a contender tells how it goes. Clones tell the same.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<View>>);

#[derive(Debug)]
struct View {
    sent: u64,
    link: Link,
    fault: Option<Fault>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(View { sent: 0, link: Link::Dialing, fault: None })))
    }

    /// One more message was handed to the client.
    pub(crate) fn sent(&self) {
        self.view().sent += 1;
    }

    pub(crate) fn link(&self, link: Link) {
        self.view().link = link;
    }

    pub(crate) fn fault(&self, fault: Option<Fault>) {
        self.view().fault = fault;
    }

    /// Draws what is told here and what is in the ledger, until dropped.
    pub(crate) async fn draw(&self, bar: ProgressBar, ledger: &Path) -> io::Result<Infallible> {
        if bar.is_hidden() {
            return std::future::pending().await;
        }
        let mut tail = Tail::open(ledger)?;
        let mut arrived = Numbers::default();
        let mut ticks = interval(REDRAW);
        loop {
            ticks.tick().await;
            arrived.extend(tail.read()?);
            bar.set_position(arrived.len());
            bar.set_message(self.view().text(arrived.len()));
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl View {
    fn text(&self, arrived: u64) -> String {
        let link = match self.link {
            Link::Dialing => "dialing".to_owned(),
            Link::Up => "up".to_owned(),
            Link::Waiting { redial_at } => {
                let wait = redial_at.saturating_duration_since(Instant::now());
                format!("redial in {:.1} s", wait.as_secs_f64())
            }
            Link::Done => "done".to_owned(),
            Link::Unknown => "running".to_owned(),
        };
        let fault = self.fault.map(|fault| format!(" ({fault})"));
        format!(
            "arrived {arrived} of {} sent, {link}{}",
            self.sent,
            fault.as_deref().unwrap_or_default()
        )
    }
}

/// The place where the bars are drawn.
pub(crate) fn screen(visible: bool) -> MultiProgress {
    MultiProgress::with_draw_target(if visible {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    })
}

/// A new bar on `screen`, with room for `messages`.
pub(crate) fn bar(screen: &MultiProgress, name: &str, messages: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>10} {bar:14} {wide_msg}")
        .expect("the template is well-formed");
    screen.add(ProgressBar::new(messages).with_style(style).with_prefix(name.to_owned()))
}

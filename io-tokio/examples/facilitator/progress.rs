//! The live view: one bar, drawn on stderr if that is a terminal.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bowline_tokio::Phase;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::interval;

use crate::script::Fault;

const REDRAW: Duration = Duration::from_millis(100);

/// Where the parts of a run tell how it goes. Clones tell the same.
#[derive(Clone, Default, Debug)]
pub(crate) struct Progress(Arc<Mutex<View>>);

#[derive(Default, Debug)]
struct View {
    taken: u64,
    done: u64,
    statuses: u64,
    phase: Phase,
    fault: Option<Fault>,
}

impl Progress {
    /// A job was taken up.
    pub(crate) fn taken(&self) {
        self.view().taken += 1;
    }

    /// A status was acknowledged; `last` says that it was the job's last.
    pub(crate) fn acknowledged(&self, last: bool) {
        let mut view = self.view();
        view.statuses += 1;
        view.done += u64::from(last);
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.view().phase = phase;
    }

    pub(crate) fn fault(&self, fault: Option<Fault>) {
        self.view().fault = fault;
    }

    /// Draws what is told here, until dropped.
    pub(crate) async fn draw(&self, bar: &ProgressBar) -> Infallible {
        let mut ticks = interval(REDRAW);
        loop {
            ticks.tick().await;
            let view = self.view();
            bar.set_position(view.done);
            bar.set_message(view.text());
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl View {
    fn text(&self) -> String {
        let link = match self.phase {
            Phase::Idle | Phase::Dialing => "dialing",
            Phase::Greeting => "authenticating",
            Phase::Up => "up",
            Phase::Suspect => "up, silent",
            Phase::Closing => "closing",
            Phase::Waiting { .. } => "waiting",
            Phase::Stopped { .. } => "stopped",
        };
        let fault = self.fault.map(|fault| format!(" ({fault})"));
        format!(
            "{} under way, {} statuses, {link}{}",
            self.taken - self.done,
            self.statuses,
            fault.as_deref().unwrap_or_default()
        )
    }
}

/// A bar for so many jobs.
pub(crate) fn bar(jobs: u64, visible: bool) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("jobs {pos}/{len} {bar:14} {wide_msg}")
        .expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(jobs), target).with_style(style)
}

//! The client as the driver has it: as it is, or with feature `trace` a recorded one.
//!
//! A trace is written by a thread of its own, so that the client never waits for a writer. Between
//! the two is text in memory: the driver appends lines, the thread takes all there are. If more than
//! `MAX_UNWRITTEN` waits, the writer is too slow, and a trace with a gap could not be replayed: it
//! ends there, and says so in its last line.

#[cfg(feature = "trace")]
pub use on::TraceError;
#[cfg(feature = "trace")]
pub(crate) use on::{Machine, Recorded, Recording, finish, make, restore};

#[cfg(not(feature = "trace"))]
pub(crate) use off::{Machine, Recorded, Recording, finish, make, restore};

#[cfg(feature = "trace")]
mod on {
    use std::{
        io::{self, Write},
        ops::ControlFlow,
        sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
        thread,
    };

    use bowline_core::{
        ClientConfig, ConfigError, Dialect, Instant, RestoreError, Snapshot,
        trace::{Line, Recorder, Tape, What},
    };
    use rand_chacha::ChaCha8Rng;
    use tokio::sync::watch;

    /// How much text may wait for the writer, in bytes. As much again may be with it.
    const MAX_UNWRITTEN: usize = 8 << 20;

    /// Why a trace has no end. The client itself was not touched by it.
    #[derive(Clone, Debug, thiserror::Error)]
    #[non_exhaustive]
    pub enum TraceError {
        /// The writer failed, or its thread could not be started.
        #[error("the trace cannot be written: {0}")]
        Writer(Arc<io::Error>),
        /// The writer was too slow: 8 MiB waited for it.
        #[error("the writer of the trace fell behind")]
        FellBehind,
        /// The writer panicked.
        #[error("the writer of the trace panicked")]
        Panicked,
        /// [`Builder::record`](crate::Builder::record) was not called.
        #[error("the client is not recorded")]
        NotRecorded,
    }

    pub(crate) type Machine<D> = Recorder<D, ChaCha8Rng, Pen>;
    type Pen = Box<dyn FnMut(Line) -> ControlFlow<()> + Send>;
    type Ended = Option<Result<(), TraceError>>;

    /// Where to record to.
    pub(crate) struct Recording(Option<(Box<dyn Write + Send>, bool)>);

    /// How the recording ended, once it has; of a client that is not recorded, nothing.
    #[derive(Clone)]
    pub(crate) struct Recorded(Option<watch::Receiver<Ended>>);

    impl Recording {
        pub(crate) const NONE: Self = Self(None);

        pub(crate) fn to(writer: impl Write + Send + 'static, payloads: bool) -> Self {
            Self(Some((Box::new(writer), payloads)))
        }

        /// Starts the thread.
        pub(crate) fn start(self) -> (Option<Tape<Pen>>, Recorded) {
            let Some((writer, payloads)) = self.0 else { return (None, Recorded(None)) };
            let (ended, recorded) = watch::channel(None);
            let recorded = Recorded(Some(recorded));
            let desk = Arc::new(Desk::default());
            let thread = thread::Builder::new().name("bowline-trace".to_owned()).spawn({
                let (desk, ended) = (Arc::clone(&desk), ended.clone());
                move || {
                    let outcome = desk.write_all(writer);
                    if let Err(error) = &outcome {
                        crate::log::untraced(error);
                    }
                    ended.send_replace(Some(outcome));
                }
            });
            if let Err(error) = thread {
                ended.send_replace(Some(Err(TraceError::Writer(Arc::new(error)))));
                return (None, recorded);
            }
            let mut producer = Producer { desk, text: Vec::new() };
            let tape = Tape::new(Box::new(move |line| producer.write(&line)) as Pen);
            (Some(if payloads { tape.with_payloads() } else { tape }), recorded)
        }
    }

    impl Recorded {
        pub(crate) async fn end(&self) -> Result<(), TraceError> {
            let Some(ended) = &self.0 else { return Err(TraceError::NotRecorded) };
            let mut ended = ended.clone();
            match ended.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
                // The thread has gone without a word.
                Err(_) => Err(TraceError::Panicked),
            }
        }
    }

    /// What is between the driver and the writer.
    #[derive(Default)]
    struct Desk {
        page: Mutex<Page>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct Page {
        text: Vec<u8>,
        /// Set by the driver: nothing more comes, and whether that is the end of the trace.
        ended: Ended,
        /// Set by the writer: it failed and takes nothing more.
        failed: bool,
    }

    impl Desk {
        fn lock(&self) -> MutexGuard<'_, Page> {
            // No code that holds the lock can panic half-way through a change.
            self.page.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Writes what comes until the end or until the writer fails.
        fn write_all(&self, writer: impl Write) -> Result<(), TraceError> {
            // Should the writer panic, the driver is not to wait for it.
            let _failed = Failed(self);
            let mut writer = writer;
            let mut text = Vec::new();
            loop {
                {
                    let mut page = self.lock();
                    while page.text.is_empty() {
                        if let Some(outcome) = page.ended.take() {
                            return outcome;
                        }
                        page = self.changed.wait(page).unwrap_or_else(PoisonError::into_inner);
                    }
                    std::mem::swap(&mut page.text, &mut text);
                }
                let written = writer.write_all(&text).and_then(|()| writer.flush());
                written.map_err(|error| TraceError::Writer(Arc::new(error)))?;
                text.clear();
            }
        }
    }

    struct Failed<'a>(&'a Desk);

    impl Drop for Failed<'_> {
        fn drop(&mut self) {
            let mut page = self.0.lock();
            page.failed = true;
            page.text = Vec::new();
        }
    }

    /// The driver's side.
    struct Producer {
        desk: Arc<Desk>,
        /// Kept for its buffer.
        text: Vec<u8>,
    }

    impl Producer {
        fn write(&mut self, line: &Line) -> ControlFlow<()> {
            self.text.clear();
            if let Err(error) = serde_json::to_writer(&mut self.text, line) {
                // A vector takes everything and a line has no key but strings.
                unreachable!("{error}");
            }
            self.text.push(b'\n');
            let mut page = self.desk.lock();
            if page.failed {
                return ControlFlow::Break(());
            }
            // What finds nothing in front of it is taken, however large it is.
            if !page.text.is_empty() && page.text.len() + self.text.len() > MAX_UNWRITTEN {
                let reason = TraceError::FellBehind;
                let cut = What::Cut(reason.to_string());
                let cut = Line { what: cut, at: line.at, dialect: Vec::new(), draws: Vec::new() };
                if serde_json::to_writer(&mut page.text, &cut).is_ok() {
                    page.text.push(b'\n');
                }
                page.ended = Some(Err(reason));
                return ControlFlow::Break(());
            }
            page.text.extend_from_slice(&self.text);
            if let What::End(_) = line.what {
                page.ended = Some(Ok(()));
            }
            // A turn of the driver is a drain, and woken once for each is enough.
            if let What::Drain(_) = line.what {
                drop(page);
                self.desk.changed.notify_one();
            }
            ControlFlow::Continue(())
        }
    }

    impl Drop for Producer {
        fn drop(&mut self) {
            self.desk.lock().ended.get_or_insert(Ok(()));
            self.desk.changed.notify_one();
        }
    }

    pub(crate) fn make<D: Dialect>(
        config: ClientConfig,
        dialect: D,
        rng: ChaCha8Rng,
        tape: Option<Tape<Pen>>,
    ) -> Result<Machine<D>, ConfigError> {
        Recorder::new(config, dialect, rng, tape)
    }

    pub(crate) fn restore<D: Dialect>(
        config: ClientConfig,
        dialect: D,
        rng: ChaCha8Rng,
        snapshot: Snapshot,
        tape: Option<Tape<Pen>>,
    ) -> Result<Machine<D>, RestoreError> {
        Recorder::restore(config, dialect, rng, Instant::ZERO, snapshot, tape)
    }

    /// The client does nothing more.
    pub(crate) fn finish<D: Dialect>(client: &mut Machine<D>) {
        client.finish();
    }
}

#[cfg(not(feature = "trace"))]
mod off {
    use bowline_core::{
        Client, ClientConfig, ConfigError, Dialect, Instant, RestoreError, Snapshot,
    };
    use rand_chacha::ChaCha8Rng;

    pub(crate) type Machine<D> = Client<D, ChaCha8Rng>;

    pub(crate) struct Recording;

    pub(crate) struct NoTape;

    #[derive(Clone)]
    pub(crate) struct Recorded;

    impl Recording {
        pub(crate) const NONE: Self = Self;

        pub(crate) fn start(self) -> (NoTape, Recorded) {
            (NoTape, Recorded)
        }
    }

    pub(crate) fn make<D: Dialect>(
        config: ClientConfig,
        dialect: D,
        rng: ChaCha8Rng,
        _: NoTape,
    ) -> Result<Machine<D>, ConfigError> {
        Client::new(config, dialect, rng)
    }

    pub(crate) fn restore<D: Dialect>(
        config: ClientConfig,
        dialect: D,
        rng: ChaCha8Rng,
        snapshot: Snapshot,
        _: NoTape,
    ) -> Result<Machine<D>, RestoreError> {
        Client::restore(config, dialect, rng, Instant::ZERO, snapshot)
    }

    pub(crate) fn finish<D: Dialect>(_: &mut Machine<D>) {}
}

//! What a simulated world is made of, besides what happens in it: one line of text.
//!
//! ```text
//! settings language=positional window=2 queue=3 overflow=evict
//! ```
//!
//! What is not named has its default, which is that of the client where there is one.

use core::{fmt, str::FromStr};

use arbitrary::{Arbitrary, Unstructured};
use bowline_core::{
    Backoff, ClientConfig, ConfigError, ConnectionConfig, Jitter, Level, Numbered, OnSuspected,
    OutboxConfig, Overflow, Plain,
};

use crate::{
    op::{Micros, OpError, value, word},
    peer::{Named, Positional},
};

/// The other end, and how it is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Language {
    /// A WebSocket server that knows nothing of the client: pongs are all that it answers.
    Plain,
    /// It answers each message in turn, without naming it.
    Positional,
    /// It names what it answers, in any order.
    Named,
    /// JSON with an inbox.
    Numbered,
}

impl Language {
    /// Whether the client may greet in it.
    pub(crate) fn has_a_greeting(self) -> bool {
        matches!(self, Self::Positional | Self::Named)
    }

    /// The level of a client that cannot ping.
    pub(crate) fn level_without_pings(self) -> Level {
        if self == Self::Plain { Level::Written } else { Level::Acked }
    }
}

/// Where the client's random numbers come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Chance {
    /// A generator.
    Seeded,
    /// Zero, always.
    Zeros,
    /// The largest number, always.
    Ones,
}

/// A value with a text form in a line of settings.
trait Text: Sized {
    fn show(&self) -> String;
    fn read(text: &str) -> Result<Self, OpError>;
}

macro_rules! text_of_numbers {
    ($($number:ty)*) => {$(
        impl Text for $number {
            fn show(&self) -> String {
                self.to_string()
            }

            fn read(text: &str) -> Result<Self, OpError> {
                text.parse().map_err(|_| OpError::Value(text.into()))
            }
        }
    )*};
}
text_of_numbers!(u32 u64 usize bool Micros);

impl<T: Text> Text for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or("none".into(), T::show)
    }

    fn read(text: &str) -> Result<Self, OpError> {
        if text == "none" { Ok(None) } else { T::read(text).map(Some) }
    }
}

macro_rules! text_of_words {
    ($($name:ident { $($word:literal = $variant:ident,)* })*) => {$(
        impl Text for $name {
            fn show(&self) -> String {
                word(&[$(($word, $name::$variant)),*], self).into()
            }

            fn read(text: &str) -> Result<Self, OpError> {
                value(&[$(($word, $name::$variant)),*], text)
            }
        }
    )*};
}
text_of_words! {
    Language { "plain" = Plain, "positional" = Positional, "named" = Named, "numbered" = Numbered, }
    Chance { "seeded" = Seeded, "zeros" = Zeros, "ones" = Ones, }
    Overflow { "reject" = Reject, "evict" = EvictOldest, }
    Level { "written" = Written, "received" = Received, "acked" = Acked, }
    OnSuspected { "wait" = Wait, "settle" = Settle, }
    Jitter { "full" = Full, "equal" = Equal, "decorrelated" = Decorrelated, "none" = None, }
}

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $name:literal, $default:expr;)*) => {
        /// The settings of a world; see the [module docs](self).
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        pub struct Settings {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl fmt::Display for Settings {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings")?;
                let default = Self::default();
                $(if self.$field != default.$field {
                    write!(f, " {}={}", $name, self.$field.show())?;
                })*
                Ok(())
            }
        }

        impl FromStr for Settings {
            type Err = OpError;

            fn from_str(line: &str) -> Result<Self, OpError> {
                let mut settings = Self::default();
                let mut words = line.split_whitespace();
                if words.next() != Some("settings") {
                    return Err(OpError::Word(line.into()));
                }
                for setting in words {
                    let (name, text) = setting.split_once('=').unwrap_or((setting, ""));
                    match name {
                        $($name => settings.$field = Text::read(text)?,)*
                        _ => return Err(OpError::Word(name.into())),
                    }
                }
                Ok(settings)
            }
        }
    };
}

settings! {
    /// The other end.
    language: Language = "language", Language::Plain;
    /// Whether the other end answers a greeting, where its language has one.
    greets: bool = "greets", false;
    /// Whether the other end takes what comes behind a message that it has refused for the moment,
    /// where its language has refusals of one message.
    takes_gaps: bool = "takes-gaps", false;
    /// How often the client sends a beat of its own, if its language has one.
    beat: Option<Micros> = "beat", None;
    /// `can_ping`.
    can_ping: bool = "can-ping", true;
    /// What the generator of the client is seeded with.
    seed: u64 = "seed", 1;
    /// What kind of generator that is.
    chance: Chance = "chance", Chance::Seeded;
    /// `window_messages`.
    window: usize = "window", 65_536;
    /// `window_bytes`.
    window_bytes: usize = "window-bytes", 4 << 20;
    /// `max_messages`.
    queue: usize = "queue", 262_144;
    /// `max_bytes`.
    queue_bytes: usize = "queue-bytes", 64 << 20;
    /// `max_message_bytes`.
    message_bytes: usize = "message-bytes", 1 << 20;
    /// `overflow`.
    overflow: Overflow = "overflow", Overflow::Reject;
    /// `level`.
    level: Level = "level", Level::Received;
    /// `retry_budget`.
    retry_budget: u32 = "retry-budget", 5;
    /// `suspect_limit`.
    suspect_limit: u32 = "suspect-limit", 5;
    /// `on_suspected`.
    on_suspected: OnSuspected = "on-suspected", OnSuspected::Wait;
    /// `receipt_interval_messages`.
    receipt_messages: usize = "receipt-messages", 256;
    /// `receipt_interval_bytes`.
    receipt_bytes: usize = "receipt-bytes", 64 << 10;
    /// `ack_limit`.
    ack_limit: Micros = "ack-limit", Micros::secs(30);
    /// `nack_delay`.
    nack_delay: Micros = "nack-delay", Micros::millis(500);
    /// `nack_delay_cap`.
    nack_delay_cap: Micros = "nack-delay-cap", Micros::secs(30);
    /// `dial_limit`.
    dial_limit: Micros = "dial-limit", Micros::secs(15);
    /// `greeting_limit`.
    greeting_limit: Micros = "greeting-limit", Micros::secs(10);
    /// `ping_interval`.
    ping_interval: Micros = "ping-interval", Micros::secs(20);
    /// `pong_limit`.
    pong_limit: Micros = "pong-limit", Micros::secs(10);
    /// `write_limit`.
    write_limit: Micros = "write-limit", Micros::secs(20);
    /// `close_limit`.
    close_limit: Micros = "close-limit", Micros::secs(5);
    /// `stable_after`.
    stable_after: Micros = "stable-after", Micros::secs(30);
    /// `nudge_floor`.
    nudge_floor: Micros = "nudge-floor", Micros::secs(1);
    /// `retry_after_cap`.
    retry_after_cap: Micros = "retry-after-cap", Micros::secs(300);
    /// `max_attempts`.
    max_attempts: Option<u32> = "max-attempts", None;
    /// `max_elapsed`.
    max_elapsed: Option<Micros> = "max-elapsed", None;
    /// `backoff.base`.
    backoff_base: Micros = "backoff-base", Micros::secs(1);
    /// `backoff.factor`.
    backoff_factor: u32 = "backoff-factor", 2;
    /// `backoff.cap`.
    backoff_cap: Micros = "backoff-cap", Micros::secs(30);
    /// `backoff.jitter`.
    jitter: Jitter = "jitter", Jitter::Full;
}

impl Settings {
    /// Whether there can be such a client.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self.language {
            Language::Plain => self.config().validate::<Plain>(),
            Language::Positional => self.config().validate::<Positional>(),
            Language::Named => self.config().validate::<Named>(),
            Language::Numbered => self.config().validate::<Numbered>(),
        }
    }

    /// The settings of the client among them.
    pub fn config(&self) -> ClientConfig {
        let defaults = ClientConfig::default();
        ClientConfig {
            connection: ConnectionConfig {
                dial_limit: self.dial_limit.into(),
                greeting_limit: self.greeting_limit.into(),
                ping_interval: self.ping_interval.into(),
                pong_limit: self.pong_limit.into(),
                write_limit: self.write_limit.into(),
                close_limit: self.close_limit.into(),
                stable_after: self.stable_after.into(),
                nudge_floor: self.nudge_floor.into(),
                retry_after_cap: self.retry_after_cap.into(),
                max_attempts: self.max_attempts,
                max_elapsed: self.max_elapsed.map(Into::into),
                can_ping: self.can_ping,
                backoff: Backoff {
                    base: self.backoff_base.into(),
                    factor: self.backoff_factor,
                    cap: self.backoff_cap.into(),
                    jitter: self.jitter,
                },
                ..defaults.connection
            },
            outbox: OutboxConfig {
                max_messages: self.queue,
                max_bytes: self.queue_bytes,
                max_message_bytes: self.message_bytes,
                window_messages: self.window,
                window_bytes: self.window_bytes,
                overflow: self.overflow,
                level: self.level,
                retry_budget: self.retry_budget,
                suspect_limit: self.suspect_limit,
                on_suspected: self.on_suspected,
                ack_limit: self.ack_limit.into(),
                nack_delay: self.nack_delay.into(),
                nack_delay_cap: self.nack_delay_cap.into(),
                receipt_interval_messages: self.receipt_messages,
                receipt_interval_bytes: self.receipt_bytes,
                ..defaults.outbox
            },
        }
    }
}

/// Such settings as the simulator deals, a byte for each: all times of about one size and none
/// shorter than a round trip, queues and windows tiny; or those of a client that has its defaults.
impl<'a> Arbitrary<'a> for Settings {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let language = *u.choose(&[
            Language::Plain,
            Language::Positional,
            Language::Named,
            Language::Numbered,
        ])?;
        let mut settings = Self {
            language,
            greets: language.has_a_greeting() && u.arbitrary()?,
            takes_gaps: language.has_a_greeting() && *u.choose(&[false, false, false, true])?,
            can_ping: *u.choose(&[true, true, true, true, true, true, true, false])?,
            seed: u.arbitrary::<u8>()?.into(),
            chance: *u.choose(&[Chance::Seeded, Chance::Zeros, Chance::Ones])?,
            overflow: *u.choose(&[Overflow::Reject, Overflow::EvictOldest])?,
            level: *match language {
                Language::Plain => u.choose(&[Level::Received, Level::Written])?,
                Language::Numbered => &Level::Acked,
                Language::Positional | Language::Named => {
                    u.choose(&[Level::Acked, Level::Received])?
                }
            },
            on_suspected: *u.choose(&[OnSuspected::Wait, OnSuspected::Settle])?,
            retry_budget: *u.choose(&[0, 1, 2, 5])?,
            suspect_limit: *u.choose(&[1, 2, 5])?,
            max_attempts: *u.choose(&[None, Some(1), Some(2), Some(3), Some(10)])?,
            backoff_factor: *u.choose(&[2, 1, 3])?,
            jitter: *u.choose(&[
                Jitter::Full,
                Jitter::Equal,
                Jitter::Decorrelated,
                Jitter::None,
            ])?,
            ..Self::default()
        };
        if u.arbitrary()? {
            settings.queue = u.int_in_range(1..=12)?;
            settings.window = u.int_in_range(1..=4)?.min(settings.queue);
            settings.message_bytes = 64;
            settings.window_bytes = u.int_in_range(64..=256)?;
            settings.queue_bytes = u.int_in_range(64..=2_000)?.max(settings.window_bytes);
            settings.receipt_messages = u.int_in_range(1..=8)?;
            settings.receipt_bytes = u.int_in_range(1..=500)?;
        }
        if u.arbitrary()? {
            let scale = 5_000 << u.int_in_range(0..=8)?;
            let mut limit = || u.choose(&[10, 1, 2, 5, 20, 50, 100]).map(|n| Micros(n * scale));
            settings.dial_limit = limit()?;
            settings.greeting_limit = limit()?;
            settings.ping_interval = limit()?;
            settings.pong_limit = limit()?;
            settings.write_limit = limit()?;
            settings.close_limit = limit()?;
            settings.stable_after = limit()?;
            settings.nudge_floor = limit()?;
            settings.retry_after_cap = limit()?;
            settings.ack_limit = limit()?;
            settings.nack_delay = limit()?;
            settings.nack_delay_cap = limit()?.max(settings.nack_delay);
            settings.backoff_base = limit()?;
            settings.backoff_cap = limit()?.max(settings.backoff_base);
            let elapsed = u.choose(&[None, Some(10), Some(100), Some(1_000)])?;
            settings.max_elapsed = elapsed.map(|n| Micros(n * scale));
        }
        if language == Language::Named && u.arbitrary()? {
            settings.beat = Some(settings.ping_interval);
        }
        if !settings.can_ping {
            settings.level = language.level_without_pings();
        }
        Ok(settings)
    }
}

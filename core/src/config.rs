//! The one error of every setting: which field, what it was, what is allowed.

use alloc::string::{String, ToString};
use core::{fmt, ops::RangeInclusive};

/// A setting is out of its range. Found before anything runs.
///
/// ```
/// use bowline_core::OutboxConfig;
///
/// let config = OutboxConfig { max_messages: 0, ..OutboxConfig::default() };
/// assert_eq!(
///     config.validate().unwrap_err().to_string(),
///     "max_messages is 0, allowed is 1 to 16777216",
/// );
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} is {value}, allowed is {allowed}")]
pub struct ConfigError {
    /// The name of the field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub allowed: String,
}

impl ConfigError {
    /// A setting that breaks a rule which is not a plain range.
    pub fn new(field: &'static str, value: impl ToString, allowed: impl ToString) -> Self {
        Self { field, value: value.to_string(), allowed: allowed.to_string() }
    }
}

/// `Ok` if `value` is in `allowed`, else an error that names all three.
pub fn check<T: PartialOrd + fmt::Debug>(
    field: &'static str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (low, high) = allowed.into_inner();
    Err(ConfigError {
        field,
        value: alloc::format!("{value:?}"),
        allowed: alloc::format!("{low:?} to {high:?}"),
    })
}

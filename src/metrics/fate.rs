/// What becomes of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) enum Fate {
    Handled,
    /// A handler failed on it.
    Failed,
    /// It cannot be read.
    Undecodable,
    /// It is handed over again.
    Retried,
    DeadLettered,
    Skipped,
}

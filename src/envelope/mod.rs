//! The JSON envelope: what the value of a record looks like, and how to write and read it.
//!
//! ```json
//! {"item": <payload, any JSON>,
//!  "hist": {"svc": "<service that made it>",
//!           "dt": "2026-11-20T18:07:24+00:00",
//!           "refs": [{"topic": "t", "partition": 3, "offset": 42, "key": "k", "hist": <that message's own hist, or null>}]}}
//! ```
//!
//! - `item` is required; `hist` may be absent or null. Keys that are not known are ignored, known ones stand once.
//! - `refs` are the messages that this one was made from. Each carries its own `hist`, so history nests. A message made from
//!   nothing has `[]`; absent and null mean the same.
//! - A history that reaches [`MAX_HISTORY_DEPTH`] levels, or has more than [`MAX_REFS`] refs in one level, is dropped: a
//!   reader sees none. So is one with an object where a list of refs belongs, as old data may have it.
//! - `dt` is RFC 3339; written in UTC with whole seconds, read with any offset and fraction.
//! - The record's key is the message's id. It does not stand in the envelope.
//!
//! ```
//! use kafka_envelope::{Ref, pack, unpack};
//!
//! // What one service writes …
//! let value = pack("shop", &["apple", "pear"], &[])?;
//!
//! // … another reads, and makes something from it.
//! let envelope = unpack(&value)?;
//! let order: Vec<&str> = envelope.payload()?;
//! assert_eq!(order, ["apple", "pear"]);
//! let history = envelope.history().map(|text| serde_json::from_str(text.get())).transpose()?;
//! let from = Ref { history, ..Ref::new("orders", 3, 42) };
//! let invoice = pack("billing", &order.len(), &[from])?;
//! assert_eq!(unpack(&invoice)?.payload::<usize>()?, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cursor;
pub(crate) mod decode;
mod encode;
mod history;
mod raw;
mod reference;
mod walk;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

#[cfg(feature = "stream")]
pub(crate) use decode::decode;
#[cfg(any(feature = "app", feature = "export", feature = "stream"))]
pub(crate) use decode::decode_plain;
pub(crate) use decode::{Decoded, bounded, decode_item, decode_raw, decode_raw_item};
use encode::encode;
pub use history::{History, Latencies, Stage, stage_latencies};
use raw::raw_of_checked;
pub use reference::{BatchRef, Ref};

/// A history with this many levels along any branch is dropped.
pub const MAX_HISTORY_DEPTH: usize = 100;

/// The most refs that one level of history may have.
pub const MAX_REFS: usize = 10_000;

/// The most bytes that the value of a record may have.
pub const MAX_VALUE_BYTES: usize = 128 * 1024 * 1024;

/// Writes an envelope: `item`, made by `service` now from the messages `refs`.
///
/// # Errors
///
/// As [`pack_into`].
///
/// ```
/// let value = kafka_envelope::pack("shop", &7, &[])?;
/// assert!(value.starts_with(br#"{"item":7,"hist":{"svc":"shop","dt":""#));
/// # Ok::<(), kafka_envelope::Error>(())
/// ```
pub fn pack<T: Serialize + ?Sized>(service: &str, item: &T, refs: &[Ref]) -> Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(256);
    pack_into(&mut buffer, service, Utc::now(), item, refs)?;
    Ok(buffer)
}

/// Appends an envelope to what stands in `buffer`, so that a batch can be written into one.
///
/// The ref of a message whose history is too long is written without it, which a warning in the log says.
///
/// # Errors
///
/// [`Error::Encode`] where `item` cannot be written as JSON; [`Error::Limit`] for more than [`MAX_REFS`] refs or
/// [`MAX_VALUE_BYTES`] bytes. The buffer is then what it was before.
///
/// ```
/// use kafka_envelope::pack_into;
///
/// let at = "2026-01-02T03:04:05.678Z".parse()?;
/// let mut buffer = Vec::new();
/// pack_into(&mut buffer, "shop", at, "hello", &[])?;
/// assert_eq!(buffer, br#"{"item":"hello","hist":{"svc":"shop","dt":"2026-01-02T03:04:05+00:00","refs":[]}}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pack_into<T: Serialize + ?Sized>(
    buffer: &mut Vec<u8>,
    service: &str,
    at: DateTime<Utc>,
    item: &T,
    refs: &[Ref],
) -> Result<()> {
    if refs.len() > MAX_REFS {
        return Err(Error::Limit { what: "refs of an envelope", actual: refs.len(), limit: MAX_REFS });
    }
    let before = buffer.len();
    let written = encode(buffer, service, at, item, refs).map_err(|source| Error::Encode { source });
    let bytes = buffer.len() - before;
    let fits = written.and_then(|()| match bytes {
        0..=MAX_VALUE_BYTES => Ok(()),
        _ => Err(Error::Limit { what: "bytes of an envelope", actual: bytes, limit: MAX_VALUE_BYTES }),
    });
    if fits.is_err() {
        buffer.truncate(before);
    }
    fits
}

/// Reads an envelope, without copying anything of it.
///
/// # Errors
///
/// [`Error::Decode`] where `value` is not an envelope: which rule it breaks, with line and column. An empty value is none.
///
/// ```
/// let envelope = kafka_envelope::unpack(br#"{"item":[1,2]}"#)?;
/// assert_eq!(envelope.item().get(), "[1,2]");
/// assert!(envelope.history().is_none());
///
/// let error = kafka_envelope::unpack(br#"{"payload":[1,2]}"#).unwrap_err();
/// assert_eq!(error.to_string(), "cannot decode: missing field `item` at line 1 column 17");
/// # Ok::<(), kafka_envelope::Error>(())
/// ```
pub fn unpack(value: &[u8]) -> Result<Envelope<'_>> {
    let Decoded { item, history, truncated } = decode_raw(value).map_err(|source| Error::Decode { source })?;
    Ok(Envelope { value, item, history, truncated })
}

/// An envelope that was read. It borrows from the value.
#[derive(Clone, Copy)]
pub struct Envelope<'a> {
    value: &'a [u8],
    item: &'a RawValue,
    history: Option<&'a str>,
    truncated: bool,
}

impl<'a> Envelope<'a> {
    /// The payload as JSON text.
    #[must_use]
    pub fn item(&self) -> &'a RawValue {
        self.item
    }

    /// The payload as a `T`, which may borrow from the record's value.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] where the item does not fit `T`, with line and column in the whole value.
    ///
    /// ```
    /// let envelope = kafka_envelope::unpack(br#"{"item":{"id":"a"}}"#)?;
    /// let item: std::collections::HashMap<&str, &str> = envelope.payload()?;
    /// assert_eq!(item["id"], "a");
    /// # Ok::<(), kafka_envelope::Error>(())
    /// ```
    pub fn payload<T: Deserialize<'a>>(&self) -> Result<T> {
        let item = self.item.get();
        serde_json::from_str(item).map_err(|error| {
            let value = std::str::from_utf8(self.value).unwrap_or_default();
            Error::Decode { source: decode::within(value, item, error) }
        })
    }

    /// The history as JSON text, where there is one within the limits.
    #[must_use]
    pub fn history(&self) -> Option<&'a RawValue> {
        self.history.and_then(raw_of_checked)
    }

    /// Whether there is a history, but one that is too long, so that [`Envelope::history`] is none.
    #[must_use]
    pub fn history_dropped(&self) -> bool {
        self.truncated
    }
}

/// Sizes instead of texts: a payload has no place in a log.
impl fmt::Debug for Envelope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("item_bytes", &self.item.get().len())
            .field("history_bytes", &self.history.map(str::len))
            .field("history_dropped", &self.truncated)
            .finish()
    }
}

//! Numbers as Python spells them.

use std::borrow::Cow;

/// A JSON number. Integers stay plain, whatever their size; all others are 64-bit floats.
pub(crate) fn number(json: &str) -> Cow<'_, str> {
    if !json.contains(['.', 'e', 'E']) {
        return if json == "-0" { "0".into() } else { json.into() };
    }
    // Any JSON number is one for Rust, too large ones as infinity.
    json.parse().map_or(json.into(), |value| float(value).into())
}

/// The shortest digits that mean this float; with an exponent from 1e16 up and below 1e-4.
pub(crate) fn float(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0) {
        -4..16 => format!("{value:?}"),
        exponent => format!("{digits}e{exponent:+03}"),
    }
}

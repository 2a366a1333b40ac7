//! What Python writes: numbers, and JSON.

#[cfg(any(feature = "app", feature = "stream"))]
pub(crate) mod json;

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
    let mut scientific = format!("{value:e}");
    let count = scientific.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    if count >= TIES {
        let even = format!("{value:.*e}", count - 1);
        if even.parse() == Ok(value) {
            scientific = even;
        }
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0) {
        exponent @ -4..16 => plain(digits, exponent),
        exponent => format!("{digits}e{exponent:+03}"),
    }
}

/// With so many digits two may be as near to the float as one another. Python takes the even one, Rust the larger one.
const TIES: usize = 16;

/// Without an exponent.
fn plain(digits: &str, exponent: i32) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let digits = digits.replace('.', "");
    let before = usize::try_from(exponent + 1).unwrap_or(0);
    match digits.split_at_checked(before) {
        Some(("", digits)) => format!("{sign}0.{:0<1$}{digits}", "", exponent.unsigned_abs() as usize - 1),
        Some((whole, "")) => format!("{sign}{whole}.0"),
        Some((whole, rest)) => format!("{sign}{whole}.{rest}"),
        None => format!("{sign}{digits:0<before$}.0"),
    }
}

//! JSON as text.

use std::fmt::Write as _;

/// A text as Python's `json.dumps` writes it: in quotes, and ASCII alone.
pub(crate) fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    // To a String it cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
    out
}

/// JSON without the space between its parts, so on one line. Numbers, names and texts stay as they are.
pub(crate) fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut is_in_text, mut is_escaped) = (false, false);
    for char in json.chars() {
        if is_in_text {
            (is_in_text, is_escaped) = (is_escaped || char != '"', !is_escaped && char == '\\');
        } else if char.is_ascii_whitespace() {
            continue;
        } else {
            is_in_text = char == '"';
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_ascii_as_python_writes_them() {
        assert_eq!(ascii("a\"\\\n\r\t\u{8}\u{c}/~"), r#""a\"\\\n\r\t\b\f/~""#);
        assert_eq!(ascii("\0\u{1f}\u{7f}ë☃😀"), r#""\u0000\u001f\u007f\u00eb\u2603\ud83d\ude00""#);
    }

    #[test]
    fn only_the_space_outside_of_texts_goes() {
        let json = "{\n  \"a b\" : [1.50, 1e400 ,\t\"x \\\" y\\\\\" , \"z \"]\r\n}";
        assert_eq!(compact(json), r#"{"a b":[1.50,1e400,"x \" y\\","z "]}"#);
    }
}

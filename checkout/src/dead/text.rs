//! Foreign text for a terminal. A dead letter is by nature what somebody should not have sent.

use serde_json::Value;

/// The text on one line, at most `width` characters, with nothing in it that a terminal would obey.
#[must_use]
pub fn cell(text: &str, width: usize) -> String {
    let safe = escape(text, false);
    if safe.chars().count() <= width {
        return safe;
    }
    safe.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The text as it is, with nothing in it that a terminal would obey; `lines` lets line breaks and tabs stand.
#[must_use]
pub fn escape(text: &str, lines: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // Marks that turn the direction of writing hide what stands there as well as control characters do.
        let turns = matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() || turns) && !(lines && (c == '\n' || c == '\t')) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A time to the second, as far as it is one.
#[must_use]
pub fn time(text: &str) -> String {
    let to_the_second = text.split_once('.').map_or(text, |(seconds, _)| seconds);
    cell(to_the_second.trim_end_matches('Z'), 19)
}

/// A payload as JSON where it is JSON, else its text.
#[must_use]
pub fn body(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(payload).into_owned()))
}

/// The same for a person to read.
#[must_use]
pub fn pretty(payload: &[u8]) -> String {
    let pretty = serde_json::from_slice::<Value>(payload).and_then(|json| serde_json::to_string_pretty(&json));
    escape(&pretty.unwrap_or_else(|_| String::from_utf8_lossy(payload).into_owned()), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(cell("a\x1b[2Jb\r\nc", 99), "a\\u{1b}[2Jb\\r\\nc");
        assert_eq!(escape("a\n\tb\u{9b}c\u{202e}", true), "a\n\tb\\u{9b}c\\u{202e}");
        assert_eq!(cell("ünïcödé", 4), "ünï…");
        assert_eq!(cell("fits", 4), "fits");
        assert_eq!(time("2026-01-31T12:00:00.123456789Z"), "2026-01-31T12:00:00");
        assert_eq!(time("2026-01-31T12:00:00Z"), "2026-01-31T12:00:00");
    }

    #[test]
    fn bodies_are_readable_whatever_they_are() {
        assert_eq!(pretty(br#"{"b":[1],"a":2}"#), "{\n  \"b\": [\n    1\n  ],\n  \"a\": 2\n}");
        assert_eq!(pretty(b"not \x1bjson \xff"), "not \\u{1b}json \u{fffd}");
        assert_eq!(body(b"not json"), Value::String("not json".to_owned()));
    }
}

//! What others have named or written, as a terminal may show it.

use crate::wire;

/// A line of text without anything that a terminal obeys: control characters (ESC, C1, line ends) and what turns the
/// direction of text around are written as escapes.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The same, of more than one line.
pub(super) fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}

/// JSON in one line without anything that a terminal obeys: in its texts such characters are written as JSON's escapes,
/// between them as spaces. It means the same. What is no JSON is shown as text.
pub(super) fn shown_json(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if !wire::is_json(&text) {
        return shown(&text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Between values; in a text they are escaped already.
            '\n' | '\r' | '\t' => out.push(' '),
            c if is_obeyed(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether a terminal may do something else with this than show it.
fn is_obeyed(c: char) -> bool {
    let turns_around =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_a_line = matches!(c, '\u{2028}' | '\u{2029}');
    c.is_control() || turns_around || ends_a_line
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "a\u{1b}[2Jb\u{9b}1mc\u{e}d\u{7f}e\u{202e}f\r\ng";

    #[test]
    fn nothing_that_a_terminal_obeys_is_left_of_a_text() {
        assert_eq!(shown(EVIL), r"a\u{1b}[2Jb\u{9b}1mc\u{e}d\u{7f}e\u{202e}f\r\ng");
        assert_eq!(shown_lines("one\ntwo\u{7}"), "one\ntwo\\u{7}");
        assert_eq!(shown("Ödeme iptal edildi ✓"), "Ödeme iptal edildi ✓");
    }

    #[test]
    fn json_means_the_same_and_is_one_line() {
        let value = serde_json::json!({ "evil": EVIL, "İ": [1, "✓"] });
        let written = serde_json::to_string_pretty(&value).expect("JSON");
        let shown = shown_json(written.as_bytes());
        assert!(!shown.chars().any(is_obeyed), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
        assert!(!shown_json(b"no JSON \x1b[2J \xff").chars().any(is_obeyed));
    }
}

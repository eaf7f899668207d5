//! Words of commands that people paste into a shell.

/// A word of a shell, quoted where it has to be.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { quoted(text) }
}

/// The same, quoted in any case. Control characters are written as bash, zsh and POSIX.1-2024 read them, since no terminal
/// shows them and some obey them.
pub(super) fn quoted(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut out = "$'".to_owned();
    for c in text.chars() {
        if c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Octal: a number in hex would take in the digits that follow it.
                out.push_str(&format!("\\{byte:03o}"));
            }
        } else {
            if matches!(c, '\'' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for text in ["", "a b", "it's", "$HOME `id` \\", "*", "é", "two\nlines", "\u{1b}[2J\u{9b}0'\\1", "-p"]
        {
            for written in [word(text), quoted(text)] {
                assert!(!written.chars().any(char::is_control), "{written:?}");
                let command = format!("printf %s {written}");
                let output = Command::new("bash").args(["-c", &command]).output().expect("a shell");
                assert_eq!(String::from_utf8_lossy(&output.stdout), text, "{written}");
            }
        }
    }
}
